// Causal attention, forward and backward, for any type and head size: one warp per query or key, dot
// products in f32. The exact mode runs on it, and heads whose size the tensor-core kernels do not take.
//
// qkv [N, 3C] holds queries, keys and values of all heads; lse [B, H, T] the log-sum-exp of the scaled
// scores; delta [B, H, T] the sums of d_out * out. The backward pass has two kernels instead of one with
// float atomics: the same bits every time.
#include "common.cuh"

// Numbers of a head per lane, so heads of up to 256.
#define PER_LANE 8

struct Head {
    u32 sequence, head, position; // of the warp's query or key
    u32 n_ctx, n_head, head_dim;
    u64 row;     // of lse, delta and the dropout's counter: (b H + h) T + position
    bool inside; // whether there is such a position

    __device__ Head(u32 n_batch, u32 n_ctx, u32 n_head, u32 head_dim)
        : n_ctx(n_ctx), n_head(n_head), head_dim(head_dim) {
        row = (u64)blockIdx.x * WARPS + threadIdx.x / WARP;
        inside = row < (u64)n_batch * n_head * n_ctx;
        position = row % n_ctx;
        head = row / n_ctx % n_head;
        sequence = row / n_ctx / n_head;
    }
    // Where this head of a position lies: part 0, 1, 2 for query, key, value.
    __device__ u64 in_qkv(u32 position, u32 part) const {
        u64 width = n_head * head_dim;
        return ((u64)sequence * n_ctx + position) * 3 * width + part * width + head * head_dim;
    }
    __device__ u64 in_out(u32 position) const {
        return (((u64)sequence * n_ctx + position) * n_head + head) * head_dim;
    }
};

__device__ inline float dot(const T* a, const T* b, u32 n) {
    float sum = 0.0f;
    for (u32 i = 0; i < n; i++) sum += to_float(a[i]) * to_float(b[i]);
    return sum;
}

__device__ inline float from_lane(float v, u32 lane) { return __shfl_sync(ALL_LANES, v, lane); }

// 32 keys at a time: each lane scores one of them, then all lanes add up the values, each its numbers
// of the head.
KERNEL(BLOCK)
attention(T* out, float* lse, const T* qkv, u32 n_batch, u32 n_ctx, u32 n_head, u32 head_dim, float scale,
          float p, float keep, const u64* key, u64 place) {
    Head h(n_batch, n_ctx, n_head, head_dim);
    if (!h.inside) return;
    Dropout dropout = dropout_at(p, keep, key, place);
    u32 lane = threadIdx.x % WARP;
    const T* q = qkv + h.in_qkv(h.position, 0);
    float max = -MAX_FLOAT, sum = 0.0f, acc[PER_LANE] = {};
    for (u32 start = 0; start <= h.position; start += WARP) {
        u32 j = start + lane;
        bool seen = j <= h.position;
        float score = seen ? scale * dot(q, qkv + h.in_qkv(j, 1), head_dim) : -MAX_FLOAT;
        float new_max = fmaxf(max, warp_max(score));
        float shrink = expf(max - new_max);
        float prob = seen ? expf(score - new_max) : 0.0f;
        sum = sum * shrink + warp_sum(prob);
        if (p > 0.0f) prob *= dropout_factor(dropout, h.row * n_ctx + j);
        UNROLL
        for (int i = 0; i < PER_LANE; i++) acc[i] *= shrink;
        for (u32 l = 0; l < WARP && start + l <= h.position; l++) {
            const T* v = qkv + h.in_qkv(start + l, 2);
            float weight = from_lane(prob, l);
            for (u32 i = 0; i < PER_LANE && lane + i * WARP < head_dim; i++)
                acc[i] += weight * to_float(v[lane + i * WARP]);
        }
        max = new_max;
    }
    T* to = out + h.in_out(h.position);
    for (u32 i = 0; i < PER_LANE && lane + i * WARP < head_dim; i++)
        store(&to[lane + i * WARP], acc[i] / sum);
    if (lane == 0) lse[h.row] = max + logf(sum);
}

// delta = the sum of d_out * out over a head: the softmax's correction.
KERNEL(BLOCK)
attention_delta(float* delta, const T* d_out, const T* out, u32 n_batch, u32 n_ctx, u32 n_head,
                u32 head_dim) {
    Head h(n_batch, n_ctx, n_head, head_dim);
    if (!h.inside) return;
    u64 at = h.in_out(h.position);
    float sum = 0.0f;
    for (u32 i = threadIdx.x % WARP; i < head_dim; i += WARP)
        sum += to_float(d_out[at + i]) * to_float(out[at + i]);
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) delta[h.row] = sum;
}

