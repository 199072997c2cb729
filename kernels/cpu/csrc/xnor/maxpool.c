/* 2x2 max pooling of packed signs: OR, or AND for units whose sign falls as their input grows. */
#include "../xnor.h"

typedef struct {
    const uint64_t *words; /* (images, height, width, row) */
    size_t height, width, row;
    const uint64_t *falling; /* (row): ones where AND is wanted */
    uint64_t *out;           /* (images, height / 2, width / 2, row) */
} maxpool_t;

static void maxpool_task(void *context, size_t line)
{
    const maxpool_t *p = context;
    const size_t half = p->height / 2, step = p->width * p->row;
    const uint64_t *top = p->words + (line / half * p->height + line % half * 2) * step;
    uint64_t *out = p->out + line * (p->width / 2) * p->row;
    for (size_t x = 0; x < p->width / 2; x++, top += 2 * p->row)
        for (size_t w = 0; w < p->row; w++) {
            const uint64_t a = top[w], b = top[w + p->row], c = top[w + step], d = top[w + step + p->row];
            const uint64_t any = a | b | c | d, all = a & b & c & d;
            *out++ = any ^ ((any ^ all) & p->falling[w]);
        }
}

void kernels_maxpool(int threads, const uint64_t *words, int64_t images, int64_t height, int64_t width, int64_t row,
                     const uint64_t *falling, uint64_t *out)
{
    maxpool_t p = {words, (size_t)height, (size_t)width, (size_t)row, falling, out};
    const size_t lines = (size_t)images * (p.height / 2);
    parallel(maxpool_task, &p, lines, lines * p.width * p.row < 65536 ? 1 : threads);
}
