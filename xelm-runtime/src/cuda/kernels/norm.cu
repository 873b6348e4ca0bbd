// Layer norm, and activations in 8 bits for products with quantised weights.
#include "common.cuh"

// h = LayerNorm(x) * weight + bias, and q with its scales the same in 8 bits, for products with the weights at `next`,
// where q is not null.
// Grid: (rows, lanes). x [lanes, n_x, n_embd], of which the rows from `first` on; h [lanes, rows, n_embd].
KERNEL layer_norm(float* h, i8* q, Scale* scales, const Site* next, const float* x, const Site* site,
                  const Lane* lanes, u32 first, u32 n_x, u32 n_embd, float eps) {
    SHARED(float, sums, [WARPS]);
    u32 expert = lanes[blockIdx.y].expert;
    const Site norm = site[expert];
    const float* weight = (const float*)norm.body;
    x += ((u64)blockIdx.y * n_x + first + blockIdx.x) * n_embd;
    u64 row = (u64)blockIdx.y * gridDim.x + blockIdx.x;
    h += row * n_embd;
    float sum = 0.0f;
    for (u32 c = threadIdx.x; c < n_embd; c += BLOCK) sum += x[c];
    float mean = block_sum(sum, sums) / (float)n_embd;
    // A second pass: the difference of large sums would lose the variance.
    sum = 0.0f;
    for (u32 c = threadIdx.x; c < n_embd; c += BLOCK) sum += (x[c] - mean) * (x[c] - mean);
    float scale = 1.0f / sqrtf(block_sum(sum, sums) / (float)n_embd + eps);
    for (u32 c = threadIdx.x; c < n_embd; c += BLOCK)
        h[c] = (x[c] - mean) * scale * weight[c] + norm.bias[c];
    __syncthreads();
    if (q) quantize_row(q + row * n_embd, scales + row * (n_embd / GROUP), h, n_embd, next[expert].type);
}

// Grid: (rows, lanes). x [lanes, rows, n] in whole groups.
KERNEL quantize(i8* q, Scale* scales, const Site* next, const float* x, const Lane* lanes, u32 n) {
    u64 row = (u64)blockIdx.y * gridDim.x + blockIdx.x;
    quantize_row(q + row * n, scales + row * (n / GROUP), x + row * n, n, next[lanes[blockIdx.y].expert].type);
}
