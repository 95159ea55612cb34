// What lies between the convolutions of the tokenizer, and its perceptual distance. Images lie channels last.

#include "common.h"

namespace {

// The groups of channels that are normed together, over all pixels of an image.
struct Groups {
    int64_t pixels, channels, each;  // each: channels of a group

    // Mean and 1 / standard deviation of every group of an image, at every channel, in one reading: sums of distances
    // from the first pixel, near which all others are compared with zero. `memory` is 2 floats a channel.
    template <class T>
    void moments(const T* __restrict x, float* __restrict memory, float* __restrict mean,
                 float* __restrict scale) const {
        const int64_t C = channels;
        float* __restrict sums = memory, * __restrict squares = memory + C;
        std::fill_n(memory, 2 * C, 0.0f);
        for (int64_t p = 1; p < pixels; p++) {
            const T* __restrict row = x + p * C;
#pragma omp simd
            for (int64_t c = 0; c < C; c++) {
                const float apart = up(row[c]) - up(x[c]);
                sums[c] += apart;
                squares[c] += apart * apart;
            }
        }
        const float by = 1.0f / (pixels * each);
        for (int64_t c = 0; c < C; c++) scale[c] = sums[c] + pixels * up(x[c]);
        spread(scale, mean, by);
        for (int64_t c = 0; c < C; c++) {
            const float off = up(x[c]) - mean[c];
            squares[c] += off * (2 * sums[c] + pixels * off);
        }
        spread(squares, scale, by);
        for (int64_t c = 0; c < C; c++) scale[c] = 1.0f / std::sqrt(std::max(scale[c], 0.0f) + 1e-6f);
    }

