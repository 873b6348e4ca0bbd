// Cross-entropy over a chunk of logits.
#include "common.cuh"

// losses[row] = -log softmax(logits[row])[target]; with `scale` > 0 also
// d_logits[row] = (softmax - one-hot) * scale. Logits in f32; one block per row. Rows without a target
// have loss 0 and gradient 0. With T = float, d_logits may be the logits themselves.
KERNEL(BLOCK)
cross_entropy(float* losses, T* d_logits, const float* logits, const u32* targets, u32 n_vocab,
              float scale) {
    SHARED(float, shared, [BLOCK]);
    logits += (u64)blockIdx.x * n_vocab;
    d_logits += (u64)blockIdx.x * n_vocab;
    u32 target = targets[blockIdx.x];
    if (target == IGNORE) {
        if (threadIdx.x == 0) losses[blockIdx.x] = 0.0f;
        if (scale > 0.0f)
            for (u32 v = threadIdx.x; v < n_vocab; v += BLOCK) store(&d_logits[v], 0.0f);
        return;
    }
    // Read before any thread may overwrite it: the barriers of the sums lie between.
    float at_target = logits[target];
    // Maximum and sum in one reading: the sum shrinks whenever a larger logit comes.
    float own_max = -MAX_FLOAT, sum = 0.0f;
    for (u32 v = threadIdx.x; v < n_vocab; v += BLOCK) {
        float logit = logits[v];
        if (logit > own_max) {
            sum *= expf(own_max - logit);
            own_max = logit;
        }
        sum += expf(logit - own_max);
    }
    float max = block_max(own_max, shared);
    sum = block_sum(sum * expf(own_max - max), shared);
    // A NaN among the logits makes the maximum miss it, but not the sum: it stays visible.
    if (threadIdx.x == 0) losses[blockIdx.x] = max + logf(sum) - at_target;
    if (scale > 0.0f) {
        float factor = scale / sum;
        for (u32 v = threadIdx.x; v < n_vocab; v += BLOCK) {
            float p = expf(logits[v] - max) * factor;
            store(&d_logits[v], v == target ? p - scale : p);
        }
    }
}

// *total += the sum of n losses, in double precision and one fixed order. One block.
KERNEL(BLOCK)
add_losses(double* total, const float* losses, u32 n) {
    SHARED(double, shared, [BLOCK]);
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < n; i += BLOCK) sum += losses[i];
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) *total += sum;
}
