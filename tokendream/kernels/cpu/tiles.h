// Matrix products by AMX tiles, made to be chained: what one product gives is laid out as the next one takes it, so
// that rows go through several products without leaving the nearest caches. Factors are bf16, sums float32.
//
// A tile has 16 rows of 64 bytes: 16 x 32 bf16 of a left factor, 16 pairs of rows x 16 columns of a right one, or
// 16 x 16 float sums. Whole matrices are kept tile by tile, so that a tile is 1 KB in a row:
//   left    [rows / 16][inner / 32] tiles
//   right   [columns / 32][inner / 32][2] tiles, the two side by side
//   sums    [rows / 32][columns / 32] blocks of 32 x 32 floats, row by row

#pragma once

#include "common.h"

#ifdef __AMX_BF16__

#include <immintrin.h>

namespace {

constexpr int64_t tile = 512;       // bf16 in a tile
constexpr int64_t block = 32 * 32;  // floats in a block of sums

// Compilers know that storing a tile writes memory, but not that loading one reads it (GCC 12): this keeps what was
// written before it from being written after.
inline void written() {
    asm volatile("" ::: "memory");
}

// Tiles of 16 whole rows, for as long as this lives; whoever else uses tiles in this thread finds them as they were.
class Tiles {
  public:
    Tiles() {
        _tile_storeconfig(before);
        alignas(64) uint8_t config[64] = {1};
        for (int i = 0; i < 8; i++) {
            config[16 + 2 * i] = 64;
            config[48 + i] = 16;
        }
        written();
        _tile_loadconfig(config);
    }
    ~Tiles() { _tile_loadconfig(before); }

  private:
    alignas(64) uint8_t before[64];
};

// Memory that starts at a cache line, all zero.
template <class T>
class Lines {
  public:
    explicit Lines(int64_t n) : memory(n * sizeof(T) + 64, 0) {
        start = (T*)(memory.data() + (64 - uintptr_t(memory.data()) % 64) % 64);
    }
    Lines(const Lines&) = delete;  // `start` points into this one
    operator T*() const { return start; }

  private:
    std::vector<uint8_t> memory;
    T* start;
};

// Where 32 columns from `column` on of row r begin in a left factor with `steps` tiles a row.
inline bf16* left_at(bf16* left, int64_t r, int64_t column, int64_t steps) {
    return left + (r / 16 * steps + column / 32) * tile + r % 16 * 32;
}

// The same among sums with `blocks` blocks a row.
inline float* sums_at(float* sums, int64_t r, int64_t column, int64_t blocks) {
    return sums + (r / 32 * blocks + column / 32) * block + r % 32 * 32;
}

// 32 floats, and 32 numbers of a tile's row.
struct Row {
    __m512 low, high;
};

inline Row row(const float* x) {
    return {_mm512_loadu_ps(x), _mm512_loadu_ps(x + 16)};
}

inline void put(bf16* to, Row x) {
    _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(x.high, x.low));
}

inline Row row(const bf16* x) {
    const __m512i both = _mm512_loadu_si512(x);
    const auto wide = [](__m256i half) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
    };
    return {wide(_mm512_castsi512_si256(both)), wide(_mm512_extracti64x4_epi64(both, 1))};
}

// Past the caches: for what is not read again soon. `to` is at the beginning of a cache line.
inline void stream(bf16* to, Row x) {
    _mm512_stream_si512((__m512i*)to, (__m512i)_mm512_cvtne2ps_pbh(x.high, x.low));
}

inline void put(float* to, Row x) {
    _mm512_storeu_ps(to, x.low);
    _mm512_storeu_ps(to + 16, x.high);
}

inline Row operator+(Row a, Row b) {
    return {_mm512_add_ps(a.low, b.low), _mm512_add_ps(a.high, b.high)};
}
inline Row operator-(Row a, Row b) {
    return {_mm512_sub_ps(a.low, b.low), _mm512_sub_ps(a.high, b.high)};
}
inline Row operator*(Row a, Row b) {
    return {_mm512_mul_ps(a.low, b.low), _mm512_mul_ps(a.high, b.high)};
}
inline Row same(float x) {
    return {_mm512_set1_ps(x), _mm512_set1_ps(x)};
}
inline float total(Row x) {
    return _mm512_reduce_add_ps(_mm512_add_ps(x.low, x.high));
}