    // The sum over a channel's group, times `by`, at every channel.
    void spread(const float* sums, float* to, float by) const {
        for (int64_t first = 0; first < channels; first += each) {
            float total = 0;
            for (int64_t c = first; c < first + each; c++) total += sums[c];
            for (int64_t c = first; c < first + each; c++) to[c] = total * by;
        }
    }
};

// y = z sigmoid(z) for z = weight norm(x) + bias, norm over each of `count` groups.
template <class T>
void norm_swish(const T* x, const float* weight, const float* bias, T* y, int64_t images, int64_t pixels, int64_t C,
                int64_t count) {
    const Groups groups{pixels, C, C / count};
    const int64_t size = pixels * C;
#pragma omp parallel
    {
        std::vector<float> memory(4 * C);
        float *sums = memory.data(), *mean = sums + 2 * C, *scale = mean + C;
#pragma omp for schedule(static)
        for (int64_t b = 0; b < images; b++) {
            groups.moments(x + b * size, sums, mean, scale);
            for (int64_t p = 0; p < pixels; p++) {
                const T* __restrict row = x + b * size + p * C;
                T* __restrict to = y + b * size + p * C;
#pragma omp simd
                for (int64_t c = 0; c < C; c++) {
                    const float z = (up(row[c]) - mean[c]) * scale[c] * weight[c] + bias[c];
                    put(to[c], z * sigmoid<T>(z));
                }
            }
        }
    }
}

// grad_weights [2 C]: of weight and bias.
template <class T>
void norm_swish_back(const T* x, const float* weight, const float* bias, const T* grad, T* grad_x, float* grad_weights,
                     int64_t images, int64_t pixels, int64_t C, int64_t count) {
    const Groups groups{pixels, C, C / count};
    const int64_t size = pixels * C;
    Sums total(2 * C);
#pragma omp parallel
    {
        std::vector<float> memory(7 * C + size);
        float *sums = memory.data(), *dots = sums + C, *mean = dots + C, *scale = mean + C, *weighted = scale + C;
        float *first = weighted + C, *second = first + C, *slope = second + C;
        const float by = 1.0f / (pixels * groups.each);
#pragma omp for schedule(static)
        for (int64_t b = 0; b < images; b++) {
            groups.moments(x + b * size, sums, mean, scale);
            std::fill_n(sums, C, 0.0f);
            std::fill_n(dots, C, 0.0f);
            for (int64_t p = 0; p < pixels; p++) {
                const T* __restrict row = x + b * size + p * C;
                const T* __restrict from = grad + b * size + p * C;
                float* __restrict to = slope + p * C;
#pragma omp simd
                for (int64_t c = 0; c < C; c++) {
                    const float unit = (up(row[c]) - mean[c]) * scale[c], z = unit * weight[c] + bias[c];
                    const float s = sigmoid<T>(z), g = up(from[c]) * s * (1 + z * (1 - s));
                    to[c] = g;
                    sums[c] += g;
                    dots[c] += g * unit;
                }
            }
            float* mine = total.mine();
            for (int64_t c = 0; c < C; c++) mine[c] += dots[c], mine[C + c] += sums[c];
            for (int64_t c = 0; c < C; c++) weighted[c] = weight[c] * sums[c];
            groups.spread(weighted, first, by);
            for (int64_t c = 0; c < C; c++) weighted[c] = weight[c] * dots[c];
            groups.spread(weighted, second, by);
            for (int64_t p = 0; p < pixels; p++) {
                const T* __restrict row = x + b * size + p * C;
                const float* __restrict from = slope + p * C;
                T* __restrict to = grad_x + b * size + p * C;
#pragma omp simd
                for (int64_t c = 0; c < C; c++) {
                    const float unit = (up(row[c]) - mean[c]) * scale[c];
                    put(to[c], scale[c] * (weight[c] * from[c] - first[c] - unit * second[c]));
                }
            }
        }
    }
    total.write(grad_weights);
}

// One pixel's features a and b: 1 / |a| and 1 / |b|. Epsilon as in nn/lpips.py.
struct Norms {
    float a, b;
};

template <class T>
inline Norms norms(const T* __restrict a, const T* __restrict b, int64_t C) {
    float of_a = 0, of_b = 0;
#pragma omp simd reduction(+ : of_a, of_b)
    for (int64_t c = 0; c < C; c++) {
        of_a += up(a[c]) * up(a[c]);
        of_b += up(b[c]) * up(b[c]);
    }
    return {1.0f / std::sqrt(of_a + 1e-20f), 1.0f / std::sqrt(of_b + 1e-20f)};
}

// Mean over pixels of the weighted squared distance of unit vectors, per image.
template <class T>
void distance(const T* a, const T* b, const float* weight, float* out, int64_t images, int64_t pixels, int64_t C) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < images; i++) {
        double total = 0;
        for (int64_t p = i * pixels; p < (i + 1) * pixels; p++) {
            const T* __restrict at_a = a + p * C, * __restrict at_b = b + p * C;
            const Norms n = norms(at_a, at_b, C);
            float sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int64_t c = 0; c < C; c++) {
                const float apart = up(at_b[c]) * n.b - up(at_a[c]) * n.a;
                sum += weight[c] * apart * apart;
            }
            total += sum;
        }
        out[i] = float(total / pixels);
    }
}

// The gradient of b alone, from that of every image's distance.
template <class T>
void distance_back(const T* a, const T* b, const float* weight, const float* grad, T* grad_b, int64_t images,
                   int64_t pixels, int64_t C) {
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < images * pixels; p++) {
        const T* __restrict at_a = a + p * C, * __restrict at_b = b + p * C;
        T* __restrict to = grad_b + p * C;
        const Norms n = norms(at_a, at_b, C);
        const float by = 2 * grad[p / pixels] / pixels;
        float along = 0;
#pragma omp simd reduction(+ : along)
        for (int64_t c = 0; c < C; c++) {
            const float unit = up(at_b[c]) * n.b;
            along += weight[c] * (unit - up(at_a[c]) * n.a) * unit;
        }
#pragma omp simd
        for (int64_t c = 0; c < C; c++) {
            const float unit = up(at_b[c]) * n.b;
            put(to[c], by * n.b * (weight[c] * (unit - up(at_a[c]) * n.a) - unit * along));
        }
    }
}

}  // namespace

EXPORT(norm_swish);
EXPORT(norm_swish_back);
EXPORT(distance);
EXPORT(distance_back);
