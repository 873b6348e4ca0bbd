/* Goes on with every line of its input in the language of the line: the words choose the expert, or a tag
 * does where a line begins with "lang: TAG ". At most one expert is open at a time. An interrupt from the
 * keyboard ends the reply in progress, the end of the input the program.
 *
 *     cc -std=c11 -I include ffi/examples/reply.c libxelm.a -lpthread -lm -ldl
 *     ./a.out RUN/set-q8_0 20
 */
#define _POSIX_C_SOURCE 200809L /* getline, sigaction */
#include "common.h"

#include <signal.h>
#include <stdatomic.h>

/* The session that is replying. */
static _Atomic(xelm_session *) replying;

static void on_interrupt(int number) {
    (void)number;
    xelm_session *session = atomic_load(&replying);
    if (session != NULL) xelm_session_cancel(session);
}

/* Chooses the expert for a line and says why. Returns the text to go on with, or NULL. */
static const char *choose(xelm_params *params, const xelm_set *set, const char *line,
                          size_t *expert) {
    if (strncmp(line, "lang: ", 6) == 0) {
        const char *tag = line + 6, *language;
        size_t tag_len = strcspn(tag, " "), language_len;
        xelm_match how;
        xelm_status status = xelm_set_select(set, tag, tag_len, NULL, expert, &how, &language,
                                             &language_len);
        if (status != XELM_OK) {
            fprintf(stderr, "%.*s: %s\n", (int)tag_len, tag, xelm_status_text(status));
            return NULL;
        }
        fprintf(stderr, "expert %zu, which speaks %.*s, for the tag %.*s\n", *expert,
                (int)language_len, language, (int)tag_len, tag);
        return tag + tag_len + strspn(tag + tag_len, " ");
    }
    size_t size = xelm_set_route_size(set), n_experts = xelm_set_n_experts(set);
    if (size == 0) {
        fprintf(stderr, "the set has no router: begin the line with \"lang: TAG \"\n");
        return NULL;
    }
    float *weights = memory_for(n_experts * sizeof *weights);
    void *scratch = memory_for(size);
    check(xelm_set_route(params, set, line, strlen(line), NULL, scratch, size, weights), "route",
          xelm_params_last_error(params));
    *expert = 0;
    for (size_t i = 1; i < n_experts; i++) {
        if (weights[i] > weights[*expert]) *expert = i;
    }
    fprintf(stderr, "expert %zu, by its words, with the weight %.2f\n", *expert, weights[*expert]);
    free(scratch);
    free(weights);
    return line;
}

/* Reads lines until there is an expert for one. Returns its text, valid until the next call, or NULL at
 * the end of the input. */
static const char *next_text(xelm_params *params, const xelm_set *set, size_t *expert) {
    static char *line;
    static size_t capacity;
    while (getline(&line, &capacity, stdin) >= 0) {
        line[strcspn(line, "\n")] = '\0';
        const char *text = choose(params, set, line, expert);
        if (text != NULL) return text;
    }
    free(line);
    line = NULL;
    return NULL;
}

static void reply(xelm_session *session, const char *text, size_t n_max) {
    size_t n_tokens;
    xelm_stop why;
    printf("%s", text);
    atomic_store(&replying, session);
    xelm_status status = xelm_session_reset(session);
    if (status == XELM_OK) status = xelm_session_prefill_text(session, text, strlen(text));
    if (status == XELM_OK) {
        status = xelm_session_generate(session, n_max, print_text, NULL, &n_tokens, &why);
    }
    atomic_store(&replying, NULL);
    printf("\n");
    fflush(stdout);
    if (status != XELM_OK) fprintf(stderr, "%s\n", xelm_session_last_error(session));
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: %s SET N_TOKENS\n", argv[0]);
        return 2;
    }
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = SA_RESTART};
    sigaction(SIGINT, &action, NULL);
    xelm_params params;
    check(xelm_params_init(&params, XELM_ABI_VERSION), "params", "");
    check(xelm_params_set_repetition(&params, 1.1f, 64), "repetition", "");
    xelm_set *set = open_set(&params, argv[1]);

    size_t next;
    const char *text = next_text(&params, set, &next);
    while (text != NULL) {
        size_t index = next;
        xelm_expert *expert = open_expert(&params, set, index);
        xelm_session *session = open_session(&params, expert);
        do {
            reply(session, text, strtoul(argv[2], NULL, 10));
            text = next_text(&params, set, &next);
        } while (text != NULL && next == index);
        close_session(session, expert);
    }
    check(xelm_set_close(set), "close", "");
    free(set);
    return 0;
}
