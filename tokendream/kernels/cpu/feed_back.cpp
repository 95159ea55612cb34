// The way back through what `feed.cpp` computes, in one pass too but for the gradients of its matrices, which are sums
// over all rows: those are products of what this pass leaves behind.

#include "feed.h"

#ifdef __AMX_BF16__

namespace {

// The gradient of a row before its norm, added to what `to` holds; x: the row, grad: of its norm, in blocks of sums.
inline void norm_back(const float* x, const float* scale, const Desk& desk, int64_t r, float* to, float* grad_scale,
                      float* grad_offset) {
    const int64_t D = desk.D;
    const Moments m = moments_of(x, D);
    Row sums = same(0), dots = same(0);
    for (int64_t c = 0; c < D; c += 32) {
        const Row unit = (row(x + c) - same(m.mean)) * same(m.scale), g = row(desk.sums_row(r, c));
        put(grad_scale + c, row(grad_scale + c) + g * unit);
        put(grad_offset + c, row(grad_offset + c) + g);
        const Row scaled = g * row(scale + c);
        sums = sums + scaled;
        dots = dots + scaled * unit;
    }
    const Row mean = same(total(sums) / D), dot = same(total(dots) / D);
    for (int64_t c = 0; c < D; c += 32) {
        const Row unit = (row(x + c) - same(m.mean)) * same(m.scale);
        const Row scaled = row(desk.sums_row(r, c)) * row(scale + c);
        put(to + c, row(to + c) + same(m.scale) * (scaled - mean - unit * dot));
    }
}

inline void add_to(float* sums, Row x) {
    put(sums, row(sums) + x);
}

}  // namespace

extern "C" {

// grad [rows D] of `td_feed`'s out -> grad_x, grad_y [rows D]. What enters the gradients of the matrices: of W_back's
// product grad_back [rows D], of W_in's grad_in [rows M], of W_out's grad_out [rows D]. `sums`: of the biases of W_out,
// the norm's scale and offset, the biases of W_back [4, D], and those of W_in [M].
void td_feed_back(int, const void* grad_, const void* total_, const void* before_, const float* out_weight,
                  const float* scale, const float* in_weight, const float* back_weight, void* grad_x_, void* grad_y_,
                  void* grad_out_, void* grad_in_, void* grad_back_, float* sums, int64_t rows, int64_t D, int64_t M,
                  uint64_t out_seed, uint64_t in_seed, uint64_t back_seed, double p) {
    const bf16 *grad = (const bf16*)grad_, *total = (const bf16*)total_, *before = (const bf16*)before_;
    bf16 *grad_x = (bf16*)grad_x_, *grad_y = (bf16*)grad_y_, *grad_out = (bf16*)grad_out_;
    bf16 *grad_in = (bf16*)grad_in_, *grad_back = (bf16*)grad_back_;
    const Lines<bf16> w_out(D * D), w_in(M * D), w_back(D * M);
    const Dropout drop_out(out_seed, p), drop_in(in_seed, p), drop_back(back_seed, p);
    const int64_t most = rows_at_a_time(rows);
    Sums shares(4 * D + M);
#pragma omp parallel
    {
        pack_back(out_weight, w_out, D, D);
        pack_back(in_weight, w_in, M, D);
        pack_back(back_weight, w_back, D, M);
        const Tiles tiles;
        const Desk desk(most, D);
        const Lines<float> x(D);
        float *mine = shares.mine(), *of_scale = mine + D, *of_offset = mine + 2 * D, *of_back = mine + 3 * D,
              *of_in = mine + 4 * D;
#pragma omp for schedule(static)
        for (int64_t first = 0; first < rows; first += most) {
            const int64_t n = std::min(most, rows - first), at = first * D;
            for (int64_t r = 0; r < n; r++)
                for (int64_t c = 0; c < D; c += 32) {
                    const int64_t i = at + r * D + c;
                    const Row g = row(grad + i), kept = dropped(g, drop_back, i);
                    put(desk.residual + r * D + c, g);
                    put(desk.left_row(r, c), kept);
                    put(grad_back + i, kept);
                    add_to(of_back + c, kept);
                }
            desk.clear(n, nullptr);
            for (int64_t f = 0; f < M; f += chunk) {
                const int64_t count = std::min(chunk, M - f);
                desk.hide(w_back, f, count, n, [&](Row sum, int64_t r, int64_t feature) {
                    const int64_t i = (first + r) * M + feature;
                    const Row g = dropped(sum, drop_in, i) * swish_slope(row(before + i));
                    stream(grad_in + i, g);
                    add_to(of_in + feature, g);
                    return g;
                });
                desk.add_product(desk.hidden, count / 32, w_in, f / 32, M / 32, n);
            }
            for (int64_t r = 0; r < n; r++) {
                float* to = desk.residual + r * D;
                for (int64_t c = 0; c < D; c += 32) put(x + c, row(total + at + r * D + c));
                norm_back(x, scale, desk, r, to, of_scale, of_offset);
                for (int64_t c = 0; c < D; c += 32) {
                    const int64_t i = at + r * D + c;
                    const Row kept = dropped(row(to + c), drop_out, i);
                    put(grad_x + i, row(to + c));
                    put(desk.left_row(r, c), kept);
                    put(grad_out + i, kept);
                    add_to(mine + c, kept);
                }
            }
            desk.clear(n, nullptr);
            desk.add_product(desk.left, D / 32, w_out, 0, D / 32, n);
            for (int64_t r = 0; r < n; r++)
                for (int64_t c = 0; c < D; c += 32) put(grad_y + at + r * D + c, row(desk.sums_row(r, c)));
        }
    }
    shares.write(sums);
}

}  // extern "C"

#endif
