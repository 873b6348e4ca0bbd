// The global gradient norm and AdamW. Neither waits for the host: the norm stays on the device.
#include "common.cuh"

// partial[block] = the sum of squares of the block's share. The grid is fixed by the host: one order.
KERNEL(BLOCK)
square_sums(double* partial, const float* x, u64 n) {
    SHARED(double, shared, [BLOCK]);
    double sum = 0.0;
    for (u64 i = global_index(); i < n; i += global_size()) sum += (double)x[i] * x[i];
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// *norm = the root of the sum of n numbers. One block.
KERNEL(BLOCK)
norm_of_sums(double* norm, const double* partial, u32 n) {
    SHARED(double, shared, [BLOCK]);
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < n; i += BLOCK) sum += partial[i];
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) *norm = sqrt(sum);
}

// One AdamW update (Loshchilov & Hutter 2019): p <- p * keep - step * m / (sqrt(v) * root + eps), with
// keep = 1 - lr * decay, step = lr / (1 - beta1^t), root = 1 / sqrt(1 - beta2^t). Gradients are scaled
// down to the norm `max_norm` where it is positive and *norm exceeds it. Nothing happens where *norm is
// not finite. `copy` receives the parameters as T; null where the master copy serves.
KERNEL(BLOCK)
adamw(float* p, T* copy, const float* g, float* m, float* v, const double* norm, u64 n, float keep,
      float step, float root, float beta1, float beta2, float eps, float max_norm) {
    double length = *norm;
    if (!isfinite(length)) return;
    float clip = max_norm > 0.0f && length > max_norm ? (float)(max_norm / length) : 1.0f;
    for (u64 i = global_index(); i < n; i += global_size()) {
        float d = g[i] * clip;
        float first = beta1 * m[i] + (1.0f - beta1) * d;
        float second = beta2 * v[i] + (1.0f - beta2) * d * d;
        float updated = p[i] * keep - step * first / (sqrtf(second) * root + eps);
        m[i] = first;
        v[i] = second;
        p[i] = updated;
        if (copy) store(&copy[i], updated);
    }
}
