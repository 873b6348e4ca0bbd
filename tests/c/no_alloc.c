/* Uses sessions in every way there is, and fails where anything is allocated between a session's opening
 * and its closing: see tests/no_alloc.sh.
 *
 *     LD_PRELOAD=libcount_malloc.so no_alloc SET
 */
#include "count_malloc.h"

#include "common.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>

enum { N_DECODED = 1000, N_EXPERTS = 64, STATE = 1 << 20 };

static const char PROMPT[] = "Am Morgen";
static const char TEXT[] =
    "Am Morgen geht die Sonne auf. 今日は。 Ένα κείμενο, and a word of English.";

/* What a step works with. All of it is there before counting begins. */
typedef struct {
    xelm_params *params;
    const char *folder;
    const xelm_set *set;
    const xelm_expert *expert;
    const xelm_ensemble *ensemble; /* NULL for a session of `expert` */
    void *memory;
    size_t memory_len;
    xelm_session *session;
    void *state;
    /* The other thread cancels when this is set, and clears it. */
    atomic_int shall_cancel;
    atomic_int shall_end;
} work;

static xelm_counts total;
static _Alignas(XELM_ALIGN) unsigned char arena[1 << 16];

/* Runs a step, and counts; `is_free` where the step may allocate. Returns how often it did. */
static uint64_t counted(const char *what, void (*step)(work *), work *w, int is_free) {
    xelm_counts counts;
    xelm_count_begin();
    step(w);
    xelm_count_end(&counts);
    printf("  %-34s %8" PRIu64 " %8" PRIu64 " %8" PRIu64 "%s\n", what, counts.allocations, counts.frees,
           counts.mappings, is_free ? "  (may)" : "");
    if (!is_free) {
        total.allocations += counts.allocations;
        total.frees += counts.frees;
        total.mappings += counts.mappings;
    }
    return counts.allocations;
}

static void expect(xelm_status status, xelm_status expected, const work *w) {
    if (status != expected) {
        fprintf(stderr, "status %d, expected %d: %s\n", status, expected,
                xelm_session_last_error(w->session));
        exit(1);
    }
}

static void ok(xelm_status status, const work *w) {
    expect(status, XELM_OK, w);
}

static void open_one(work *w) {
    check(w->ensemble != NULL
              ? xelm_session_init_ensemble(w->params, w->ensemble, w->memory, w->memory_len, &w->session)
              : xelm_session_init(w->params, w->expert, w->memory, w->memory_len, &w->session),
          "session", xelm_params_last_error(w->params));
}

static void close_one(work *w) {
    check(xelm_session_close(w->session), "close", "");
}

static void prefill(work *w) {
    size_t n_reused;
    ok(xelm_session_prefill_text(w->session, PROMPT, strlen(PROMPT)), w);
    ok(xelm_session_prefill_text_again(w->session, TEXT, strlen(PROMPT) + 20, &n_reused), w);
}

/* One token after another; a context that is full begins again. */
static void decode(work *w) {
    for (int i = 0; i < N_DECODED; i++) {
        uint32_t token;
        ok(xelm_session_next(w->session, &token), w);
        xelm_status status = xelm_session_prefill(w->session, &token, 1);
        if (status == XELM_CONTEXT_FULL) {
            ok(xelm_session_reset(w->session), w);
            status = xelm_session_prefill(w->session, &token, 1);
        }
        ok(status, w);
    }
}

static int32_t on_text(void *user, const xelm_written *written) {
    *(size_t *)user += written->text_len;
    return 0;
}

static void generate(work *w) {
    size_t n_bytes = 0, n_tokens;
    xelm_stop why;
    ok(xelm_session_reset(w->session), w);
    ok(xelm_session_prefill_text(w->session, PROMPT, strlen(PROMPT)), w);
    ok(xelm_session_generate(w->session, 30, on_text, &n_bytes, &n_tokens, &why), w);
}

static void on_token(void *user, const xelm_token_score *score) {
    *(double *)user += score->nll;
}

static void score(work *w) {
    double nll, sum = 0;
    size_t n_tokens, n_bytes;
    ok(xelm_session_score(w->session, TEXT, strlen(TEXT), &nll, &n_tokens, &n_bytes), w);
    ok(xelm_session_score_by_token(w->session, TEXT, strlen(TEXT), on_token, &sum, &nll, &n_tokens,
                                   &n_bytes),
       w);
}

