/* Gradients of a first layer's weights: real rows by small integers, both in 16 bits, summed exactly in 32 (see lookup.h).
 *
 * pair     two numbers one after the other of the summed axis in one 32-bit word.
 * block    up to BLOCK numbers of a real row, as q = x / step rounded, with step = (the largest |x|) / MOST. */
#include <string.h>

#include "lookup.h"

#define MOST 32767.0f
#define ROUND 12582912.0f /* see lookup_rows.h */
#define ROUND_BITS 0x4B400000

/* n numbers of `count` rows, number k of row r at x[k * stride + r], to pairs[r * across + k / 2] and a step a row */
void pixel_rows(const float *x, size_t stride, size_t count, size_t n, uint32_t *pairs, size_t across, float *step)
{
    for (size_t r = 0; r < count; r++) {
        uint32_t most = 0; /* as bits, magnitudes are in order, NaN the largest */
        for (size_t k = 0; k < n; k++) {
            uint32_t bits;
            memcpy(&bits, x + k * stride + r, sizeof bits);
            bits &= 0x7FFFFFFF;
            most = bits > most ? bits : most;
        }
        float largest;
        memcpy(&largest, &most, sizeof largest);
        const float inverse = largest < TINY ? 0 : MOST / largest;
        step[r] = largest < TINY ? 0 : largest / MOST;
        memset(pairs + r * across, 0, (n + 1) / 2 * sizeof *pairs);
        for (size_t k = 0; k < n; k++) {
            const float rounded = x[k * stride + r] * inverse + ROUND;
            uint32_t bits;
            memcpy(&bits, &rounded, sizeof bits);
            pairs[r * across + k / 2] |= ((bits - ROUND_BITS) & 0xFFFF) << k % 2 * 16;
        }
    }
}

/* n rows of integers of up to PANEL columns, `stride` apart, to pairs [n / 2][PANEL]; missing columns are zero */
void pixel_columns(const int16_t *x, size_t stride, size_t columns, size_t n, uint32_t *pairs)
{
    for (size_t k = 0; k < n; k += 2, pairs += PANEL) {
        const int16_t *first = x + k * stride, *second = first + stride;
        for (size_t c = 0; c < columns; c++)
            pairs[c] = (uint16_t)first[c] | (k + 1 < n ? (uint32_t)(uint16_t)second[c] << 16 : 0);
        memset(pairs + columns, 0, (PANEL - columns) * sizeof *pairs);
    }
}

static void tile_portable(const uint32_t *rows, size_t row, const float *factor, const uint32_t *columns, size_t pairs, float *sums,
                          size_t across)
{
    for (size_t r = 0; r < TILE; r++) {
        int32_t sum[PANEL] = {0};
        for (size_t k = 0; k < pairs; k++) {
            const int32_t a = (int16_t)rows[r * row + k], b = (int16_t)(rows[r * row + k] >> 16);
            for (size_t c = 0; c < PANEL; c++)
                sum[c] += a * (int16_t)columns[k * PANEL + c] + b * (int16_t)(columns[k * PANEL + c] >> 16);
        }
        for (size_t c = 0; c < PANEL; c++) sums[r * across + c] += factor[r] * (float)sum[c];
    }
}

#ifdef HAVE_X86
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2")))
#define EACH(i, n) _Pragma("GCC unroll 8") for (int i = 0; i < (n); i++)
#define COLUMNS 2 /* vectors of 8 columns that are summed together */

AVX2 static void tile_avx2(const uint32_t *rows, size_t row, const float *factor, const uint32_t *columns, size_t pairs,
                           float *sums, size_t across)
{
    for (size_t col = 0; col < PANEL; col += 8 * COLUMNS) {
        __m256i sum[TILE][COLUMNS];
        EACH(r, TILE) EACH(v, COLUMNS) sum[r][v] = _mm256_setzero_si256();
        for (size_t k = 0; k < pairs; k++) {
            __m256i x[COLUMNS];
            EACH(v, COLUMNS) x[v] = _mm256_load_si256((const __m256i *)(columns + k * PANEL + col) + v);
            EACH(r, TILE)
            {
                const __m256i both = _mm256_set1_epi32((int)rows[(size_t)r * row + k]);
                EACH(v, COLUMNS) sum[r][v] = _mm256_add_epi32(sum[r][v], _mm256_madd_epi16(both, x[v]));
            }
        }
        EACH(r, TILE) EACH(v, COLUMNS)
        {
            float *to = sums + (size_t)r * across + col + 8 * (size_t)v;
            const __m256 part = _mm256_mul_ps(_mm256_set1_ps(factor[r]), _mm256_cvtepi32_ps(sum[r][v]));
            _mm256_storeu_ps(to, _mm256_add_ps(_mm256_loadu_ps(to), part));
        }
    }
}
#endif

/* sums[r * across + c] += factor[r] * the product of TILE rows of pairs, `row` apart, with those of PANEL columns */
void pixel_tile(const uint32_t *rows, size_t row, const float *factor, const uint32_t *columns, size_t pairs, float *sums,
                size_t across, int64_t isa)
{
#ifdef HAVE_X86
    if (isa > 0) {
        tile_avx2(rows, row, factor, columns, pairs, sums, across);
        return;
    }
#endif
    (void)isa;
    tile_portable(rows, row, factor, columns, pairs, sums, across);
}
