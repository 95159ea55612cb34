// What lies between the matrix products of a layer: heads, gates, residuals, norms, swish.

#include "rows.h"

namespace {

template <class T>
inline void shift_back(const T* __restrict grad, T* __restrict grad_x, float* __restrict grad_bias, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        grad_x[i] = grad[i];
        grad_bias[i] += up(grad[i]);
    }
}

// Where head h of token l of row g lies: among tokens [G L] of rows (H d) `stride` apart, and among heads [G H L d].
struct Layout {
    int64_t G, H, L, d, stride;

    int64_t token(int64_t g, int64_t h, int64_t l) const { return (g * L + l) * stride + h * d; }
    int64_t head(int64_t g, int64_t h, int64_t l) const { return ((g * H + h) * L + l) * d; }
};

// To heads, turned by a table [T H L, 2 d/2] of which G / T rows share one; without a table nothing is turned.
template <class T>
void heads(const T* x, const float* bias, T* y, const float* table, int64_t blocks, Layout at) {
    const std::vector<float> parts = apart(bias, at.H * at.d, at.d);
#pragma omp parallel for schedule(static)
    for (int64_t g = 0; g < at.G; g++)
        for (int64_t h = 0; h < at.H; h++)
            for (int64_t l = 0; l < at.L; l++) {
                const T* from = x + at.token(g, h, l);
                T* to = y + at.head(g, h, l);
                if (table)
                    turn(from, &parts[h * at.d], to, table + at.head(g / (at.G / blocks), h, l), at.d / 2);
                else
                    shift(from, bias + h * at.d, to, at.d);
            }
}

template <class T>
void heads_back(const T* grad, T* grad_x, float* grad_bias, const float* table, int64_t blocks, Layout at) {
    const int64_t n = at.H * at.d;
    Sums sums(n);
#pragma omp parallel for schedule(static)
    for (int64_t g = 0; g < at.G; g++)
        for (int64_t h = 0; h < at.H; h++)
            for (int64_t l = 0; l < at.L; l++) {
                const T* from = grad + at.head(g, h, l);
                T* to = grad_x + at.token(g, h, l);
                float* sum = sums.mine() + h * at.d;
                if (table)
                    turn_back(from, to, sum, table + at.head(g / (at.G / blocks), h, l), at.d / 2);
                else
                    shift_back(from, to, sum, at.d);
            }
    sums.write(grad_bias);
    if (table) std::copy_n(together(grad_bias, n, at.d).data(), n, grad_bias);
}

// What dropout leaves of y, into `kept`, and its moments.
template <class T>
inline Moments drop_row(const T* __restrict y, const float* __restrict factors, float* __restrict kept, int64_t d) {
#pragma omp simd
    for (int64_t i = 0; i < d; i++) kept[i] = up(y[i]) * factors[i];
    return moments(kept, d);
}

// swish(gate) times the norm of what dropout leaves of y.
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

// Row r of gate and out is token r % L of row r / L in heads y.
template <class T>
void gated_norm(const T* y, const T* gate, T* out, Layout at, uint64_t seed, double p) {
    for_rows(at.G * at.L, at.stride, seed, p, [=](int64_t r, const float* factors, float* scratch) {
        for (int64_t h = 0; h < at.H; h++) {
            const int64_t head = at.head(r / at.L, h, r % at.L), token = at.token(0, h, r);
            gate_row(y + head, gate + token, out + token, factors + h * at.d, scratch, at.d);
        }
    });
}

template <class T>
void gated_norm_back(const T* y, const T* gate, const T* grad, T* grad_y, T* grad_gate, Layout at, uint64_t seed,
                     double p) {
    for_rows(at.G * at.L, at.stride, seed, p, [=](int64_t r, const float* factors, float* scratch) {
        for (int64_t h = 0; h < at.H; h++) {
            const int64_t head = at.head(r / at.L, h, r % at.L), token = at.token(0, h, r);
            gate_row_back(y + head, gate + token, grad + token, grad_y + head, grad_gate + token, factors + h * at.d,
                          scratch, scratch + at.stride, at.d);
        }
    });
}