static void look(work *w) {
    uint32_t ids[256];
    size_t n, n_vocab;
    const float *logits;
    xelm_active experts[N_EXPERTS];
    ok(xelm_session_reset(w->session), w);
    ok(xelm_session_prefill_text(w->session, PROMPT, strlen(PROMPT)), w);
    ok(xelm_session_tokenize(w->session, TEXT, strlen(TEXT), ids, 256, &n), w);
    ok(xelm_session_reuse_prefix(w->session, ids, n, &n), w);
    ok(xelm_session_prefill(w->session, ids, 1), w);
    ok(xelm_session_logits(w->session, &logits, &n_vocab), w);
    ok(xelm_session_experts(w->session, experts, N_EXPERTS, &n), w);
    ok(xelm_session_tokens(w->session, ids, 256, &n), w);
    ok(xelm_session_n_past(w->session, &n), w);
    ok(xelm_session_rewind(w->session, 1), w);
    ok(xelm_session_set_sampling(w->session, w->params), w);
}

static void save_and_restore(work *w) {
    size_t size, written;
    ok(xelm_session_reset(w->session), w);
    ok(xelm_session_prefill_text(w->session, PROMPT, strlen(PROMPT)), w);
    ok(xelm_session_state_size(w->session, &size), w);
    ok(xelm_session_save(w->session, w->state, STATE, &written), w);
    ok(xelm_session_prefill_text(w->session, PROMPT, strlen(PROMPT)), w);
    ok(xelm_session_restore(w->session, w->state, written), w);
}

static void cancel(work *w) {
    for (int i = 0; i < 20; i++) {
        w->shall_cancel = 1;
        xelm_status status = XELM_OK;
        while (status == XELM_OK) {
            double nll;
            size_t n_tokens, n_bytes;
            status = xelm_session_score(w->session, TEXT, strlen(TEXT), &nll, &n_tokens, &n_bytes);
        }
        expect(status, XELM_CANCELLED, w);
    }
}

static void misuse(work *w) {
    uint32_t token = UINT32_MAX, one[1];
    size_t n;
    expect(xelm_session_prefill(w->session, &token, 1), XELM_BAD_TOKEN, w);
    expect(xelm_session_rewind(w->session, SIZE_MAX), XELM_BAD_PARAMETER, w);
    expect(xelm_session_tokenize(w->session, TEXT, strlen(TEXT), one, 1, &n), XELM_BUFFER_TOO_SMALL, w);
    expect(xelm_session_restore(w->session, TEXT, strlen(TEXT)), XELM_FOREIGN_STATE, w);
    expect(xelm_session_reset(NULL), XELM_NULL, w);
}

static void *other_thread(void *user) {
    work *w = user;
    while (!w->shall_end) {
        if (w->shall_cancel) {
            ok(xelm_session_cancel(w->session), w);
            w->shall_cancel = 0;
        }
    }
    return NULL;
}

static void *lent_thread(void *user) {
    work *w = user;
    ok(xelm_session_worker_run(w->session), w);
    return NULL;
}

/* A session's whole life. Its threads start, and the other one, where nothing is counted. */
static void session(work *w, const char *what, size_t n_threads, size_t n_lent) {
    printf("%s, %zu thread%s%s\n", what, n_threads, n_threads == 1 ? "" : "s",
           n_lent > 0 ? " and a lent one" : "");
    xelm_params *params = w->params;
    xelm_plan plan;
    check(xelm_params_set_n_threads(params, n_threads), "threads", xelm_params_last_error(params));
    check(xelm_params_set_n_lent(params, n_lent), "lent", xelm_params_last_error(params));
    check(w->ensemble != NULL ? xelm_session_plan_ensemble(params, w->ensemble, &plan)
                              : xelm_session_plan(params, w->expert, &plan),
          "plan", xelm_params_last_error(params));
    w->memory_len = plan.total;
    w->memory = memory_for(plan.total);

    counted("open", open_one, w, n_threads > 1);
    pthread_t other, lent;
    w->shall_end = w->shall_cancel = 0;
    pthread_create(&other, NULL, other_thread, w);
    if (n_lent > 0) {
        pthread_create(&lent, NULL, lent_thread, w);
    }
    counted("prefill", prefill, w, 0);
    counted("1,000 tokens decoded", decode, w, 0);
    counted("generate", generate, w, 0);
    counted("score", score, w, 0);
    counted("tokens, logits, rewind", look, w, 0);
    counted("save and restore", save_and_restore, w, 0);
    counted("cancel by another thread, 20 times", cancel, w, 0);
    counted("misuse", misuse, w, 0);
    w->shall_end = 1;
    pthread_join(other, NULL);
    if (n_lent > 0) {
        ok(xelm_session_end_workers(w->session), w);
        pthread_join(lent, NULL);
    }
    counted("close", close_one, w, n_threads > 1);
    free(w->memory);
}

