/* Code that the products of lookup.h share. */
#include <stdlib.h>

#include "lookup.h"

#ifdef HAVE_X86
#include <xmmintrin.h>
#endif

void lookup_turn(const float *x, ptrdiff_t row, size_t rows, size_t n, float block[][PREPARED])
{
    static const float zero[BLOCK];
    const float *from[PREPARED];
    for (size_t i = 0; i < PREPARED; i++) from[i] = i < rows ? x + (ptrdiff_t)i * row : zero;
    size_t k = 0;
#ifdef HAVE_X86
    for (; k + 4 <= n; k += 4)
        for (size_t i = 0; i < PREPARED; i += 4) {
            __m128 a = _mm_loadu_ps(from[i] + k), b = _mm_loadu_ps(from[i + 1] + k);
            __m128 c = _mm_loadu_ps(from[i + 2] + k), d = _mm_loadu_ps(from[i + 3] + k);
            _MM_TRANSPOSE4_PS(a, b, c, d);
            _mm_store_ps(block[k] + i, a), _mm_store_ps(block[k + 1] + i, b);
            _mm_store_ps(block[k + 2] + i, c), _mm_store_ps(block[k + 3] + i, d);
        }
#endif
    for (; k < n; k++)
        for (size_t i = 0; i < PREPARED; i++) block[k][i] = from[i][k];
}

void lookup_nothing(void) {}

void *lookup_scratch(size_t bytes)
{
    static __thread void *memory;
    static __thread size_t size;
    if (size < bytes) {
        free(memory);
        size = (bytes + 4095) / 4096 * 4096;
        memory = aligned_alloc(64, size);
        if (!memory) size = 0;
    }
    return memory;
}
