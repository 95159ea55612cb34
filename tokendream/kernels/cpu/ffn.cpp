// The rest of a layer in one pass: projection, residual, norm, feed-forward network and residual again. Of some rows at
// a time nothing leaves the second cache, least of all the 4 D features between the last two products. The gradient is
// one pass too, but for the gradients of its matrices: those are products of what this pass leaves behind.

#include "tiles.h"

#ifdef __AMX_BF16__

namespace {

constexpr int64_t chunk = 256;  // of the M features between the last two products, those that are there at a time

// How many rows are worked on at a time: whole blocks, and no thread without any.
inline int64_t rows_at_a_time(int64_t rows) {
    const int64_t share = (rows + omp_get_max_threads() - 1) / omp_get_max_threads();
    return std::clamp((share + 31) / 32 * 32, int64_t(32), int64_t(128));
}

// What one thread works in, on up to `rows` rows.
struct Workspace {
    int64_t D;
    Lines<bf16> left, hidden;            // left factors: rows D; rows chunk
    Lines<float> sums, residual, fresh;  // in blocks: rows D; row by row: rows D; two blocks

    Workspace(int64_t rows, int64_t D)
        : D(D), left(rows * D), hidden(rows * chunk), sums(rows * D), residual(rows * D), fresh(2 * block) {}

    bf16* left_row(int64_t r, int64_t c) const { return left_at(left, r, c, D / 32); }
    float* sums_row(int64_t r, int64_t c) const { return sums_at(sums, r, c, D / 32); }

    // Call f(r, c, i) for the 32 elements from column c on of each of `rows` rows, i their place in memory.
    template <class F>
    void each(int64_t rows, F f) const {
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < D; c += 32) f(r, c, r * D + c);
    }

    // Sums of all rows: a bias, or nothing.
    void clear(int64_t rows, const float* bias) const {
        each(rows, [&](int64_t r, int64_t c, int64_t) { put(sums_row(r, c), bias ? row(bias + c) : same(0)); });
    }

    // sums += `from` right, for `steps` steps of 32, the right factor's from `first` on of `total`.
    void add_product(const bf16* from, int64_t steps, const bf16* right, int64_t first, int64_t total,
                     int64_t rows) const {
        for (int64_t j = 0; j < D / 32; j++)
            for (int64_t i = 0; i < rows; i += 32)
                multiply<true, true>(from + i / 16 * steps * tile, steps * tile, right + 2 * (j * total + first) * tile,
                                     sums + (i / 32 * (D / 32) + j) * block, steps, nothing);
    }

    // Features first .. first + n of left right, which `finish(x, r, feature)` turns into what stands in `hidden`; a
    // block is finished beside the product of the next one.
    template <class Finish>
    void hide(const bf16* right, int64_t first, int64_t n, int64_t rows, Finish finish) const {
        const int64_t steps = D / 32, share = (32 + steps - 1) / steps;
        const float* sums = nullptr;
        int64_t top = 0, column = 0, slot = 0;
        const auto finish_rows = [&](int64_t s) {
            if (!sums) return;
            const int64_t last = std::min(std::min((s + 1) * share, int64_t(32)), rows - top);
            bf16* to = left_at(hidden, top, column, n / 32);
            for (int64_t r = s * share; r < last; r++)
                put(to + (r / 16 * (n / 32)) * tile + r % 16 * 32, finish(row(sums + 32 * r), top + r, first + column));
        };
        for (int64_t c = 0; c < n; c += 32)
            for (int64_t i = 0; i < rows; i += 32) {
                float* next = fresh + slot * block;
                multiply<false, true>(left + i / 16 * steps * tile, steps * tile,
                                      right + (first + c) / 16 * steps * tile, next, steps, finish_rows);
                sums = next, top = i, column = c, slot = 1 - slot;
            }
        for (int64_t s = 0; s < steps; s++) finish_rows(s);
    }
};