template <class T>
inline void add_row(const T* __restrict x, const T* __restrict branch, const float* __restrict bias, T* __restrict sum,
                    const float* __restrict factors, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) put(sum[i], up(x[i]) + (up(branch[i]) + bias[i]) * factors[i]);
}

template <class T>
inline void add_row_back(const T* __restrict grad, T* __restrict grad_branch, float* __restrict grad_bias,
                         const float* __restrict factors, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float g = up(grad[i]) * factors[i];
        put(grad_branch[i], g);
        grad_bias[i] += g;
    }
}

template <class T>
inline void norm_row(const T* __restrict x, const float* __restrict weight, const float* __restrict bias,
                     T* __restrict out, int64_t n) {
    const Moments m = moments(x, n);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) put(out[i], (up(x[i]) - m.mean) * m.scale * weight[i] + bias[i]);
}

// Without `normed` only the sum.
template <class T>
void add_norm(const T* x, const T* branch, const float* bias, const float* scale, const float* offset, T* sum,
              T* normed, int64_t rows, int64_t n, uint64_t seed, double p) {
    for_rows(rows, n, seed, p, [=](int64_t r, const float* factors, float*) {
        add_row(x + r * n, branch + r * n, bias, sum + r * n, factors, n);
        if (normed) norm_row(sum + r * n, scale, offset, normed + r * n, n);
    });
}

template <class T>
inline void norm_row_back(const T* __restrict x, const float* __restrict weight, const T* __restrict grad_x_before,
                          const T* __restrict grad, T* __restrict grad_x, float* __restrict grad_weight,
                          float* __restrict grad_bias, int64_t n) {
    const Moments m = moments(x, n);
    float sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
    for (int64_t i = 0; i < n; i++) {
        const float unit = (up(x[i]) - m.mean) * m.scale, g = up(grad[i]);
        grad_weight[i] += g * unit;
        grad_bias[i] += g;
        sum += g * weight[i];
        dot += g * weight[i] * unit;
    }
    sum /= n, dot /= n;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float unit = (up(x[i]) - m.mean) * m.scale;
        put(grad_x[i], up(grad_x_before[i]) + m.scale * (up(grad[i]) * weight[i] - sum - unit * dot));
    }
}

template <class T>
void norm(const T* x, const float* scale, const float* offset, T* normed, int64_t rows, int64_t n) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) norm_row(x + r * n, scale, offset, normed + r * n, n);
}

// `grad_weights`: of scale and offset.
template <class T>
void norm_back(const T* x, const float* scale, const T* grad, T* grad_x, float* grad_weights, int64_t rows, int64_t n) {
    Sums sums(2 * n);
    const std::vector<T> nothing(n, T(0));
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        float* mine = sums.mine();
        norm_row_back(x + r * n, scale, nothing.data(), grad + r * n, grad_x + r * n, mine, mine + n, n);
    }
    sums.write(grad_weights);
}

// Without `grad_normed` there was no norm and grad_x is known: grad_sum. `grad_weights`: of bias, scale and offset.
template <class T>
void add_norm_back(const T* sum, const float* scale, const T* grad_sum, const T* grad_normed, T* grad_x, T* grad_branch,
                   float* grad_weights, int64_t rows, int64_t n, uint64_t seed, double p) {
    Sums sums(3 * n);
    for_rows(rows, n, seed, p, [=, &sums](int64_t r, const float* factors, float*) {
        float* mine = sums.mine();
        const T* grad = grad_sum + r * n;
        if (grad_normed) {
            norm_row_back(sum + r * n, scale, grad, grad_normed + r * n, grad_x + r * n, mine + n, mine + 2 * n, n);
            grad = grad_x + r * n;
        }
        add_row_back(grad, grad_branch + r * n, mine, factors, n);
    });
    sums.write(grad_weights);
}

template <class T>
inline void swish_row_back(const T* __restrict x, const float* __restrict bias, const T* __restrict grad,
                           T* __restrict grad_x, float* __restrict grad_bias, const float* __restrict factors,
                           int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float z = up(x[i]) + bias[i], s = sigmoid<T>(z);
        const float g = up(grad[i]) * factors[i] * s * (1 + z * (1 - s));
        put(grad_x[i], g);
        grad_bias[i] += g;
    }
}

