// Draws from a softmax, one a row.

#include "common.h"

namespace {

// The first of n numbers up to which more than u of all of softmax(x / temperature) lies.
template <class T>
inline int64_t draw_row(const T* __restrict x, float u, float scale, float* __restrict weight, int64_t n) {
    constexpr int64_t block = 16;
    float top = up(x[0]), sums = 0;
#pragma omp simd reduction(max : top)
    for (int64_t i = 0; i < n; i++) top = up(x[i]) > top ? up(x[i]) : top;
#pragma omp simd reduction(+ : sums)
    for (int64_t i = 0; i < n; i++) {
        const float power = (up(x[i]) - top) * scale;
        weight[i] = power < -100.0f ? 0.0f : power_of_two<float>(power);  // what is next to impossible never happens
        sums += weight[i];
    }
    const float wanted = u * sums;
    float below = 0;
    int64_t first = 0;
    for (; first + block < n; first += block) {  // whole blocks first
        float inside = 0;
#pragma omp simd reduction(+ : inside)
        for (int64_t i = first; i < first + block; i++) inside += weight[i];
        if (below + inside > wanted) break;
        below += inside;
    }
    for (int64_t i = first; i < n; i++) {
        below += weight[i];
        if (below > wanted) return i;
    }
    // Summed in another order it came to less than `wanted`: the last one that can be drawn.
    while (n > 1 && weight[n - 1] == 0) n--;
    return n - 1;
}

template <class T>
void sample(const T* x, const float* u, int64_t* out, int64_t rows, int64_t n, double temperature) {
    const float scale = float(log2_e / temperature);
#pragma omp parallel
    {
        std::vector<float> weight(n);
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++) out[r] = draw_row(x + r * n, u[r], scale, weight.data(), n);
    }
}

}  // namespace

EXPORT(sample);
