/* Any machine: 128-bit vectors of the compiler. */
#include "../xnor.h"

#define TARGET
#define V 4
typedef uint32_t vec_t __attribute__((vector_size(16)));

static inline __attribute__((always_inline)) vec_t byte_counts(vec_t v)
{
    v -= (v >> 1) & 0x55555555u;
    v = (v & 0x33333333u) + ((v >> 2) & 0x33333333u);
    return (v + (v >> 4)) & 0x0f0f0f0fu;
}

static inline __attribute__((always_inline)) vec_t fold(vec_t v)
{
    v = (v & 0x00ff00ffu) + ((v >> 8) & 0x00ff00ffu);
    return (v & 0xffffu) + (v >> 16);
}

#define BYTE_COUNTS byte_counts
#define FOLD fold
#include "tile_vector.h"

const isa_t isa_portable = ISA_TABLE;
