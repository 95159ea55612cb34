// POP's retention in one pass: a projection in, gated outputs and states out, and nothing in between leaves the nearest
// caches. Heads, rotation, scores, their causal half, outputs, states, norm and gate of one head of one block are 0.1 MB;
// as separate products and passes they are read and written ten times over.
//
// Of a sequence's T blocks, block t enters with the state S_{t-1} and leaves S_t; a prediction made after block t enters
// with S_t, and its state is dropped (nn/retention.py, `pop`). Products are bf16 with sums in float32, by AMX tiles.

#include "rows.h"

#ifdef __AMX_BF16__

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

// All tiles are 16 rows of 64 bytes: 16 x 32 bf16 on the left, 16 pairs x 16 on the right, 16 x 16 float sums.
class Tiles {
  public:
    Tiles() {
        _tile_storeconfig(before);  // whoever else uses tiles in this thread may rely on it
        alignas(64) uint8_t config[64] = {1};
        for (int i = 0; i < 8; i++) {
            config[16 + 2 * i] = 64;
            config[48 + i] = 16;
        }
        _tile_loadconfig(config);
    }
    ~Tiles() { _tile_loadconfig(before); }

  private:
    alignas(64) uint8_t before[64];
};

// What one thread works in: a block of L tokens of one head of width d. Rows past L are zero: M is L in whole tiles of 16
// rows, N in whole pairs of tiles.
struct Workspace {
    int64_t L, d, M, N;
    std::vector<uint8_t> memory;
    bf16 *q, *k, *rows, *k_left;       // M d; N d; two rows of d; d N
    uint32_t *k_right, *v, *entering;  // d/2 N, N/2 d, d/2 d: pairs of rows, as the right side of a product
    bf16* scores;                     // 16 N
    float *y, *tile, *S;              // 16 d, 16 16, d d

    Workspace(int64_t L, int64_t d) : L(L), d(d), M((L + 15) / 16 * 16), N((L + 31) / 32 * 32) {
        const int64_t bytes[] = {2 * M * d, 2 * N * d, 4 * d,  2 * d * N, 2 * d * N,  2 * N * d,
                                 2 * d * d, 32 * N,    64 * d, 4 * 16 * 16, 4 * d * d};
        void** places[] = {(void**)&q,        (void**)&k,      (void**)&rows, (void**)&k_left, (void**)&k_right, (void**)&v,
                           (void**)&entering, (void**)&scores, (void**)&y,    (void**)&tile,   (void**)&S};
        int64_t total = 64;
        for (int64_t n : bytes) total += (n + 63) / 64 * 64;
        memory.assign(total, 0);
        uint8_t* next = memory.data() + (64 - uintptr_t(memory.data()) % 64) % 64;
        for (int i = 0; i < 11; i++) {
            *places[i] = next;
            next += (bytes[i] + 63) / 64 * 64;
        }
    }
};

// sums (tile 0) += left [16, 32 steps] right [32 steps, 16]; strides in elements of the left, pairs of the right.
inline void multiply(const bf16* left, int64_t left_stride, const uint32_t* right, int64_t right_stride, int64_t steps) {
    for (int64_t s = 0; s < steps; s++) {
        _tile_loadd(1, left + 32 * s, 2 * left_stride);
        _tile_loadd(2, right + 16 * s * right_stride, 4 * right_stride);
        _tile_dpbf16ps(0, 1, 2);
    }
}

// Heads of a block, turned, where products want them. x: first row of the head's q; k and v are D and 2 D further.
// q_bias, k_bias: even and odd features apart.
inline void load(Workspace& w, const bf16* x, const float* q_bias, const float* k_bias, const float* v_bias,
                 const float* q_table, const float* k_table, int64_t D, int64_t stride) {
    const int64_t d = w.d, e = d / 2;
    for (int64_t l = 0; l < w.L; l++) {
        turn(x + l * stride, q_bias, w.q + l * d, q_table + l * d, e);
        turn(x + l * stride + D, k_bias, w.k + l * d, k_table + l * d, e);
    }
    const word* __restrict keys = reinterpret_cast<const word*>(w.k);
    for (int64_t r = 0; r < e; r++) {
        uint32_t* __restrict to = w.k_right + r * w.N;
#pragma omp simd
        for (int64_t l = 0; l < w.N; l++) to[l] = keys[l * e + r];
    }
    bf16 *even = w.rows, *odd = w.rows + d;
    for (int64_t l = 0; l < w.L; l += 2) {
        shift(x + l * stride + 2 * D, v_bias, even, d);
        if (l + 1 < w.L)
            shift(x + (l + 1) * stride + 2 * D, v_bias, odd, d);
        else
            std::fill_n(odd, d, bf16(0));
        uint32_t* __restrict to = w.v + l / 2 * d;
#pragma omp simd
        for (int64_t i = 0; i < d; i++) to[i] = uint32_t(even[i]) | uint32_t(odd[i]) << 16;
    }
}

