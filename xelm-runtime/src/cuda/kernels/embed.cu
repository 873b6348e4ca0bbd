// What enters the first layer: rows of the embedding, whose factor is in the file, and of the positions.
#include "formats.cuh"

// Grid: (tokens, lanes). x [lanes, n, n_embd].
#define EMBED_ARGS float *x, const Site *site, const Lane *lanes, const u32 *past, const u32 *tokens, u32 n_embd
#define EMBED x, site, lanes, past, tokens, n_embd

template <class F>
__device__ void embed_blocks(EMBED_ARGS) {
    const Site w = site[lanes[blockIdx.y].expert];
    if (w.type != F::TYPE) return;
    float* out = x + ((u64)blockIdx.y * gridDim.x + blockIdx.x) * n_embd;
    const float* positions = w.bias + (u64)(*past + blockIdx.x) * n_embd;
    for (u32 unit = threadIdx.x; unit < n_embd / GROUP; unit += BLOCK) {
        Unit u = F::load(w, n_embd, tokens[blockIdx.x], unit);
        UNROLL
        for (int h = 0; h < 2; h++) {
            UNROLL
            for (int i = 0; i < RUN; i++) {
                int q = (u.q[h][i / 4] >> i % 4 * 8 << 24) >> 24;
                u32 c = u.run[h] * RUN + i;
                float v = u.d * (float)u.s[h] * (float)(q - F::OFFSET);
                out[c] = (F::HAS_MIN ? v + u.m[h] : v) + positions[c];
            }
        }
    }
}

template <class E, u32 TYPE>
__device__ void embed_plain(EMBED_ARGS) {
    const Site w = site[lanes[blockIdx.y].expert];
    if (w.type != TYPE) return;
    const E* row = (const E*)w.body + (u64)tokens[blockIdx.x] * n_embd;
    float* out = x + ((u64)blockIdx.y * gridDim.x + blockIdx.x) * n_embd;
    const float* positions = w.bias + (u64)(*past + blockIdx.x) * n_embd;
    for (u32 c = threadIdx.x; c < n_embd; c += BLOCK) out[c] = to_float(row[c]) + positions[c];
}

KERNEL embed_f32(EMBED_ARGS) { embed_plain<float, 0>(EMBED); }
KERNEL embed_f16(EMBED_ARGS) { embed_plain<f16, 1>(EMBED); }
KERNEL embed_bf16(EMBED_ARGS) { embed_plain<bf16, 30>(EMBED); }
KERNEL embed_q4_0(EMBED_ARGS) { embed_blocks<Q4_0>(EMBED); }
KERNEL embed_q4_1(EMBED_ARGS) { embed_blocks<Q4_1>(EMBED); }
KERNEL embed_q8_0(EMBED_ARGS) { embed_blocks<Q8_0>(EMBED); }
KERNEL embed_q4_k(EMBED_ARGS) { embed_blocks<Q4_K>(EMBED); }
KERNEL embed_q5_k(EMBED_ARGS) { embed_blocks<Q5_K>(EMBED); }
KERNEL embed_q6_k(EMBED_ARGS) { embed_blocks<Q6_K>(EMBED); }
