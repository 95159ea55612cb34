// Rows that more than one pass is made of.

#pragma once

#include "common.h"

namespace {

// x + bias, each pair of its d features turned by the pair of the same place in `table`.
template <class T>
inline void turn(const T* __restrict x, const float* __restrict bias, T* __restrict y, const float* __restrict table,
                 int64_t d) {
#pragma omp simd
    for (int64_t i = 0; i < d / 2; i++) {
        const float a = up(x[2 * i]) + bias[2 * i], b = up(x[2 * i + 1]) + bias[2 * i + 1];
        const float c = table[2 * i], s = table[2 * i + 1];
        put(y[2 * i], a * c - b * s);
        put(y[2 * i + 1], a * s + b * c);
    }
}

template <class T>
inline void shift(const T* __restrict x, const float* __restrict bias, T* __restrict y, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) put(y[i], up(x[i]) + bias[i]);
}

// swish(gate) times the norm of y times dropout's factors.
template <class Y, class T>
inline void gate_row(const Y* __restrict y, const T* __restrict gate, T* __restrict out,
                     const float* __restrict factors, int64_t d) {
    const Moments m = moments(y, d);
#pragma omp simd
    for (int64_t i = 0; i < d; i++) {
        const float z = up(gate[i]);
        put(out[i], z * sigmoid<T>(z) * factors[i] * ((up(y[i]) - m.mean) * m.scale));
    }
}

}  // namespace
