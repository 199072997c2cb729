/* AVX-512 with VPOPCNTDQ: a tile of 4 rows by 3 panels, 24 accumulators. */
#include "../xnor.h"

#ifdef HAVE_X86
#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq")))
#define INLINE static inline __attribute__((always_inline)) TARGET

/* One carry-save step: twos += popcount(carry). 0x96 is a ^ b ^ c; 0xd4 is maj(c, x, x ^ s ^ c) of (x, c, s), the same
 * for c and x exchanged. Written out because compilers copy three registers here where one copy is enough. */
#define STEP(ones, twos, a_both, b_both, x)                                                        \
    do {                                                                                           \
        __m512i before_, carry_ = (x);                                                             \
        __asm__("vmovdqa64 %[o], %[c]\n\t"                                                         \
                "vpternlogd $0x96, %[b], %[a], %[o]\n\t"                                           \
                "vpternlogd $0xd4, %[o], %[c], %[y]\n\t"                                           \
                "vpopcntd %[y], %[y]\n\t"                                                          \
                "vpaddd %[y], %[n], %[n]"                                                          \
                : [o] "+v"(ones), [n] "+v"(twos), [y] "+v"(carry_), [c] "=&v"(before_)             \
                : [a] "v"(a_both), [b] "v"(b_both));                                               \
    } while (0)

#define EACH(index, limit) _Pragma("GCC unroll 4") for (int index = 0; index < (limit); index++)

INLINE void tile(const tile_t *t, const row_t *row, size_t r, const int MR, const int NP, const int STREAM)
{
    __m512i ones[TILE_ROWS][TILE_PANELS], twos[TILE_ROWS][TILE_PANELS];
    EACH(i, MR) EACH(j, NP) ones[i][j] = twos[i][j] = _mm512_setzero_si512();

    const size_t stride = t->panel_stride, pairs = t->pairs;
    const uint32_t *b = t->panels;
    for (size_t s = 0; s < t->segs; s++) {
        const uint32_t *a[TILE_ROWS];
        EACH(i, MR) a[i] = row[r + i].from + t->offset + s * t->seg_stride;
        for (size_t k = 0; k < pairs; k++, b += PAIR) {
            __m512i lo[TILE_PANELS], both[TILE_PANELS];
            EACH(j, NP) lo[j] = _mm512_loadu_si512(b + j * stride);
            EACH(j, NP) both[j] = _mm512_loadu_si512(b + j * stride + LANES);
            EACH(i, MR) {
                const __m512i a_lo = _mm512_set1_epi32((int)a[i][2 * k]);
                const __m512i a_both = _mm512_set1_epi32((int)a[i][2 * k + 1]);
                EACH(j, NP) {
                    const __m512i x = _mm512_xor_si512(a_lo, lo[j]);
                    STEP(ones[i][j], twos[i][j], a_both, both[j], x);
                }
            }
        }
    }
    EACH(i, MR) {
        const int32_t *from = t->in ? t->in + (r + i) * TILE_COLS : row[r + i].start + t->col;
        int32_t *out = t->out + (r + i) * t->out_stride;
        EACH(j, NP) {
            const __m512i twice = _mm512_slli_epi32(twos[i][j], 1);
            const __m512i count = _mm512_add_epi32(_mm512_popcnt_epi32(ones[i][j]), twice);
            const __m512i start = _mm512_loadu_si512(from + j * LANES);
            const __m512i dot = _mm512_sub_epi32(start, _mm512_slli_epi32(count, 1));
            if (STREAM) _mm512_stream_si512((void *)(out + j * LANES), dot);
            else _mm512_storeu_si512(out + j * LANES, dot);
        }
    }
}

INLINE void tiles_of(const tile_t *t, const row_t *row, size_t rows, const int NP, const int STREAM)
{
    size_t r = 0;
    for (; r + 4 <= rows; r += 4) tile(t, row, r, 4, NP, STREAM);
    switch (rows - r) {
        case 1: tile(t, row, r, 1, NP, STREAM); break;
        case 2: tile(t, row, r, 2, NP, STREAM); break;
        case 3: tile(t, row, r, 3, NP, STREAM); break;
    }
}

static TARGET void tiles(const tile_t *t, const row_t *row, size_t rows, int np)
{
    switch (np) {
        case 1: tiles_of(t, row, rows, 1, 0); break;
        case 2: tiles_of(t, row, rows, 2, 0); break;
        case 3: t->stream ? tiles_of(t, row, rows, 3, 1) : tiles_of(t, row, rows, 3, 0); break;
    }
}

static TARGET void compare(const int32_t *dot, size_t rows, int np, const int32_t *level, const int32_t *flip,
                           uint8_t *bits, size_t bits_stride)
{
    for (int j = 0; j < np; j++, dot += LANES, level += LANES, flip += LANES, bits += LANES / 8) {
        const __m512i least = _mm512_loadu_si512(level), sign = _mm512_loadu_si512(flip);
        for (size_t i = 0; i < rows; i++) {
            const __m512i d = _mm512_xor_si512(_mm512_loadu_si512(dot + i * TILE_COLS), sign);
            const uint16_t mask = (uint16_t)_mm512_cmpge_epi32_mask(d, least);
            __builtin_memcpy(bits + i * bits_stride, &mask, sizeof mask);
        }
    }
}

