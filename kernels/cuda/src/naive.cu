// The paper's unoptimized product (arXiv 1602.02830, section 4), a new implementation: float matrices, row-major,
// c (m, n) = a (m, k) b (k, n), 16x16 blocks, one output a thread, two 16x16 shared tiles, a barrier before and
// after each 16-long inner loop. Loads are bounds-checked, so any sizes will do.

#define SIDE TILE_SIDE

extern "C" __global__ void naive_product(const float* a, const float* b, float* c, long long m, long long n,
                                         long long k) {
    __shared__ float left[SIDE][SIDE];
    __shared__ float right[SIDE][SIDE];
    const long long row = (long long)blockIdx.x * SIDE + threadIdx.y;
    const long long col = (long long)blockIdx.y * SIDE + threadIdx.x;
    float sum = 0;
    for (long long start = 0; start < k; start += SIDE) {
        const long long ka = start + threadIdx.x;
        const long long kb = start + threadIdx.y;
        left[threadIdx.y][threadIdx.x] = row < m && ka < k ? a[row * k + ka] : 0;
        right[threadIdx.y][threadIdx.x] = kb < k && col < n ? b[kb * n + col] : 0;
        __syncthreads();
        for (int i = 0; i < SIDE; i++) sum += left[threadIdx.y][i] * right[i][threadIdx.x];
        __syncthreads();
    }
    if (row < m && col < n) c[row * n + col] = sum;
}
