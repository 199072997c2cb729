/* The passes between two products of a training step, on rows of units (images, or pixels of images) and columns of
 * units or channels: batch norm, activation, dropout, forward and backward. The same bits on every instruction set and for
 * every number of threads: a column is summed over chunks of CHUNK rows one after another, then chunk after chunk. */
#include <math.h>
#include <string.h>

#include "../xnor.h"

#define CHUNK 64 /* rows */
#define WIDTH 128 /* columns of a task */

enum { INT16, FLOAT32 };              /* of `kind` */
enum { NONE, SIGN, STOCHASTIC, RELU }; /* of `activation` */

/* cpu/step/norm.py has the same fields in the same order, each 64 bits wide. */
typedef struct {
    const void *y; /* [rows][cols] int16 or float, a value is scale * y */
    int64_t kind, rows, cols;
    int64_t shift, activation, masked;
    const float *mean, *factor, *beta; /* a = (value - mean) * factor + beta */
    uint64_t noise_key, dropout_key;
    int64_t least;  /* a value is dropped if its random number is smaller; 0: no dropout */
    int8_t *signs;  /* forward, result of SIGN and STOCHASTIC: 1, -1, or 0 if dropped */
    float *floats;  /* forward, result of NONE and RELU */
    float *grad;    /* backward: of the result, then of y */
    const float *average, *slope; /* backward: of the columns; see `back_row` */
    float *sums;    /* [chunks][2][cols] */
    int64_t isa, threads;
    double scale, kept; /* `kept`: factor of the result */
} norm_t;

typedef struct {
    void (*sums)(const norm_t *j, int64_t from, int64_t to, int64_t col, int64_t n, int moment);
    void (*forward)(const norm_t *j, int64_t from, int64_t to, int64_t col, int64_t n);
    void (*back_sums)(const norm_t *j, int64_t from, int64_t to, int64_t col, int64_t n);
    void (*back)(const norm_t *j, int64_t from, int64_t to, int64_t col, int64_t n);
    void (*random)(uint64_t key, uint32_t from, int64_t n, uint32_t *out);
} norm_isa_t;

#define NAME(f) f##_portable
#define TARGET
#include "norm_rows.h"
#undef NAME
#undef TARGET
#ifdef HAVE_X86
#define NAME(f) f##_avx2
#define TARGET __attribute__((target("avx2")))
#include "norm_rows.h"
#undef NAME
#undef TARGET
#define NAME(f) f##_avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#include "norm_rows.h"
#endif

static const norm_isa_t *table(int64_t isa)
{
#ifdef HAVE_X86
    if (isa >= 2) return &rows_avx512;
    if (isa == 1) return &rows_avx2;
#endif
    (void)isa;
    return &rows_portable;
}

enum { MEAN, SQUARE, FORWARD, BACK_SUMS, BACK };

typedef struct {
    const norm_t *job;
    int what;
} work_t;

static void norm_task(void *context, size_t task)
{
    const work_t *work = context;
    const norm_t *j = work->job;
    const int64_t across = (j->cols + WIDTH - 1) / WIDTH, from = (int64_t)task / across * CHUNK;
    const int64_t to = from + CHUNK < j->rows ? from + CHUNK : j->rows;
    const int64_t col = (int64_t)task % across * WIDTH, n = j->cols - col < WIDTH ? j->cols - col : WIDTH;
    const norm_isa_t *isa = table(j->isa);
    switch (work->what) {
        case FORWARD: isa->forward(j, from, to, col, n); break;
        case BACK_SUMS: isa->back_sums(j, from, to, col, n); break;
        case BACK: isa->back(j, from, to, col, n); break;
        default: isa->sums(j, from, to, col, n, work->what == SQUARE);
    }
}

static void run(const norm_t *j, int what)
{
    work_t work = {j, what};
    const size_t chunks = (size_t)((j->rows + CHUNK - 1) / CHUNK), across = (size_t)((j->cols + WIDTH - 1) / WIDTH);
    parallel(norm_task, &work, chunks * across, (int)j->threads);
}

/* sums of the chunks, `which` 0 or 1, one after another */
static void total(const norm_t *j, int which, double *out)
{
    const int64_t chunks = (j->rows + CHUNK - 1) / CHUNK, cols = j->cols;
    memset(out, 0, (size_t)cols * sizeof *out);
    for (int64_t k = 0; k < chunks; k++) {
        const float *part = j->sums + (2 * k + which) * cols;
        for (int64_t c = 0; c < cols; c++) out[c] += (double)part[c];
    }
}

/* sums over the rows: of values */
int kernels_norm_mean(const norm_t *j, double *sum)
{
    run(j, MEAN);
    total(j, 0, sum);
    return 0;
}

/* of (value - mean) squared, or times its AP2 (`shift`) */
int kernels_norm_square(const norm_t *j, double *sum)
{
    run(j, SQUARE);
    total(j, 0, sum);
    return 0;
}

int kernels_norm_forward(const norm_t *j)
{
    run(j, FORWARD);
    return 0;
}

/* sums over the rows: of the gradient of a, and of it times value - mean, or AP2 of that (`shift`) */
int kernels_norm_back_sums(const norm_t *j, double *sum, double *product)
{
    run(j, BACK_SUMS);
    total(j, 0, sum);
    total(j, 1, product);
    return 0;
}

/* the gradient of y in place of that of the result, and its sum over the rows */
int kernels_norm_back(const norm_t *j, double *sum)
{
    run(j, BACK);
    total(j, 0, sum);
    return 0;
}

/* random numbers of the elements from `from` on */
int kernels_random(int64_t isa, uint64_t key, uint32_t from, int64_t n, uint32_t *out)
{
    table(isa)->random(key, from, n, out);
    return 0;
}
