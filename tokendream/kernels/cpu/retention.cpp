// POP's retention in one pass: tokens in, gated outputs and states out, and nothing in between leaves the nearest
// caches. Norm, projection, heads, rotation, scores, their causal half, outputs, states, norm and gate of one head of
// one block are 0.2 MB; as separate products and passes they are read and written ten times over.
//
// Of a sequence's T blocks, block t enters with the state S_{t-1} and leaves S_t; a prediction made after block t
// enters with S_t, and its state is dropped (nn/retention.py, `pop`).

#include "tiles.h"

#ifdef __AMX_BF16__

namespace {

// What one thread works in: a block of L tokens of one head of width d, in N rows. Rows past L stay zero.
struct Workspace {
    int64_t L, D, d, N, inside, across;  // inside, across: steps of 32 features of a head, of 32 tokens
    Lines<bf16> tokens;                  // left, N D: the block's normed tokens
    Lines<bf16> q, k, k_left;            // left, N d and N d and d N
    Lines<bf16> k_right, v, entering;    // right, d N and N d and d d
    Lines<bf16> scores;                  // left, 32 N
    Lines<float> gate, y, fresh;         // N d, swish taken; sums 32 d; two blocks

    Workspace(int64_t L, int64_t D, int64_t d)
        : L(L), D(D), d(d), N((L + 31) / 32 * 32), inside(d / 32), across(N / 32), tokens(N * D), q(N * d), k(N * d),
          k_left(d * N), k_right(d * N), v(N * d), entering(d * d), scores(32 * N), gate(N * d), y(32 * d),
          fresh(2 * block) {}

    // left [32 from row 32 i on] right, where rows past L are left out as far as they fill a tile.
    template <bool add, class Beside>
    void product(const bf16* left, int64_t i, const bf16* right, float* sums, int64_t steps, Beside beside) const {
        if (L - 32 * i > 16)
            multiply<add, true>(left, steps * tile, right, sums, steps, beside);
        else
            multiply<add, false>(left, steps * tile, right, sums, steps, beside);
    }
};

// What all blocks of a head have in common. Of a pair of features, biases and tables know the even and the odd one, and
// cosine and sine, apart: d/2 of the one, then d/2 of the other.
struct Head {
    const bf16 *q, *k, *v, *gate;  // their part of the projection, as a right factor
    const float *q_bias, *k_bias, *v_bias, *gate_bias;
    float decay;
};

// A row of 32 features, each pair rotated. `bias`, `table`: of its first pair, e pairs in all.
inline void put_rotated(bf16* to, Row x, const float* bias, const float* table, int64_t e) {
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    const __m512 a = _mm512_add_ps(_mm512_permutex2var_ps(x.low, even, x.high), _mm512_loadu_ps(bias));
    const __m512 b = _mm512_add_ps(_mm512_permutex2var_ps(x.low, odd, x.high), _mm512_loadu_ps(bias + e));
    const __m512 c = _mm512_loadu_ps(table), s = _mm512_loadu_ps(table + e);
    _mm512_storeu_si512(
        to, interleaved(_mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)), _mm512_fmadd_ps(a, s, _mm512_mul_ps(b, c))));
}

// The head of every token: q, k and v as factors, and the gate. 32 x 32 sums are finished beside the next product.
inline void project(Workspace& w, const Head& head, const float* q_table, const float* k_table) {
    const int64_t d = w.d, e = d / 2, steps = w.D / 32;
    const int64_t share = (32 + 2 * steps - 1) / (2 * steps) * 2;  // rows a step, in pairs
    int64_t slot = 0;
    int part = -1;  // of what is still to be finished: q, k, v, gate; its rows and columns of 32
    int64_t i = 0, c = 0;
    const float* sums = nullptr;
    const auto finish = [&](int64_t s) {
        if (part < 0) return;
        const int64_t last = std::min(std::min((s + 1) * share, int64_t(32)), w.L - 32 * i);
        for (int64_t r = s * share; r < last; r++) {
            const Row x = row(sums + 32 * r);
            const int64_t l = 32 * i + r;
            if (part == 0)
                put_rotated(left_at(w.q, l, 32 * c, w.inside), x, head.q_bias + 16 * c, q_table + l * d + 16 * c, e);
            else if (part == 1)
                put_rotated(left_at(w.k, l, 32 * c, w.inside), x, head.k_bias + 16 * c, k_table + l * d + 16 * c, e);
            else if (part == 3)
                put(w.gate + l * d + 32 * c, swish(x + row(head.gate_bias + 32 * c)));
            else if (r % 2 == 0) {
                const Row bias = row(head.v_bias + 32 * c),
                          odd = l + 1 < w.L ? row(sums + 32 * r + 32) + bias : same(0);
                put_pair(w.v + 2 * (c * w.across + i) * tile, r / 2, x + bias, odd);
            }
        }
    };
    const bf16* weights[] = {head.q, head.k, head.v, head.gate};
    for (int64_t rows = 0; rows < w.across; rows++)
        for (int now = 0; now < 4; now++)
            for (int64_t column = 0; column < w.inside; column++) {
                float* next = w.fresh + slot * block;
                w.product<false>(w.tokens + 2 * rows * steps * tile, rows, weights[now] + 2 * column * steps * tile,
                                 next, steps, finish);
                part = now, i = rows, c = column, sums = next, slot = 1 - slot;
            }
    for (int64_t s = 0; s < steps; s++) finish(s);
}

