// AMX's tiles by AVX-512, for processors that have AVX-512 with bf16 and no tiles: what is written for tiles can be
// tested there. Included before everything else, with __AMX_BF16__ defined by hand.

#pragma once

#include <immintrin.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

namespace fake {

static thread_local uint8_t tiles[8][16][64];
static thread_local uint8_t config[64];

inline void load(int tile, const void* from, int64_t stride) {
    for (int r = 0; r < 16; r++) std::memcpy(tiles[tile][r], (const uint8_t*)from + r * stride, 64);
}

inline void store(int tile, void* to, int64_t stride) {
    for (int r = 0; r < 16; r++) std::memcpy((uint8_t*)to + r * stride, tiles[tile][r], 64);
}

// The two bf16 in each 32 bits as float32: a number's bf16 are the upper half of its bits.
inline __m512 first(__m512i pairs) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
}
inline __m512 second(__m512i pairs) {
    return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(~0xffff)));
}

inline void multiply(int sums, int left, int right) {
    for (int m = 0; m < 16; m++) {
        __m512 sum = _mm512_loadu_ps(tiles[sums][m]);
        for (int k = 0; k < 16; k++) {
            int32_t bits;
            std::memcpy(&bits, &tiles[left][m][4 * k], 4);
            const __m512i pair = _mm512_set1_epi32(bits), row = _mm512_loadu_si512(tiles[right][k]);
            sum = _mm512_fmadd_ps(first(pair), first(row), sum);
            sum = _mm512_fmadd_ps(second(pair), second(row), sum);
        }
        _mm512_storeu_ps(tiles[sums][m], sum);
    }
}

}  // namespace fake

#undef _tile_loadconfig
#undef _tile_storeconfig
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#define _tile_loadconfig(from) std::memcpy(fake::config, from, 64)
#define _tile_storeconfig(to) std::memcpy(to, fake::config, 64)
#define _tile_loadd(tile, from, stride) fake::load(tile, from, stride)
#define _tile_stored(tile, to, stride) fake::store(tile, to, stride)
#define _tile_zero(tile) std::memset(fake::tiles[tile], 0, 1024)
#define _tile_dpbf16ps(sums, left, right) fake::multiply(sums, left, right)
#define syscall(...) 0L  // the request for tiles is granted
