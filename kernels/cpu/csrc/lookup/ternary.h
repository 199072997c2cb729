/* Products of {-1, 0, 1} by signs: see ternary.c. */
#ifndef TERNARY_H
#define TERNARY_H

#include "../amx.h"

#define COLS 64 /* of a panel */

/* cpu/step/ternary.py has the same fields in the same order, each 64 bits wide. */
typedef struct {
    const uint8_t *codes;
    int64_t images, height, width;    /* rows of the result: images x height x width */
    int64_t image, line, pixel;       /* codes from one image, line, pixel to the next */
    int64_t segs, seg;                /* a row's codes: `segs` runs of `seg`, an even number, one every `line` */
    const uint8_t *panels;
    int64_t n;
    int16_t *out; /* [row][n] */
    int64_t isa, threads;
} ternary_t;

#ifdef HAVE_AMX
/* the product with AMX; returns 1 if memory ran out */
int ternary_amx(const ternary_t *t);
#endif

#endif
