// What all ops share. An op reads its inputs once, computes in float32 and writes its outputs once; fused.py names the
// layers of nn whose lines it computes.
//
// T is the type that tensors are stored in, float or bf16; weights and their gradients are always float. Sizes and
// strides are in elements. Rows are short, so what is kept between two loops over one stays in the nearest cache.
// Threads have equal shares of the rows: their number changes nothing but the order of sums over rows. Loops are
// written so that compilers turn them into vectors: plain operations on elements, no branches.

#pragma once

#ifdef _OPENMP
#include <omp.h>
#else  // some compilers have none: then there is one thread
inline int omp_get_max_threads() {
    return 1;
}
inline int omp_get_num_threads() {
    return 1;
}
inline int omp_get_thread_num() {
    return 0;
}
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using bf16 = uint16_t;

inline float up(float x) {
    return x;
}

inline float up(bf16 bits) {
    const uint32_t wide = uint32_t(bits) << 16;
    float x;
    std::memcpy(&x, &wide, 4);
    return x;
}

inline void put(float& to, float x) {
    to = x;
}

inline void put(bf16& to, float x) {  // the nearest, ties to even
    uint32_t wide;
    std::memcpy(&wide, &x, 4);
    to = bf16((wide + 0x7fff + ((wide >> 16) & 1)) >> 16);
}

// 2^x to 2e-7 for float and 8e-5 for bf16, which keeps 4e-3 of it; x is held within 120 of 0. NaN stays NaN.
template <class T>
inline float power_of_two(float x) {
    constexpr bool exact = sizeof(T) == 4;
    x = x > 120.0f ? 120.0f : x;
    x = x < -120.0f ? -120.0f : x;
    const float n = std::nearbyint(x), f = x - n;
    // 2^f for |f| <= 1/2, as a polynomial
    float p = exact ? 1.53460708e-4f : 5.51731620e-2f;
    if (exact) {
        p = p * f + 1.33999346e-3f;
        p = p * f + 9.61848801e-3f;
        p = p * f + 5.55032877e-2f;
    }
    p = p * f + (exact ? 2.40226469e-1f : 2.42611314e-1f);
    p = p * f + (exact ? 6.93147206e-1f : 6.93260716e-1f);
    p = p * f + (exact ? 1.0f : 9.99928053e-1f);
    uint32_t bits;
    std::memcpy(&bits, &p, 4);
    bits += uint32_t(int32_t(n)) << 23;  // times 2^n
    std::memcpy(&p, &bits, 4);
    return p;
}

constexpr float log2_e = 1.44269504f;

// 1 / (1 + e^-x), to 3e-7 for float and 2e-4 for bf16.
template <class T>
inline float sigmoid(float x) {
    // By Newton's method, a third of the time of a division; the first guess is within 12%.
    const float d = 1.0f + power_of_two<T>(-log2_e * x);
    uint32_t bits;
    std::memcpy(&bits, &d, 4);
    bits = 0x7ef311c7u - bits;
    float y;
    std::memcpy(&y, &bits, 4);
    y = y * (2.0f - d * y);
    y = y * (2.0f - d * y);
    return sizeof(T) == 4 ? y * (2.0f - d * y) : y;
}

// Dropout whose mask is a function of (seed, element): nothing is stored, and the way back draws the same mask.
struct Dropout {
    uint32_t low, high, threshold;
    float scale;

    Dropout(uint64_t seed, double p)
        : low(uint32_t(seed)), high(uint32_t(seed >> 32)), threshold(uint32_t(std::lround(p * 65536))),
          scale(float(1 / (1 - p))) {}

    // Factors, 0 or 1 / (1 - p), of the n elements from `first` on: 16 bits of MurmurHash3's finaliser each.
    void factors(float* __restrict to, int64_t first, int64_t n) const {
        const uint32_t low = this->low, high = this->high, threshold = this->threshold, start = uint32_t(first);
        const float scale = this->scale;
        const int64_t half = n / 2;
#pragma omp simd
        for (int64_t i = 0; i < half; i++) {
            uint32_t h = (start + uint32_t(i)) * 0x9e3779b9u + low;
            h = (h ^ (h >> 16)) * 0x85ebca6bu + high;
            h = (h ^ (h >> 13)) * 0xc2b2ae35u;
            h ^= h >> 16;
            to[i] = (h & 0xffff) >= threshold ? scale : 0.0f;
            to[i + half] = (h >> 16) >= threshold ? scale : 0.0f;
        }
    }
};

// Call row(r, factors, scratch) for every row r of n elements, on all threads; `scratch` is 2 n floats of the thread's.
template <class Row>
void for_rows(int64_t rows, int64_t n, uint64_t seed, double p, Row row) {
#pragma omp parallel
    {
        const Dropout dropout(seed, p);
        std::vector<float> memory(3 * n, 1.0f);
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++) {
            if (p > 0) dropout.factors(memory.data(), r * n, n);
            row(r, memory.data(), memory.data() + n);
        }
    }
}

struct Moments {
    float mean, scale;
};

template <class T>
inline Moments moments(const T* __restrict x, int64_t n) {
    float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += up(x[i]);
    const float mean = sum / n;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < n; i++) {
        const float centred = up(x[i]) - mean;
        squares += centred * centred;
    }
    return {mean, 1.0f / std::sqrt(squares / n + 1e-6f)};
}

// Sums over rows (gradients of biases and norms' weights): every thread has a share, and they are added in order.
struct Sums {
    int64_t n;
    std::vector<float> shares;

    explicit Sums(int64_t n) : n(n), shares(omp_get_max_threads() * n, 0.0f) {}

    float* mine() { return shares.data() + omp_get_thread_num() * n; }

    void write(float* to) const {
        std::fill_n(to, n, 0.0f);
        for (size_t i = 0; i < shares.size(); i++) to[i % n] += shares[i];
    }
};

// Of every d numbers, the even ones and then the odd ones.
inline std::vector<float> apart(const float* x, int64_t n, int64_t d) {
    std::vector<float> parts(n);
    for (int64_t i = 0; i < n; i++) parts[i / d * d + i % d / 2 + i % 2 * (d / 2)] = x[i];
    return parts;
}

}  // namespace

// What Python calls: a table of an op's functions, by the type that tensors are stored in: float, bf16.
#define EXPORT(op) extern "C" void* td_##op[] = {(void*)op<float>, (void*)op<bf16>}
