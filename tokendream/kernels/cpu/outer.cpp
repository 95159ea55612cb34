// The gradient of a linear map's matrix: products of two features, summed over all rows.

#include "tiles.h"

#ifdef __AMX_BF16__

namespace {

constexpr int64_t steps = 8, height = 32 * steps;  // rows at a time

// Rows r and r + 1 of 32 columns, as pairs of a right factor's two tiles; what lies past the last row is nothing.
inline void put_rows(bf16* to, const bf16* from, int64_t stride, int64_t rows) {
    alignas(64) static constexpr uint16_t order[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                       8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    const __m512i low = _mm512_load_si512(order), high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    for (int64_t p = 0; p < 16; p++) {
        const __m512i none = _mm512_setzero_si512();
        const __m512i a = 2 * p < rows ? _mm512_loadu_si512(from + 2 * p * stride) : none;
        const __m512i b = 2 * p + 1 < rows ? _mm512_loadu_si512(from + (2 * p + 1) * stride) : none;
        _mm512_storeu_si512(to + 32 * p, _mm512_permutex2var_epi16(a, low, b));
        _mm512_storeu_si512(to + tile + 32 * p, _mm512_permutex2var_epi16(a, high, b));
    }
}

// out [P Q] = aᵀ b for a [rows P] and b [rows Q]; its transpose [Q P] where that is asked for.
void outer(const bf16* a, const bf16* b, float* out, int64_t rows, int64_t P, int64_t Q, int64_t transposed) {
#pragma omp parallel
    {
        // Each thread has columns of b to itself, and all of a.
        const int64_t all = Q / 32, threads = omp_get_num_threads(), me = omp_get_thread_num();
        const int64_t from = all * me / threads, panels = all * (me + 1) / threads - from;
        const Tiles tiles;
        const Lines<bf16> left(P * height), right(std::max(panels, int64_t(1)) * 32 * height), pairs(2 * tile);
        const Lines<float> sums(std::max(panels, int64_t(1)) * P * 32);
        for (int64_t first = 0; panels && first < rows; first += height) {
            for (int64_t s = 0; s < steps; s++) {
                const int64_t r = first + 32 * s, n = rows - r;
                for (int64_t c = 0; c < P; c += 32) {
                    put_rows(pairs, a + r * P + c, P, n);
                    transpose(pairs, left_at(left, c, 32 * s, steps));
                    transpose(pairs + tile, left_at(left, c + 16, 32 * s, steps));
                }
                for (int64_t j = 0; j < panels; j++)
                    put_rows(right + (j * steps + s) * 2 * tile, b + r * Q + (from + j) * 32, Q, n);
            }
            for (int64_t j = 0; j < panels; j++)
                for (int64_t i = 0; i < P / 32; i++)
                    multiply<true, true>(left + 2 * i * steps * tile, steps * tile, right + j * steps * 2 * tile,
                                         sums + (j * (P / 32) + i) * block, steps, nothing);
        }
        for (int64_t j = 0; j < panels; j++)
            for (int64_t i = 0; i < P / 32; i++) {
                const float* from_sums = sums + (j * (P / 32) + i) * block;
                const int64_t q = (from + j) * 32;
                for (int64_t r = 0; r < 32; r++) {
                    if (!transposed)
                        put(out + (32 * i + r) * Q + q, row(from_sums + 32 * r));
                    else
                        for (int64_t c = 0; c < 32; c++) out[(q + c) * P + 32 * i + r] = from_sums[32 * r + c];
                }
            }
    }
}

}  // namespace

EXPORT_TILES(outer);

#endif
