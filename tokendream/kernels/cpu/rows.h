// Rows that more than one pass is made of.

#pragma once

#include "common.h"

namespace {

// Tables that turn a row of d features: e = d/2 cosines, then as many sines.

// x + bias, each pair of features turned. bias: those of the even features, then those of the odd ones.
inline void turn(const float* __restrict x, const float* __restrict bias, float* __restrict y,
                 const float* __restrict table, int64_t e) {
#pragma omp simd
    for (int64_t i = 0; i < e; i++) {
        const float a = x[2 * i] + bias[i], b = x[2 * i + 1] + bias[e + i], c = table[i], s = table[e + i];
        y[2 * i] = a * c - b * s;
        y[2 * i + 1] = a * s + b * c;
    }
}

// A pair of bf16 is one word, and both of its halves are floats with a shift or a mask: nothing need be shuffled.
using word = uint32_t __attribute__((may_alias));

inline float low(uint32_t pair) {
    pair <<= 16;
    float x;
    std::memcpy(&x, &pair, 4);
    return x;
}

inline float high(uint32_t pair) {
    pair &= 0xffff0000u;
    float x;
    std::memcpy(&x, &pair, 4);
    return x;
}

inline uint32_t pair(float low, float high) {
    uint32_t a, b;
    std::memcpy(&a, &low, 4);
    std::memcpy(&b, &high, 4);
    a = (a + 0x7fff + ((a >> 16) & 1)) >> 16;
    return a | ((b + 0x7fff + ((b >> 16) & 1)) & 0xffff0000u);
}

inline void turn(const bf16* x, const float* __restrict bias, bf16* y, const float* __restrict table, int64_t e) {
    const word* __restrict from = reinterpret_cast<const word*>(x);
    word* __restrict to = reinterpret_cast<word*>(y);
#pragma omp simd
    for (int64_t i = 0; i < e; i++) {
        const float a = low(from[i]) + bias[i], b = high(from[i]) + bias[e + i], c = table[i], s = table[e + i];
        to[i] = pair(a * c - b * s, a * s + b * c);
    }
}

// Back again, by the conjugates; what it gives is added to `sums`, by even and odd features like a bias.
inline void turn_back(const float* __restrict grad, float* __restrict grad_x, float* __restrict sums,
                      const float* __restrict table, int64_t e) {
#pragma omp simd
    for (int64_t i = 0; i < e; i++) {
        const float a = grad[2 * i], b = grad[2 * i + 1], c = table[i], s = table[e + i];
        const float even = a * c + b * s, odd = b * c - a * s;
        grad_x[2 * i] = even;
        grad_x[2 * i + 1] = odd;
        sums[i] += even;
        sums[e + i] += odd;
    }
}

inline void turn_back(const bf16* grad, bf16* grad_x, float* __restrict sums, const float* __restrict table,
                      int64_t e) {
    const word* __restrict from = reinterpret_cast<const word*>(grad);
    word* __restrict to = reinterpret_cast<word*>(grad_x);
#pragma omp simd
    for (int64_t i = 0; i < e; i++) {
        const float a = low(from[i]), b = high(from[i]), c = table[i], s = table[e + i];
        const float even = a * c + b * s, odd = b * c - a * s;
        to[i] = pair(even, odd);
        sums[i] += even;
        sums[e + i] += odd;
    }
}

// Of every d numbers, the even ones and then the odd ones; and back.
inline std::vector<float> apart(const float* x, int64_t n, int64_t d) {
    std::vector<float> parts(n);
    for (int64_t i = 0; i < n; i++) parts[i / d * d + i % d / 2 + i % 2 * (d / 2)] = x[i];
    return parts;
}

inline std::vector<float> together(const float* parts, int64_t n, int64_t d) {
    std::vector<float> x(n);
    for (int64_t i = 0; i < n; i++) x[i] = parts[i / d * d + i % d / 2 + i % 2 * (d / 2)];
    return x;
}

template <class T>
inline void shift(const T* __restrict x, const float* __restrict bias, T* __restrict y, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) put(y[i], up(x[i]) + bias[i]);
}

template <class X, class T>
inline void swish_row(const X* __restrict x, const float* __restrict bias, T* __restrict y,
                      const float* __restrict factors, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float z = up(x[i]) + bias[i];
        put(y[i], z * sigmoid<T>(z) * factors[i]);
    }
}

}  // namespace
