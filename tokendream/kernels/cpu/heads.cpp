// From a product to the heads of retention, and the gate behind it.

#include "common.h"

namespace {

// Two features that are rotated together.
struct Pair {
    float even, odd;
};

inline Pair pair(const float* x, int64_t i) {
    return {x[2 * i], x[2 * i + 1]};
}

inline void put(float* y, int64_t i, Pair pair) {
    y[2 * i] = pair.even;
    y[2 * i + 1] = pair.odd;
}

// A pair of bf16 is one word, and both of its halves are floats with a shift or a mask: nothing need be shuffled.
using word = uint32_t __attribute__((may_alias));

inline float as_float(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

inline Pair pair(const bf16* x, int64_t i) {
    const uint32_t both = reinterpret_cast<const word*>(x)[i];
    return {as_float(both << 16), as_float(both & 0xffff0000u)};
}

inline void put(bf16* y, int64_t i, Pair pair) {
    uint32_t even, odd;
    std::memcpy(&even, &pair.even, 4);
    std::memcpy(&odd, &pair.odd, 4);
    even = (even + 0x7fff + ((even >> 16) & 1)) >> 16;
    reinterpret_cast<word*>(y)[i] = even | ((odd + 0x7fff + ((odd >> 16) & 1)) & 0xffff0000u);
}

// x + bias, its e pairs rotated by a table of e cosines and as many sines. bias: of the even features, then of the odd.
template <class T>
inline void rotate(const T* __restrict x, const float* __restrict bias, T* __restrict y, const float* __restrict table,
                   int64_t e) {
#pragma omp simd
    for (int64_t i = 0; i < e; i++) {
        const Pair p = pair(x, i);
        const float a = p.even + bias[i], b = p.odd + bias[e + i], c = table[i], s = table[e + i];
        put(y, i, {a * c - b * s, a * s + b * c});
    }
}

// The gradient: rotated by the conjugates, and added to `sums`, which lie as the bias.
template <class T>
inline void rotate_back(const T* __restrict grad, T* __restrict grad_x, float* __restrict sums,
                        const float* __restrict table, int64_t e) {
#pragma omp simd
    for (int64_t i = 0; i < e; i++) {
        const Pair p = pair(grad, i);
        const float c = table[i], s = table[e + i], even = p.even * c + p.odd * s, odd = p.odd * c - p.even * s;
        put(grad_x, i, {even, odd});
        sums[i] += even;
        sums[e + i] += odd;
    }
}

template <class T>
inline void shift(const T* __restrict x, const float* __restrict bias, T* __restrict y, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) put(y[i], up(x[i]) + bias[i]);
}

template <class T>
inline void shift_back(const T* __restrict grad, T* __restrict grad_x, float* __restrict sums, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        grad_x[i] = grad[i];
        sums[i] += up(grad[i]);
    }
}

// Where head h of token l of row g lies: among tokens [G L] of rows (H d) `stride` apart, and among heads [G H L d].
struct Layout {
    int64_t G, H, L, d, stride;

    int64_t token(int64_t g, int64_t h, int64_t l) const { return (g * L + l) * stride + h * d; }
    int64_t head(int64_t g, int64_t h, int64_t l) const { return ((g * H + h) * L + l) * d; }

    template <class Each>
    void each(Each each) const {
#pragma omp parallel for schedule(static)
        for (int64_t g = 0; g < G; g++)
            for (int64_t h = 0; h < H; h++)
                for (int64_t l = 0; l < L; l++) each(g, h, l);
    }
};

// x + bias by heads, rotated by a table [N H L, 2 d/2] of which G / N rows share one; without a table only by heads.
template <class T>
void heads(const T* x, const float* bias, T* y, const float* table, int64_t N, int64_t G, int64_t H, int64_t L,
           int64_t d, int64_t stride) {
    const Layout at{G, H, L, d, stride};
    const std::vector<float> parts = apart(bias, H * d, d);
    at.each([&](int64_t g, int64_t h, int64_t l) {
        const T* from = x + at.token(g, h, l);
        T* to = y + at.head(g, h, l);
        if (table)
            rotate(from, &parts[h * d], to, table + at.head(g / (G / N), h, l), d / 2);
        else
            shift(from, bias + h * d, to, d);
    });
}

