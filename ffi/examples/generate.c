/* Chooses the expert of a set that speaks a language, continues a prompt with it, and scores a text.
 *
 *     cc -std=c11 -Wall -Wextra -Werror -I include generate.c libxelm.a -lpthread -lm -ldl
 *     ./a.out RUN/set-q8_0 de "Am Morgen"
 */
#include "xelm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(xelm_status status, const char *what, const char *detail) {
    if (status != XELM_OK) {
        fprintf(stderr, "%s: %s\n", what, detail[0] != '\0' ? detail : xelm_status_text(status));
        exit(1);
    }
}

/* Memory for a handle. A program with a fixed arena would take it from there. */
static void *memory_for(size_t size) {
    /* C11 wants a multiple of the alignment. */
    void *memory = aligned_alloc(XELM_ALIGN, (size + XELM_ALIGN - 1) / XELM_ALIGN * XELM_ALIGN);
    if (memory == NULL) {
        fprintf(stderr, "%zu bytes of memory are not to be had\n", size);
        exit(1);
    }
    return memory;
}

static int32_t on_text(void *user, uint32_t token, const char *text, size_t text_len) {
    (void)token;
    size_t *n_bytes = user;
    *n_bytes += text_len;
    fwrite(text, 1, text_len, stdout);
    fflush(stdout);
    return 0; /* go on */
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: %s SET LANGUAGE PROMPT\n", argv[0]);
        return 2;
    }
    const char *folder = argv[1], *tag = argv[2], *prompt = argv[3];

    xelm_params params;
    check(xelm_params_init(&params, XELM_ABI_VERSION), "params", "");
    check(xelm_params_set_n_threads(&params, 2), "threads", xelm_params_last_error(&params));
    check(xelm_params_set_sampling(&params, 0.8f, 40, 0.95f, 1), "sampling",
          xelm_params_last_error(&params));

    void *set_memory = memory_for(xelm_set_size());
    xelm_set *set;
    check(xelm_set_open(&params, folder, strlen(folder), set_memory, xelm_set_size(), &set), folder,
          xelm_params_last_error(&params));

    size_t index, language_len, id_len;
    xelm_match how;
    const char *language, *id;
    int32_t is_present;
    check(xelm_set_select(set, tag, strlen(tag), &index, &how, &language, &language_len), tag, "");
    check(xelm_set_expert(set, index, &id, &id_len, &is_present), tag, "");
    printf("%s: expert %.*s, language %.*s%s\n", tag, (int)id_len, id, (int)language_len, language,
           how == XELM_MATCH_RELATED ? " (its nearest relative)" : "");

    size_t expert_size;
    check(xelm_expert_plan(&params, set, index, &expert_size), "expert",
          xelm_params_last_error(&params));
    void *expert_memory = memory_for(expert_size);
    xelm_expert *expert;
    check(xelm_expert_open(&params, set, index, expert_memory, expert_size, &expert), "expert",
          xelm_params_last_error(&params));

    xelm_plan plan;
    check(xelm_session_plan(&params, expert, &plan), "plan", xelm_params_last_error(&params));
    printf("session: %zu bytes (keys and values %zu, scratch %zu, text %zu)\n", plan.total, plan.kv,
           plan.scratch, plan.text);
    void *session_memory = memory_for(plan.total);
    xelm_session *session;
    check(xelm_session_init(&params, expert, session_memory, plan.total, &session), "session",
          xelm_params_last_error(&params));

    printf("%s", prompt);
    check(xelm_session_prefill_text(session, prompt, strlen(prompt)), "prompt",
          xelm_session_last_error(session));
    size_t n_tokens, n_bytes = 0;
    xelm_stop why;
    check(xelm_session_generate(session, 40, on_text, &n_bytes, &n_tokens, &why), "generate",
          xelm_session_last_error(session));
    printf("\n%zu tokens, %zu bytes\n", n_tokens, n_bytes);

    double nll;
    size_t scored_bytes;
    check(xelm_session_score(session, prompt, strlen(prompt), &nll, &n_tokens, &scored_bytes),
          "score", xelm_session_last_error(session));
    printf("prompt: %.4f nats, %zu tokens, %zu bytes\n", nll, n_tokens, scored_bytes);

    check(xelm_session_close(session), "close", "");
    check(xelm_expert_close(expert), "close", "");
    check(xelm_set_close(set), "close", "");
    free(session_memory);
    free(expert_memory);
    free(set_memory);
    return 0;
}
