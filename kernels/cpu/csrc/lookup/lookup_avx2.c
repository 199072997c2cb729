/* AVX2: a table of three numbers has eight sums, 16 bytes, so that one VPSHUFB looks up the sums of 16 columns. */
#include "../xnor.h"

#ifdef HAVE_X86
#include <immintrin.h>

#define TARGET __attribute__((target("avx2")))
#define GROUP 3
#define ENTRIES 8
#define TILE 4 /* rows */
#include "lookup_rows.h"

#define INLINE __attribute__((always_inline)) TARGET static inline
#define EACH(i, n) _Pragma("GCC unroll 8") for (int i = 0; i < (n); i++)
#define MOST_VECTORS 2 /* of 16 columns, summed together */

/* eight 32-bit numbers modulo 2^16 */
INLINE __m128i narrow(const int32_t *q)
{
    const __m256i words = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1, 0, 1, 4, 5, 8, 9, 12, 13, -1,
                                           -1, -1, -1, -1, -1, -1, -1);
    const __m256i v = _mm256_shuffle_epi8(_mm256_loadu_si256((const __m256i *)q), words);
    return _mm_unpacklo_epi64(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
}

TARGET static void tables(int32_t q[][PREPARED], size_t n, int16_t *tables, size_t row)
{
    for (size_t g = 0; g < GROUPS(n); g++, q += GROUP, tables += ENTRIES) {
        const __m128i a = narrow(q[0]), b = narrow(q[1]);
        const __m128i c = narrow(q[2]), ab = _mm_add_epi16(a, b), none = _mm_setzero_si128();
        const __m128i e[ENTRIES] = {none, a, b, ab, c, _mm_add_epi16(a, c), _mm_add_epi16(b, c), _mm_add_epi16(ab, c)};
        __m128i two[8], four[8]; /* makes the entries of row r adjacent, by a transposition in three steps */
        EACH(i, 4)
        {
            two[2 * i] = _mm_unpacklo_epi16(e[2 * i], e[2 * i + 1]);
            two[2 * i + 1] = _mm_unpackhi_epi16(e[2 * i], e[2 * i + 1]);
        }
        EACH(i, 2)
        EACH(h, 2)
        {
            four[4 * i + 2 * h] = _mm_unpacklo_epi32(two[4 * i + h], two[4 * i + 2 + h]);
            four[4 * i + 2 * h + 1] = _mm_unpackhi_epi32(two[4 * i + h], two[4 * i + 2 + h]);
        }
        EACH(i, 4)
        {
            _mm_store_si128((__m128i *)(tables + (size_t)(2 * i) * row), _mm_unpacklo_epi64(four[i], four[4 + i]));
            _mm_store_si128((__m128i *)(tables + (size_t)(2 * i + 1) * row), _mm_unpackhi_epi64(four[i], four[4 + i]));
        }
    }
}

/* A code holds the numbers of its entry's two bytes. Of 16 columns the codes of 0 to 3 and 8 to 11 come first, then those of
 * 4 to 7 and 12 to 15: unpacking the low and the high halves of their sums gives 0 to 7 and 8 to 15. */
TARGET static void codes(const uint8_t *panel, size_t n, uint16_t *codes)
{
    const size_t bytes = (n + 7) / 8;
    const __m256i seven = _mm256_set1_epi16(7), twice = _mm256_set1_epi16(0x0202), upper = _mm256_set1_epi16(0x0100);
    for (size_t bit = 0; bit < n; bit += GROUP, codes += PANEL) {
        const uint8_t *low = panel + bit / 8 * PANEL, *high = bit / 8 + 1 < bytes ? low + PANEL : low;
        const __m128i shift = _mm_cvtsi32_si128((int)(bit % 8));
        for (size_t c = 0; c < PANEL; c += 16) {
            const __m128i l = _mm_loadu_si128((const __m128i *)(low + c)), h = _mm_loadu_si128((const __m128i *)(high + c));
            const __m128i a = _mm_unpacklo_epi8(l, h), b = _mm_unpackhi_epi8(l, h);
            const __m256i two = _mm256_set_m128i(_mm_unpackhi_epi64(a, b), _mm_unpacklo_epi64(a, b));
            const __m256i at = _mm256_and_si256(_mm256_srl_epi16(two, shift), seven);
            _mm256_store_si256((__m256i *)(codes + c), _mm256_or_si256(_mm256_mullo_epi16(at, twice), upper));
        }
    }
}

