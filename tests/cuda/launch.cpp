// The kernels of one type as a shared library: compiled by the tests with the kernels' folder on the
// include path, and -DXELM_F32 for f32.
#include "shim.h"
#include "kernels.cu"
#include <tuple>
#include <utility>

namespace {

template <class... A, size_t... I>
void call(void (*kernel)(A...), void* const* args, std::index_sequence<I...>) {
    kernel(*(A*)args[I]...);
}

struct Entry {
    const char* name;
    unsigned n_args;
    std::function<void(void* const*)> call;
};

template <class... A>
Entry entry(const char* name, void (*kernel)(A...)) {
    return {name, sizeof...(A), [=](void* const* args) {
                call(kernel, args, std::index_sequence_for<A...>());
            }};
}

#define ENTRY(kernel) entry(#kernel, kernel)

const std::vector<Entry> entries = {
    ENTRY(activation),
    ENTRY(activation_backward),
    ENTRY(adamw),
    ENTRY(add_losses),
    ENTRY(add_partial_sums),
    ENTRY(attention),
    ENTRY(attention_d_kv),
    ENTRY(attention_d_q),
    ENTRY(attention_delta),
    ENTRY(column_sums),
    ENTRY(cross_entropy),
    ENTRY(embed),
    ENTRY(embed_backward),
    ENTRY(gemm_nn),
    ENTRY(gemm_nt),
    ENTRY(gemm_tn),
    ENTRY(layer_norm),
    ENTRY(layer_norm_backward),
    ENTRY(layer_norm_columns),
    ENTRY(norm_of_sums),
    ENTRY(residual),
    ENTRY(square_sums),
#ifndef XELM_F32
    ENTRY(attention_32),
    ENTRY(attention_64),
    ENTRY(attention_128),
    ENTRY(attention_d_q_32),
    ENTRY(attention_d_q_64),
    ENTRY(attention_d_q_128),
    ENTRY(attention_d_kv_32),
    ENTRY(attention_d_kv_64),
    ENTRY(attention_d_kv_128),
    ENTRY(gemm_nt_f32),
    ENTRY(narrow),
#endif
};

} // namespace

// Runs a kernel over a grid; 0 for success, 1 for an unknown name, 2 for another number of arguments.
extern "C" int shim_launch(const char* name, const unsigned grid[3], unsigned n_threads, unsigned order,
                           void* const* args, unsigned n_args) {
    for (const Entry& e : entries) {
        if (strcmp(e.name, name) != 0) continue;
        if (e.n_args != n_args) return 2;
        shim::launch(grid, n_threads, (shim::Order)order, [&] { e.call(args); });
        return 0;
    }
    return 1;
}

// The number of kernels, and the name of one.
extern "C" unsigned shim_kernels() { return entries.size(); }
extern "C" const char* shim_kernel_name(unsigned i) { return entries[i].name; }
