// Layer norm, forward and backward: one warp per row, statistics in f32.
#include "common.cuh"


// out = (x - mean) * rstd * weight + bias; stats [N, 2] keeps mean and rstd.
KERNEL(BLOCK)
layer_norm(T* out, float* stats, const T* x, const T* weight, const T* bias, float eps, u32 n_rows,
           u32 n_embd) {
    u32 row = blockIdx.x * WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (row >= n_rows) return;
    x += (u64)row * n_embd;
    out += (u64)row * n_embd;
    float sum = 0.0f;
    for (u32 c = lane; c < n_embd; c += WARP) sum += to_float(x[c]);
    float mean = warp_sum(sum) / n_embd;
    // A second pass: the difference of large sums would lose the variance.
    sum = 0.0f;
    for (u32 c = lane; c < n_embd; c += WARP) {
        float d = to_float(x[c]) - mean;
        sum += d * d;
    }
    float rstd = 1.0f / sqrtf(warp_sum(sum) / n_embd + eps);
    for (u32 c = lane; c < n_embd; c += WARP)
        store(&out[c], (to_float(x[c]) - mean) * rstd * to_float(weight[c]) + to_float(bias[c]));
    if (lane == 0) {
        stats[2 * (u64)row] = mean;
        stats[2 * (u64)row + 1] = rstd;
    }
}

// With y = (x - mean) * rstd and g = d_out * weight: d_x += rstd * (g - mean(g) - y * mean(g * y)).
KERNEL(BLOCK)
layer_norm_backward(T* d_x, const T* d_out, const T* x, const float* stats, const T* weight, u32 n_rows,
                    u32 n_embd) {
    u32 row = blockIdx.x * WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (row >= n_rows) return;
    x += (u64)row * n_embd;
    d_x += (u64)row * n_embd;
    d_out += (u64)row * n_embd;
    float mean = stats[2 * (u64)row], rstd = stats[2 * (u64)row + 1];
    float g_sum = 0.0f, gy_sum = 0.0f;
    for (u32 c = lane; c < n_embd; c += WARP) {
        float g = to_float(d_out[c]) * to_float(weight[c]);
        g_sum += g;
        gy_sum += g * (to_float(x[c]) - mean) * rstd;
    }
    float g_mean = warp_sum(g_sum) / n_embd, gy_mean = warp_sum(gy_sum) / n_embd;
    for (u32 c = lane; c < n_embd; c += WARP) {
        float y = (to_float(x[c]) - mean) * rstd;
        float g = to_float(d_out[c]) * to_float(weight[c]);
        store(&d_x[c], to_float(d_x[c]) + rstd * (g - g_mean - y * gy_mean));
    }
}

// The gradients of weight and bias over one run of rows: partial[run] = [d_weight [C], d_bias [C]].
// Grid: (columns / 32, runs); 32 columns and 8 rows at a time.
KERNEL(BLOCK)
layer_norm_columns(float* partial, const T* d_out, const T* x, const float* stats, u32 n_rows,
                   u32 n_embd, u32 rows_per_run) {
    SHARED(float, sums, [2][WARPS][WARP]);
    u32 c = blockIdx.x * WARP + threadIdx.x % WARP, w = threadIdx.x / WARP;
    u32 start = blockIdx.y * rows_per_run;
    u32 end = min(start + rows_per_run, n_rows);
    float d_weight = 0.0f, d_bias = 0.0f;
    if (c < n_embd) {
        for (u32 row = start + w; row < end; row += WARPS) {
            float d = to_float(d_out[(u64)row * n_embd + c]);
            float y = (to_float(x[(u64)row * n_embd + c]) - stats[2 * (u64)row]) * stats[2 * (u64)row + 1];
            d_weight += d * y;
            d_bias += d;
        }
    }
    sums[0][w][threadIdx.x % WARP] = d_weight;
    sums[1][w][threadIdx.x % WARP] = d_bias;
    __syncthreads();
    if (w < 2 && c < n_embd) {
        float sum = 0.0f;
        for (u32 i = 0; i < WARPS; i++) sum += sums[w][i][threadIdx.x % WARP];
        partial[((u64)blockIdx.y * 2 + w) * n_embd + c] = sum;
    }
}
