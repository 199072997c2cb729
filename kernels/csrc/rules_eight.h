/* Eight weights at once by AVX2, for rules.c and for products that are summed meanwhile. */
#include "rules.h"

#include <immintrin.h>

/* AP2(x) of x >= 0: the carry reaches the exponent where the mantissa is at least sqrt(2) */
#define AP2_CARRY ((1 << 23) - 0x3504F4)
#define EXPONENT 0xFF800000u

/* gives the signs of the new weights, bit i for weight i at least 0 */
__attribute__((always_inline, target("avx2"))) static inline unsigned update_eight(const constants_t *c, const int kind,
                                                                                   const float *pg, float *pw, float *pm, float *pv)
{
    const __m256 g = _mm256_loadu_ps(pg), old = _mm256_loadu_ps(pm);
    const __m256 m = _mm256_add_ps(old, _mm256_mul_ps(_mm256_sub_ps(g, old), _mm256_set1_ps(c->fresh1)));
    __m256 v = _mm256_mul_ps(_mm256_loadu_ps(pv), _mm256_set1_ps(c->beta2)), under;
    if (kind == ADAM) {
        v = _mm256_add_ps(v, _mm256_mul_ps(_mm256_mul_ps(g, g), _mm256_set1_ps(c->fresh2)));
        under = _mm256_add_ps(_mm256_sqrt_ps(v), _mm256_set1_ps(c->eps));
    } else {
        /* of two numbers, one NaN, max gives the second: a gradient that is NaN stays */
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
