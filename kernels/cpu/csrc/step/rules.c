/* Update rules (see rules.h) of steps in 16-bit fixed point; those of float32 are in real/updates.c. Both
 * instruction sets do the same IEEE operations in the same order. */
#include "../rules.h"

#include <math.h>
#include <string.h>

#define CHUNK 16384 /* weights of a task */

/* AP2(x) of x >= 0: the carry reaches the exponent where the mantissa is at least sqrt(2) */
#define AP2_CARRY ((1 << 23) - 0x3504F4)
#define EXPONENT 0xFF800000u

typedef struct {
    float beta2, eps, fresh1, fresh2, rate, high;
} constants_t;

static constants_t constants(const rule_t *r)
{
    return (constants_t){(float)r->beta2, (float)r->eps, (float)(1 - r->beta1), (float)(1 - r->beta2), (float)r->rate,
                         (float)r->bound};
}

static float ap2(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits + AP2_CARRY) & EXPONENT;
    memcpy(&x, &bits, sizeof bits);
    return x;
}

static void update_one(const constants_t *c, int kind, float g, float *w, float *m, float *v)
{
    float under, step = g;
    if (kind != SGD) *m = *m + (g - *m) * c->fresh1;
    if (kind == ADAM) {
        *v = *v * c->beta2 + (g * g) * c->fresh2;
        under = sqrtf(*v) + c->eps;
        step = *m / under;
    } else if (kind == SHIFT_ADAMAX) { /* a NaN gradient stays NaN */
        const float old = *v * c->beta2, new = fabsf(g);
        under = *v = ap2(old > new ? old : new) + c->eps;
        step = *m / under;
    }
    const float moved = *w - step * c->rate;
    const float below = c->high < moved ? c->high : moved;
    *w = -c->high > below ? -c->high : below;
}

static void row_portable(const rule_t *rule, const float *g, float *w, float *m, float *v, size_t n, uint8_t *bits, size_t across)
{
    const constants_t c = constants(rule);
    for (size_t i = 0; i < n; i++) update_one(&c, (int)rule->kind, g[i], w + i, m + i, v + i);
    if (!bits) return;
    for (size_t i = 0; i < n; i += 8) {
        unsigned byte = 0;
        for (size_t b = 0; b < 8 && i + b < n; b++) byte |= (unsigned)(w[i + b] >= 0) << b;
        bits[i / 8 * across] = (uint8_t)byte;
    }
}

#ifdef HAVE_X86
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2")))


/* returns the signs of the new weights: bit i is set where weight i >= 0 */
__attribute__((always_inline)) AVX2 static inline unsigned update_eight(const constants_t *c, const int kind,
                                                                                   const float *pg, float *pw, float *pm, float *pv)
{
    const __m256 g = _mm256_loadu_ps(pg);
    if (kind == SGD) {
        __m256 w = _mm256_sub_ps(_mm256_loadu_ps(pw), _mm256_mul_ps(g, _mm256_set1_ps(c->rate)));
        w = _mm256_max_ps(_mm256_set1_ps(-c->high), _mm256_min_ps(_mm256_set1_ps(c->high), w));
        _mm256_storeu_ps(pw, w);
        return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(w, _mm256_setzero_ps(), _CMP_GE_OQ));
    }
    const __m256 old = _mm256_loadu_ps(pm);
    const __m256 m = _mm256_add_ps(old, _mm256_mul_ps(_mm256_sub_ps(g, old), _mm256_set1_ps(c->fresh1)));
    __m256 v = _mm256_mul_ps(_mm256_loadu_ps(pv), _mm256_set1_ps(c->beta2)), under;
    if (kind == ADAM) {
        v = _mm256_add_ps(v, _mm256_mul_ps(_mm256_mul_ps(g, g), _mm256_set1_ps(c->fresh2)));
        under = _mm256_add_ps(_mm256_sqrt_ps(v), _mm256_set1_ps(c->eps));
    } else {
        /* max returns its second operand if either is NaN: a NaN gradient stays NaN */
        const __m256 most = _mm256_max_ps(v, _mm256_andnot_ps(_mm256_set1_ps(-0.0f), g));
        const __m256i carried = _mm256_add_epi32(_mm256_castps_si256(most), _mm256_set1_epi32(AP2_CARRY));
        const __m256i power = _mm256_and_si256(carried, _mm256_set1_epi32((int)EXPONENT));
        under = v = _mm256_add_ps(_mm256_castsi256_ps(power), _mm256_set1_ps(c->eps));
    }
    __m256 w = _mm256_sub_ps(_mm256_loadu_ps(pw), _mm256_mul_ps(_mm256_div_ps(m, under), _mm256_set1_ps(c->rate)));
    w = _mm256_max_ps(_mm256_set1_ps(-c->high), _mm256_min_ps(_mm256_set1_ps(c->high), w));
    _mm256_storeu_ps(pm, m), _mm256_storeu_ps(pv, v), _mm256_storeu_ps(pw, w);
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(w, _mm256_setzero_ps(), _CMP_GE_OQ));
}

__attribute__((always_inline)) AVX2 static inline void row_of_eights(const rule_t *rule, const int kind, const float *g, float *w,
                                                                     float *m, float *v, size_t n, uint8_t *bits, size_t across)
{
    const constants_t c = constants(rule);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const unsigned byte = update_eight(&c, kind, g + i, w + i, m + i, v + i);
        if (bits) bits[i / 8 * across] = (uint8_t)byte;
    }
    if (i < n) row_portable(rule, g + i, w + i, m + i, v + i, n - i, bits ? bits + i / 8 * across : NULL, across);
}

AVX2 static void adam_avx2(const rule_t *rule, const float *g, float *w, float *m, float *v, size_t n, uint8_t *bits, size_t across)
{
    row_of_eights(rule, ADAM, g, w, m, v, n, bits, across);
}

AVX2 static void shift_adamax_avx2(const rule_t *rule, const float *g, float *w, float *m, float *v, size_t n, uint8_t *bits,
                                   size_t across)
{
    row_of_eights(rule, SHIFT_ADAMAX, g, w, m, v, n, bits, across);
}

AVX2 static void sgd_avx2(const rule_t *rule, const float *g, float *w, float *m, float *v, size_t n, uint8_t *bits, size_t across)
{
    row_of_eights(rule, SGD, g, w, m, v, n, bits, across);
}
#endif

rule_fn *rule_row(const rule_t *rule, int64_t isa)
{
#ifdef HAVE_X86
    if (isa > 0) return rule->kind == ADAM ? adam_avx2 : rule->kind == SGD ? sgd_avx2 : shift_adamax_avx2;
#endif
    (void)rule, (void)isa;
    return row_portable;
}

/* cpu/step/fixed.py has the same fields in the same order, each 64 bits wide. */
typedef struct {
    const rule_t *rule;
    const float *g;
    float *w, *m, *v;
    int64_t count, isa, threads;
} update_t;

static void update_task(void *context, size_t task)
{
    const update_t *j = context;
    const size_t from = task * CHUNK, left = (size_t)j->count - from;
    rule_row(j->rule, j->isa)(j->rule, j->g + from, j->w + from, j->m + from, j->v + from, left < CHUNK ? left : CHUNK, NULL, 0);
}

/* an update from an array of gradients */
int kernels_update_from(const update_t *j)
{
    parallel(update_task, (void *)j, ((size_t)j->count + CHUNK - 1) / CHUNK, (int)j->threads);
    return 0;
}
