/* What a process asks its C library for, between two calls: see count_malloc.c. */
#ifndef XELM_COUNT_MALLOC_H
#define XELM_COUNT_MALLOC_H

#include <stdint.h>

typedef struct {
    /* Calls of malloc, calloc, realloc and their aligned relatives, and the bytes that they asked for. */
    uint64_t allocations, bytes;
    /* Calls of free with something to free. */
    uint64_t frees;
    /* Calls of mmap for anonymous memory, and of brk and sbrk, from outside the C library. */
    uint64_t mappings;
} xelm_counts;

/* NULL in a process that runs without the library. */
__attribute__((weak)) void xelm_count_begin(void);
__attribute__((weak)) void xelm_count_end(xelm_counts *counts);

#endif
