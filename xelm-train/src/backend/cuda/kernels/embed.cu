// The token embedding and its gradient.
#include "common.cuh"

// out[n] = scale * table[input[n]] + positions[n mod T]; out [N, C], one thread per number.
KERNEL(BLOCK)
embed(T* out, const T* table, const float* positions, const u32* inputs, float scale, u64 n_numbers,
      u32 n_embd, u32 n_ctx) {
    for (u64 i = global_index(); i < n_numbers; i += global_size()) {
        u64 n = i / n_embd;
        u32 c = (u32)(i % n_embd);
        float token = to_float(table[(u64)inputs[n] * n_embd + c]);
        store(&out[i], scale * token + positions[(u64)(n % n_ctx) * n_embd + c]);
    }
}

// d_table[tokens[b]] += scale * sum of d_out over the places where that token stands, in their order:
// places[starts[b] .. starts[b + 1]]. One block per different token, so no two add to one row;
// the blocks beyond their number have nothing to do.
KERNEL(BLOCK)
embed_backward(float* d_table, const T* d_out, const u32* tokens, const u32* n_tokens, const u32* starts,
               const u32* places, float scale, u32 n_embd) {
    if (blockIdx.x >= *n_tokens) return;
    float* row = d_table + (u64)tokens[blockIdx.x] * n_embd;
    u32 start = starts[blockIdx.x], end = starts[blockIdx.x + 1];
    for (u32 c = threadIdx.x; c < n_embd; c += blockDim.x) {
        float sum = row[c];
        for (u32 i = start; i < end; i++) sum += scale * to_float(d_out[(u64)places[i] * n_embd + c]);
        row[c] = sum;
    }
}
