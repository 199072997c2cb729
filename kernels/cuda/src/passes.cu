// The operations between the products of a training step: images to floats with dropout; batch norm, sign and dropout;
// their gradients; the squared hinge loss. Matrices are (rows, units), a row for each image of the batch, or for each
// place of each image. A sum of products may be given as several matrices, stacked by rows: `parts`, `grads`.
//
// step_forward and step_backward take all rows in a block; conv_*, for more rows, take one chunk of GROUPS * KEPT rows in
// a block. Thread t of a block has column t % COLUMNS and rows t / COLUMNS + k GROUPS of it.

struct Images {
    const unsigned char* images;  // (all, pixels)
    const long long* index;       // (rows): which of them
    const float* shift;           // (shifts)
    const float* noise;           // (rows, pixels) in [0, 1); null: no dropout
    float* whole;                 // (rows, pixels)
    unsigned short* parts;        // (3 rows, pixels) bfloat16, whose sum is `whole`
    long long rows, pixels, shifts;
    double scale, drop;
};
struct Forward {
    const float* y;
    const float *bias, *gamma, *beta;
    float *moving_mean, *moving_inverse;
    float *mean, *inverse;   // the batch's
    const float* noise;      // (rows, units) in [0, 1); null: no dropout
    unsigned short* signs;   // (2 rows, units), twice the same; null: no activation
    float* out;              // (rows, units), without an activation
    long long parts, rows, units, one;  // one: the bits of a sign that is +
    double eps, alpha, drop;
};
struct Backward {
    const float *y, *grad;
    const unsigned short* signs;  // of the forward pass
    const float *mean, *inverse, *gamma, *beta;
    float *to_gamma, *to_beta;
    unsigned short* halves;  // (2 rows, units) bfloat16: high parts, low parts
    float* whole;            // (rows, units), or null
    long long parts, grads, rows, units, masked;
    double kept;             // factor of the values that dropout kept
};
struct Hinge {
    const float* scores;
    const long long *labels, *index;
    float* grad;
    double* loss_sum;
    long long rows, classes;
};

// After a convolution: y (images, 2 height, 2 width, units) with a pooling of 2 x 2, else (images, height, width, units).
// The pooled y, its largest of four, is a matrix of rows = images * height * width.
struct Conv {
    const void* y;
    long long half;  // y is float16, else float32
    long long pool, rows, units, height, width;
    const float *bias, *gamma, *beta;
    float *moving_mean, *moving_inverse, *mean, *inverse;
    float* partial;         // (chunks, 2, units)
    unsigned short* signs;  // the result in 16 bits, or null; `one` is +1
    float* floats;          // the result in float32, or null
    const float* grad;      // of the result
    long long grads, one;
    long long flat;    // signs, twice, and grad are (images, units, height, width), else laid out as y
    long long masked;
    float* to_y;
    float *to_gamma, *to_beta;
    double eps, alpha;
};

// The nearest bfloat16, ties to even; NaN stays NaN
__device__ __forceinline__ unsigned short to_bf16(float x) {
    const unsigned bits = (unsigned)__float_as_int(x);
    if (x != x) return 0x7FC0;
    return (unsigned short)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}
__device__ __forceinline__ float of_bf16(unsigned short x) { return __int_as_float((int)((unsigned)x << 16)); }

__device__ __forceinline__ float summed(const float* x, long long parts, long long size, long long at) {
    float sum = x[at];
#pragma unroll 1
    for (long long part = 1; part < parts; part++) sum += x[part * size + at];
    return sum;
}

// The sum of a column, for each of its threads
__device__ __forceinline__ float column_sum(float x) {
    __shared__ float partial[GROUPS * COLUMNS];
    __syncthreads();
    partial[threadIdx.x] = x;
    __syncthreads();
    float sum = 0;
    for (int group = 0; group < GROUPS; group++) sum += partial[group * COLUMNS + threadIdx.x % COLUMNS];
    return sum;
}

__device__ __forceinline__ float of_half(unsigned short x) {
    const unsigned size = x & 0x7FFF, sign = (unsigned)(x & 0x8000) << 16;
    if (size < 0x400) return __int_as_float((int)(sign | (unsigned)__float_as_int((float)size * 5.9604644775390625e-8f)));
    return __int_as_float((int)(sign | (size >= 0x7C00 ? 0x7F800000 : 0) | (size + (112 << 10)) << 13));
}

