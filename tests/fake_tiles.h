// AMX's tiles in plain C++, for processors that have AVX-512 with bf16 and no tiles: what is written for tiles can be
// tested there, slowly. Included before everything else, with __AMX_BF16__ defined by hand.

#pragma once

#include <immintrin.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

namespace fake {

static thread_local uint8_t tiles[8][16][64];
static thread_local uint8_t config[64];

inline float half(int tile, int row, int i) {
    uint16_t bits;
    std::memcpy(&bits, &tiles[tile][row][2 * i], 2);
    const uint32_t whole = uint32_t(bits) << 16;
    float x;
    std::memcpy(&x, &whole, 4);
    return x;
}

inline void load(int tile, const void* from, int64_t stride) {
    for (int r = 0; r < 16; r++) std::memcpy(tiles[tile][r], (const uint8_t*)from + r * stride, 64);
}

inline void store(int tile, void* to, int64_t stride) {
    for (int r = 0; r < 16; r++) std::memcpy((uint8_t*)to + r * stride, tiles[tile][r], 64);
}

inline void multiply(int sums, int left, int right) {
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 16; n++) {
            float sum;
            std::memcpy(&sum, &tiles[sums][m][4 * n], 4);
            for (int k = 0; k < 32; k++) sum += half(left, m, k) * half(right, k / 2, 2 * n + k % 2);
            std::memcpy(&tiles[sums][m][4 * n], &sum, 4);
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
