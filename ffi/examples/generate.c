/* Continues a prompt with the expert that speaks a language, and shows the text as it comes.
 *
 *     cc -std=c11 -I include ffi/examples/generate.c libxelm.a -lpthread -lm -ldl
 *     ./a.out RUN/set-q8_0 de "Am Morgen" 200
 */
#include "common.h"

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: %s SET LANGUAGE PROMPT N_TOKENS\n       %s EXPERT - PROMPT N_TOKENS\n",
                argv[0], argv[0]);
        return 2;
    }
    const char *prompt = argv[3];

    /* The most probable token every time, but what has just been said is made rarer. */
    xelm_params params;
    check(xelm_params_init(&params, XELM_ABI_VERSION), "params", "");
    check(xelm_params_set_repetition(&params, 1.1f, 64), "repetition",
          xelm_params_last_error(&params));
    xelm_expert *expert = open_model(&params, argv[1], argv[2]);
    xelm_session *session = open_session(&params, expert);

    printf("%s", prompt);
    check(xelm_session_prefill_text(session, prompt, strlen(prompt)), "prompt",
          xelm_session_last_error(session));
    size_t n_tokens;
    xelm_stop why;
    check(xelm_session_generate(session, strtoul(argv[4], NULL, 10), print_text, NULL, &n_tokens,
                                &why),
          "generate", xelm_session_last_error(session));
    printf("\n");
    fprintf(stderr, "%zu tokens\n", n_tokens);

    close_session(session, expert);
    return 0;
}