extern "C" __global__ void step_images(const __grid_constant__ Images p) {
    const long long size = p.rows * p.pixels;
    const float scale = (float)p.scale, drop = (float)p.drop, kept = (float)(1 / (1 - p.drop));
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < size; i += (long long)gridDim.x * blockDim.x) {
        const long long row = i / p.pixels, pixel = i - row * p.pixels;
        float x = p.images[p.index[row] * p.pixels + pixel] * scale + p.shift[p.shifts == 1 ? 0 : pixel];
        if (p.noise) x = p.noise[i] >= drop ? x * kept : 0.0f;
        p.whole[i] = x;
        for (int part = 0; part < 3; part++) {
            const unsigned short high = to_bf16(x);
            p.parts[part * size + i] = high;
            x -= of_bf16(high);
        }
    }
}

extern "C" __global__ void step_forward(const __grid_constant__ Forward p) {
    const int group = threadIdx.x / COLUMNS;
    const long long unit = blockIdx.x * (long long)COLUMNS + threadIdx.x % COLUMNS, size = p.rows * p.units;
    const bool inside = unit < p.units;
    float y[KEPT], sum = 0;
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        const long long row = group + k * GROUPS;
        y[k] = inside && row < p.rows ? summed(p.y, p.parts, size, row * p.units + unit) : 0;
        sum += y[k];
    }
    const float mean = column_sum(sum) / p.rows;
    float square = 0;
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        const float off = inside && group + k * GROUPS < p.rows ? y[k] - mean : 0;
        square += off * off;
    }
    const float inverse = 1 / sqrtf(column_sum(square) / p.rows + (float)p.eps);
    if (!inside) return;
    if (group == 0) {
        const float alpha = (float)p.alpha;
        p.mean[unit] = mean;
        p.inverse[unit] = inverse;
        p.moving_mean[unit] += alpha * (mean + p.bias[unit] - p.moving_mean[unit]);
        p.moving_inverse[unit] += alpha * (inverse - p.moving_inverse[unit]);
    }
    const float gamma = p.gamma[unit], beta = p.beta[unit], drop = (float)p.drop;
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        const long long row = group + k * GROUPS, at = row * p.units + unit;
        if (row >= p.rows) continue;
        const float value = fmaf((y[k] - mean) * inverse, gamma, beta);
        if (p.signs) {
            const bool dropped = p.noise && !(p.noise[at] >= drop);
            const unsigned short sign = (unsigned short)(dropped ? 0 : value >= 0 ? p.one : p.one | 0x8000);
            p.signs[at] = sign;
            p.signs[size + at] = sign;
        } else {
            p.out[at] = value;
        }
    }
}

extern "C" __global__ void step_backward(const __grid_constant__ Backward p) {
    const int group = threadIdx.x / COLUMNS;
    const long long unit = blockIdx.x * (long long)COLUMNS + threadIdx.x % COLUMNS, size = p.rows * p.units;
    const bool inside = unit < p.units;
    const float mean = inside ? p.mean[unit] : 0, inverse = inside ? p.inverse[unit] : 0;
    const float gamma = inside ? p.gamma[unit] : 0, beta = inside ? p.beta[unit] : 0, kept = (float)p.kept;
    float x[KEPT], grad[KEPT], total = 0, along = 0;
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        const long long row = group + k * GROUPS, at = row * p.units + unit;
        x[k] = grad[k] = 0;
        if (inside && row < p.rows) {
            x[k] = (summed(p.y, p.parts, size, at) - mean) * inverse;
            grad[k] = summed(p.grad, p.grads, size, at);
            if (p.signs) {
                const bool out = p.masked && fabsf(fmaf(x[k], gamma, beta)) > 1;
                grad[k] = out || p.signs[at] == 0 ? 0 : grad[k] * kept;
            }
        }
        total += grad[k];
        along += grad[k] * x[k];
    }
    total = column_sum(total);
    along = column_sum(along);
    if (!inside) return;
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        const long long row = group + k * GROUPS, at = row * p.units + unit;
        if (row >= p.rows) continue;
        const float found = gamma * inverse * (grad[k] - total / p.rows - x[k] * (along / p.rows));
        const unsigned short high = to_bf16(found);
        p.halves[at] = high;
        p.halves[size + at] = to_bf16(found - of_bf16(high));
        if (p.whole) p.whole[at] = found;
    }
    if (group == 0) {
        p.to_gamma[unit] = along;
        p.to_beta[unit] = total;
    }
}

