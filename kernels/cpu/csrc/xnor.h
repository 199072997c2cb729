/* Shared declarations of the CPU kernels. Everything counts in 32-bit lanes:
 *
 * lifted    a packed 64-bit word (hi, lo) is stored as (hi ^ lo, lo). With A = a.lo ^ a.hi and B likewise, a
 *           carry-save step over both halves needs s = c ^ A ^ B, x = a.lo ^ b.lo, carry = maj(c, x, x ^ s ^ c):
 *           one popcount for two 32-bit words.
 * panel     LANES columns of the right operand side by side: for each 64-bit word LANES low halves, then LANES
 *           xors of the halves. Missing columns and missing words are zero.
 */
#ifndef XNOR_H
#define XNOR_H

#include <stddef.h>
#include <stdint.h>

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the packed layouts assume a little-endian machine"
#endif

#if defined(__x86_64__)
#define HAVE_X86 1
#endif

#define LANES 16
#define PAIR (2 * LANES) /* uint32 that one 64-bit word of a panel takes */
#define TILE_ROWS 4
#define TILE_PANELS 3
#define TILE_COLS (TILE_PANELS * LANES)

/* One row of a product: where its window starts in the lifted operand, and LANES values a panel to count down from. */
typedef struct {
    const uint32_t *from;
    const int32_t *start;
} row_t;

/* Where tiles read and write. Rows and panels are walked over `segs` segments of `pairs` lifted words; segments lie
 * seg_stride uint32 apart in a row and follow each other in a panel. */
typedef struct {
    size_t offset; /* of the first segment in every row, uint32 */
    size_t col;    /* of the first panel in every start */
    const uint32_t *panels;
    size_t panel_stride; /* uint32 from one panel to the next */
    size_t segs, pairs, seg_stride;
    const int32_t *in; /* result of the previous segments, rows TILE_COLS apart; NULL for the first */
    int32_t *out;      /* = (in ? in : start) - 2 * popcount(row xor column) */
    size_t out_stride;
    int stream; /* out may be written with stores that bypass the caches: whole, aligned lines that are not read soon */
} tile_t;

typedef struct {
    /* `rows` rows by np in 1..TILE_PANELS panels */
    void (*tiles)(const tile_t *t, const row_t *row, size_t rows, int np);
    /* rows of dots, TILE_COLS apart, to rows of bits: LANES for each panel, (dot ^ flip) >= level, lowest first */
    void (*compare)(const int32_t *dot, size_t rows, int np, const int32_t *level, const int32_t *flip, uint8_t *bits,
                    size_t bits_stride);
    /* one row of k values to (k + 63) / 64 words of bits (value >= 0), zero padded; returns nonzero at a NaN */
    int (*pack[9])(const void *row, size_t k, uint64_t *words);
    /* `steps` carry-save steps on registers alone (the roofline); returns 32-bit words popcounted a step, 0 if none */
    int64_t (*spin)(int64_t steps);
} isa_t;

/* order of isa_t.pack, as KINDS of operands.py */
enum { F32, F64, F16, BF16, I8, I16, I32, I64, BOOL };

extern const isa_t isa_portable;
#ifdef HAVE_X86
extern const isa_t isa_avx2, isa_avx512;
#endif

/* the functions of a level: 0 portable, 1 AVX2, 2 AVX-512 with VPOPCNTDQ; these are used with AMX, too */
const isa_t *isa_table(int level);

/* Runs task(context, i) for i in [0, count) on up to `threads` threads, the caller among them; returns when all
 * are done. If the pool is busy with another caller's job, the caller runs all its tasks itself. */
void parallel(void (*task)(void *context, size_t i), void *context, size_t count, int threads);

#endif