// The queries' gradient: d_q = sum over keys of d_s * k, with d_s = prob * (d_prob - delta) * scale.
KERNEL(BLOCK)
attention_d_q(T* d_qkv, const T* d_out, const float* lse, const float* delta, const T* qkv, u32 n_batch,
              u32 n_ctx, u32 n_head, u32 head_dim, float scale, float p, float keep, const u64* key,
              u64 place) {
    Head h(n_batch, n_ctx, n_head, head_dim);
    if (!h.inside) return;
    Dropout dropout = dropout_at(p, keep, key, place);
    u32 lane = threadIdx.x % WARP;
    const T *q = qkv + h.in_qkv(h.position, 0), *d = d_out + h.in_out(h.position);
    float acc[PER_LANE] = {};
    for (u32 start = 0; start <= h.position; start += WARP) {
        u32 j = start + lane;
        float d_score = 0.0f;
        if (j <= h.position) {
            float prob = expf(scale * dot(q, qkv + h.in_qkv(j, 1), head_dim) - lse[h.row]);
            float d_prob = dot(d, qkv + h.in_qkv(j, 2), head_dim);
            if (p > 0.0f) d_prob *= dropout_factor(dropout, h.row * n_ctx + j);
            d_score = prob * (d_prob - delta[h.row]) * scale;
        }
        for (u32 l = 0; l < WARP && start + l <= h.position; l++) {
            const T* k = qkv + h.in_qkv(start + l, 1);
            float weight = from_lane(d_score, l);
            for (u32 i = 0; i < PER_LANE && lane + i * WARP < head_dim; i++)
                acc[i] += weight * to_float(k[lane + i * WARP]);
        }
    }
    T* to = d_qkv + h.in_qkv(h.position, 0);
    for (u32 i = 0; i < PER_LANE && lane + i * WARP < head_dim; i++)
        store(&to[lane + i * WARP], acc[i]);
}

// The keys' and values' gradients: d_k = sum over queries of d_s * q, d_v of prob * d_out.
KERNEL(BLOCK)
attention_d_kv(T* d_qkv, const T* d_out, const float* lse, const float* delta, const T* qkv, u32 n_batch,
               u32 n_ctx, u32 n_head, u32 head_dim, float scale, float p, float keep, const u64* key,
               u64 place) {
    Head h(n_batch, n_ctx, n_head, head_dim);
    if (!h.inside) return;
    Dropout dropout = dropout_at(p, keep, key, place);
    u32 lane = threadIdx.x % WARP;
    u64 first_row = h.row - h.position;
    const T *k = qkv + h.in_qkv(h.position, 1), *v = qkv + h.in_qkv(h.position, 2);
    float d_k[PER_LANE] = {}, d_v[PER_LANE] = {};
    for (u32 start = h.position; start < n_ctx; start += WARP) {
        u32 i = start + lane;
        float prob = 0.0f, d_score = 0.0f;
        if (i < n_ctx) {
            u64 row = first_row + i;
            prob = expf(scale * dot(qkv + h.in_qkv(i, 0), k, head_dim) - lse[row]);
            float d_prob = dot(d_out + h.in_out(i), v, head_dim);
            float factor = p > 0.0f ? dropout_factor(dropout, row * n_ctx + h.position) : 1.0f;
            d_score = prob * (d_prob * factor - delta[row]) * scale;
            prob *= factor;
        }
        for (u32 l = 0; l < WARP && start + l < n_ctx; l++) {
            const T *q = qkv + h.in_qkv(start + l, 0), *d = d_out + h.in_out(start + l);
            float weight_k = from_lane(d_score, l), weight_v = from_lane(prob, l);
            for (u32 j = 0; j < PER_LANE && lane + j * WARP < head_dim; j++) {
                d_k[j] += weight_k * to_float(q[lane + j * WARP]);
                d_v[j] += weight_v * to_float(d[lane + j * WARP]);
            }
        }
    }
    T *to_k = d_qkv + h.in_qkv(h.position, 1), *to_v = d_qkv + h.in_qkv(h.position, 2);
    for (u32 j = 0; j < PER_LANE && lane + j * WARP < head_dim; j++) {
        store(&to_k[lane + j * WARP], d_k[j]);
        store(&to_v[lane + j * WARP], d_v[j]);
    }
}
