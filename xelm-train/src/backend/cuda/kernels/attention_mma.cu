// Causal attention on tensor cores (the method of Dao et al. 2022): tiles of queries meet tiles of keys,
// probabilities live in registers and are recomputed in the backward pass from the log-sum-exp. The
// names of numbers are those of attention.cu; the functions compute the same.
//
// Blocks of 4 warps; each warp owns 16 queries (forward, d_q) or 16 keys (d_kv), so a block owns 64.
// HD is the head's size rounded up to 32, 64 or 128; the numbers beyond it are zeros.
#include "tensor_core.cuh"

#define THREADS 128
#define OWNED 64
#define LOG2E 1.4426950408889634f
#define LN2 0.6931471805599453f

// A row in shared memory, padded so that the eight rows of an ldmatrix fall into different banks.
#define STRIDE (HD + 8)

struct Shape {
    u32 n_ctx, n_head, head_dim;
    u32 sequence, head;
    u64 first_row; // of lse, delta and the dropout's counter: (b H + h) T

    __device__ Shape(u32 n_ctx, u32 n_head, u32 head_dim)
        : n_ctx(n_ctx), n_head(n_head), head_dim(head_dim) {
        sequence = blockIdx.y / n_head;
        head = blockIdx.y % n_head;
        first_row = (u64)blockIdx.y * n_ctx;
    }
    __device__ u32 qkv_stride() const { return 3 * n_head * head_dim; }
    __device__ u32 out_stride() const { return n_head * head_dim; }
    // Where this head begins in the sequence's first row: part 0, 1, 2 for query, key, value.
    __device__ u64 in_qkv(u32 part) const {
        return (u64)sequence * n_ctx * qkv_stride() + part * out_stride() + head * head_dim;
    }
    __device__ u64 in_out() const { return (u64)sequence * n_ctx * out_stride() + head * head_dim; }
};

// Brings rows start .. start + ROWS of a head into shared memory, zeros beyond the sequence and beyond
// the head's size. The head's size is a multiple of 8, so 16 bytes are inside or outside as one.
template <int HD, int ROWS>
__device__ inline void fetch_head(bf16* tile, const bf16* x, u32 stride, u32 start, const Shape& s) {
    for (u32 i = threadIdx.x; i < ROWS * HD / 8; i += THREADS) {
        u32 r = i / (HD / 8), c = i % (HD / 8) * 8;
        bool inside = start + r < s.n_ctx && c < s.head_dim;
        copy_async(tile + r * STRIDE + c, inside ? x + (u64)(start + r) * stride + c : x, inside);
    }
}

// The warp's 16 rows of a head as left operand, straight from memory.
template <int HD>
__device__ inline void load_rows(u32 a[HD / 16][4], const bf16* x, u32 stride, u32 start, const Shape& s) {
    u32 lane = threadIdx.x % WARP;
    UNROLL
    for (int d = 0; d < HD / 16; d++) {
        UNROLL
        for (int i = 0; i < 4; i++) {
            u32 r = start + lane / 4 + i % 2 * 8, c = d * 16 + lane % 4 * 2 + i / 2 * 8;
            bool inside = r < s.n_ctx && c < s.head_dim;
            a[d][i] = inside ? *(const u32*)(x + (u64)r * stride + c) : 0;
        }
    }
}

// acc += a * tile^T for N rows of the tile: scores.
template <int HD, int N>
__device__ inline void multiply_rows(float acc[N / 8][4], const u32 a[HD / 16][4], const bf16* tile) {
    UNROLL
    for (int d = 0; d < HD / 16; d++) {
        UNROLL
        for (int n = 0; n < N / 16; n++) {
            u32 b[4];
            load_b(b, tile + n * 16 * STRIDE + d * 16, STRIDE);
            mma16816(acc[2 * n], a[d], b);
            mma16816(acc[2 * n + 1], a[d], b + 2);
        }
    }
}

// The same with the warp's rows in shared memory too.
template <int HD, int N>
__device__ inline void multiply_tiles(float acc[N / 8][4], const bf16* rows, const bf16* tile) {
    UNROLL
    for (int d = 0; d < HD / 16; d++) {
        u32 a[4];
        load_a(a, rows + d * 16, STRIDE);
        UNROLL
        for (int n = 0; n < N / 16; n++) {
            u32 b[4];
            load_b(b, tile + n * 16 * STRIDE + d * 16, STRIDE);
            mma16816(acc[2 * n], a, b);
            mma16816(acc[2 * n + 1], a, b + 2);
        }
    }
}

