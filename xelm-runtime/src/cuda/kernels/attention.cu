// Causal attention over the cache, for one token or many.
//
// Keys are divided into chunks of 64 that begin at multiples of 64: one warp computes a query's attention to one
// chunk, and `attention_join` puts the chunks of a query together, in order. So a result does not depend on
// what else was computed with it. The grid may cover chunks that are not there yet: it is part of a graph.
#include "math.cuh"

#define CHUNK 64
// The largest head, and the numbers of it that a lane has.
#define MAX_HEAD 256
#define PER_LANE (MAX_HEAD / WARP)

// Dimensions of the cache [slots, n_layer, 2, n_head, n_ctx, head_dim].
struct Cache {
    u32 layer, n_layer, n_head, n_ctx, head_dim;
    // Where position 0 of a head's keys (part 0) or values (part 1) lies.
    __device__ u64 at(u32 slot, u32 part, u32 head) const {
        return ((((u64)slot * n_layer + layer) * 2 + part) * n_head + head) * n_ctx * head_dim;
    }
};

#define CACHE_ARGS u32 layer, u32 n_layer, u32 n_head, u32 n_ctx, u32 head_dim
#define CACHE                                                                                                \
    Cache { layer, n_layer, n_head, n_ctx, head_dim }

// Copies the new keys and values into the cache. qkv [lanes, n, 3 n_embd]. Grid: (tokens, lanes).
template <class E>
__device__ void store_new(E* kv, const float* qkv, const Lane* lanes, const u32* past, Cache cache) {
    u32 n_embd = cache.n_head * cache.head_dim, position = *past + blockIdx.x;
    u32 slot = lanes[blockIdx.y].slot;
    qkv += ((u64)blockIdx.y * gridDim.x + blockIdx.x) * 3 * n_embd + n_embd;
    for (u32 i = threadIdx.x; i < 2 * n_embd; i += BLOCK) {
        u32 part = i / n_embd, head = i % n_embd / cache.head_dim, d = i % cache.head_dim;
        store(kv + cache.at(slot, part, head) + (u64)position * cache.head_dim + d, qkv[i]);
    }
}

KERNEL store_f32(float* kv, const float* qkv, const Lane* lanes, const u32* past, CACHE_ARGS) {
    store_new(kv, qkv, lanes, past, CACHE);
}
KERNEL store_f16(f16* kv, const float* qkv, const Lane* lanes, const u32* past, CACHE_ARGS) {
    store_new(kv, qkv, lanes, past, CACHE);
}

