/* A model inside the program and memory of a fixed size: no files, no threads, and no heap for the
 * library. Writes a text.
 *
 *     cargo rustc -p xelm-ffi --profile embedded --no-default-features --crate-type staticlib
 *     c++ -std=c++17 -I include -DMODEL='"tests/fixtures/tiny/expert.gguf"' \
 *         ffi/examples/embedded.cpp target/embedded/libxelm.a
 */
#define XELM_NO_STD
#include "xelm.hpp"

#include <cstdio>

// The file named MODEL, as it is, for ELF; xelm reads it in place.
__asm__(".pushsection .rodata\n"
        ".balign 64\n"
        ".globl model_begin, model_end\n"
        "model_begin: .incbin \"" MODEL "\"\n"
        "model_end:\n"
        ".popsection\n");
extern "C" const unsigned char model_begin[], model_end[];

namespace {

constexpr std::string_view PROMPT = "Am Morgen";
constexpr std::size_t N_CTX = 224, N_TOKENS = 200;

alignas(XELM_ALIGN) unsigned char expert_memory[2048];
alignas(XELM_ALIGN) unsigned char session_memory[204800];

void print(std::string_view text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
}

void write_text() {
    xelm::Params params;
    params.n_ctx(N_CTX).max_text(64).repetition(1.1f);

    // The plans say whether the memory is large enough; opening in less of it is an error.
    const xelm::Bytes model{model_begin, std::size_t(model_end - model_begin)};
    const std::size_t size = xelm::Expert::plan(params, model);
    const xelm::Expert expert(params, model, {expert_memory, sizeof expert_memory});
    const xelm_plan plan = xelm::Session::plan(params, expert);
    std::fprintf(stderr, "expert: %zu of %zu bytes, session: %zu of %zu, model: %zu\n", size,
                 sizeof expert_memory, plan.total, sizeof session_memory, model.len);
    xelm::Session session(params, expert, {session_memory, sizeof session_memory});

    print(PROMPT);
    session.prefill_text(PROMPT);
    session.generate(N_TOKENS, [](const xelm::Written &part) { print(part.text); });
    print("\n");
}

} // namespace

int main() {
    try {
        write_text();
        return 0;
    } catch (const xelm::Error &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
