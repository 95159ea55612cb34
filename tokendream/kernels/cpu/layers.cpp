// What lies between the matrix products of a feed-forward network: residual, norm, swish.

#include "common.h"

namespace {

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

// sum = x + drop(branch + bias), and its norm. Without `branch` the norm of x alone, without `normed` the sum alone.
template <class T>
void add_norm(const T* x, const T* branch, T* sum, T* normed, const float* bias, const float* scale,
              const float* offset, int64_t rows, int64_t n, uint64_t seed, double p) {
    for_rows(rows, n, seed, p, [=](int64_t r, const float* factors, float*) {
        if (branch) add_row(x + r * n, branch + r * n, bias, sum + r * n, factors, n);
        if (normed) norm_row((branch ? sum : x) + r * n, scale, offset, normed + r * n, n);
    });
}

// The gradients of x, branch and, into `grad_weights`, bias, scale and offset. Without `grad_normed` there was no norm
// and that of x is known, grad_sum; without `grad_branch` there was the norm alone, and no grad_sum.
template <class T>
void add_norm_back(const T* sum, const T* grad_sum, const T* grad_normed, T* grad_x, T* grad_branch, const float* scale,
                   float* grad_weights, int64_t rows, int64_t n, uint64_t seed, double p) {
    Sums sums(3 * n);
    const std::vector<T> zeros(n, T(0));
    for_rows(rows, n, seed, p, [=, &sums, &zeros](int64_t r, const float* factors, float*) {
        float* mine = sums.mine();
        const T* grad = grad_sum ? grad_sum + r * n : zeros.data();
        if (grad_normed) {
            norm_row_back(sum + r * n, scale, grad, grad_normed + r * n, grad_x + r * n, mine + n, mine + 2 * n, n);
            grad = grad_x + r * n;
        }
        if (grad_branch) add_row_back(grad, grad_branch + r * n, mine, factors, n);
    });
    sums.write(grad_weights);
}

template <class T>
inline void swish_row(const T* __restrict x, const float* __restrict bias, T* __restrict y,
                      const float* __restrict factors, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float z = up(x[i]) + bias[i];
        put(y[i], z * sigmoid<T>(z) * factors[i]);
    }
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

// y = drop(z sigmoid(z)) for z = x + bias.
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

EXPORT(add_norm);
EXPORT(add_norm_back);
EXPORT(swish);
EXPORT(swish_back);