template <class T>
void swish(const T* x, const float* bias, T* y, int64_t rows, int64_t n, uint64_t seed, double p) {
    for_rows(rows, n, seed, p,
             [=](int64_t r, const float* factors, float*) { swish_row(x + r * n, bias, y + r * n, factors, n); });
}

template <class T>
void swish_back(const T* x, const float* bias, const T* grad, T* grad_x, float* grad_bias, int64_t rows, int64_t n,
                uint64_t seed, double p) {
    Sums sums(n);
    for_rows(rows, n, seed, p, [=, &sums](int64_t r, const float* factors, float*) {
        swish_row_back(x + r * n, bias, grad + r * n, grad_x + r * n, sums.mine(), factors, n);
    });
    sums.write(grad_bias);
}

}  // namespace

extern "C" {

void td_heads(int half, const void* x, const float* bias, void* y, const float* table, int64_t blocks, int64_t G,
              int64_t H, int64_t L, int64_t d, int64_t stride) {
    const Layout at{G, H, L, d, stride};
    STORED(heads((const T*)x, bias, (T*)y, table, blocks, at));
}

void td_heads_back(int half, const void* grad, void* grad_x, float* grad_bias, const float* table, int64_t blocks,
                   int64_t G, int64_t H, int64_t L, int64_t d, int64_t stride) {
    const Layout at{G, H, L, d, stride};
    STORED(heads_back((const T*)grad, (T*)grad_x, grad_bias, table, blocks, at));
}

void td_gated_norm(int half, const void* y, const void* gate, void* out, int64_t G, int64_t H, int64_t L, int64_t d,
                   uint64_t seed, double p) {
    const Layout at{G, H, L, d, H * d};
    STORED(gated_norm((const T*)y, (const T*)gate, (T*)out, at, seed, p));
}

void td_gated_norm_back(int half, const void* y, const void* gate, const void* grad, void* grad_y, void* grad_gate,
                        int64_t G, int64_t H, int64_t L, int64_t d, uint64_t seed, double p) {
    const Layout at{G, H, L, d, H * d};
    STORED(gated_norm_back((const T*)y, (const T*)gate, (const T*)grad, (T*)grad_y, (T*)grad_gate, at, seed, p));
}

void td_add_norm(int half, const void* x, const void* branch, const float* bias, const float* scale,
                 const float* offset, void* sum, void* normed, int64_t rows, int64_t n, uint64_t seed, double p) {
    STORED(add_norm((const T*)x, (const T*)branch, bias, scale, offset, (T*)sum, (T*)normed, rows, n, seed, p));
}

void td_add_norm_back(int half, const void* sum, const float* scale, const void* grad_sum, const void* grad_normed,
                      void* grad_x, void* grad_branch, float* grad_weights, int64_t rows, int64_t n, uint64_t seed,
                      double p) {
    STORED(add_norm_back((const T*)sum, scale, (const T*)grad_sum, (const T*)grad_normed, (T*)grad_x, (T*)grad_branch,
                         grad_weights, rows, n, seed, p));
}

void td_norm(int half, const void* x, const float* scale, const float* offset, void* normed, int64_t rows, int64_t n) {
    STORED(norm((const T*)x, scale, offset, (T*)normed, rows, n));
}

void td_norm_back(int half, const void* x, const float* scale, const void* grad, void* grad_x, float* grad_weights,
                  int64_t rows, int64_t n) {
    STORED(norm_back((const T*)x, scale, (const T*)grad, (T*)grad_x, grad_weights, rows, n));
}

void td_swish(int half, const void* x, const float* bias, void* y, int64_t rows, int64_t n, uint64_t seed, double p) {
    STORED(swish((const T*)x, bias, (T*)y, rows, n, seed, p));
}

void td_swish_back(int half, const void* x, const float* bias, const void* grad, void* grad_x, float* grad_bias,
                   int64_t rows, int64_t n, uint64_t seed, double p) {
    STORED(swish_back((const T*)x, bias, (const T*)grad, (T*)grad_x, grad_bias, rows, n, seed, p));
}

}  // extern "C"
