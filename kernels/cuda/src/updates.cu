// Update rules of latent weights, of many tensors in one launch and in one pass over memory (`kernels.Rule` has
// the formulas). Each block computes the step's rate from the number of steps and the common rate, both in device
// memory, so that a captured launch follows its schedule. The signs of the new weights are written too, so that no
// other pass over the weights is needed for them.

struct Part {
    float* w;
    float* m;
    float* v;
    const float* g;
    unsigned short* signs;  // may be null
    long long one;
    long long count;
    long long first;  // chunk of the launch
    double multiplier;
    double bound;
};
struct Update {
    const double* clock;  // steps, this one included
    const double* rate;
    double beta1;
    double beta2;
    double eps;
    long long chunks;
    long long parts;
    Part part[MOST_PARTS];
};

// AP2(x) of x >= 0: the carry reaches the exponent where the mantissa is at least sqrt(2)
__device__ __forceinline__ float ap2(float x) {
    return __int_as_float((__float_as_int(x) + ((1 << 23) - 0x3504F4)) & (int)0xFF800000);
}
__device__ __forceinline__ double ap2(double x) {
    const long long bits = __double_as_longlong(x) + ((1LL << 52) - 0x6A09E667F3BCDLL);
    return __longlong_as_double(bits & (long long)0xFFF0000000000000ULL);
}

template <bool ADAM>
__device__ double scaled(const Update& u) {
    const double first = 1 - pow(u.beta1, *u.clock);
    return ADAM ? *u.rate * sqrt(1 - pow(u.beta2, *u.clock)) / first : ap2(*u.rate / first);
}

template <bool ADAM>
__device__ void update(const Update& u) {
    __shared__ double common;
    if (threadIdx.x == 0) common = scaled<ADAM>(u);
    __syncthreads();
    const float fresh1 = (float)(1 - u.beta1), fresh2 = (float)(1 - u.beta2);
    const float beta2 = (float)u.beta2, eps = (float)u.eps;
    for (long long chunk = blockIdx.x; chunk < u.chunks; chunk += gridDim.x) {
        int at = 0;
        while (at + 1 < u.parts && u.part[at + 1].first <= chunk) at++;
        const Part& p = u.part[at];
        const float rate = (float)(common * p.multiplier), bound = (float)p.bound;
        const long long begin = (chunk - p.first) * CHUNK;
        const long long end = begin + CHUNK < p.count ? begin + CHUNK : p.count;
        auto updated = [&](float& w, float& m, float& v, float g) {
            m = fmaf(g - m, fresh1, m);
            v *= beta2;
            float under;
            if (ADAM) {
                v = fmaf(g * g, fresh2, v);
                under = sqrtf(v) + eps;
            } else {
                const float size = fabsf(g);
                v = ap2(v > size ? v : size) + eps;  // a gradient that is NaN stays
                under = v;
            }
            w = fmaf(-rate, m / under, w);
            w = w > bound ? bound : w < -bound ? -bound : w;  // NaN stays NaN
            return (unsigned short)(w >= 0 ? p.one : p.one | 0x8000);  // NaN counts as -1
        };
        const size_t address = (size_t)p.w | (size_t)p.m | (size_t)p.v | (size_t)p.g | 2 * (size_t)p.signs;
        const long long fours = address % 16 ? begin : begin + (end - begin) / 4 * 4;
        for (long long i = begin + 4 * threadIdx.x; i < fours; i += 4 * blockDim.x) {
            float4 w = *(float4*)&p.w[i], m = *(float4*)&p.m[i], v = *(float4*)&p.v[i];
            const float4 g = *(const float4*)&p.g[i];
            ushort4 signs;
            signs.x = updated(w.x, m.x, v.x, g.x);
            signs.y = updated(w.y, m.y, v.y, g.y);
            signs.z = updated(w.z, m.z, v.z, g.z);
            signs.w = updated(w.w, m.w, v.w, g.w);
            *(float4*)&p.w[i] = w;
            *(float4*)&p.m[i] = m;
            *(float4*)&p.v[i] = v;
            if (p.signs) *(ushort4*)&p.signs[i] = signs;
        }
        for (long long i = fours + threadIdx.x; i < end; i += blockDim.x) {
            float w = p.w[i], m = p.m[i], v = p.v[i];
            const unsigned short sign = updated(w, m, v, p.g[i]);
            p.w[i] = w;
            p.m[i] = m;
            p.v[i] = v;
            if (p.signs) p.signs[i] = sign;
        }
    }
}

extern "C" __global__ void update_adam(const __grid_constant__ Update u) { update<true>(u); }
extern "C" __global__ void update_shift_adamax(const __grid_constant__ Update u) { update<false>(u); }