template <class T>
void heads_back(const T* grad, T* grad_x, float* grad_bias, const float* table, int64_t N, int64_t G, int64_t H,
                int64_t L, int64_t d, int64_t stride) {
    const Layout at{G, H, L, d, stride};
    Sums sums(H * d);
    at.each([&](int64_t g, int64_t h, int64_t l) {
        const T* from = grad + at.head(g, h, l);
        T* to = grad_x + at.token(g, h, l);
        float* sum = sums.mine() + h * d;
        if (table)
            rotate_back(from, to, sum, table + at.head(g / (G / N), h, l), d / 2);
        else
            shift_back(from, to, sum, d);
    });
    sums.write(grad_bias);
    if (!table) return;
    const std::vector<float> parts(grad_bias, grad_bias + H * d);  // even and odd features apart: put them together
    for (int64_t i = 0; i < H * d; i++) grad_bias[i] = parts[i / d * d + i % d / 2 + i % 2 * (d / 2)];
}

// What dropout leaves of y, into `kept`, and its moments.
template <class T>
inline Moments drop_row(const T* __restrict y, const float* __restrict factors, float* __restrict kept, int64_t d) {
#pragma omp simd
    for (int64_t i = 0; i < d; i++) kept[i] = up(y[i]) * factors[i];
    return moments(kept, d);
}

template <class T>
inline void gate_row(const T* __restrict y, const T* __restrict gate, T* __restrict out,
                     const float* __restrict factors, float* __restrict kept, int64_t d) {
    const Moments m = drop_row(y, factors, kept, d);
#pragma omp simd
    for (int64_t i = 0; i < d; i++) {
        const float z = up(gate[i]);
        put(out[i], z * sigmoid<T>(z) * ((kept[i] - m.mean) * m.scale));
    }
}

template <class T>
inline void gate_row_back(const T* __restrict y, const T* __restrict gate, const T* __restrict grad,
                          T* __restrict grad_y, T* __restrict grad_gate, const float* __restrict factors,
                          float* __restrict slope, float* __restrict kept, int64_t d) {
    const Moments m = drop_row(y, factors, kept, d);
    float sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
    for (int64_t i = 0; i < d; i++) {
        const float z = up(gate[i]), s = sigmoid<T>(z), g = up(grad[i]), n = (kept[i] - m.mean) * m.scale;
        put(grad_gate[i], g * n * s * (1 + z * (1 - s)));
        slope[i] = g * z * s;
        sum += slope[i];
        dot += slope[i] * n;
    }
    sum /= d, dot /= d;
#pragma omp simd
    for (int64_t i = 0; i < d; i++)
        put(grad_y[i], factors[i] * m.scale * (slope[i] - sum - (kept[i] - m.mean) * m.scale * dot));
}

// out = swish(gate) norm(drop(y)), the norm over each head: row r of gate and out is token r % L of row r / L of y.
template <class T>
void gated_norm(const T* y, const T* gate, T* out, int64_t G, int64_t H, int64_t L, int64_t d, uint64_t seed,
                double p) {
    const Layout at{G, H, L, d, H * d};
    for_rows(G * L, H * d, seed, p, [=](int64_t r, const float* factors, float* scratch) {
        for (int64_t h = 0; h < H; h++) {
            const int64_t head = at.head(r / L, h, r % L), token = at.token(0, h, r);
            gate_row(y + head, gate + token, out + token, factors + h * d, scratch, d);
        }
    });
}

template <class T>
void gated_norm_back(const T* y, const T* gate, const T* grad, T* grad_y, T* grad_gate, int64_t G, int64_t H, int64_t L,
                     int64_t d, uint64_t seed, double p) {
    const Layout at{G, H, L, d, H * d};
    for_rows(G * L, H * d, seed, p, [=](int64_t r, const float* factors, float* scratch) {
        for (int64_t h = 0; h < H; h++) {
            const int64_t head = at.head(r / L, h, r % L), token = at.token(0, h, r);
            gate_row_back(y + head, gate + token, grad + token, grad_y + head, grad_gate + token, factors + h * d,
                          scratch, scratch + at.stride, d);
        }
    });
}

}  // namespace

EXPORT(heads);
EXPORT(heads_back);
EXPORT(gated_norm);
EXPORT(gated_norm_back);