// acc += p * tile, with p [16, N] as accumulators hold it: rounded to bf16, these are left operands.
template <int HD, int N>
__device__ inline void multiply_columns(float acc[HD / 8][4], const float p[N / 8][4], const bf16* tile) {
    UNROLL
    for (int n = 0; n < N / 16; n++) {
        u32 a[4];
        UNROLL
        for (int i = 0; i < 4; i++) {
            const float* pair = &p[2 * n + i / 2][i % 2 * 2];
            a[i] = pack2(pair[0], pair[1]);
        }
        UNROLL
        for (int d = 0; d < HD / 16; d++) {
            u32 b[4];
            load_b_trans(b, tile + n * 16 * STRIDE + d * 16, STRIDE);
            mma16816(acc[2 * d], a, b);
            mma16816(acc[2 * d + 1], a, b + 2);
        }
    }
}

// Writes the warp's 16 rows.
template <int HD>
__device__ inline void store_rows(bf16* x, const float acc[HD / 8][4], u32 stride, u32 start,
                                  const Shape& s) {
    u32 lane = threadIdx.x % WARP;
    UNROLL
    for (int d = 0; d < HD / 8; d++) {
        UNROLL
        for (int half = 0; half < 2; half++) {
            u32 r = start + lane / 4 + half * 8, c = d * 8 + lane % 4 * 2;
            u32 pair = pack2(acc[d][2 * half], acc[d][2 * half + 1]);
            if (r < s.n_ctx && c < s.head_dim) *(u32*)(x + (u64)r * stride + c) = pair;
        }
    }
}

// Sum and maximum over the four lanes that share a row.
__device__ inline float quad_sum(float v) {
    v += __shfl_xor_sync(ALL_LANES, v, 1);
    return v + __shfl_xor_sync(ALL_LANES, v, 2);
}
__device__ inline float quad_max(float v) {
    v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, 1));
    return fmaxf(v, __shfl_xor_sync(ALL_LANES, v, 2));
}

template <int HD, int N>
__device__ void forward(bf16* out, float* lse, const bf16* qkv, const Shape& s, float scale,
                        Dropout dropout) {
    SHARED(bf16, keys, [N * STRIDE]);
    SHARED(bf16, values, [N * STRIDE]);
    u32 lane = threadIdx.x % WARP;
    // The last tiles see the most keys: they start first.
    u32 block = (gridDim.x - 1 - blockIdx.x) * OWNED;
    u32 start = block + threadIdx.x / WARP * 16;
    u32 stride = s.qkv_stride();
    u32 q[HD / 16][4];
    load_rows<HD>(q, qkv + s.in_qkv(0), stride, start, s);
    // Rows g and g + 8 of the warp; maxima in units of log2.
    float max[2] = {-MAX_FLOAT, -MAX_FLOAT}, sum[2] = {}, acc[HD / 8][4] = {};
    u32 end = min(block + OWNED, s.n_ctx);
    for (u32 j0 = 0; j0 < end; j0 += N) {
        fetch_head<HD, N>(keys, qkv + s.in_qkv(1), stride, j0, s);
        copy_commit();
        fetch_head<HD, N>(values, qkv + s.in_qkv(2), stride, j0, s);
        copy_commit();
        copy_wait<1>();
        __syncthreads();
        float p[N / 8][4] = {};
        multiply_rows<HD, N>(p, q, keys);
        UNROLL
        for (int half = 0; half < 2; half++) {
            u32 i = start + lane / 4 + half * 8;
            float new_max = max[half];
            UNROLL
            for (int n = 0; n < N / 8; n++) {
                UNROLL
                for (int e = 0; e < 2; e++) {
                    u32 j = j0 + n * 8 + lane % 4 * 2 + e;
                    float& score = p[n][2 * half + e];
                    score = j <= i ? score * scale * LOG2E : -MAX_FLOAT;
                    new_max = fmaxf(new_max, score);
                }
            }
            new_max = quad_max(new_max);
            float shrink = exp2f(max[half] - new_max), row_sum = 0.0f;
            max[half] = new_max;
            UNROLL
            for (int n = 0; n < N / 8; n++) {
                UNROLL
                for (int e = 0; e < 2; e++) {
                    u32 j = j0 + n * 8 + lane % 4 * 2 + e;
                    float& prob = p[n][2 * half + e];
                    prob = j <= i ? exp2f(prob - new_max) : 0.0f;
                    row_sum += prob;
                    if (dropout.p > 0.0f)
                        prob *= dropout_factor(dropout, (s.first_row + i) * s.n_ctx + j);
                }
            }
            sum[half] = sum[half] * shrink + row_sum;
            UNROLL
            for (int d = 0; d < HD / 8; d++)
                UNROLL
                for (int e = 0; e < 2; e++) acc[d][2 * half + e] *= shrink;
        }
        copy_wait<0>();
        __syncthreads();
        multiply_columns<HD, N>(acc, p, values);
        __syncthreads();
    }
    UNROLL
    for (int half = 0; half < 2; half++) {
        float total = quad_sum(sum[half]);
        u32 i = start + lane / 4 + half * 8;
        UNROLL
        for (int d = 0; d < HD / 8; d++)
            UNROLL
            for (int e = 0; e < 2; e++) acc[d][2 * half + e] /= total;
        if (lane % 4 == 0 && i < s.n_ctx) lse[s.first_row + i] = max[half] * LN2 + logf(total);
    }
    store_rows<HD>(out + s.in_out(), acc, s.out_stride(), start, s);
}

