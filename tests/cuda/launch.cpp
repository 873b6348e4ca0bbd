// A set of kernels as a shared library: compiled by the tests with the kernels' folder on the include path and
// -DXELM_ENTRIES naming the list of them; those of the trainer with -DXELM_F32 for f32.
#include "shim.h"
#include "kernels.cu"
#include <tuple>
#include <utility>

namespace {

template <class... A, size_t... I>
void call(void (*kernel)(A...), void* const* args, std::index_sequence<I...>) {
    kernel(*(A*)args[I]...);
}

template <class... A, size_t... I>
std::function<void()> bound(void (*kernel)(A...), void* const* args, std::index_sequence<I...>) {
    std::tuple<A...> kept(*(A*)args[I]...);
    return [=] { std::apply(kernel, kept); };
}

struct Entry {
    const char* name;
    unsigned n_args;
    std::function<void(void* const*)> call;
    // What a later call does, with the arguments of now.
    std::function<std::function<void()>(void* const*)> bind;
};

template <class... A>
Entry entry(const char* name, void (*kernel)(A...)) {
    auto indices = std::index_sequence_for<A...>();
    return {name, sizeof...(A), [=](void* const* args) { call(kernel, args, indices); },
            [=](void* const* args) { return bound(kernel, args, indices); }};
}

#define ENTRY(kernel) entry(#kernel, kernel)

const std::vector<Entry> entries = {
#include XELM_ENTRIES
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