// The moments of n floats, as `moments`; of which every 32 lie together, `stride` apart.
inline Moments moments_of(const float* x, int64_t n, int64_t stride = 32) {
    Row sum = same(0), squares = same(0);
    for (int64_t i = 0; i < n / 32; i++) sum = sum + row(x + i * stride);
    const float mean = total(sum) / n;
    for (int64_t i = 0; i < n / 32; i++) {
        const Row centred = row(x + i * stride) - same(mean);
        squares = squares + centred * centred;
    }
    return {mean, 1.0f / std::sqrt(total(squares) / n + 1e-6f)};
}

// The norm of n floats, from `to` on in a row of a left factor.
inline void norm_left(const float* x, const float* scale, const float* offset, bf16* to, int64_t n) {
    const Moments m = moments_of(x, n);
    for (int64_t i = 0; i < n; i += 32)
        put(to + i / 32 * tile, (row(x + i) - same(m.mean)) * same(m.scale) * row(scale + i) + row(offset + i));
}

// 1 / (1 + e^-x) to 2e-4 of it, in half of the time that `sigmoid` takes; infinities and NaN as in exact arithmetic.
inline __m512 squashed(__m512 x) {
    const __m512 t = _mm512_mul_ps(x, _mm512_set1_ps(-log2_e));
    const __m512 f = _mm512_reduce_ps(t, _MM_FROUND_TO_NEG_INF);
    // 2^f for 0 <= f < 1, as a polynomial
    __m512 p = _mm512_set1_ps(0.07802452f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.22606717f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.69583353f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.99992522f));
    const __m512 d = _mm512_add_ps(_mm512_scalef_ps(p, t), _mm512_set1_ps(1.0f));  // scalef: times 2^floor(t)
    return _mm512_rcp14_ps(d);
}

inline Row squashed(Row x) {
    return {squashed(x.low), squashed(x.high)};
}

inline Row swish(Row x) {
    return x * squashed(x);
}

// The derivative of swish.
inline Row swish_slope(Row x) {
    const Row s = squashed(x);
    return s * (same(1) + x * (same(1) - s));
}

// Dropout's factors of the 32 elements from `first` on, as `Dropout::factors` gives them.
inline Row factors(const Dropout& dropout, int64_t first) {
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    __m512i h = _mm512_add_epi32(_mm512_set1_epi32(int(first)), lanes);
    const auto word = [](uint32_t x) { return _mm512_set1_epi32(int(x)); };
    h = _mm512_add_epi32(_mm512_mullo_epi32(h, word(0x9e3779b9u)), word(dropout.low));
    h = _mm512_xor_si512(h, _mm512_srli_epi32(h, 16));
    h = _mm512_add_epi32(_mm512_mullo_epi32(h, word(0x85ebca6bu)), word(dropout.high));
    h = _mm512_mullo_epi32(_mm512_xor_si512(h, _mm512_srli_epi32(h, 13)), word(0xc2b2ae35u));
    h = _mm512_xor_si512(h, _mm512_srli_epi32(h, 16));
    const __m512i threshold = word(dropout.threshold);
    const __m512 scale = _mm512_set1_ps(dropout.scale);
    return {_mm512_maskz_mov_ps(_mm512_cmpge_epu32_mask(_mm512_and_si512(h, word(0xffff)), threshold), scale),
            _mm512_maskz_mov_ps(_mm512_cmpge_epu32_mask(_mm512_srli_epi32(h, 16), threshold), scale)};
}

inline Row dropped(Row x, const Dropout& dropout, int64_t first) {
    return dropout.threshold ? x * factors(dropout, first) : x;
}

// 16 words, of a and b in turn, rounded.
inline __m512i interleaved(__m512 a, __m512 b) {
    alignas(64) static constexpr uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                       8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    return _mm512_permutexvar_epi16(_mm512_load_si512(order), (__m512i)_mm512_cvtne2ps_pbh(b, a));
}

// Rows 2 p and 2 p + 1 of 32 columns of a right factor, whose two tiles begin at `to`.
inline void put_pair(bf16* to, int64_t p, Row even, Row odd) {
    _mm512_storeu_si512(to + 32 * p, interleaved(even.low, odd.low));
    _mm512_storeu_si512(to + tile + 32 * p, interleaved(even.high, odd.high));
}

