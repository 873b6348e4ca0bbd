/* What the examples share: errors that end the program, memory for handles, and opening the expert of
 * a set. */
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

/* Memory for a handle. A program with a fixed arena would take it from there. */
static inline void *memory_for(size_t size) {
    /* C11 wants a multiple of the alignment. */
    void *memory = aligned_alloc(XELM_ALIGN, (size + XELM_ALIGN - 1) / XELM_ALIGN * XELM_ALIGN);
    if (memory == NULL) {
        fprintf(stderr, "%zu bytes of memory are not to be had\n", size);
        exit(1);
    }
    return memory;
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

/* Opens a session of an expert. */
static inline xelm_session *open_session(xelm_params *params, const xelm_expert *expert) {
    xelm_plan plan;
    check(xelm_session_plan(params, expert, &plan), "plan", xelm_params_last_error(params));
    xelm_session *session;
    check(xelm_session_init(params, expert, memory_for(plan.total), plan.total, &session),
          "session", xelm_params_last_error(params));
    return session;
}

#endif
