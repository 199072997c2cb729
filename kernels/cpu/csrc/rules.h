/* Update rules of latent weights, clipping and signs included: rows of weights (rules.c). */
#ifndef RULES_H
#define RULES_H

#include "xnor.h"

enum { ADAM, SHIFT_ADAMAX, SGD };

/* cpu/step/fixed.py has the same fields in the same order, each 64 bits wide. */
typedef struct {
    int64_t kind;
    double beta1, beta2, eps, rate, bound; /* w stays within [-bound, bound] */
} rule_t;

/* n weights with their gradients; bit i of bits[across * j], where bits is not NULL, is set where weight 8j + i >= 0 */
typedef void rule_fn(const rule_t *rule, const float *g, float *w, float *m, float *v, size_t n, uint8_t *bits, size_t across);

rule_fn *rule_row(const rule_t *rule, int64_t isa);

#endif
