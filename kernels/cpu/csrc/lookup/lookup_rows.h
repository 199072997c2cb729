/* Code that the instruction sets of lookup.h share: the including file defines TARGET and GROUP. */
#include <string.h>

#include "lookup.h"

#define ROUND 12582912.0f     /* 1.5 * 2^23: added, it rounds to the nearest integer, ties to even */
#define ROUND_BITS 0x4B400000 /* bits of ROUND; the integer is the bits of the sum minus these */
#define GROUPS(n) (((n) + GROUP - 1) / GROUP)
#define MOST (GROUPS(BLOCK) * GROUP) /* numbers of a block, rounded up to whole groups */

typedef float floats_t __attribute__((vector_size(4 * PREPARED)));
typedef int32_t ints_t __attribute__((vector_size(4 * PREPARED)));

TARGET static void quantize(const float *x, size_t stride, size_t n, float limit, int32_t q[][PREPARED], float *step,
                            int32_t *total)
{
    floats_t part[8];
    memset(part, 0, sizeof part);
    for (size_t k = 0; k < n; k++) {
        ints_t bits;
        memcpy(&bits, x + k * stride, sizeof bits);
        part[k % 8] += (floats_t)(bits & 0x7FFFFFFF);
    }
    const floats_t sum = ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]));
    const ints_t some = ~(sum < TINY); /* true for NaN */
    const floats_t inverse = (floats_t)((ints_t)(limit / sum) & some), one = (floats_t)((ints_t)(sum / limit) & some);
    memcpy(step, &one, sizeof one);
    ints_t all = {0};
    for (size_t k = 0; k < n; k++) {
        floats_t value;
        memcpy(&value, x + k * stride, sizeof value);
        const ints_t whole = (ints_t)(value * inverse + ROUND) - ROUND_BITS;
        all += whole;
        memcpy(q[k], &whole, sizeof whole);
    }
    for (size_t r = 0; r < PREPARED; r++)
        if (all[r] & 1) {
            all[r] += q[0][r] & 1 ? -1 : 1;
            q[0][r] ^= 1;
        }
    memcpy(total, &all, sizeof all);
    memset(q + n, 0, (GROUPS(n) * GROUP - n) * sizeof *q);
}