// prob and d_score of one pair, from their dot products; prob with its dropout, as the values see it.
__device__ inline void pair_gradient(float& prob, float& d_score, bool seen, float lse, float delta,
                                     float scale, const Dropout& dropout, u64 counter) {
    float plain = seen ? exp2f((prob * scale - lse) * LOG2E) : 0.0f;
    float factor = dropout.p > 0.0f ? dropout_factor(dropout, counter) : 1.0f;
    prob = plain * factor;
    d_score = plain * (d_score * factor - delta) * scale;
}

template <int HD, int N>
__device__ void backward_q(bf16* d_qkv, const bf16* d_out, const float* lse, const float* delta,
                           const bf16* qkv, const Shape& s, float scale, Dropout dropout) {
    SHARED(bf16, keys, [N * STRIDE]);
    SHARED(bf16, values, [N * STRIDE]);
    u32 lane = threadIdx.x % WARP;
    u32 block = (gridDim.x - 1 - blockIdx.x) * OWNED;
    u32 start = block + threadIdx.x / WARP * 16;
    u32 stride = s.qkv_stride();
    u32 q[HD / 16][4], d[HD / 16][4];
    load_rows<HD>(q, qkv + s.in_qkv(0), stride, start, s);
    load_rows<HD>(d, d_out + s.in_out(), s.out_stride(), start, s);
    float row_lse[2], row_delta[2], acc[HD / 8][4] = {};
    UNROLL
    for (int half = 0; half < 2; half++) {
        u32 i = start + lane / 4 + half * 8;
        row_lse[half] = i < s.n_ctx ? lse[s.first_row + i] : 0.0f;
        row_delta[half] = i < s.n_ctx ? delta[s.first_row + i] : 0.0f;
    }
    u32 end = min(block + OWNED, s.n_ctx);
    for (u32 j0 = 0; j0 < end; j0 += N) {
        fetch_head<HD, N>(keys, qkv + s.in_qkv(1), stride, j0, s);
        fetch_head<HD, N>(values, qkv + s.in_qkv(2), stride, j0, s);
        copy_commit();
        copy_wait<0>();
        __syncthreads();
        float p[N / 8][4] = {}, d_s[N / 8][4] = {};
        multiply_rows<HD, N>(p, q, keys);
        multiply_rows<HD, N>(d_s, d, values);
        UNROLL
        for (int n = 0; n < N / 8; n++) {
            UNROLL
            for (int e = 0; e < 4; e++) {
                u32 i = start + lane / 4 + e / 2 * 8, j = j0 + n * 8 + lane % 4 * 2 + e % 2;
                pair_gradient(p[n][e], d_s[n][e], j <= i && i < s.n_ctx, row_lse[e / 2],
                              row_delta[e / 2], scale, dropout, (s.first_row + i) * s.n_ctx + j);
            }
        }
        multiply_columns<HD, N>(acc, d_s, keys);
        __syncthreads();
    }
    store_rows<HD>(d_qkv + s.in_qkv(0), acc, stride, start, s);
}