// The state as the right side of a product.
inline void load_state(Workspace& w) {
    for (int64_t r = 0; r < w.d / 2; r++) {
        const float *__restrict even = w.S + 2 * r * w.d, *__restrict odd = even + w.d;
        uint32_t* __restrict to = w.entering + r * w.d;
#pragma omp simd
        for (int64_t i = 0; i < w.d; i++) to[i] = pair(even[i], odd[i]);
    }
}

// S <- decay (S + kᵀ v)
inline void absorb(Workspace& w, float decay) {
    const int64_t d = w.d;
    for (int64_t r = 0; r < d / 2; r++) {
        const uint32_t* __restrict from = w.k_right + r * w.N;
        bf16 *__restrict even = w.k_left + 2 * r * w.N, *__restrict odd = even + w.N;
#pragma omp simd
        for (int64_t l = 0; l < w.N; l++) {
            even[l] = bf16(from[l]);
            odd[l] = bf16(from[l] >> 16);
        }
    }
    for (int64_t m = 0; m < d; m += 16)
        for (int64_t n = 0; n < d; n += 16) {
            float* sums = w.S + m * d + n;
            _tile_loadd(0, sums, 4 * d);
            multiply(w.k_left + m * w.N, w.N, w.v + n, d, w.N / 32);
            _tile_stored(0, sums, 4 * d);
        }
#pragma omp simd
    for (int64_t i = 0; i < d * d; i++) w.S[i] *= decay;
}

// Outputs of tokens m .. m + 15, before the norm: tril(q kᵀ) v + q S.
inline void outputs(Workspace& w, int64_t m) {
    const int64_t d = w.d, steps = m / 32 + 1;  // tokens that they see, in steps of 32
    for (int64_t n = 0; n < 32 * steps; n += 16) {
        if (n > m) {
            for (int64_t i = 0; i < 16; i++) std::fill_n(w.scores + i * w.N + n, 16, bf16(0));
            continue;
        }
        _tile_zero(0);
        multiply(w.q + m * d, d, w.k_right + n, w.N, d / 32);
        _tile_stored(0, w.tile, 64);
        for (int64_t i = 0; i < 16; i++) {
            const int64_t seen = m + i - n;  // keys up to this one
            bf16* __restrict to = w.scores + i * w.N + n;
            const float* __restrict from = w.tile + 16 * i;
#pragma omp simd
            for (int64_t j = 0; j < 16; j++) put(to[j], j <= seen ? from[j] : 0.0f);
        }
    }
    for (int64_t n = 0; n < d; n += 16) {
        _tile_zero(0);
        multiply(w.scores, w.N, w.v + n, d, steps);
        multiply(w.q + m * d, d, w.entering + n, d, d / 32);
        _tile_stored(0, w.y + n, 4 * d);
    }
}

}  // namespace

extern "C" {

int td_has_tiles() {
    constexpr int request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, request, tile_data) == 0;
}

// x [(T + P) B L 4D] without its bias, tables [T + P, H, L, 2 d/2], S [B H d d]; out [(T + P) B L D], S_out [B H d d].
// Predictions are made after the P blocks from `first` on. `decay`: of every head over a block.
void td_pop(int, const void* x_, const float* bias, const float* q_table, const float* k_table, const float* decay,
            const float* S, void* out_, float* S_out, int64_t B, int64_t T, int64_t first, int64_t P, int64_t H,
            int64_t L, int64_t d) {
    const bf16* x = (const bf16*)x_;
    bf16* out = (bf16*)out_;
    const int64_t D = H * d, stride = 4 * D;
#pragma omp parallel
    {
        const Tiles tiles;
        Workspace w(L, d);
        const std::vector<float> factors(d, 1.0f), parts = apart(bias, 2 * D, d);
        std::vector<bf16> gate(d);
#pragma omp for schedule(static) collapse(2)
        for (int64_t b = 0; b < B; b++)
            for (int64_t h = 0; h < H; h++) {
                const auto block = [&](int64_t slot, bool absorbed) {
                    const int64_t g = slot * B + b, turns = (slot * H + h) * L * d;
                    const bf16* at = x + g * L * stride + h * d;
                    load(w, at, &parts[h * d], &parts[D + h * d], bias + 2 * D + h * d, q_table + turns, k_table + turns, D, stride);
                    load_state(w);
                    for (int64_t m = 0; m < L; m += 16) {
                        outputs(w, m);
                        for (int64_t l = m; l < std::min(m + 16, L); l++) {
                            shift(at + l * stride + 3 * D, bias + 3 * D + h * d, gate.data(), d);
                            gate_row(w.y + (l - m) * d, gate.data(), out + (g * L + l) * D + h * d, factors.data(), d);
                        }
                    }
                    if (absorbed) absorb(w, decay[h]);
                };
                std::copy_n(S + (b * H + h) * d * d, d * d, w.S);
                for (int64_t t = 0; t < T; t++) {
                    block(t, true);
                    if (first <= t && t < first + P) block(T + t - first, false);
                }
                std::copy_n(w.S, d * d, S_out + (b * H + h) * d * d);
            }
    }
}

}  // extern "C"

#else

extern "C" int td_has_tiles() { return 0; }

#endif