// parts [lanes, n, n_head, n_chunks, head_dim + 2]: the values that a query's keys of a chunk weigh, the largest
// score, and the sum of the weights relative to it. Grid: (n_chunks * (n / 8), heads, lanes); a warp per query.
template <class E>
__device__ void attend(float* parts, const float* qkv, const E* kv, const Lane* lanes, const u32* past, u32 n,
                       u32 n_chunks, Cache cache) {
    SHARED(float, queries, [WARPS][MAX_HEAD]);
    SHARED(float, all_weights, [WARPS][CHUNK]);
    u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    u32 head = blockIdx.y, head_dim = cache.head_dim, n_embd = cache.n_head * head_dim;
    u32 chunk = blockIdx.x % n_chunks, token = blockIdx.x / n_chunks * WARPS + warp;
    u32 position = *past + token, start = chunk * CHUNK;
    if (token >= n || start > position) return;
    u32 n_keys = min(position + 1 - start, CHUNK), slot = lanes[blockIdx.z].slot;
    float *query = queries[warp], *weights = all_weights[warp];
    u64 row = (u64)blockIdx.z * n + token;
    for (u32 d = lane; d < head_dim; d += WARP) query[d] = qkv[row * 3 * n_embd + head * head_dim + d];
    __syncwarp();

    // Each lane scores two keys.
    const E* keys = kv + cache.at(slot, 0, head) + (u64)start * head_dim;
    float scale = 1.0f / sqrtf((float)head_dim), scores[CHUNK / WARP];
    UNROLL
    for (int i = 0; i < CHUNK / WARP; i++) {
        u32 key = lane + i * WARP;
        float sum = 0.0f;
        for (u32 d = 0; key < n_keys && d < head_dim; d += 8) {
            Eight of = load_eight(keys + (u64)key * head_dim, d, head_dim);
            UNROLL
            for (int j = 0; j < 8; j++) sum += d + j < head_dim ? of.at[j] * query[d + j] : 0.0f;
        }
        scores[i] = key < n_keys ? sum * scale : -from_bits(0x7f800000);
    }
    float max = warp_max(fmaxf(scores[0], scores[1])), sum = 0.0f;
    UNROLL
    for (int i = 0; i < CHUNK / WARP; i++) {
        float weight = lane + i * WARP < n_keys ? exponential(scores[i] - max) : 0.0f;
        weights[lane + i * WARP] = weight;
        sum += weight;
    }
    sum = warp_sum(sum);
    __syncwarp();

    // Each lane weighs its numbers of the values.
    const E* values = kv + cache.at(slot, 1, head) + (u64)start * head_dim;
    float acc[PER_LANE] = {};
    for (u32 key = 0; key < n_keys; key++) {
        UNROLL
        for (int j = 0; j < PER_LANE; j++) {
            u32 d = lane + j * WARP;
            if (d < head_dim) acc[j] += weights[key] * to_float(values[(u64)key * head_dim + d]);
        }
    }
    parts += ((row * cache.n_head + head) * n_chunks + chunk) * (head_dim + 2);
    UNROLL
    for (int j = 0; j < PER_LANE; j++)
        if (lane + j * WARP < head_dim) parts[lane + j * WARP] = acc[j];
    if (lane == 0) {
        parts[head_dim] = max;
        parts[head_dim + 1] = sum;
    }
}

KERNEL attention_f32(float* parts, const float* qkv, const float* kv, const Lane* lanes, const u32* past, u32 n,
                     u32 n_chunks, CACHE_ARGS) {
    attend(parts, qkv, kv, lanes, past, n, n_chunks, CACHE);
}
KERNEL attention_f16(float* parts, const float* qkv, const f16* kv, const Lane* lanes, const u32* past, u32 n,
                     u32 n_chunks, CACHE_ARGS) {
    attend(parts, qkv, kv, lanes, past, n, n_chunks, CACHE);
}

// out [lanes, n, n_embd], and q with its scales the same in 8 bits, for products with the weights at `next`, where q is
// not null. Grid: (tokens, lanes).
KERNEL attention_join(float* out, i8* q, Scale* scales, const Site* next, const float* parts, const Lane* lanes,
                      const u32* past, u32 n_chunks, u32 n_head, u32 head_dim) {
    u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, n_embd = n_head * head_dim;
    u32 n_parts = (*past + blockIdx.x) / CHUNK + 1;
    u64 row = (u64)blockIdx.y * gridDim.x + blockIdx.x;
    out += row * n_embd;
    for (u32 head = warp; head < n_head; head += WARPS) {
        const float* part = parts + (row * n_head + head) * n_chunks * (head_dim + 2);
        float max = -from_bits(0x7f800000), sum = 0.0f, acc[PER_LANE] = {};
        for (u32 i = lane; i < n_parts; i += WARP)
            max = fmaxf(max, part[(u64)i * (head_dim + 2) + head_dim]);
        max = warp_max(max);
        for (u32 i = 0; i < n_parts; i++, part += head_dim + 2) {
            float share = exponential(part[head_dim] - max);
            sum += share * part[head_dim + 1];
            UNROLL
            for (int j = 0; j < PER_LANE; j++)
                if (lane + j * WARP < head_dim) acc[j] += share * part[lane + j * WARP];
        }
        float inverse = 1.0f / sum;
        UNROLL
        for (int j = 0; j < PER_LANE; j++)
            if (lane + j * WARP < head_dim) out[head * head_dim + lane + j * WARP] = acc[j] * inverse;
    }
    __syncthreads();
    if (!q) return;
    u32 type = next[lanes[blockIdx.y].expert].type;
    quantize_row(q + row * n_embd, scales + row * (n_embd / GROUP), out, n_embd, type);
}
