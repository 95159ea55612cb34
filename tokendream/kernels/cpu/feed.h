// What a layer's way forwards and its way back after retention have in common.

#pragma once

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
struct Desk {
    int64_t D;
    Lines<bf16> left, hidden;            // left factors: rows D; rows chunk
    Lines<float> sums, residual, fresh;  // in blocks: rows D; row by row: rows D; two blocks

    Desk(int64_t rows, int64_t D)
        : D(D), left(rows * D), hidden(rows * chunk), sums(rows * D), residual(rows * D), fresh(2 * block) {}

    bf16* left_row(int64_t r, int64_t c) const { return left_at(left, r, c, D / 32); }
    float* sums_row(int64_t r, int64_t c) const { return sums_at(sums, r, c, D / 32); }

    // Sums of all rows: a bias, or nothing.
    void clear(int64_t rows, const float* bias) const {
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < D; c += 32) put(sums_row(r, c), bias ? row(bias + c) : same(0));
    }

    // sums += `from` right, for `steps` steps of 32, the right factor's from `first` on of `total`.
    void add_product(const bf16* from, int64_t steps, const bf16* right, int64_t first, int64_t total,
                     int64_t rows) const {
        for (int64_t j = 0; j < D / 32; j++)
            for (int64_t i = 0; i < rows; i += 32)
                multiply<true, true>(from + i / 16 * steps * tile, steps * tile, right + 2 * (j * total + first) * tile,
                                     sums + (i / 32 * (D / 32) + j) * block, steps, nothing);
    }

    // Features c .. c + n of left right, which `finish(x, r, feature)` turns into what stands in `hidden`; a block is
    // finished beside the product of the next one.
    template <class Finish>
    void hide(const bf16* right, int64_t first, int64_t n, int64_t rows, Finish finish) const {
        const int64_t steps = D / 32, share = (32 + steps - 1) / steps;
        const float* sums = nullptr;
        int64_t top = 0, column = 0, turn = 0;
        const auto finish_rows = [&](int64_t s) {
            if (!sums) return;
            const int64_t last = std::min(std::min((s + 1) * share, int64_t(32)), rows - top);
            bf16* to = left_at(hidden, top, column, n / 32);
            for (int64_t r = s * share; r < last; r++)
                put(to + (r / 16 * (n / 32)) * tile + r % 16 * 32, finish(row(sums + 32 * r), top + r, first + column));
        };
        for (int64_t c = 0; c < n; c += 32)
            for (int64_t i = 0; i < rows; i += 32) {
                float* next = fresh + turn * block;
                multiply<false, true>(left + i / 16 * steps * tile, steps * tile,
                                      right + (first + c) / 16 * steps * tile, next, steps, finish_rows);
                sums = next, top = i, column = c, turn = 1 - turn;
            }
        for (int64_t s = 0; s < steps; s++) finish_rows(s);
    }
};

}  // namespace

#endif
