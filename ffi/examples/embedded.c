/* A model inside the program and memory of a fixed size: no files, no heap, no threads. Writes a text.
 *
 *     cargo rustc -p xelm-ffi --profile embedded --no-default-features --crate-type staticlib
 *     cc -std=c11 -I include -DMODEL='"tests/fixtures/tiny/expert.gguf"' ffi/examples/embedded.c \
 *         target/embedded/libxelm.a
 */
#define XELM_NO_STD
#include "xelm.h"

#include <stdio.h>
#include <string.h>

static const char PROMPT[] = "Am Morgen";
enum { N_CTX = 224, N_TOKENS = 200 };

/* The file named MODEL, as it is, for ELF; xelm reads it in place. */
__asm__(".pushsection .rodata\n"
        ".balign 64\n"
        ".globl model_begin, model_end\n"
        "model_begin: .incbin \"" MODEL "\"\n"
        "model_end:\n"
        ".popsection\n");
extern const unsigned char model_begin[], model_end[];

static _Alignas(XELM_ALIGN) unsigned char expert_memory[2048];
static _Alignas(XELM_ALIGN) unsigned char session_memory[204800];
/* Without it, standard output would take one from the heap. */
static char output[1024];

static int failed(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    return 1;
}

static int32_t on_text(void *user, const xelm_written *written) {
    (void)user;
    fwrite(written->text, 1, written->text_len, stdout);
    return 0;
}

int main(void) {
    setvbuf(stdout, output, _IOFBF, sizeof output);
    xelm_params params;
    if (xelm_params_init(&params, XELM_ABI_VERSION) != XELM_OK ||
        xelm_params_set_n_ctx(&params, N_CTX) != XELM_OK ||
        xelm_params_set_max_text(&params, 64) != XELM_OK ||
        xelm_params_set_repetition(&params, 1.1f, 64) != XELM_OK) {
        return failed("params", xelm_params_last_error(&params));
    }

    /* The plans say whether the memory is large enough. */
    size_t model_len = (size_t)(model_end - model_begin), size;
    xelm_expert *expert;
    if (xelm_expert_plan_bytes(&params, model_begin, model_len, &size) != XELM_OK) {
        return failed("expert", xelm_params_last_error(&params));
    }
    if (size > sizeof expert_memory) return failed("expert_memory", "too small");
    if (xelm_expert_open_bytes(&params, model_begin, model_len, expert_memory, sizeof expert_memory,
                               &expert) != XELM_OK) {
        return failed("expert", xelm_params_last_error(&params));
    }
    xelm_plan plan;
    xelm_session *session;
    if (xelm_session_plan(&params, expert, &plan) != XELM_OK) {
        return failed("plan", xelm_params_last_error(&params));
    }
    fprintf(stderr, "expert: %zu of %zu bytes, session: %zu of %zu, model: %zu\n", size,
            sizeof expert_memory, plan.total, sizeof session_memory, model_len);
    if (plan.total > sizeof session_memory) return failed("session_memory", "too small");
    if (xelm_session_init(&params, expert, session_memory, sizeof session_memory, &session) !=
        XELM_OK) {
        return failed("session", xelm_params_last_error(&params));
    }

    size_t n_tokens;
    xelm_stop why;
    printf("%s", PROMPT);
    if (xelm_session_prefill_text(session, PROMPT, strlen(PROMPT)) != XELM_OK ||
        xelm_session_generate(session, N_TOKENS, on_text, NULL, &n_tokens, &why) != XELM_OK) {
        return failed("text", xelm_session_last_error(session));
    }
    printf("\n");
    return 0;
}
