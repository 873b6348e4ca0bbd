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

/* A line, and the expert for it. */
typedef struct {
    char *line;
    size_t capacity;
    const char *text;
    size_t expert;
} request;

/* Chooses the expert by the tag that `text` begins with; returns whether there is one. */
static int by_tag(const xelm_set *set, request *request) {
    const char *tag = request->text + strlen("lang: "), *language;
    size_t tag_len = strcspn(tag, " "), language_len;
    xelm_match how;
    xelm_status status = xelm_set_select(set, tag, tag_len, NULL, &request->expert, &how, &language,
                                         &language_len);
    if (status != XELM_OK) {
        fprintf(stderr, "%.*s: %s\n", (int)tag_len, tag, xelm_status_text(status));
        return 0;
    }
    request->text = tag + tag_len + strspn(tag + tag_len, " ");
    fprintf(stderr, "expert %zu, which speaks %.*s, for the tag %.*s\n", request->expert,
            (int)language_len, language, (int)tag_len, tag);
    return 1;
}

/* Chooses the expert by the words; returns whether there is one. */
static int by_words(xelm_params *params, const xelm_set *set, request *request) {
    size_t size = xelm_set_route_size(set), n_experts = xelm_set_n_experts(set);
    if (size == 0) {
        fprintf(stderr, "the set has no router: begin the line with \"lang: TAG \"\n");
        return 0;
    }
    float *weights = memory_for(n_experts * sizeof *weights);
    void *scratch = memory_for(size);
    check(xelm_set_route(params, set, request->text, strlen(request->text), NULL, scratch, size,
                         weights),
          "route", xelm_params_last_error(params));
    request->expert = 0;
    for (size_t i = 1; i < n_experts; i++) {
        if (weights[i] > weights[request->expert]) request->expert = i;
    }
    fprintf(stderr, "expert %zu, by its words, with the weight %.2f\n", request->expert,
            weights[request->expert]);
    free(scratch);
    free(weights);
    return 1;
}

/* Reads the next line for which there is an expert; returns whether there is one. */
static int next_request(xelm_params *params, const xelm_set *set, request *request) {
    ssize_t len;
    while ((len = getline(&request->line, &request->capacity, stdin)) >= 0) {
        if (len > 0 && request->line[len - 1] == '\n') request->line[len - 1] = '\0';
        request->text = request->line;
        if (strncmp(request->text, "lang: ", 6) == 0 ? by_tag(set, request)
                                                     : by_words(params, set, request)) {
            return 1;
        }
    }
    return 0;
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

    request request = {0};
    int is_more = next_request(&params, set, &request);
    while (is_more) {
        size_t index = request.expert;
        xelm_expert *expert = open_expert(&params, set, index);
        xelm_session *session = open_session(&params, expert);
        do {
            reply(session, request.text, strtoul(argv[2], NULL, 10));
            is_more = next_request(&params, set, &request);
        } while (is_more && request.expert == index);
        close_session(session, expert);
    }
    free(request.line);
    check(xelm_set_close(set), "close", "");
    free(set);
    return 0;
}
