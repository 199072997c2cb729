/* Signs of real matrices as panels of 64 columns: a byte per column and eight rows, bit b set where row 8j + b >= 0. */
#include <string.h>

#include "../xnor.h"

#ifdef HAVE_X86
#include <immintrin.h>
#endif

#define PANEL 64

/* cpu/step/fixed.py has the same fields in the same order, each 64 bits wide. */
typedef struct {
    const float *x; /* element (k, n) of a tap at x[tap * x_tap + k * x_k + n * x_n], one of x_k and x_n is 1 */
    int64_t x_tap, x_k, x_n, taps, k, n;
    uint8_t *panels; /* [(n + 63) / 64][taps][(k + 7) / 8][64] */
    int64_t threads;
} signs_of_t;

static unsigned eight(const float *x, size_t count)
{
#ifdef HAVE_X86
    if (count == 8) {
        const __m128 low = _mm_cmpge_ps(_mm_loadu_ps(x), _mm_setzero_ps());
        const __m128 high = _mm_cmpge_ps(_mm_loadu_ps(x + 4), _mm_setzero_ps());
        return (unsigned)(_mm_movemask_ps(low) | _mm_movemask_ps(high) << 4);
    }
#endif
    unsigned byte = 0;
    for (size_t i = 0; i < count; i++) byte |= (unsigned)(x[i] >= 0) << i;
    return byte;
}

/* bit c of byte r to bit r of byte c */
static uint64_t turned(uint64_t x)
{
    uint64_t t = (x ^ x >> 7) & 0x00AA00AA00AA00AAu;
    x ^= t ^ t << 7;
    t = (x ^ x >> 14) & 0x0000CCCC0000CCCCu;
    x ^= t ^ t << 14;
    t = (x ^ x >> 28) & 0x00000000F0F0F0F0u;
    return x ^ t ^ t << 28;
}

static void signs_task(void *context, size_t task)
{
    const signs_of_t *j = context;
    const size_t k = (size_t)j->k, bytes = (k + 7) / 8, col = task / (size_t)j->taps * PANEL, tap = task % (size_t)j->taps;
    const size_t n = (size_t)j->n - col < PANEL ? (size_t)j->n - col : PANEL;
    uint8_t *out = j->panels + task * bytes * PANEL;
    const float *x = j->x + (int64_t)tap * j->x_tap + (int64_t)col * j->x_n;
    memset(out, 0, bytes * PANEL);
    for (size_t b = 0; b < bytes; b++, out += PANEL) {
        const size_t rows = k - 8 * b < 8 ? k - 8 * b : 8;
        const float *from = x + (int64_t)(8 * b) * j->x_k;
        if (j->x_k == 1)
            for (size_t c = 0; c < n; c++) out[c] = (uint8_t)eight(from + (int64_t)c * j->x_n, rows);
        else
            for (size_t c = 0; c < n; c += 8) {
                uint64_t bits = 0;
                for (size_t r = 0; r < rows; r++)
                    bits |= (uint64_t)eight(from + (int64_t)r * j->x_k + c, n - c < 8 ? n - c : 8) << 8 * r;
                bits = turned(bits);
                memcpy(out + c, &bits, sizeof bits);
            }
    }
}

int kernels_signs_of(const signs_of_t *j)
{
    parallel(signs_task, (void *)j, (size_t)((j->n + PANEL - 1) / PANEL * j->taps), (int)j->threads);
    return 0;
}
