// What lies between the products of a dense net's training step, one pass each: images to floats with dropout; batch
// norm, sign and dropout; their gradients; the squared hinge loss. Matrices are (rows, units), rows the batch's images.
// A sum of products may come as several matrices, one under the other: `parts`, `grads`.
//
// A block of column_* takes COLUMNS units and all rows: thread t has column t % COLUMNS and rows t / COLUMNS + k GROUPS.

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
    float *to_gamma, *to_beta, *to_bias;
    unsigned short* halves;  // (2 rows, units) bfloat16: high parts, low parts
    float* whole;            // (rows, units), or null
    long long parts, grads, rows, units, masked;
    double kept;             // what dropout multiplied the rest with
};
struct Hinge {
    const float* scores;
    const long long *labels, *index;
    float* grad;
    double* loss_sum;
    long long rows, classes;
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
    float bias = 0;
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        const long long row = group + k * GROUPS, at = row * p.units + unit;
        if (!inside || row >= p.rows) continue;
        const float found = gamma * inverse * (grad[k] - total / p.rows - x[k] * (along / p.rows));
        const unsigned short high = to_bf16(found);
        p.halves[at] = high;
        p.halves[size + at] = to_bf16(found - of_bf16(high));
        if (p.whole) p.whole[at] = found;
        bias += found;
    }
    bias = column_sum(bias);
    if (inside && group == 0) {
        p.to_gamma[unit] = along;
        p.to_beta[unit] = total;
        p.to_bias[unit] = bias;
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
