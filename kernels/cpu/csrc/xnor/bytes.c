/* The byte tile by VPDPBUSD: four unsigned bytes by four signed ones, added to a lane. */
#include "bytes.h"
#include "../xnor.h"

#ifdef HAVE_X86
#include <immintrin.h>
#include <string.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))
#define EACH(index, limit) _Pragma("GCC unroll 8") for (int index = 0; index < (limit); index++)

static inline __attribute__((always_inline)) TARGET void tile(const uint8_t *rows, size_t row_bytes,
                                                              const uint64_t *panels, size_t quads, int32_t *s,
                                                              const int MR, const int NP)
{
    const __m512i plus = _mm512_set1_epi8(1), minus = _mm512_set1_epi8(-1);
    __m512i sum[BYTE_ROWS][TILE_PANELS];
    EACH(i, MR) EACH(j, NP) sum[i][j] = _mm512_setzero_si512();
    for (size_t q = 0; q < quads; q++) {
        __m512i weights[TILE_PANELS];
        EACH(j, NP) weights[j] = _mm512_mask_blend_epi8(panels[(size_t)j * quads + q], minus, plus);
        EACH(i, MR) {
            int four;
            memcpy(&four, rows + (size_t)i * row_bytes + 4 * q, sizeof four);
            const __m512i x = _mm512_set1_epi32(four);
            EACH(j, NP) sum[i][j] = _mm512_dpbusd_epi32(sum[i][j], x, weights[j]);
        }
    }
    EACH(i, MR) EACH(j, NP) _mm512_storeu_si512(s + i * TILE_COLS + j * LANES, sum[i][j]);
}

int kernels_has_bytes(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}

#define CASE(m, p) case 4 * (m) + (p): tile(rows, row_bytes, panels, quads, s, m, p); break;

TARGET void byte_tile(const uint8_t *rows, size_t row_bytes, const uint64_t *panels, size_t quads, int32_t *s, int mr,
                      int np)
{
    switch (4 * mr + np) {
        CASE(1, 1) CASE(1, 2) CASE(1, 3)
        CASE(BYTE_ROWS, 1) CASE(BYTE_ROWS, 2) CASE(BYTE_ROWS, 3)
    }
}
#else
int kernels_has_bytes(void) { return 0; }

void byte_tile(const uint8_t *rows, size_t row_bytes, const uint64_t *panels, size_t quads, int32_t *s, int mr, int np)
{
    (void)rows, (void)row_bytes, (void)panels, (void)quads, (void)s, (void)mr, (void)np;
}
#endif