// x, y [rows D] -> out [rows D]: s = x + drop(W_out y + b), then s + drop(W_down drop(swish(W_up norm(s) + b)) + b),
// with M features in between. For the gradient it keeps s, its norm, the features before swish and those that W_down
// takes; without `total` it keeps nothing. Seeds: of the three dropouts.
void feed(const bf16* x, const bf16* y, const float* out_weight, const float* out_bias, const float* scale,
          const float* offset, const float* up_weight, const float* up_bias, const float* down_weight,
          const float* down_bias, bf16* out, bf16* total, bf16* normed, bf16* before, bf16* hidden, int64_t rows,
          int64_t D, int64_t M, uint64_t out_seed, uint64_t up_seed, uint64_t down_seed, double p) {
    const Lines<bf16> w_out(D * D), w_up(M * D), w_down(D * M);
    const Dropout drop_out(out_seed, p), drop_up(up_seed, p), drop_down(down_seed, p);
    const int64_t most = rows_at_a_time(rows);
#pragma omp parallel
    {
        pack(out_weight, w_out, D, D);
        pack(up_weight, w_up, M, D);
        pack(down_weight, w_down, D, M);
        const Tiles tiles;
        const Workspace w(most, D);
#pragma omp for schedule(static)
        for (int64_t first = 0; first < rows; first += most) {
            const int64_t n = std::min(most, rows - first), at = first * D;
            w.each(n, [&](int64_t r, int64_t c, int64_t i) { std::copy_n(y + at + i, 32, w.left_row(r, c)); });
            w.clear(n, out_bias);
            w.add_product(w.left, D / 32, w_out, 0, D / 32, n);
            w.each(n, [&](int64_t r, int64_t c, int64_t i) {
                float* s = w.residual + i;
                put(s, row(x + at + i) + dropped(row(w.sums_row(r, c)), drop_out, at + i));
                if (!total) return;
                put(total + at + i, row(s));
                put(s, row(total + at + i));  // rounded, as the gradient will find it
            });
            for (int64_t r = 0; r < n; r++) norm_left(w.residual + r * D, scale, offset, w.left_row(r, 0), D);
            if (total)
                w.each(n, [&](int64_t r, int64_t c, int64_t i) { std::copy_n(w.left_row(r, c), 32, normed + at + i); });
            w.clear(n, down_bias);
            for (int64_t f = 0; f < M; f += chunk) {
                const int64_t count = std::min(chunk, M - f);
                w.hide(w_up, f, count, n, [&](Row sum, int64_t r, int64_t feature) {
                    const int64_t i = (first + r) * M + feature;
                    const Row z = sum + row(up_bias + feature), kept = dropped(swish(z), drop_up, i);
                    if (total) {
                        stream(before + i, z);
                        stream(hidden + i, kept);
                    }
                    return kept;
                });
                w.add_product(w.hidden, count / 32, w_down, f / 32, M / 32, n);
            }
            w.each(n, [&](int64_t r, int64_t c, int64_t i) {
                put(out + at + i, row(w.residual + i) + dropped(row(w.sums_row(r, c)), drop_down, at + i));
            });
        }
    }
}

// The gradient of a row before its norm, added to what `to` holds; x: the row, in w.sums: the gradient of its norm.
inline void norm_back(const float* x, const float* scale, const Workspace& w, int64_t r, float* to, float* grad_scale,
                      float* grad_offset) {
    const int64_t D = w.D;
    const Moments m = moments_of(x, D);
    Row sums = same(0), dots = same(0);
    for (int64_t c = 0; c < D; c += 32) {
        const Row unit = (row(x + c) - same(m.mean)) * same(m.scale), g = row(w.sums_row(r, c));
        put(grad_scale + c, row(grad_scale + c) + g * unit);
        put(grad_offset + c, row(grad_offset + c) + g);
        const Row scaled = g * row(scale + c);
        sums = sums + scaled;
        dots = dots + scaled * unit;
    }
    const Row mean = same(total(sums) / D), dot = same(total(dots) / D);
    for (int64_t c = 0; c < D; c += 32) {
        const Row unit = (row(x + c) - same(m.mean)) * same(m.scale);
        const Row scaled = row(w.sums_row(r, c)) * row(scale + c);
        put(to + c, row(to + c) + same(m.scale) * (scaled - mean - unit * dot));
    }
}

