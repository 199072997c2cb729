// Update rules of latent weights in one pass over memory (formulas: kernels.Rule). The rate is read from
// device memory, so that a captured launch follows its schedule. The signs of the new weights are written beside them, so
// that no other pass over the weights is needed.

struct Update {
    float* w;
    float* m;
    float* v;
    const float* g;
    long long count;
    const double* rate;
    double beta1;
    double beta2;
    double eps;
    double bound;
    unsigned short* signs;  // may be null
    long long one;
};

// AP2(x) of x >= 0: the carry reaches the exponent where the mantissa is at least sqrt(2)
__device__ __forceinline__ float ap2(float x) {
    return __int_as_float((__float_as_int(x) + ((1 << 23) - 0x3504F4)) & (int)0xFF800000);
}

template <bool ADAM>
__device__ void update(const Update& u) {
    const float rate = (float)*u.rate, fresh1 = (float)(1 - u.beta1), fresh2 = (float)(1 - u.beta2);
    const float beta2 = (float)u.beta2, eps = (float)u.eps, bound = (float)u.bound;
    const long long step = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < u.count; i += step) {
        const float g = u.g[i];
        const float m = fmaf(g - u.m[i], fresh1, u.m[i]);
        float v = u.v[i] * beta2;
        float under;
        if (ADAM) {
            v = fmaf(g * g, fresh2, v);
            under = sqrtf(v) + eps;
        } else {
            const float size = fabsf(g);
            v = ap2(v > size ? v : size) + eps;  // a NaN gradient stays NaN
            under = v;
        }
        float w = fmaf(-rate, m / under, u.w[i]);
        w = w > bound ? bound : w < -bound ? -bound : w;  // NaN stays NaN
        u.w[i] = w;
        if (u.signs) u.signs[i] = (unsigned short)(w >= 0 ? u.one : u.one | 0x8000);  // NaN counts as -1
        u.m[i] = m;
        u.v[i] = v;
    }
}

extern "C" __global__ void update_adam(Update u) { update<true>(u); }
extern "C" __global__ void update_shift_adamax(Update u) { update<false>(u); }
