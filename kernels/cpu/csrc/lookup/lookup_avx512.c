/* AVX-512: a table of five numbers has 32 sums, 64 bytes, so that one VPERMW looks up the sums of 32 columns. */
#include "../xnor.h"

#ifdef HAVE_X86
#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define GROUP 5
#define ENTRIES 32
#define TILE 4 /* rows */
#include "lookup_rows.h"

#define INLINE __attribute__((always_inline)) TARGET static inline
#define EACH(i, n) _Pragma("GCC unroll 8") for (int i = 0; i < (n); i++)
#define MOST_VECTORS 2 /* of 32 columns, summed together */

/* Entry i is lane i of 16 bits. Number 0 is in the odd lanes; number b > 0 is in both lanes of the pairs whose bit b - 1 is
 * set, so that it is broadcast as 32 bits. */
TARGET static void tables(int32_t q[][PREPARED], size_t n, int16_t *tables, size_t row)
{
    for (size_t g = 0; g < GROUPS(n); g++, q += GROUP, tables += ENTRIES) {
        _Alignas(32) int32_t pair[GROUP][PREPARED];
        EACH(i, GROUP)
        {
            const __m256i one = _mm256_loadu_si256((const __m256i *)q[i]), high = _mm256_slli_epi32(one, 16);
            _mm256_store_si256((__m256i *)pair[i], i == 0 ? high : _mm256_blend_epi16(one, high, 0xAA));
        }
        EACH(r, PREPARED)
        {
            const __m512i a = _mm512_set1_epi32(pair[0][r]), b = _mm512_maskz_set1_epi32(0xAAAA, pair[1][r]);
            const __m512i c = _mm512_maskz_set1_epi32(0xCCCC, pair[2][r]), d = _mm512_maskz_set1_epi32(0xF0F0, pair[3][r]);
            const __m512i e = _mm512_maskz_set1_epi32(0xFF00, pair[4][r]);
            const __m512i sum = _mm512_add_epi16(_mm512_add_epi16(_mm512_add_epi16(a, b), _mm512_add_epi16(c, d)), e);
            _mm512_store_si512(tables + (size_t)r * row, sum);
        }
    }
}

/* 32 bytes to 16 bits each: columns 0 to 15 in the even lanes, 16 to 31 in the odd ones, so that the sums of either widen to 32
 * bits where they are. */
INLINE __m512i spread(__m256i bytes)
{
    const __m512i even = _mm512_cvtepu8_epi32(_mm256_castsi256_si128(bytes));
    const __m512i odd = _mm512_cvtepu8_epi32(_mm256_extracti128_si256(bytes, 1));
    return _mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
}

/* VPERMW uses the lowest five bits of a code. */
TARGET static void codes(const uint8_t *panel, size_t n, uint16_t *codes)
{
    const size_t bytes = (n + 7) / 8;
    for (size_t bit = 0; bit < n; bit += GROUP, codes += PANEL) {
        const uint8_t *low = panel + bit / 8 * PANEL, *high = bit / 8 + 1 < bytes ? low + PANEL : low;
        const __m128i shift = _mm_cvtsi32_si128((int)(bit % 8));
        for (size_t c = 0; c < PANEL; c += 32) {
            const __m512i l = spread(_mm256_loadu_si256((const __m256i *)(low + c)));
            const __m512i h = spread(_mm256_loadu_si256((const __m256i *)(high + c)));
            _mm512_store_si512(codes + c, _mm512_srl_epi16(_mm512_or_si512(l, _mm512_slli_epi16(h, 8)), shift));
        }
    }
}

TARGET static void codes_of(const int8_t *const *rows, size_t groups, size_t columns, uint16_t *codes)
{
    for (size_t g = 0; g < groups; g++, rows += GROUP, codes += PANEL)
        for (size_t c = 0; c < columns; c += STEP) {
            __m256i at = _mm256_set1_epi8(62); /* twice the entry; bits of -1 are set, then inverted */
            EACH(i, GROUP)
            {
                const __m256i a = _mm256_loadu_si256((const __m256i *)(rows[i] + c));
                at = _mm256_xor_si256(at, _mm256_and_si256(a, _mm256_set1_epi8((char)(2 << i))));
            }
            _mm512_store_si512(codes + c, _mm512_srli_epi16(spread(at), 1));
        }
}

/* `vectors` of 32 columns, all sums in registers */
INLINE void strip(const int16_t *const *tables, const int16_t *start, const float *factor, const uint16_t *codes, size_t groups,
                  size_t planes, const int first, const int vectors, float *sums, size_t across)
{
    __m512i sum[TILE][MOST_VECTORS];
    EACH(r, TILE) EACH(v, vectors) sum[r][v] = _mm512_set1_epi16(start[r]);
    for (size_t plane = 0; plane < planes; plane++)
        for (size_t g = 0; g < groups; g++, codes += PANEL) {
            __m512i at[MOST_VECTORS];
            EACH(v, vectors) at[v] = _mm512_load_si512(codes + 32 * v);
            EACH(r, TILE)
            {
                const __m512i table = _mm512_load_si512(tables[r] + ENTRIES * g);
                EACH(v, vectors) sum[r][v] = _mm512_add_epi16(sum[r][v], _mm512_permutexvar_epi16(at[v], table));
            }
        }
    EACH(r, TILE)
    {
        const __m512 scale = _mm512_set1_ps(factor[r] * 0x1p-16f);
        EACH(v, vectors) EACH(h, 2)
        {
            const __m512i wide = h ? _mm512_and_si512(sum[r][v], _mm512_set1_epi32(-65536)) : _mm512_slli_epi32(sum[r][v], 16);
            float *to = sums + (size_t)r * across + 32 * (size_t)v + 16 * (size_t)h; /* wide: 2^16 times the sums */
            const __m512 before = first ? _mm512_setzero_ps() : _mm512_load_ps(to);
            _mm512_store_ps(to, _mm512_add_ps(before, _mm512_mul_ps(scale, _mm512_cvtepi32_ps(wide))));
        }
    }
}

TARGET static void tile(const int16_t *const *tables, const int16_t *start, const float *factor, const uint16_t *codes,
                        size_t groups, size_t planes, int first, size_t columns, float *sums, size_t across)
{
    if (columns > 32) {
        if (first)
            strip(tables, start, factor, codes, groups, planes, 1, 2, sums, across);
        else
            strip(tables, start, factor, codes, groups, planes, 0, 2, sums, across);
    } else if (first)
        strip(tables, start, factor, codes, groups, planes, 1, 1, sums, across);
    else
        strip(tables, start, factor, codes, groups, planes, 0, 1, sums, across);
}

const lookup_isa_t lookup_avx512 = {
    GROUP, ENTRIES, PANEL, TILE, lookup_nothing, lookup_nothing, quantize, tables, codes, codes_of, tile,
};
#endif
