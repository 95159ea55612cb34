// The rest of a layer in one pass: projection, residual, norm, feed-forward network and residual again. Of some rows at
// a time nothing leaves the second cache, least of all the 4 D features between the last two products.

#include "feed.h"

#ifdef __AMX_BF16__

extern "C" {

// x, y [rows D] -> out [rows D]: s = x + drop(W_out y + b), then s + drop(W_back drop(swish(W_in norm(s) + b)) + b),
// with M features in between. For the way back it keeps s, its norm, the features before swish and those that W_back
// takes; without `total` it keeps nothing. Seeds: of the three dropouts.
void td_feed(int, const void* x_, const void* y_, const float* out_weight, const float* out_bias, const float* scale,
             const float* offset, const float* in_weight, const float* in_bias, const float* back_weight,
             const float* back_bias, void* out_, void* total_, void* normed_, void* before_, void* hidden_,
             int64_t rows, int64_t D, int64_t M, uint64_t out_seed, uint64_t in_seed, uint64_t back_seed, double p) {
    const bf16 *x = (const bf16*)x_, *y = (const bf16*)y_;
    bf16 *out = (bf16*)out_, *total = (bf16*)total_, *normed = (bf16*)normed_;
    bf16 *before = (bf16*)before_, *hidden = (bf16*)hidden_;
    const Lines<bf16> w_out(D * D), w_in(M * D), w_back(D * M);
    const Dropout drop_out(out_seed, p), drop_in(in_seed, p), drop_back(back_seed, p);
    const int64_t most = rows_at_a_time(rows);
#pragma omp parallel
    {
        pack(out_weight, w_out, D, D);
        pack(in_weight, w_in, M, D);
        pack(back_weight, w_back, D, M);
        const Tiles tiles;
        const Desk desk(most, D);
#pragma omp for schedule(static)
        for (int64_t first = 0; first < rows; first += most) {
            const int64_t n = std::min(most, rows - first), at = first * D;
            for (int64_t r = 0; r < n; r++)
                for (int64_t c = 0; c < D; c += 32) std::copy_n(y + at + r * D + c, 32, desk.left_row(r, c));
            desk.clear(n, out_bias);
            desk.add_product(desk.left, D / 32, w_out, 0, D / 32, n);
            for (int64_t r = 0; r < n; r++) {
                float* s = desk.residual + r * D;
                for (int64_t c = 0; c < D; c += 32) {
                    const int64_t i = at + r * D + c;
                    put(s + c, row(x + i) + dropped(row(desk.sums_row(r, c)), drop_out, i));
                    if (total) {
                        put(total + i, row(s + c));
                        put(s + c, row(total + i));  // rounded, as the way back will find it
                    }
                }
                norm_left(s, scale, offset, desk.left_row(r, 0), D);
                if (total)
                    for (int64_t c = 0; c < D; c += 32) std::copy_n(desk.left_row(r, c), 32, normed + at + r * D + c);
            }
            desk.clear(n, back_bias);
            for (int64_t f = 0; f < M; f += chunk) {
                const int64_t count = std::min(chunk, M - f);
                desk.hide(w_in, f, count, n, [&](Row sum, int64_t r, int64_t feature) {
                    const int64_t i = (first + r) * M + feature;
                    const Row z = sum + row(in_bias + feature), kept = dropped(swish(z), drop_in, i);
                    if (total) {
                        stream(before + i, z);
                        stream(hidden + i, kept);
                    }
                    return kept;
                });
                desk.add_product(desk.hidden, count / 32, w_back, f / 32, M / 32, n);
            }
            for (int64_t r = 0; r < n; r++)
                for (int64_t c = 0; c < D; c += 32) {
                    const int64_t i = at + r * D + c;
                    put(out + i, row(desk.residual + r * D + c) + dropped(row(desk.sums_row(r, c)), drop_back, i));
                }
        }
    }
}

}  // extern "C"

#endif
