/* Float products for comparison: the paper's unoptimized kernel on a CPU, and the FP32 peak. */
#include <string.h>

#include "../xnor.h"

#define TILE 16

typedef struct {
    const float *a, *b;
    float *c;
    size_t m, n, k;
} naive_t;

/* One 16x16 tile of the result: tiles of both operands are copied in, then each output is summed on its own. */
static void naive_task(void *context, size_t task)
{
    const naive_t *p = context;
    const size_t tiles = p->n / TILE, row = task / tiles * TILE, col = task % tiles * TILE;
    float a[TILE][TILE], b[TILE][TILE], c[TILE][TILE];
    memset(c, 0, sizeof c);
    for (size_t k = 0; k < p->k; k += TILE) {
        for (size_t i = 0; i < TILE; i++)
            for (size_t j = 0; j < TILE; j++) {
                a[i][j] = p->a[(row + i) * p->k + k + j];
                b[i][j] = p->b[(k + i) * p->n + col + j];
            }
        for (size_t i = 0; i < TILE; i++)
            for (size_t j = 0; j < TILE; j++) {
                float sum = c[i][j];
                for (size_t e = 0; e < TILE; e++) sum += a[i][e] * b[e][j];
                c[i][j] = sum;
            }
    }
    for (size_t i = 0; i < TILE; i++) memcpy(p->c + (row + i) * p->n + col, c[i], sizeof c[i]);
}

/* c (m, n) = a (m, k) b (k, n), row by row, all sizes multiples of 16 */
void kernels_naive(int threads, const float *a, const float *b, float *c, int64_t m, int64_t n, int64_t k)
{
    naive_t p = {a, b, c, (size_t)m, (size_t)n, (size_t)k};
    parallel(naive_task, &p, (size_t)(m / TILE * (n / TILE)), threads);
}

/* ---- the FP32 peak: fused multiply-adds on registers alone ---- */

typedef struct {
    int64_t steps, done;
    int level;
} spin_t;

#define SPIN(vec, set1, constraint, width, chains)                                                  \
    vec sum[chains];                                                                               \
    const vec x = set1(0.5f), y = set1(0.25f);                                                     \
    _Pragma("GCC unroll 16") for (int i = 0; i < (chains); i++) sum[i] = y;                        \
    for (int64_t s = 0; s < steps; s++)                                                            \
        _Pragma("GCC unroll 16") for (int i = 0; i < (chains); i++)                                \
            __asm__ volatile("vfmadd231ps %2, %1, %0" : "+" constraint(sum[i]) : constraint(x), constraint(y)); \
    return (chains) * (width);

#ifdef HAVE_X86
#include <immintrin.h>

__attribute__((target("avx512f"))) static int64_t spin_512(int64_t steps)
{
    SPIN(__m512, _mm512_set1_ps, "v", 16, 16)
}

__attribute__((target("avx2,fma"))) static int64_t spin_256(int64_t steps)
{
    SPIN(__m256, _mm256_set1_ps, "x", 8, 12)
}
#endif

static void spin_task(void *context, size_t task)
{
    (void)task;
    spin_t *s = context;
    int64_t each = 0;
#ifdef HAVE_X86
    each = s->level >= 2 ? spin_512(s->steps) : spin_256(s->steps);
#endif
    __atomic_fetch_add(&s->done, s->steps * each, __ATOMIC_RELAXED);
}

/* multiply-adds done in `steps` steps on each of `threads` threads; 0 where the machine has no such instruction */
int64_t kernels_fma(int level, int threads, int64_t steps)
{
    if (level == 0) return 0;
#ifdef HAVE_X86
    if (!__builtin_cpu_supports("fma")) return 0;
#endif
    spin_t s = {steps, 0, level};
#ifdef HAVE_X86
    if (__builtin_cpu_supports("avx512f")) s.level = 2; /* also where the 1-bit kernels have no vector popcount of this width */
#endif
    parallel(spin_task, &s, (size_t)threads, threads);
    return s.done;
}