inline void add_to(float* sums, Row x) {
    put(sums, row(sums) + x);
}

// grad [rows D] of `feed`'s out -> grad_x, grad_y [rows D]. What enters the gradients of the matrices: of W_down's
// product grad_down [rows D], of W_up's grad_up [rows M], of W_out's grad_out [rows D]. `sums`: of the biases of W_out,
// the norm's scale and offset, the biases of W_down [4, D], and those of W_up [M].
void feed_back(const bf16* grad, const bf16* total, const bf16* before, const float* out_weight, const float* scale,
               const float* up_weight, const float* down_weight, bf16* grad_x, bf16* grad_y, bf16* grad_out,
               bf16* grad_up, bf16* grad_down, float* sums, int64_t rows, int64_t D, int64_t M, uint64_t out_seed,
               uint64_t up_seed, uint64_t down_seed, double p) {
    const Lines<bf16> w_out(D * D), w_up(M * D), w_down(D * M);
    const Dropout drop_out(out_seed, p), drop_up(up_seed, p), drop_down(down_seed, p);
    const int64_t most = rows_at_a_time(rows);
    Sums shares(4 * D + M);
#pragma omp parallel
    {
        pack_back(out_weight, w_out, D, D);
        pack_back(up_weight, w_up, M, D);
        pack_back(down_weight, w_down, D, M);
        const Tiles tiles;
        const Workspace w(most, D);
        const Lines<float> x(D);
        float *of_out = shares.mine(), *of_scale = of_out + D, *of_offset = of_out + 2 * D, *of_down = of_out + 3 * D,
              *of_up = of_out + 4 * D;
#pragma omp for schedule(static)
        for (int64_t first = 0; first < rows; first += most) {
            const int64_t n = std::min(most, rows - first), at = first * D;
            w.each(n, [&](int64_t r, int64_t c, int64_t i) {
                const Row g = row(grad + at + i), kept = dropped(g, drop_down, at + i);
                put(w.residual + i, g);
                put(w.left_row(r, c), kept);
                put(grad_down + at + i, kept);
                add_to(of_down + c, kept);
            });
            w.clear(n, nullptr);
            for (int64_t f = 0; f < M; f += chunk) {
                const int64_t count = std::min(chunk, M - f);
                w.hide(w_down, f, count, n, [&](Row sum, int64_t r, int64_t feature) {
                    const int64_t i = (first + r) * M + feature;
                    const Row g = dropped(sum, drop_up, i) * swish_slope(row(before + i));
                    stream(grad_up + i, g);
                    add_to(of_up + feature, g);
                    return g;
                });
                w.add_product(w.hidden, count / 32, w_up, f / 32, M / 32, n);
            }
            for (int64_t r = 0; r < n; r++) {
                for (int64_t c = 0; c < D; c += 32) put(x + c, row(total + at + r * D + c));
                norm_back(x, scale, w, r, w.residual + r * D, of_scale, of_offset);
            }
            w.each(n, [&](int64_t r, int64_t c, int64_t i) {
                const Row g = row(w.residual + i), kept = dropped(g, drop_out, at + i);
                put(grad_x + at + i, g);
                put(w.left_row(r, c), kept);
                put(grad_out + at + i, kept);
                add_to(of_out + c, kept);
            });
            w.clear(n, nullptr);
            w.add_product(w.left, D / 32, w_out, 0, D / 32, n);
            w.each(n, [&](int64_t r, int64_t c, int64_t i) { put(grad_y + at + i, row(w.sums_row(r, c))); });
        }
    }
    shares.write(sums);
}

}  // namespace

EXPORT_TILES(feed);
EXPORT_TILES(feed_back);

#endif
