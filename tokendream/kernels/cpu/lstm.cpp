// What lies between the products of an LSTM's steps: gates and memory, which is float whatever the products are in.

#include "common.h"

namespace {

inline float squash(float x) {  // tanh
    return 2 * sigmoid<float>(2 * x) - 1;
}

// Call row(r) for every row, on all threads where that pays.
template <class Row>
void each(int64_t rows, int64_t n, Row row) {
#pragma omp parallel for schedule(static) if (rows * n > 16384)
    for (int64_t r = 0; r < rows; r++) row(r);
}

template <class T>
inline void step_row(const T* __restrict by_h, const T* __restrict by_x, const float* __restrict c,
                     float* __restrict c_after, float* __restrict h, T* __restrict stored, T* __restrict gates,
                     int64_t n) {
#pragma omp simd
    for (int64_t k = 0; k < n; k++) {
        const float i = sigmoid<float>(up(by_h[k]) + up(by_x[k]));
        const float f = sigmoid<float>(up(by_h[k + n]) + up(by_x[k + n]));
        const float g = squash(up(by_h[k + 2 * n]) + up(by_x[k + 2 * n]));
        const float o = sigmoid<float>(up(by_h[k + 3 * n]) + up(by_x[k + 3 * n]));
        c_after[k] = f * c[k] + i * g;
        h[k] = o * squash(c_after[k]);
        put(stored[k], h[k]);
        put(gates[k], i), put(gates[k + n], f), put(gates[k + 2 * n], g), put(gates[k + 3 * n], o);
    }
}

template <class T>
inline void step_row_back(const T* __restrict gates, const float* __restrict c, const float* __restrict c_after,
                          const float* __restrict grad, const T* __restrict grad_after, float* __restrict grad_c,
                          T* __restrict grad_gates, int64_t n) {
#pragma omp simd
    for (int64_t k = 0; k < n; k++) {
        const float i = up(gates[k]), f = up(gates[k + n]), g = up(gates[k + 2 * n]), o = up(gates[k + 3 * n]);
        const float squashed = squash(c_after[k]), dh = grad[k] + up(grad_after[k]);
        const float dc = grad_c[k] + dh * o * (1 - squashed * squashed);
        put(grad_gates[k], dc * g * i * (1 - i));
        put(grad_gates[k + n], dc * c[k] * f * (1 - f));
        put(grad_gates[k + 2 * n], dc * i * (1 - g * g));
        put(grad_gates[k + 3 * n], dh * squashed * o * (1 - o));
        grad_c[k] = dc * f;
    }
}

// The memory after a step, h in T too, and the four gates, from what h and x give them.
template <class T>
void lstm(const T* by_h, const T* by_x, const float* c, float* c_after, float* h, T* stored, T* gates, int64_t rows,
          int64_t n) {
    each(rows, n, [=](int64_t r) {
        step_row(by_h + 4 * r * n, by_x + 4 * r * n, c + r * n, c_after + r * n, h + r * n, stored + r * n,
                 gates + 4 * r * n, n);
    });
}

// The gradient of what goes into the gates, from those of h: of its own use and of the step after. `grad_c` is that of
// c after the step, and becomes that of c before it.
template <class T>
void lstm_back(const T* gates, const float* c, const float* c_after, const float* grad, const T* grad_after,
               float* grad_c, T* grad_gates, int64_t rows, int64_t n) {
    each(rows, n, [=](int64_t r) {
        step_row_back(gates + 4 * r * n, c + r * n, c_after + r * n, grad + r * n, grad_after + r * n, grad_c + r * n,
                      grad_gates + 4 * r * n, n);
    });
}

}  // namespace

EXPORT(lstm);
EXPORT(lstm_back);
