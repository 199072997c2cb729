/* Products of real numbers with signs in 16-bit fixed point, by tables of small sums.
 *
 * block    up to BLOCK numbers x of a row, as integers q = x / step rounded, with step = (sum of |x|) / LIMIT. The sum of
 *          the q is made even by flipping the lowest bit of the first one where it is odd.
 * sum      of +-q: twice (the sum of the q whose sign is +, less half the sum of all q). The bracket lies within 16 bits
 *          whatever the signs, so it is exact in arithmetic modulo 2^16, in any order and for any size of table.
 *          Of numbers times the sum of two planes of signs it is twice (the sum of the q whose sign is + in the one plane, and
 *          in the other, less the sum of all q), with half of LIMIT.
 *          Blocks are added in float32, one after the other: every instruction set gives the same bits.
 * group    numbers whose sums make one table: 2^group sums of 16 bits, entry i the sum of the numbers whose bit is set in i.
 * code     the entry that a column uses, as 16 bits in the form that the instruction set needs. AMX multiplies bytes: its tables
 *          are the bytes of the numbers, its codes a byte for each number and column.
 * panel    PANEL columns of signs: a byte of each column for every eight numbers, bit b for number 8j + b.
 */
#ifndef LOOKUP_H
#define LOOKUP_H

#include "../amx.h"

#define BLOCK 128       /* numbers; a multiple of 8 */
#define LIMIT 65400.0f  /* 65535 minus what rounding can add to the sum of |q|: 1/2 for each number, and the flipped bit */
#define TINY 1e-25f     /* blocks whose sum of |x| is smaller count as zero */
#define PANEL 64
#define STEP 32         /* columns that an instruction set may treat together; PANEL is a multiple */
#define MOST_TILE 16    /* rows of a tile, at most */
#define PREPARED 8      /* rows whose tables are made together */

typedef struct {
    size_t group;   /* numbers */
    size_t entries; /* int16 of a table; tables are aligned to their size, or to 64 bytes if that is less */
    size_t code;    /* uint16 of a group's codes for PANEL columns; of a block at most BLOCK * PANEL */
    size_t rows;    /* of a tile; at most MOST_TILE */
    void (*begin)(void), (*end)(void); /* around a task's tiles */
    /* n numbers of PREPARED rows, number k of row r at x[k * stride + r], to q[k][r]; step and total: a value a row */
    void (*quantize)(const float *x, size_t stride, size_t n, float limit, int32_t q[][PREPARED], float *step, int32_t *total);
    /* to tables of each row, `row` int16 apart */
    void (*tables)(int32_t q[][PREPARED], size_t n, int16_t *tables, size_t row);
    /* signs of n numbers, bytes of a panel, to codes [group][code] */
    void (*codes)(const uint8_t *panel, size_t n, uint16_t *codes);
    /* the same from groups * group rows of +-1, a multiple of STEP of them, for the first `columns` */
    void (*codes_of)(const int8_t *const *rows, size_t groups, size_t columns, uint16_t *codes);
    /* sums[r * across + c], or zero if it is the `first` tile, += factor[r] * (start[r] + the entries that column c's codes
     * [plane][group] take from row r's tables), for the first `columns`; up to the next multiple of STEP sums may change;
     * AMX has one plane */
    void (*tile)(const int16_t *const *tables, const int16_t *start, const float *factor, const uint16_t *codes, size_t groups,
                 size_t planes, int first, size_t columns, float *sums, size_t across);
} lookup_isa_t;

extern const lookup_isa_t lookup_portable;
#ifdef HAVE_X86
extern const lookup_isa_t lookup_avx2, lookup_avx512;
#endif
#ifdef HAVE_AMX
extern const lookup_isa_t lookup_amx;
#endif

static inline const lookup_isa_t *lookup_isa(int64_t isa)
{
#ifdef HAVE_AMX
    if (isa > 2) return &lookup_amx;
#endif
#ifdef HAVE_X86
    if (isa > 1) return &lookup_avx512;
    if (isa > 0) return &lookup_avx2;
#endif
    (void)isa;
    return &lookup_portable;
}

static inline size_t lookup_groups(const lookup_isa_t *isa, size_t n) { return (n + isa->group - 1) / isa->group; }

void lookup_nothing(void); /* `begin` and `end` where there is nothing to do */

/* memory of the calling thread, aligned to 64 bytes, kept for its next call; NULL if memory ran out */
void *lookup_scratch(size_t bytes);

/* n numbers of each of `rows` rows, transposed: block[k][r]; zero for the other rows */
void lookup_turn(const float *x, ptrdiff_t row, size_t rows, size_t n, float block[][PREPARED]);

#endif
