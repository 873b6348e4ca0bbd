// Loops over numbers and columns.
#include "common.cuh"

#define GELU_ERF 0
#define GELU_TANH 1
#define RELU 2

#define SQRT_HALF 0.70710678118654752f
#define TANH_SCALE 0.79788456080286536f /* sqrt(2 / pi) */
#define TANH_CUBE 0.044715f

__device__ inline float activate(float x, u32 kind) {
    if (kind == GELU_ERF) return 0.5f * x * (1.0f + erff(x * SQRT_HALF));
    if (kind == GELU_TANH)
        return 0.5f * x * (1.0f + tanhf(TANH_SCALE * (x + TANH_CUBE * x * x * x)));
    return fmaxf(x, 0.0f);
}

__device__ inline float derivative(float x, u32 kind) {
    if (kind == GELU_ERF) {
        float density = 0.39894228040143268f * expf(-0.5f * x * x);
        return 0.5f * (1.0f + erff(x * SQRT_HALF)) + x * density;
    }
    if (kind == GELU_TANH) {
        float t = tanhf(TANH_SCALE * (x + TANH_CUBE * x * x * x));
        float slope = TANH_SCALE * (1.0f + 3.0f * TANH_CUBE * x * x);
        return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * slope;
    }
    return x > 0.0f ? 1.0f : 0.0f;
}

// Tensors are padded to whole packs of 16 bytes, so `n_packs` may reach into a tensor's own padding.

// out = activation(x).
KERNEL(BLOCK)
activation(Pack* out, const Pack* x, u64 n_packs, u32 kind) {
    for (u64 i = global_index(); i < n_packs; i += global_size()) {
        Pack in = x[i], result;
        for (int j = 0; j < Pack::N; j++) store(&result.at[j], activate(to_float(in.at[j]), kind));
        out[i] = result;
    }
}

// d_x = d_x * activation'(x), in place.
KERNEL(BLOCK)
activation_backward(Pack* d_x, const Pack* x, u64 n_packs, u32 kind) {
    for (u64 i = global_index(); i < n_packs; i += global_size()) {
        Pack in = x[i], d = d_x[i];
        for (int j = 0; j < Pack::N; j++)
            store(&d.at[j], to_float(d.at[j]) * derivative(to_float(in.at[j]), kind));
        d_x[i] = d;
    }
}

// Sums of each column over one run of rows, partial [runs, C]. Grid: (columns / 32, runs).
KERNEL(BLOCK)
column_sums(float* partial, const T* x, u32 n_rows, u32 n_cols, u32 rows_per_run) {
    SHARED(float, sums, [WARPS][WARP]);
    u32 c = blockIdx.x * WARP + threadIdx.x % WARP, w = threadIdx.x / WARP;
    u32 start = blockIdx.y * rows_per_run;
    u32 end = min(start + rows_per_run, n_rows);
    float sum = 0.0f;
    if (c < n_cols)
        for (u32 row = start + w; row < end; row += WARPS) sum += to_float(x[(u64)row * n_cols + c]);
    sums[w][threadIdx.x % WARP] = sum;
    __syncthreads();
    if (w == 0 && c < n_cols) {
        sum = 0.0f;
        for (u32 i = 0; i < WARPS; i++) sum += sums[i][threadIdx.x];
        partial[(u64)blockIdx.y * n_cols + c] = sum;
    }
}

// out[c] += the sum of partial[run * stride + c] over all runs, in their order.
KERNEL(BLOCK)
add_partial_sums(float* out, const float* partial, u32 n_runs, u32 stride, u32 n_cols) {
    u32 c = blockIdx.x * BLOCK + threadIdx.x;
    if (c >= n_cols) return;
    float sum = 0.0f;
    for (u32 run = 0; run < n_runs; run++) sum += partial[(u64)run * stride + c];
    out[c] += sum;
}

#ifndef XELM_F32

// From f32 to T.
KERNEL(BLOCK)
narrow(T* out, const float* x, u64 n) {
    for (u64 i = global_index(); i < n; i += global_size()) store(&out[i], x[i]);
}

#endif