// k as the right factor of q kᵀ, and kᵀ as the left one of kᵀ v.
inline void arrange_keys(Workspace& w) {
    alignas(64) static constexpr uint16_t lows[32] = {0,  2,  4,  6,  8,  10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
                                                      32, 34, 36, 38, 40, 42, 44, 46, 48, 50, 52, 54, 56, 58, 60, 62};
    const __m512i low = _mm512_load_si512(lows), high = _mm512_add_epi16(low, _mm512_set1_epi16(1));
    for (int64_t j = 0; j < w.across; j++)
        for (int64_t s = 0; s < w.inside; s++) {
            bf16* right = w.k_right + 2 * (j * w.inside + s) * tile;
            for (int64_t half = 0; half < 2; half++)
                transpose(w.k + ((2 * j + half) * w.inside + s) * tile, right + half * tile);
            for (int64_t p = 0; p < 16; p++) {
                const __m512i a = _mm512_loadu_si512(right + 32 * p), b = _mm512_loadu_si512(right + tile + 32 * p);
                bf16* to = left_at(w.k_left, 32 * s + 2 * p, 32 * j, w.across);
                _mm512_storeu_si512(to, _mm512_permutex2var_epi16(a, low, b));
                _mm512_storeu_si512(to + 32, _mm512_permutex2var_epi16(a, high, b));
            }
        }
}

// Gated outputs of all tokens, tril(q kᵀ) v + q S normed; out: rows of the head, D apart. S: sums [d, d].
inline void attend(Workspace& w, const float* S, bf16* out) {
    const int64_t d = w.d;
    for (int64_t i = 0; i < w.inside; i++)
        for (int64_t j = 0; j < w.inside; j++)
            for (int64_t p = 0; p < 16; p++) {
                const float* from = S + (i * w.inside + j) * block + 64 * p;
                put_pair(w.entering + 2 * (j * w.inside + i) * tile, p, row(from), row(from + 32));
            }
    for (int64_t i = 0; i < w.across; i++) {
        const bf16* q = w.q + 2 * i * w.inside * tile;
        const int64_t seen = i + 1;  // steps of 32 tokens
        for (int64_t j = 0; j < seen; j++) {
            w.product<false>(q, i, w.k_right + 2 * j * w.inside * tile, w.fresh, w.inside, nothing);
            for (int64_t r = 0; r < 32; r++) {
                Row x = row(w.fresh + 32 * r);
                if (i == j) {
                    const uint32_t kept = 0xffffffffu >> (31 - r);
                    x = {_mm512_maskz_mov_ps(__mmask16(kept), x.low),
                         _mm512_maskz_mov_ps(__mmask16(kept >> 16), x.high)};
                }
                put(left_at(w.scores, r, 32 * j, seen), x);
            }
        }
        for (int64_t n = 0; n < w.inside; n++) {
            float* sums = w.y + n * block;
            w.product<false>(w.scores, i, w.v + 2 * n * w.across * tile, sums, seen, nothing);
            w.product<true>(q, i, w.entering + 2 * n * w.inside * tile, sums, w.inside, nothing);
        }
        for (int64_t r = 0; r < std::min(w.L - 32 * i, int64_t(32)); r++) {
            const int64_t l = 32 * i + r;
            const Moments m = moments_of(w.y + 32 * r, d, block);
            for (int64_t n = 0; n < w.inside; n++)
                put(out + l * w.D + 32 * n,
                    (row(w.y + n * block + 32 * r) - same(m.mean)) * same(m.scale) * row(w.gate + l * d + 32 * n));
        }
    }
}