static TARGET int64_t spin(int64_t steps)
{
    __m512i ones[12], twos[12];
    const __m512i a = _mm512_set1_epi32(0x5a3c6996), b = _mm512_set1_epi32(0x0ff0aa55);
    EACH(h, 3) EACH(i, 4) ones[4 * h + i] = twos[4 * h + i] = a;
    for (int64_t s = 0; s < steps; s++)
        EACH(h, 3) EACH(i, 4) {
            __m512i x;
            __asm__ volatile("vpxord %2, %1, %0" : "=v"(x) : "v"(a), "v"(b));
            STEP(ones[4 * h + i], twos[4 * h + i], a, b, x);
        }
    EACH(h, 3) EACH(i, 4) __asm__ volatile("" ::"v"(ones[4 * h + i]), "v"(twos[4 * h + i]));
    return 12 * LANES * 2;
}

/* Packing: POS and NAN_OF are masks over the lanes `m` of v. */
#define PACK_ROW(name, type, lanes, mask_t, load, POS, NAN_OF)                                     \
    static TARGET int name(const void *row, size_t k, uint64_t *words)                             \
    {                                                                                              \
        const type *p = row;                                                                       \
        uint64_t nan = 0;                                                                          \
        for (size_t i = 0; i < k; i += 64) {                                                       \
            uint64_t word = 0;                                                                     \
            for (size_t j = 0; j < 64 && i + j < k; j += lanes) {                                  \
                const size_t left = k - i - j;                                                     \
                const mask_t m = left >= lanes ? (mask_t)~0ull : (mask_t)((1ull << left) - 1);     \
                const __m512i v = left >= lanes ? _mm512_loadu_si512(p + i + j) : load(m, p + i + j); \
                word |= (uint64_t)(POS) << j;                                                      \
                nan |= (uint64_t)(NAN_OF);                                                         \
            }                                                                                      \
            words[i / 64] = word;                                                                  \
        }                                                                                          \
        return nan != 0;                                                                           \
    }

#define PS _mm512_castsi512_ps(v)
#define PD _mm512_castsi512_pd(v)
#define ZERO _mm512_setzero_si512()
#define HALF_NAN(inf) _mm512_mask_cmpgt_epu16_mask(m, _mm512_and_si512(v, _mm512_set1_epi16(0x7fff)), \
                                                   _mm512_set1_epi16(inf))
/* as unsigned numbers, +0.0 .. +inf and -0.0 (0x8000) are at most 0x8000 */
#define HALF_POS _mm512_mask_cmple_epu16_mask(m, v, _mm512_set1_epi16((short)0x8000))

PACK_ROW(pack_f32, float, 16, __mmask16, _mm512_maskz_loadu_epi32,
         _mm512_mask_cmp_ps_mask(m, PS, _mm512_setzero_ps(), _CMP_GE_OQ),
         _mm512_mask_cmp_ps_mask(m, PS, PS, _CMP_UNORD_Q))
PACK_ROW(pack_f64, double, 8, __mmask8, _mm512_maskz_loadu_epi64,
         _mm512_mask_cmp_pd_mask(m, PD, _mm512_setzero_pd(), _CMP_GE_OQ),
         _mm512_mask_cmp_pd_mask(m, PD, PD, _CMP_UNORD_Q))
PACK_ROW(pack_f16, uint16_t, 32, __mmask32, _mm512_maskz_loadu_epi16, HALF_POS, HALF_NAN(0x7c00))
PACK_ROW(pack_bf16, uint16_t, 32, __mmask32, _mm512_maskz_loadu_epi16, HALF_POS, HALF_NAN(0x7f80))
PACK_ROW(pack_i8, int8_t, 64, __mmask64, _mm512_maskz_loadu_epi8, _mm512_mask_cmpge_epi8_mask(m, v, ZERO), 0)
PACK_ROW(pack_i16, int16_t, 32, __mmask32, _mm512_maskz_loadu_epi16, _mm512_mask_cmpge_epi16_mask(m, v, ZERO), 0)
PACK_ROW(pack_i32, int32_t, 16, __mmask16, _mm512_maskz_loadu_epi32, _mm512_mask_cmpge_epi32_mask(m, v, ZERO), 0)
PACK_ROW(pack_i64, int64_t, 8, __mmask8, _mm512_maskz_loadu_epi64, _mm512_mask_cmpge_epi64_mask(m, v, ZERO), 0)
PACK_ROW(pack_bool, uint8_t, 64, __mmask64, _mm512_maskz_loadu_epi8, _mm512_mask_test_epi8_mask(m, v, v), 0)

const isa_t isa_avx512 = {
    tiles, compare,
    {pack_f32, pack_f64, pack_f16, pack_bf16, pack_i8, pack_i16, pack_i32, pack_i64, pack_bool},
    spin,
};
#endif
