/* Signs of floats as columns of bits, 32 of one axis to a word (the right operand of reals.c). */
#include <math.h>
#include <string.h>

#include "../xnor.h"

#define MIN_WORK 65536 /* from this number of elements on, a second thread is used */

/* cpu/reals.py has the same fields in the same order, each 64 bits wide. */
typedef struct {
    const float *x; /* (batch, k, n) where `across`, else (batch, n, k); the last axis dense */
    int64_t batch, k, n, x_batch, x_row;
    uint32_t *words; /* (batch, ceil(k / 32), ld), zeroed */
    int64_t ld, across, strict, threads; /* strict: +1 where x > 0, else where x >= 0 */
} signs_t;

#ifdef HAVE_X86
#include <immintrin.h>
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

/* One word of every column, with a bit from each of 32 rows of x. */
TARGET static void word_across(const signs_t *j, size_t batch, size_t word)
{
    const size_t first = 32 * word, rows = (size_t)j->k - first < 32 ? (size_t)j->k - first : 32;
    const float *x = j->x + (int64_t)batch * j->x_batch + (int64_t)first * j->x_row;
    uint32_t *to = j->words + (batch * (((size_t)j->k + 31) / 32) + word) * (size_t)j->ld;
    const __m512 zero = _mm512_setzero_ps();
    for (size_t c = 0; c < (size_t)j->n; c += 16) {
        const size_t left = (size_t)j->n - c;
        const __mmask16 some = left >= 16 ? 0xFFFF : (__mmask16)((1u << left) - 1);
        __m512i found = _mm512_setzero_si512();
        for (size_t r = 0; r < rows; r++) {
            const __m512 v = _mm512_maskz_loadu_ps(some, x + (int64_t)r * j->x_row + (int64_t)c);
            const __mmask16 set = j->strict ? _mm512_mask_cmp_ps_mask(some, v, zero, _CMP_GT_OQ)
                                            : _mm512_mask_cmp_ps_mask(some, v, zero, _CMP_GE_OQ);
            found = _mm512_mask_or_epi32(found, set, found, _mm512_set1_epi32((int)(1u << r)));
        }
        _mm512_storeu_si512(to + c, found);
    }
}

/* 16 columns, all their words: each column is a dense row of x. */
TARGET static void columns_along(const signs_t *j, size_t batch, size_t column)
{
    const size_t words = ((size_t)j->k + 31) / 32, columns = (size_t)j->n - column < 16 ? (size_t)j->n - column : 16;
    const float *x = j->x + (int64_t)batch * j->x_batch + (int64_t)column * j->x_row;
    uint32_t *to = j->words + batch * words * (size_t)j->ld + column;
    const __m512 zero = _mm512_setzero_ps();
    for (size_t w = 0; w < words; w++) {
        _Alignas(64) uint32_t found[16] = {0};
        for (size_t c = 0; c < columns; c++) {
            const float *from = x + (int64_t)c * j->x_row + (int64_t)(32 * w);
            for (size_t half = 0; half < 2; half++) {
                const size_t at = 32 * w + 16 * half;
                if (at >= (size_t)j->k) break;
                const size_t left = (size_t)j->k - at;
                const __mmask16 some = left >= 16 ? 0xFFFF : (__mmask16)((1u << left) - 1);
                const __m512 v = _mm512_maskz_loadu_ps(some, from + 16 * half);
                const __mmask16 set = j->strict ? _mm512_mask_cmp_ps_mask(some, v, zero, _CMP_GT_OQ)
                                                : _mm512_mask_cmp_ps_mask(some, v, zero, _CMP_GE_OQ);
                found[c] |= (uint32_t)set << 16 * half;
            }
        }
        _mm512_storeu_si512(to + w * (size_t)j->ld, _mm512_load_si512(found));
    }
}

static void across_task(void *context, size_t task)
{
    const signs_t *j = context;
    const size_t words = ((size_t)j->k + 31) / 32;
    word_across(j, task / words, task % words);
}

static void along_task(void *context, size_t task)
{
    const signs_t *j = context;
    const size_t blocks = ((size_t)j->n + 15) / 16;
    columns_along(j, task / blocks, task % blocks * 16);
}

/* whether `count` floats are all 0, s or -s; also whether any is 0 */
TARGET static int ternary(const float *x, size_t count, float s, int *zeros)
{
    const __m512 plus = _mm512_set1_ps(s), zero = _mm512_setzero_ps();
    __mmask16 none = 0;
    for (size_t i = 0; i < count; i += 16) {
        const size_t left = count - i;
        const __mmask16 some = left >= 16 ? 0xFFFF : (__mmask16)((1u << left) - 1);
        const __m512 v = _mm512_abs_ps(_mm512_maskz_loadu_ps(some, x + i));
        const __mmask16 is_zero = _mm512_mask_cmp_ps_mask(some, v, zero, _CMP_EQ_OQ);
        none |= is_zero;
        if ((__mmask16)(is_zero | _mm512_mask_cmp_ps_mask(some, v, plus, _CMP_EQ_OQ)) != some) return 0;
    }
    *zeros = none != 0;
    return 1;
}

int kernels_signs(const signs_t *j)
{
    const size_t words = ((size_t)j->k + 31) / 32, blocks = ((size_t)j->n + 15) / 16;
    const int threads = j->batch * j->k * j->n < MIN_WORK ? 1 : (int)j->threads;
    if (j->across) parallel(across_task, (void *)j, (size_t)j->batch * words, threads);
    else parallel(along_task, (void *)j, (size_t)j->batch * blocks, threads);
    return 0;
}

/* s where `count` dense floats are all ±s or 0 (*zeros says whether any is), else 0 */
float kernels_ternary(const float *x, int64_t count, int *zeros)
{
    float s = 0;
    for (int64_t i = 0; i < count && s == 0; i++) s = fabsf(x[i]);
    return s > 0 && s <= 3.0e38f && ternary(x, (size_t)count, s, zeros) ? s : 0;
}
#else
int kernels_signs(const signs_t *j) { (void)j; return 2; }
float kernels_ternary(const float *x, int64_t count, int *zeros) { (void)x, (void)count, (void)zeros; return 0; }
#endif