static void take_state(work *w) {
    w->state = malloc(STATE);
}

static void open_set_again(work *w) {
    size_t size = xelm_set_size(strlen(w->folder));
    xelm_set *set;
    check(size <= sizeof arena ? XELM_OK : XELM_MEMORY_TOO_SMALL, "arena", "");
    check(xelm_set_open(w->params, w->folder, strlen(w->folder), arena, size, &set), "set", "");
    check(xelm_set_close(set), "close", "");
}

static void route(work *w) {
    size_t size = xelm_set_route_size(w->set);
    float weights[N_EXPERTS];
    check(size <= sizeof arena ? XELM_OK : XELM_MEMORY_TOO_SMALL, "arena", "");
    check(xelm_set_route(w->params, w->set, TEXT, strlen(TEXT), NULL, arena, size, weights), "route",
          xelm_params_last_error(w->params));
}

static void open_expert_again(work *w) {
    size_t size;
    xelm_expert *expert;
    check(xelm_expert_plan(w->params, w->set, 0, &size), "expert", "");
    check(size <= sizeof arena ? XELM_OK : XELM_MEMORY_TOO_SMALL, "arena", "");
    check(xelm_expert_open(w->params, w->set, 0, arena, size, &expert), "expert", "");
    check(xelm_expert_close(expert), "close", "");
}

int main(int argc, char **argv) {
    if (argc != 2 || xelm_count_begin == NULL || xelm_count_end == NULL) {
        fprintf(stderr, "usage: LD_PRELOAD=libcount_malloc.so %s SET\n", argv[0]);
        return 2;
    }
    printf("  %-34s %8s %8s %8s\n", "", "allocs", "frees", "mappings");
    xelm_params params;
    check(xelm_params_init(&params, XELM_ABI_VERSION), "params", "");
    check(xelm_params_set_sampling(&params, 0.9f, 40, 0.95f, 0.01f, 1), "sampling", "");
    check(xelm_params_set_repetition(&params, 1.1f, 16), "repetition", "");
    check(xelm_params_set_ensemble(&params, 2, XELM_ROUTE_TOKEN), "ensemble", "");
    xelm_set *set = open_set(&params, argv[1]);
    size_t n_experts = xelm_set_n_experts(set);
    check(n_experts <= N_EXPERTS ? XELM_OK : XELM_OUT_OF_RANGE, "experts", "");
    work w = {.params = &params, .folder = argv[1], .set = set};
    if (counted("malloc", take_state, &w, 1) != 1) {
        fprintf(stderr, "the counter does not count\n");
        return 2;
    }
    counted("set, opened and closed", open_set_again, &w, 0);
    counted("experts weighed for a text", route, &w, 0);
    counted("expert, opened and closed", open_expert_again, &w, 0);

    xelm_expert *experts[N_EXPERTS] = {NULL};
    for (size_t i = 0; i < n_experts; i++) {
        experts[i] = open_expert(&params, set, i);
    }
    w.expert = experts[0];
    session(&w, "expert", 1, 0);
    session(&w, "expert", 2, 0);
    session(&w, "expert", 1, 1);

    size_t size = xelm_ensemble_size(n_experts);
    xelm_ensemble *ensemble;
    check(xelm_ensemble_open(&params, set, (const xelm_expert *const *)experts, n_experts,
                             memory_for(size), size, &ensemble),
          "ensemble", xelm_params_last_error(&params));
    w.ensemble = ensemble;
    session(&w, "ensemble of 2", 1, 0);
    session(&w, "ensemble of 2", 2, 0);
    printf("allocated between opening and closing: %" PRIu64 ", freed: %" PRIu64 ", mapped: %" PRIu64 "\n",
           total.allocations, total.frees, total.mappings);
    return total.allocations + total.frees + total.mappings == 0 ? 0 : 1;
}