// Scores are computed transposed, [key, query], so that keys are the rows that a warp owns.
template <int HD, int N>
__device__ void backward_kv(bf16* d_qkv, const bf16* d_out, const float* lse, const float* delta,
                            const bf16* qkv, const Shape& s, float scale, Dropout dropout) {
    SHARED(bf16, keys, [OWNED * STRIDE]);
    SHARED(bf16, values, [OWNED * STRIDE]);
    SHARED(bf16, queries, [N * STRIDE]);
    SHARED(bf16, d_outs, [N * STRIDE]);
    SHARED(float, lses, [N]);
    SHARED(float, deltas, [N]);
    u32 lane = threadIdx.x % WARP;
    u32 block = blockIdx.x * OWNED;
    u32 own = threadIdx.x / WARP * 16, start = block + own;
    u32 stride = s.qkv_stride();
    fetch_head<HD, OWNED>(keys, qkv + s.in_qkv(1), stride, block, s);
    fetch_head<HD, OWNED>(values, qkv + s.in_qkv(2), stride, block, s);
    float d_k[HD / 8][4] = {}, d_v[HD / 8][4] = {};
    // N divides OWNED, so the first tile begins with the block's first key.
    for (u32 i0 = block; i0 < s.n_ctx; i0 += N) {
        fetch_head<HD, N>(queries, qkv + s.in_qkv(0), stride, i0, s);
        fetch_head<HD, N>(d_outs, d_out + s.in_out(), s.out_stride(), i0, s);
        copy_commit();
        if (threadIdx.x < N) {
            bool inside = i0 + threadIdx.x < s.n_ctx;
            lses[threadIdx.x] = inside ? lse[s.first_row + i0 + threadIdx.x] : 0.0f;
            deltas[threadIdx.x] = inside ? delta[s.first_row + i0 + threadIdx.x] : 0.0f;
        }
        copy_wait<0>();
        __syncthreads();
        float p[N / 8][4] = {}, d_s[N / 8][4] = {};
        multiply_tiles<HD, N>(p, keys + own * STRIDE, queries);
        multiply_tiles<HD, N>(d_s, values + own * STRIDE, d_outs);
        UNROLL
        for (int n = 0; n < N / 8; n++) {
            UNROLL
            for (int e = 0; e < 4; e++) {
                u32 j = start + lane / 4 + e / 2 * 8, at = n * 8 + lane % 4 * 2 + e % 2, i = i0 + at;
                pair_gradient(p[n][e], d_s[n][e], j <= i && i < s.n_ctx, lses[at], deltas[at], scale,
                              dropout, (s.first_row + i) * s.n_ctx + j);
            }
        }
        multiply_columns<HD, N>(d_v, p, d_outs);
        multiply_columns<HD, N>(d_k, d_s, queries);
        __syncthreads();
    }
    store_rows<HD>(d_qkv + s.in_qkv(1), d_k, stride, start, s);
    store_rows<HD>(d_qkv + s.in_qkv(2), d_v, stride, start, s);
}

// Grid: (ceil(T / 64), B H), 128 threads. N, the keys or queries that a tile meets at a time, is what
// registers and 48 KiB of shared memory allow.
#define ATTENTION(HD, N_FORWARD, N_Q, N_KV)                                                             \
    KERNEL(THREADS)                                                                                     \
    attention_##HD(bf16* out, float* lse, const bf16* qkv, u32 n_ctx, u32 n_head, u32 head_dim,         \
                   float scale, float p, float keep, const u64* key, u64 place) {                       \
        forward<HD, N_FORWARD>(out, lse, qkv, Shape(n_ctx, n_head, head_dim), scale,                    \
                               dropout_at(p, keep, key, place));                                        \
    }                                                                                                   \
    KERNEL(THREADS)                                                                                     \
    attention_d_q_##HD(bf16* d_qkv, const bf16* d_out, const float* lse, const float* delta,            \
                       const bf16* qkv, u32 n_ctx, u32 n_head, u32 head_dim, float scale, float p,      \
                       float keep, const u64* key, u64 place) {                                         \
        backward_q<HD, N_Q>(d_qkv, d_out, lse, delta, qkv, Shape(n_ctx, n_head, head_dim), scale,       \
                            dropout_at(p, keep, key, place));                                           \
    }                                                                                                   \
    KERNEL(THREADS)                                                                                     \
    attention_d_kv_##HD(bf16* d_qkv, const bf16* d_out, const float* lse, const float* delta,           \
                        const bf16* qkv, u32 n_ctx, u32 n_head, u32 head_dim, float scale, float p,     \
                        float keep, const u64* key, u64 place) {                                        \
        backward_kv<HD, N_KV>(d_qkv, d_out, lse, delta, qkv, Shape(n_ctx, n_head, head_dim), scale,     \
                              dropout_at(p, keep, key, place));                                         \
    }

ATTENTION(32, 64, 64, 64)
ATTENTION(64, 64, 64, 32)
ATTENTION(128, 64, 32, 16)
