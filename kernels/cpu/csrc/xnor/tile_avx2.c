/* AVX2: bytes counted by a table of nibbles, summed to lanes by two multiply-adds. */
#include "../xnor.h"

#ifdef HAVE_X86
#include <immintrin.h>

#define TARGET __attribute__((target("avx2")))
#define V 8
typedef uint32_t vec_t __attribute__((vector_size(32)));

static inline __attribute__((always_inline)) TARGET vec_t byte_counts(vec_t v)
{
    const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,
                                           0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i a = _mm256_and_si256((__m256i)v, low);
    const __m256i b = _mm256_and_si256(_mm256_srli_epi32((__m256i)v, 4), low);
    return (vec_t)_mm256_add_epi8(_mm256_shuffle_epi8(table, a), _mm256_shuffle_epi8(table, b));
}

static inline __attribute__((always_inline)) TARGET vec_t fold(vec_t v)
{
    const __m256i pairs = _mm256_maddubs_epi16((__m256i)v, _mm256_set1_epi8(1));
    return (vec_t)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

#define BYTE_COUNTS byte_counts
#define FOLD fold
#include "tile_vector.h"

const isa_t isa_avx2 = ISA_TABLE;
#endif