extern "C" __global__ void step_hinge(const __grid_constant__ Hinge p) {
    __shared__ double partial[GROUPS * COLUMNS];
    const long long size = p.rows * p.classes;
    double sum = 0;
    for (long long i = threadIdx.x; i < size; i += blockDim.x) {
        const long long row = i / p.classes;
        const float target = p.labels[p.index[row]] == i - row * p.classes ? 1 : -1;
        const float under = 1 - target * p.scores[i];
        const float slack = under < 0 ? 0 : under;  // NaN stays NaN
        p.grad[i] = -2 * target * slack / size;
        sum += (double)slack * slack;
    }
    partial[threadIdx.x] = sum;
    for (int half = GROUPS * COLUMNS / 2; half; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
    }
    if (threadIdx.x == 0) *p.loss_sum += partial[0] / size;
}

__device__ __forceinline__ float element(const Conv& p, long long at) {
    return p.half ? of_half(((const unsigned short*)p.y)[at]) : ((const float*)p.y)[at];
}

// Where a place of the pooled y begins in y
__device__ __forceinline__ long long corner(const Conv& p, long long row, long long unit) {
    if (!p.pool) return row * p.units + unit;
    const long long line = row / p.width, column = row - line * p.width;
    return (line * 4 * p.width + 2 * column) * p.units + unit;
}

// The pooled y at a place; `which` of the four it is, the first of equals
__device__ __forceinline__ float pooled(const Conv& p, long long row, long long unit, int& which) {
    const long long at = corner(p, row, unit);
    float best = element(p, at);
    which = 0;
    for (int k = 1; k < (p.pool ? 4 : 1); k++) {
        const float next = element(p, at + (k % 2 + k / 2 * 2 * p.width) * p.units);
        if (next > best || next != next) best = next, which = k;  // NaN stays
    }
    return best;
}

// Where a place of the result lies in `signs` and `grad`
__device__ __forceinline__ long long place(const Conv& p, long long row, long long unit) {
    if (!p.flat) return row * p.units + unit;
    const long long plane = p.height * p.width, image = row / plane;
    return (image * p.units + unit) * plane + row - image * plane;
}

struct Mine {
    long long unit, begin, rows;  // rows: of this chunk
    int group;
    bool inside;
};
__device__ __forceinline__ Mine mine(const Conv& p) {
    const long long begin = blockIdx.y * (long long)(GROUPS * KEPT), left = p.rows - begin;
    const long long unit = blockIdx.x * (long long)COLUMNS + threadIdx.x % COLUMNS;
    const int group = threadIdx.x / COLUMNS;
    return {unit, begin, left < GROUPS * KEPT ? left : GROUPS * KEPT, group, unit < p.units};
}

// Mean of each chunk, and the sum of squares about it
extern "C" __global__ void conv_statistics(const __grid_constant__ Conv p) {
    const Mine m = mine(p);
    float y[KEPT], sum = 0, square = 0;
    int which;
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        const int row = m.group + k * GROUPS;
        y[k] = m.inside && row < m.rows ? pooled(p, m.begin + row, m.unit, which) : 0;
        sum += y[k];
    }
    const float mean = column_sum(sum) / m.rows;
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        const float off = m.inside && m.group + k * GROUPS < m.rows ? y[k] - mean : 0;
        square += off * off;
    }
    square = column_sum(square);
    if (m.inside && m.group == 0) {
        p.partial[2 * blockIdx.y * p.units + m.unit] = mean;
        p.partial[(2 * blockIdx.y + 1) * p.units + m.unit] = square;
    }
}

// Mean and 1/std of all rows from those of the chunks; moving averages
extern "C" __global__ void conv_moments(const __grid_constant__ Conv p) {
    const long long unit = blockIdx.x * (long long)COLUMNS + threadIdx.x % COLUMNS, whole = GROUPS * KEPT;
    const long long chunks = (p.rows + whole - 1) / whole;
    const int group = threadIdx.x / COLUMNS;
    const bool inside = unit < p.units;
    float sum = 0, square = 0;
    for (long long chunk = group; inside && chunk < chunks; chunk += GROUPS) {
        const long long rows = chunk + 1 < chunks ? whole : p.rows - chunk * whole;
        sum += p.partial[2 * chunk * p.units + unit] * rows;
    }
    const float mean = column_sum(sum) / p.rows;
    for (long long chunk = group; inside && chunk < chunks; chunk += GROUPS) {
        const long long rows = chunk + 1 < chunks ? whole : p.rows - chunk * whole;
        const float off = p.partial[2 * chunk * p.units + unit] - mean;
        square += p.partial[(2 * chunk + 1) * p.units + unit] + off * off * rows;
    }
    const float inverse = 1 / sqrtf(column_sum(square) / p.rows + (float)p.eps);
    if (!inside || group) return;
    const float alpha = (float)p.alpha;
    p.mean[unit] = mean;
    p.inverse[unit] = inverse;
    p.moving_mean[unit] += alpha * (mean + p.bias[unit] - p.moving_mean[unit]);
    p.moving_inverse[unit] += alpha * (inverse - p.moving_inverse[unit]);
}