// A tile of 16 x 16 words, transposed.
inline void transpose(__m512i* rows) {
    __m512i other[16];
    for (int i = 0; i < 16; i += 2) {  // 2 x 2 words
        other[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        other[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)  // 4 x 4
        for (int j = 0; j < 2; j++) {
            rows[i + 2 * j] = _mm512_unpacklo_epi64(other[i + j], other[i + 2 + j]);
            rows[i + 2 * j + 1] = _mm512_unpackhi_epi64(other[i + j], other[i + 2 + j]);
        }
    for (int i = 0; i < 4; i++) {  // 4 x 4 of these
        other[i] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0x88);
        other[i + 4] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0xdd);
        other[i + 8] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0x88);
        other[i + 12] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0xdd);
    }
    for (int i = 0; i < 8; i++) {
        rows[i] = _mm512_shuffle_i32x4(other[i], other[i + 8], 0x88);
        rows[i + 8] = _mm512_shuffle_i32x4(other[i], other[i + 8], 0xdd);
    }
}
inline void transpose(const bf16* from, bf16* to) {
    __m512i rows[16];
    for (int i = 0; i < 16; i++) rows[i] = _mm512_loadu_si512(from + 32 * i);
    transpose(rows);
    for (int i = 0; i < 16; i++) _mm512_storeu_si512(to + 32 * i, rows[i]);
}

// The weight [columns, inner] of a linear map, as the right factor of x Wᵀ; all threads of a team share the work.
inline void pack(const float* weight, bf16* right, int64_t columns, int64_t inner) {
    const int64_t steps = inner / 32;
#pragma omp for schedule(static)
    for (int64_t c = 0; c < columns; c += 16)
        for (int64_t s = 0; s < steps; s++) {
            alignas(64) bf16 rows[tile];
            for (int64_t i = 0; i < 16; i++) put(rows + 32 * i, row(weight + (c + i) * inner + 32 * s));
            transpose(rows, right + ((c / 32 * steps + s) * 2 + c / 16 % 2) * tile);
        }
}

// The weight [inner, columns] of a linear map, as the right factor of x W; shared out in the same way.
inline void pack_back(const float* weight, bf16* right, int64_t inner, int64_t columns) {
    const int64_t steps = inner / 32;
#pragma omp for schedule(static)
    for (int64_t c = 0; c < columns; c += 32)
        for (int64_t k = 0; k < inner; k += 2) {
            const float* from = weight + k * columns + c;
            put_pair(right + (c / 32 * steps + k / 32) * 2 * tile, k % 32 / 2, row(from), row(from + columns));
        }
}

// sums [32 x 32] (+)= left [32, 32 steps] right [32 steps, 32]. `left`: the first of two rows of tiles, `stride` apart;
// of only one row where not `both`, and then half of the sums. What is to be done `beside`, step by step, has the
// vector units, which tiles leave idle: it must not touch these sums.
template <bool add, bool both, class Beside>
inline void multiply(const bf16* left, int64_t stride, const bf16* right, float* sums, int64_t steps, Beside beside) {
    written();
    if constexpr (add) {
        _tile_loadd(0, sums, 128);
        _tile_loadd(1, sums + 16, 128);
        if constexpr (both) {
            _tile_loadd(2, sums + 512, 128);
            _tile_loadd(3, sums + 528, 128);
        }
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t s = 0; s < steps; s++) {
        _tile_loadd(4, left + s * tile, 64);
        _tile_loadd(6, right + 2 * s * tile, 64);
        _tile_loadd(7, right + (2 * s + 1) * tile, 64);
        if constexpr (both) _tile_loadd(5, left + stride + s * tile, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if constexpr (both) {
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        beside(s);
    }
    _tile_stored(0, sums, 128);
    _tile_stored(1, sums + 16, 128);
    if constexpr (both) {
        _tile_stored(2, sums + 512, 128);
        _tile_stored(3, sums + 528, 128);
    }
}

inline void nothing(int64_t) {}

}  // namespace

// As EXPORT, for what is in bf16 alone.
#define EXPORT_TILES(op) extern "C" void* td_##op[] = {nullptr, (void*)op}

#endif
