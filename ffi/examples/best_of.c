/* Scores texts with the expert that speaks a language and prints them, the most probable first.
 *
 *     cc -std=c11 -I include ffi/examples/best_of.c libxelm.a -lpthread -lm -ldl
 *     ./a.out RUN/set-q8_0 de "Am Morgen ist es hell." "Am Morgen hell es ist."
 */
#include "common.h"

typedef struct {
    int argument;
    double bits_per_byte;
} scored;

/* The lower the better; equals stay in their order. */
static int compare(const void *a, const void *b) {
    const scored *x = a, *y = b;
    if (x->bits_per_byte != y->bits_per_byte) return x->bits_per_byte < y->bits_per_byte ? -1 : 1;
    return x->argument - y->argument;
}

int main(int argc, char **argv) {
    if (argc < 4) {
        fprintf(stderr, "usage: %s SET LANGUAGE TEXT...\n       %s EXPERT - TEXT...\n", argv[0],
                argv[0]);
        return 2;
    }
    xelm_params params;
    check(xelm_params_init(&params, XELM_ABI_VERSION), "params", "");
    xelm_expert *expert = open_model(&params, argv[1], argv[2]);
    xelm_session *session = open_session(&params, expert);

    size_t n_texts = (size_t)argc - 3;
    scored *texts = memory_for(n_texts * sizeof *texts);
    for (int i = 3; i < argc; i++) {
        const char *text = argv[i];
        double nats;
        size_t n_tokens, n_bytes;
        check(xelm_session_score(session, text, strlen(text), &nats, &n_tokens, &n_bytes), text,
              xelm_session_last_error(session));
        const double ln_2 = 0.693147180559945309;
        texts[i - 3] = (scored){i, nats / ln_2 / (double)(n_bytes > 0 ? n_bytes : 1)};
    }
    qsort(texts, n_texts, sizeof *texts, compare);
    for (size_t i = 0; i < n_texts; i++) {
        printf("%.4f  %s\n", texts[i].bits_per_byte, argv[texts[i].argument]);
    }

    free(texts);
    close_session(session, expert);
    return 0;
}