TARGET static void codes_of(const int8_t *const *rows, size_t groups, size_t columns, uint16_t *codes)
{
    for (size_t g = 0; g < groups; g++, rows += GROUP, codes += PANEL)
        for (size_t c = 0; c < columns; c += STEP) {
            __m256i at = _mm256_set1_epi8(14); /* twice the entry; bits of -1 are set, then inverted */
            EACH(i, GROUP)
            {
                const __m256i a = _mm256_loadu_si256((const __m256i *)(rows[i] + c));
                at = _mm256_xor_si256(at, _mm256_and_si256(a, _mm256_set1_epi8((char)(2 << i))));
            }
            const __m256i next = _mm256_or_si256(at, _mm256_set1_epi8(1));
            const __m256i p = _mm256_unpacklo_epi8(at, next), q = _mm256_unpackhi_epi8(at, next);
            const __m256i a = _mm256_unpacklo_epi64(p, q), b = _mm256_unpackhi_epi64(p, q);
            _mm256_store_si256((__m256i *)(codes + c), _mm256_permute2x128_si256(a, b, 0x20));
            _mm256_store_si256((__m256i *)(codes + c + 16), _mm256_permute2x128_si256(a, b, 0x31));
        }
}

/* `vectors` of 16 columns, all sums in registers */
INLINE void strip(const int16_t *const *tables, const int16_t *start, const float *factor, const uint16_t *codes, size_t groups,
                  size_t planes, const int first, const int vectors, float *sums, size_t across)
{
    __m256i sum[TILE][MOST_VECTORS];
    EACH(r, TILE) EACH(v, vectors) sum[r][v] = _mm256_set1_epi16(start[r]);
    for (size_t plane = 0; plane < planes; plane++)
        for (size_t g = 0; g < groups; g++, codes += PANEL) {
            __m256i at[MOST_VECTORS];
            EACH(v, vectors) at[v] = _mm256_load_si256((const __m256i *)codes + v);
            EACH(r, TILE)
            {
                const __m256i table = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)tables[r] + g));
                EACH(v, vectors) sum[r][v] = _mm256_add_epi16(sum[r][v], _mm256_shuffle_epi8(table, at[v]));
            }
        }
    const __m256i none = _mm256_setzero_si256();
    EACH(r, TILE)
    {
        const __m256 scale = _mm256_set1_ps(factor[r] * 0x1p-16f);
        EACH(v, vectors) EACH(h, 2)
        {
            const __m256i wide = h ? _mm256_unpackhi_epi16(none, sum[r][v]) : _mm256_unpacklo_epi16(none, sum[r][v]);
            float *to = sums + (size_t)r * across + 16 * (size_t)v + 8 * (size_t)h; /* wide: 2^16 times the sums */
            const __m256 before = first ? _mm256_setzero_ps() : _mm256_load_ps(to);
            _mm256_store_ps(to, _mm256_add_ps(before, _mm256_mul_ps(scale, _mm256_cvtepi32_ps(wide))));
        }
    }
}

INLINE void tile_for(const int16_t *const *tables, const int16_t *start, const float *factor, const uint16_t *codes,
                     size_t groups, size_t planes, const int first, size_t columns, float *sums, size_t across)
{
    size_t col = 0;
    for (; col + 16 < columns; col += 16 * MOST_VECTORS)
        strip(tables, start, factor, codes + col, groups, planes, first, MOST_VECTORS, sums + col, across);
    if (col < columns) strip(tables, start, factor, codes + col, groups, planes, first, 1, sums + col, across);
}

TARGET static void tile(const int16_t *const *tables, const int16_t *start, const float *factor, const uint16_t *codes,
                        size_t groups, size_t planes, int first, size_t columns, float *sums, size_t across)
{
    if (first)
        tile_for(tables, start, factor, codes, groups, planes, 1, columns, sums, across);
    else
        tile_for(tables, start, factor, codes, groups, planes, 0, columns, sums, across);
}

const lookup_isa_t lookup_avx2 = {
    GROUP, ENTRIES, PANEL, TILE, lookup_nothing, lookup_nothing, quantize, tables, codes, codes_of, tile,
};
#endif
