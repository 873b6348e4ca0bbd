/* Mixes the two experts of a set that suit a text best at every token. Shows how improbable each token
 * of the text is, in nats, and which experts predicted it with what weights; then goes on with the text.
 *
 *     cc -std=c11 -I include ffi/examples/mixed.c libxelm.a -lpthread -lm -ldl
 *     ./a.out RUN/set-q8_0 "Am Morgen sagte sie: good morning" 20
 */
#include "common.h"

enum { TOP_M = 2 };

/* What it takes to name experts and tokens. */
typedef struct {
    const xelm_set *set;
    xelm_expert **experts;
} model;

static void print_token(const model *model, uint32_t token, const xelm_active *active, size_t n) {
    const char *id, *file, *piece;
    size_t id_len, file_len, piece_len;
    int32_t is_present;
    for (size_t i = 0; i < n; i++) {
        check(xelm_set_expert(model->set, active[i].expert, &id, &id_len, &file, &file_len,
                              &is_present),
              "name", "");
        printf("  %.*s %.2f", (int)id_len, id, active[i].weight);
    }
    check(xelm_expert_piece(model->experts[active[0].expert], token, &piece, &piece_len), "piece", "");
    printf("  %.*s\n", (int)piece_len, piece);
}

static void on_token(void *user, const xelm_token_score *score) {
    printf("%7.3f", score->nll);
    print_token(user, score->token, score->experts, score->n_experts);
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: %s SET TEXT N_TOKENS\n", argv[0]);
        return 2;
    }
    const char *text = argv[2];
    xelm_params params;
    check(xelm_params_init(&params, XELM_ABI_VERSION), "params", "");
    check(xelm_params_set_ensemble(&params, TOP_M, XELM_ROUTE_TOKEN), "ensemble", "");
    check(xelm_params_set_repetition(&params, 1.1f, 64), "repetition", "");

    /* All experts that are present. */
    xelm_set *set = open_set(&params, argv[1]);
    size_t n_experts = xelm_set_n_experts(set);
    xelm_expert **experts = memory_for(n_experts * sizeof *experts);
    for (size_t i = 0; i < n_experts; i++) {
        const char *id, *file;
        size_t id_len, file_len;
        int32_t is_present;
        check(xelm_set_expert(set, i, &id, &id_len, &file, &file_len, &is_present), "set", "");
        experts[i] = is_present ? open_expert(&params, set, i) : NULL;
    }
    size_t size = xelm_ensemble_size(n_experts);
    xelm_ensemble *ensemble;
    check(xelm_ensemble_open(&params, set, (const xelm_expert *const *)experts, n_experts,
                             memory_for(size), size, &ensemble),
          "ensemble", xelm_params_last_error(&params));
    xelm_plan plan;
    check(xelm_session_plan_ensemble(&params, ensemble, &plan), "plan",
          xelm_params_last_error(&params));
    xelm_session *session;
    check(xelm_session_init_ensemble(&params, ensemble, memory_for(plan.total), plan.total, &session),
          "session", xelm_params_last_error(&params));

    model model = {set, experts};
    double nats;
    size_t n_tokens, n_bytes, n_reused, n_active;
    check(xelm_session_score_by_token(session, text, strlen(text), on_token, &model, &nats, &n_tokens,
                                      &n_bytes),
          "score", xelm_session_last_error(session));
    printf("%zu tokens, %zu bytes, %.3f nats\n", n_tokens, n_bytes, nats);

    /* The text has been read already. */
    check(xelm_session_prefill_text_again(session, text, strlen(text), &n_reused), "text",
          xelm_session_last_error(session));
    for (size_t n = strtoul(argv[3], NULL, 10); n > 0; n--) {
        uint32_t token;
        xelm_active active[TOP_M];
        check(xelm_session_next(session, &token), "next", xelm_session_last_error(session));
        check(xelm_session_experts(session, active, TOP_M, &n_active), "experts",
              xelm_session_last_error(session));
        print_token(&model, token, active, n_active);
        check(xelm_session_prefill(session, &token, 1), "read", xelm_session_last_error(session));
    }

    check(xelm_session_close(session), "close", "");
    check(xelm_ensemble_close(ensemble), "close", "");
    for (size_t i = 0; i < n_experts; i++) {
        if (experts[i] != NULL) check(xelm_expert_close(experts[i]), "close", "");
        free(experts[i]);
    }
    check(xelm_set_close(set), "close", "");
    free(session);
    free(ensemble);
    free(experts);
    free(set);
    return 0;
}
