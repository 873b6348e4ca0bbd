/* Counts what all threads of a process ask the C library for between xelm_count_begin and
 * xelm_count_end. To be loaded before it:
 *
 *     cc -shared -fPIC -o libcount_malloc.so count_malloc.c
 *     LD_PRELOAD=libcount_malloc.so PROGRAM
 *
 * What C++'s new, Rust's allocator, strdup and so on take they take from malloc. For glibc on 64-bit
 * Linux: its allocator goes by second names there, to which all calls are handed on.
 */
#define _GNU_SOURCE
#include "count_malloc.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
void __libc_free(void *);

static atomic_int counting;
static atomic_uint_least64_t allocations, bytes, frees, mappings;

void xelm_count_begin(void) {
    allocations = bytes = frees = mappings = 0;
    counting = 1;
}

void xelm_count_end(xelm_counts *counts) {
    counting = 0;
    *counts = (xelm_counts){allocations, bytes, frees, mappings};
}

static void count(size_t size) {
    if (counting) {
        allocations++;
        bytes += size;
    }
}

static void count_mapping(void) {
    if (counting) {
        mappings++;
    }
}

void *malloc(size_t size) {
    count(size);
    return __libc_malloc(size);
}

void *calloc(size_t n, size_t size) {
    count(n * size);
    return __libc_calloc(n, size);
}

void *realloc(void *memory, size_t size) {
    count(size);
    return __libc_realloc(memory, size);
}

void free(void *memory) {
    if (counting && memory != NULL) {
        frees++;
    }
    __libc_free(memory);
}

void *memalign(size_t alignment, size_t size) {
    count(size);
    return __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
    return memalign(alignment, size);
}

void *valloc(size_t size) {
    return memalign((size_t)sysconf(_SC_PAGESIZE), size);
}

int posix_memalign(void **memory, size_t alignment, size_t size) {
    if (alignment % sizeof(void *) != 0 || (alignment & (alignment - 1)) != 0 || alignment == 0) {
        return EINVAL;
    }
    void *found = memalign(alignment, size);
    if (found == NULL) {
        return ENOMEM;
    }
    *memory = found;
    return 0;
}

void *mmap(void *address, size_t len, int protection, int flags, int fd, off_t offset) {
    if (flags & MAP_ANONYMOUS) {
        count_mapping();
    }
    return (void *)syscall(SYS_mmap, address, len, protection, flags, fd, offset);
}

void *mmap64(void *, size_t, int, int, int, off64_t) __attribute__((alias("mmap")));

int brk(void *end) {
    int (*next)(void *) = (int (*)(void *))dlsym(RTLD_NEXT, "brk");
    count_mapping();
    return next(end);
}

void *sbrk(intptr_t n) {
    void *(*next)(intptr_t) = (void *(*)(intptr_t))dlsym(RTLD_NEXT, "sbrk");
    count_mapping();
    return next(n);
}