// S <- decay (S + kᵀ v)
inline void absorb(Workspace& w, float* S, float decay) {
    for (int64_t i = 0; i < w.inside; i++)
        for (int64_t j = 0; j < w.inside; j++) {
            float* sums = S + (i * w.inside + j) * block;
            multiply<true, true>(w.k_left + 2 * i * w.across * tile, w.across * tile, w.v + 2 * j * w.across * tile,
                                 sums, w.across, nothing);
            for (int64_t r = 0; r < 32; r++) put(sums + 32 * r, row(sums + 32 * r) * same(decay));
        }
}

// Between a matrix [d, d] row by row and one in blocks of sums.
template <class Copy>
inline void each_row(float* matrix, float* sums, int64_t d, Copy copy) {
    for (int64_t r = 0; r < d; r++)
        for (int64_t c = 0; c < d; c += 32) copy(matrix + r * d + c, sums_at(sums, r, c, d / 32));
}

// x [(T + P) B L D], tables [T + P, H, L, 2 d/2], S [B H d d]; out [(T + P) B L D], S_out [B H d d]. Predictions are
// made after the P blocks from `first` on. `scale`, `offset`: of the norm; `weight` [4D, D], `bias`: of the projection
// to q, k, v and gate; `decay`: of every head over a block.
void pop(const bf16* x, const float* scale, const float* offset, const float* weight, const float* bias,
         const float* q_table, const float* k_table, const float* decay, float* S, bf16* out, float* S_out, int64_t B,
         int64_t T, int64_t first, int64_t P, int64_t H, int64_t L, int64_t d) {
    const int64_t D = H * d, panel = 2 * D / 32 * tile;
    const Lines<bf16> right(4 * D * D);
    const std::vector<float> parts = apart(bias, 2 * D, d);
    // Few sequences are shared out by heads, each of which then norms all tokens again.
    const int64_t groups = B >= omp_get_max_threads() ? 1 : H, heads = H / groups;
#pragma omp parallel
    {
        pack(weight, right, 4 * D, D);
        const Tiles tiles;
        Workspace w(L, D, d);
        Lines<float> states(heads * d * d), tokens(D);
#pragma omp for schedule(static) collapse(2)
        for (int64_t b = 0; b < B; b++)
            for (int64_t g = 0; g < groups; g++) {
                const auto block = [&](int64_t chunk, bool absorbed) {
                    const int64_t from = (chunk * B + b) * L * D;
                    for (int64_t l = 0; l < L; l++) {
                        for (int64_t c = 0; c < D; c += 32) put(tokens + c, row(x + from + l * D + c));
                        norm_left(tokens, scale, offset, left_at(w.tokens, l, 0, D / 32), D);
                    }
                    for (int64_t h = g * heads; h < (g + 1) * heads; h++) {
                        const int64_t at = h * d, table = (chunk * H + h) * L * d;
                        const auto weights = [&](int64_t part) { return right + (part * D + at) / 32 * panel; };
                        const Head head{weights(0),     weights(1),        weights(2),        weights(3), &parts[at],
                                        &parts[D + at], bias + 2 * D + at, bias + 3 * D + at, decay[h]};
                        float* state = states + (h - g * heads) * d * d;
                        project(w, head, q_table + table, k_table + table);
                        arrange_keys(w);
                        attend(w, state, out + from + at);
                        if (absorbed) absorb(w, state, head.decay);
                    }
                };
                const int64_t mine = (b * H + g * heads) * d * d;
                for (int64_t h = 0; h < heads; h++)
                    each_row(S + mine + h * d * d, states + h * d * d, d, [](float* a, float* b) { put(b, row(a)); });
                for (int64_t t = 0; t < T; t++) {
                    block(t, true);
                    if (first <= t && t < first + P) block(T + t - first, false);
                }
                for (int64_t h = 0; h < heads; h++)
                    each_row(S_out + mine + h * d * d, states + h * d * d, d,
                             [](float* a, float* b) { put(a, row(b)); });
            }
    }
}

}  // namespace

EXPORT_TILES(pop);

#endif