extern "C" __global__ void conv_forward(const __grid_constant__ Conv p) {
    const Mine m = mine(p);
    if (!m.inside) return;
    const float mean = p.mean[m.unit], inverse = p.inverse[m.unit], gamma = p.gamma[m.unit], beta = p.beta[m.unit];
    int which;
#pragma unroll 4
    for (int k = 0; k < KEPT; k++) {
        const long long row = m.begin + m.group + k * GROUPS;
        if (row >= p.rows) break;
        const bool plus = fmaf((pooled(p, row, m.unit, which) - mean) * inverse, gamma, beta) >= 0;
        const long long at = place(p, row, m.unit);
        if (p.signs) {
            const unsigned short sign = (unsigned short)(plus ? p.one : p.one | 0x8000);
            p.signs[at] = sign;
            if (p.flat) p.signs[p.rows * p.units + at] = sign;
        }
        if (p.floats) p.floats[at] = plus ? 1.0f : -1.0f;
    }
}

// Normalized y and the gradient of the sign's input, at a place
__device__ __forceinline__ float entering(const Conv& p, const Mine& m, long long row, float& x, int& which) {
    x = (pooled(p, row, m.unit, which) - p.mean[m.unit]) * p.inverse[m.unit];
    if (p.masked && fabsf(fmaf(x, p.gamma[m.unit], p.beta[m.unit])) > 1) return 0;
    return summed(p.grad, p.grads, p.rows * p.units, place(p, row, m.unit));
}

// Of each chunk the sums of the gradients, and of gradient times normalized y
extern "C" __global__ void conv_sums(const __grid_constant__ Conv p) {
    const Mine m = mine(p);
    float total = 0, along = 0, x;
    int which;
    for (int row = m.group; m.inside && row < m.rows; row += GROUPS) {
        const float grad = entering(p, m, m.begin + row, x, which);
        total += grad;
        along += grad * x;
    }
    total = column_sum(total);
    along = column_sum(along);
    if (m.inside && m.group == 0) {
        p.partial[2 * blockIdx.y * p.units + m.unit] = total;
        p.partial[(2 * blockIdx.y + 1) * p.units + m.unit] = along;
    }
}

extern "C" __global__ void conv_totals(const __grid_constant__ Conv p) {
    const long long unit = blockIdx.x * (long long)COLUMNS + threadIdx.x % COLUMNS;
    const long long chunks = (p.rows + GROUPS * KEPT - 1) / (GROUPS * KEPT);
    const int group = threadIdx.x / COLUMNS;
    const bool inside = unit < p.units;
    float total = 0, along = 0;
    for (long long chunk = group; inside && chunk < chunks; chunk += GROUPS) {
        total += p.partial[2 * chunk * p.units + unit];
        along += p.partial[(2 * chunk + 1) * p.units + unit];
    }
    total = column_sum(total);
    along = column_sum(along);
    if (!inside || group) return;
    p.to_beta[unit] = total;
    p.to_gamma[unit] = along;
}

extern "C" __global__ void conv_backward(const __grid_constant__ Conv p) {
    const Mine m = mine(p);
    if (!m.inside) return;
    const float total = p.to_beta[m.unit] / p.rows, along = p.to_gamma[m.unit] / p.rows;
    const float factor = p.gamma[m.unit] * p.inverse[m.unit];
    for (int k = m.group; k < m.rows; k += GROUPS) {
        const long long row = m.begin + k, at = corner(p, row, m.unit);
        float x;
        int which;
        const float grad = entering(p, m, row, x, which), found = factor * (grad - total - x * along);
        for (int k = 0; k < (p.pool ? 4 : 1); k++)
            p.to_y[at + (k % 2 + k / 2 * 2 * p.width) * p.units] = k == which ? found : 0;
    }
}
