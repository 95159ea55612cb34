// The rest of a layer in one pass: projection, residual, norm, feed-forward network and residual again. Of some rows at a
// time nothing leaves the second cache, least of all the 4 D features between the last two products.

#include "tiles.h"

#ifdef __AMX_BF16__

namespace {

struct Weights {
    Lines<bf16> out, in, back;
    const float *out_bias, *scale, *offset, *in_bias, *back_bias;
};

// What one thread works in, on up to `rows` rows.
struct Desk {
    static constexpr int64_t chunk = 256;  // features of the M in between that are there at a time
    Lines<bf16> left, hidden;              // rows D; rows chunk
    Lines<float> sums, fresh, row;         // rows D; two blocks; D

    Desk(int64_t rows, int64_t D) : left(rows * D), hidden(rows * chunk), sums(rows * D), fresh(2 * block), row(D) {}
};

// Where 32 columns from `column` on of row r lie among sums.
inline float* sums_at(float* sums, int64_t r, int64_t column, int64_t D) {
    return sums + (r / 32 * (D / 32) + column / 32) * block + r % 32 * 32;
}

// Rows of x plus a bias as sums, and rows of y as a left factor.
inline void load(Desk& desk, const bf16* x, const bf16* y, const float* bias, int64_t rows, int64_t D) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < D; c += 32) {
            put(sums_at(desk.sums, r, c, D), row(x + r * D + c) + row(bias + c));
            std::copy_n(y + r * D + c, 32, left_at(desk.left, r, c, D / 32));
        }
}

// The norm of each row of sums as a left factor; the next product's bias joins the sums.
inline void norm(Desk& desk, const float* scale, const float* offset, const float* bias, int64_t rows, int64_t D) {
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < D; c += 32) {
            float* at = sums_at(desk.sums, r, c, D);
            const Row x = row(at);
            put(desk.row + c, x);
            put(at, x + row(bias + c));
        }
        norm_left(desk.row, scale, offset, left_at(desk.left, r, 0, D / 32), D);
    }
}

inline void store(const Desk& desk, bf16* out, int64_t rows, int64_t D) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < D; c += 32) put(out + r * D + c, row(sums_at(desk.sums, r, c, D)));
}

// sums += left rightᵀ, for `columns` columns of 32; `first`, `total`: of how many steps the right factor's are.
inline void add_product(Desk& desk, const bf16* left, int64_t steps, const bf16* right, int64_t first, int64_t total,
                        int64_t blocks, int64_t columns) {
    for (int64_t j = 0; j < columns; j++)
        for (int64_t i = 0; i < blocks; i++)
            multiply<true, true>(left + 2 * i * steps * tile, steps * tile, right + 2 * (j * total + first) * tile,
                           desk.sums + (i * columns + j) * block, steps, nothing);
}

// 32 rows of sums whose swish is still to be taken and written as a left factor.
struct Unfinished {
    const float *sums, *bias;
    bf16* to;        // its first row
    int64_t second;  // from there to row 16

    void finish(int64_t first, int64_t last) const {
        const Row b = row(bias);
        for (int64_t r = first; r < last; r++) {
            bf16* at = to + (r < 16 ? 0 : second) + r % 16 * 32;
            put(at, swish(row(sums + 32 * r) + b));
        }
    }
};

// Features `first` .. `first + count` in between: swish(left rightᵀ + bias), as a left factor.
inline void hide(Desk& desk, const Weights& w, int64_t first, int64_t count, int64_t blocks, int64_t D) {
    const int64_t steps = D / 32, share = (32 + steps - 1) / steps, row = count / 32 * tile;
    Unfinished before{nullptr, nullptr, nullptr, 0};
    int64_t turn = 0;
    for (int64_t c = 0; c < count; c += 32)
        for (int64_t i = 0; i < blocks; i++) {
            float* sums = desk.fresh + turn * block;
            multiply<false, true>(desk.left + 2 * i * steps * tile, steps * tile, w.in + 2 * (first + c) / 32 * steps * tile,
                            sums, steps, [&](int64_t s) {
                                if (before.sums) before.finish(s * share, std::min((s + 1) * share, int64_t(32)));
                            });
            before = {sums, w.in_bias + first + c, desk.hidden + 2 * i * row + c / 32 * tile, row};
            turn = 1 - turn;
        }
    before.finish(0, 32);
}

}  // namespace

extern "C" {

// x, y [rows D] -> out [rows D]: s = x + W_out y + b, then s + W_back swish(W_in norm(s) + b) + b, M features in between.
void td_feed(int, const void* x_, const void* y_, const float* out_weight, const float* out_bias, const float* scale,
             const float* offset, const float* in_weight, const float* in_bias, const float* back_weight,
             const float* back_bias, void* out_, int64_t rows, int64_t D, int64_t M) {
    const bf16 *x = (const bf16*)x_, *y = (const bf16*)y_;
    bf16* out = (bf16*)out_;
    const Weights w{Lines<bf16>(D * D), Lines<bf16>(M * D), Lines<bf16>(D * M), out_bias, scale, offset, in_bias, back_bias};
    const int64_t shares = (rows + omp_get_max_threads() - 1) / omp_get_max_threads();
    const int64_t most = std::clamp((shares + 31) / 32 * 32, int64_t(32), int64_t(128));
#pragma omp parallel
    {
        pack(out_weight, w.out, D, D);
        pack(in_weight, w.in, M, D);
        pack(back_weight, w.back, D, M);
        const Tiles tiles;
        Desk desk(most, D);
#pragma omp for schedule(static)
        for (int64_t first = 0; first < rows; first += most) {
            const int64_t n = std::min(most, rows - first), blocks = (n + 31) / 32;
            load(desk, x + first * D, y + first * D, w.out_bias, n, D);
            add_product(desk, desk.left, D / 32, w.out, 0, D / 32, blocks, D / 32);
            norm(desk, w.scale, w.offset, w.back_bias, n, D);
            for (int64_t f = 0; f < M; f += desk.chunk) {
                const int64_t count = std::min(desk.chunk, M - f);
                hide(desk, w, f, count, blocks, D);
                add_product(desk, desk.hidden, count / 32, w.back, f / 32, M / 32, blocks, D / 32);
            }
            store(desk, out + first * D, n, D);
        }
    }
}

}  // extern "C"

#endif
