/* Continues a prompt with the expert that speaks a language, and shows the text as it comes.
 *
 *     cc -std=c11 -I include ffi/examples/generate.c libxelm.a -lpthread -lm -ldl
 *     ./a.out RUN/set-q8_0 de "Am Morgen" 200
 */
#include "common.h"

static int32_t on_text(void *user, const xelm_written *written) {
    (void)user;
    fwrite(written->text, 1, written->text_len, stdout);
    fflush(stdout);
    return 0; /* go on */
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: %s SET LANGUAGE PROMPT N_TOKENS\n", argv[0]);
        return 2;
    }
    const char *folder = argv[1], *tag = argv[2], *prompt = argv[3];

    /* The options as they are at first: one thread, the most probable token every time. */
    xelm_params params;
    check(xelm_params_init(&params, XELM_ABI_VERSION), "params", "");

    xelm_set *set = open_set(&params, folder);
    size_t index, language_len;
    xelm_match how;
    const char *language;
    check(xelm_set_select(set, tag, strlen(tag), NULL, &index, &how, &language, &language_len),
          tag, "");
    fprintf(stderr, "%s: the expert for %.*s%s\n", tag, (int)language_len, language,
            how == XELM_MATCH_RELATED ? ", its nearest relative" : "");
    xelm_expert *expert = open_expert(&params, set, index);
    xelm_session *session = open_session(&params, expert);

    printf("%s", prompt);
    check(xelm_session_prefill_text(session, prompt, strlen(prompt)), "prompt",
          xelm_session_last_error(session));
    size_t n_tokens;
    xelm_stop why;
    check(xelm_session_generate(session, strtoul(argv[4], NULL, 10), on_text, NULL, &n_tokens,
                                &why),
          "generate", xelm_session_last_error(session));
    printf("\n");
    fprintf(stderr, "%zu tokens\n", n_tokens);

    check(xelm_session_close(session), "close", "");
    check(xelm_expert_close(expert), "close", "");
    check(xelm_set_close(set), "close", "");
    free(session);
    free(expert);
    free(set);
    return 0;
}
