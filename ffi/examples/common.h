/* What the examples share: errors that end the program, memory for handles, and opening them. */
#ifndef XELM_EXAMPLES_COMMON_H
#define XELM_EXAMPLES_COMMON_H

#include "xelm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline void check(xelm_status status, const char *what, const char *detail) {
    if (status != XELM_OK) {
        fprintf(stderr, "%s: %s\n", what, detail[0] != '\0' ? detail : xelm_status_text(status));
        exit(1);
    }
}

/* Memory for a handle. A program with a fixed arena would take it from there, as embedded.c does. */
static inline void *memory_for(size_t size) {
    /* C11 wants a multiple of the alignment. */
    void *memory = aligned_alloc(XELM_ALIGN, (size + XELM_ALIGN - 1) / XELM_ALIGN * XELM_ALIGN);
    if (memory == NULL) {
        fprintf(stderr, "%zu bytes of memory are not to be had\n", size);
        exit(1);
    }
    return memory;
}

/* For xelm_session_generate: shows the text as it comes. */
static inline int32_t print_text(void *user, const xelm_written *written) {
    (void)user;
    fwrite(written->text, 1, written->text_len, stdout);
    fflush(stdout);
    return 0; /* go on */
}

/* Opens the set in a folder. A handle lies at the beginning of its memory. */
static inline xelm_set *open_set(xelm_params *params, const char *folder) {
    size_t size = xelm_set_size(strlen(folder));
    xelm_set *set;
    check(xelm_set_open(params, folder, strlen(folder), memory_for(size), size, &set), "set",
          xelm_params_last_error(params));
    return set;
}

/* Opens expert `index` of a set. */
static inline xelm_expert *open_expert(xelm_params *params, const xelm_set *set, size_t index) {
    size_t size;
    check(xelm_expert_plan(params, set, index, &size), "expert", xelm_params_last_error(params));
    xelm_expert *expert;
    check(xelm_expert_open(params, set, index, memory_for(size), size, &expert), "expert",
          xelm_params_last_error(params));
    return expert;
}

/* Opens the expert of the set in a folder that speaks a language; with the tag "-", an expert file. */
static inline xelm_expert *open_model(xelm_params *params, const char *path, const char *tag) {
    xelm_expert *expert;
    if (strcmp(tag, "-") == 0) {
        size_t size, len = strlen(path);
        check(xelm_expert_plan_path(params, path, len, &size), "expert",
              xelm_params_last_error(params));
        check(xelm_expert_open_path(params, path, len, memory_for(size), size, &expert), "expert",
              xelm_params_last_error(params));
        return expert;
    }
    xelm_set *set = open_set(params, path);
    size_t index, language_len;
    xelm_match how;
    const char *language;
    check(xelm_set_select(set, tag, strlen(tag), NULL, &index, &how, &language, &language_len),
          tag, "");
    fprintf(stderr, "%s: the expert for %.*s%s\n", tag, (int)language_len, language,
            how == XELM_MATCH_RELATED ? ", its nearest relative" : "");
    expert = open_expert(params, set, index);
    /* An expert may outlive its set. */
    check(xelm_set_close(set), "close", "");
    free(set);
    return expert;
}

/* Opens a session of an expert. */
static inline xelm_session *open_session(xelm_params *params, const xelm_expert *expert) {
    xelm_plan plan;
    check(xelm_session_plan(params, expert, &plan), "plan", xelm_params_last_error(params));
    xelm_session *session;
    check(xelm_session_init(params, expert, memory_for(plan.total), plan.total, &session),
          "session", xelm_params_last_error(params));
    return session;
}

/* Closes a session and its expert. */
static inline void close_session(xelm_session *session, xelm_expert *expert) {
    check(xelm_session_close(session), "close", "");
    check(xelm_expert_close(expert), "close", "");
    free(session);
    free(expert);
}

#endif
