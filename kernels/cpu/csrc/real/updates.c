/* Update rules of latent weights in one pass over memory, clipping included (AVX-512), for steps in float32. Those
 * of steps in 16-bit fixed point are in step/rules.c. */
#include <math.h>

#include "../xnor.h"

#define CHUNK 65536 /* numbers of a task */

enum { ADAM, SHIFT_ADAMAX };

/* cpu/reals.py has the same fields in the same order, each 64 bits wide. */
typedef struct {
    float *w, *m, *v;
    const float *g;
    int64_t count, rule, threads;
    double beta1, beta2, eps, rate, bound; /* w stays within [-bound, bound] */
} update_t;

#ifdef HAVE_X86
#include <immintrin.h>
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

/* AP2(x) of x >= 0: the carry reaches the exponent where the mantissa is at least sqrt(2) */
#define AP2_CARRY ((1 << 23) - 0x3504F4)

typedef struct {
    __m512 beta2, eps, fresh1, fresh2, rate, high, low;
} constants_t;

/* 16 numbers, or `some` of them; masked stores are slow on Zen, so whole vectors are stored without a mask */
__attribute__((always_inline)) TARGET static inline void update(const constants_t *c, const int adam, float *pw, float *pm,
                                                                float *pv, const float *pg, const __mmask16 *some)
{
    const __m512 g = some ? _mm512_maskz_loadu_ps(*some, pg) : _mm512_loadu_ps(pg);
    __m512 w = some ? _mm512_maskz_loadu_ps(*some, pw) : _mm512_loadu_ps(pw);
    __m512 m = some ? _mm512_maskz_loadu_ps(*some, pm) : _mm512_loadu_ps(pm);
    __m512 v = some ? _mm512_maskz_loadu_ps(*some, pv) : _mm512_loadu_ps(pv), under;
    m = _mm512_fmadd_ps(_mm512_sub_ps(g, m), c->fresh1, m);
    if (adam) {
        v = _mm512_fmadd_ps(_mm512_mul_ps(g, g), c->fresh2, _mm512_mul_ps(v, c->beta2));
        under = _mm512_add_ps(_mm512_sqrt_ps(v), c->eps);
    } else {
        /* max returns its second operand if either is NaN: a NaN gradient stays NaN */
        const __m512i bits = _mm512_castps_si512(_mm512_max_ps(_mm512_mul_ps(v, c->beta2), _mm512_abs_ps(g)));
        const __m512i carried = _mm512_add_epi32(bits, _mm512_set1_epi32(AP2_CARRY));
        v = under = _mm512_add_ps(_mm512_castsi512_ps(_mm512_and_si512(carried, _mm512_set1_epi32((int)0xFF800000))), c->eps);
    }
    w = _mm512_fnmadd_ps(c->rate, _mm512_div_ps(m, under), w);
    w = _mm512_max_ps(c->low, _mm512_min_ps(c->high, w)); /* NaN, the second operand of both, stays NaN */
    if (some) {
        _mm512_mask_storeu_ps(pw, *some, w), _mm512_mask_storeu_ps(pm, *some, m), _mm512_mask_storeu_ps(pv, *some, v);
    } else {
        _mm512_storeu_ps(pw, w), _mm512_storeu_ps(pm, m), _mm512_storeu_ps(pv, v);
    }
}

TARGET static void update_task(void *context, size_t task)
{
    const update_t *j = context;
    const size_t from = task * CHUNK, left = (size_t)j->count - from, count = left < CHUNK ? left : CHUNK;
    float *w = j->w + from, *m = j->m + from, *v = j->v + from;
    const float *g = j->g + from;
    const constants_t c = {
        _mm512_set1_ps((float)j->beta2), _mm512_set1_ps((float)j->eps), _mm512_set1_ps((float)(1 - j->beta1)),
        _mm512_set1_ps((float)(1 - j->beta2)), _mm512_set1_ps((float)j->rate), _mm512_set1_ps((float)j->bound),
        _mm512_set1_ps((float)-j->bound),
    };
    size_t i = 0;
    if (j->rule == ADAM)
        for (; i + 16 <= count; i += 16) update(&c, 1, w + i, m + i, v + i, g + i, NULL);
    else
        for (; i + 16 <= count; i += 16) update(&c, 0, w + i, m + i, v + i, g + i, NULL);
    if (i < count) {
        const __mmask16 some = (__mmask16)((1u << (count - i)) - 1);
        update(&c, j->rule == ADAM, w + i, m + i, v + i, g + i, &some);
    }
}

int kernels_update(const update_t *j)
{
    const size_t tasks = ((size_t)j->count + CHUNK - 1) / CHUNK;
    parallel(update_task, (void *)j, tasks, (int)j->threads);
    return 0;
}
#else
int kernels_update(const update_t *j) { (void)j; return 2; }
#endif
