/* A sound expert file, damaged in memory in every way that tests/corruption.sh asks for, opened and, where
 * that works, read and written with.
 *
 *     corruption FILE STRIDE N
 *
 * changes every STRIDE-th byte before the weights, one at a time, then makes N damages of up to 16 bytes. */
#define _DEFAULT_SOURCE
#include <xelm.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* A model may ask for any size; the caller decides what is too much. */
enum { MAX_MEMORY = 64 << 20, MAX_CHANGES = 16 };

static void fail(const char *what) {
    fprintf(stderr, "corruption: %s\n", what);
    exit(1);
}

/* `size` bytes, aligned to XELM_ALIGN, that end where no access is allowed (but for what aligns them). */
static unsigned char *guarded(size_t size) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t whole = (size + page - 1) / page * page;
    unsigned char *start =
        mmap(NULL, whole + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED || mprotect(start + whole, page, PROT_NONE) != 0) {
        fail("no memory");
    }
    return start + (whole - size) / XELM_ALIGN * XELM_ALIGN;
}

static unsigned char *file, *expert_memory, *session_memory;
static size_t file_len;
static unsigned long n_opened, n_generated;

/* Opens the file as it is now, and uses it. */
static xelm_status use(void) {
    xelm_params params;
    xelm_params_init(&params, XELM_ABI_VERSION);
    xelm_params_set_max_text(&params, 256);
    size_t size = 0;
    xelm_status status = xelm_expert_plan_bytes(&params, file, file_len, &size);
    if (status != XELM_OK) {
        return status;
    }
    if (size > MAX_MEMORY) {
        return XELM_MEMORY_TOO_SMALL;
    }
    xelm_expert *expert = NULL;
    status = xelm_expert_open_bytes(&params, file, file_len, expert_memory, size, &expert);
    if (status != XELM_OK) {
        if (expert != NULL) {
            fail("an output was written by a call that failed");
        }
        return status;
    }
    n_opened++;
    xelm_plan plan;
    status = xelm_session_plan(&params, expert, &plan);
    if (status == XELM_OK && plan.total <= MAX_MEMORY) {
        xelm_session *session;
        status = xelm_session_init(&params, expert, session_memory, plan.total, &session);
        if (status == XELM_OK) {
            status = xelm_session_prefill_text(session, "Am Morgen", 9);
            for (int i = 0; i < 3 && status == XELM_OK; i++) {
                uint32_t token;
                status = xelm_session_next(session, &token);
                if (status == XELM_OK) {
                    status = xelm_session_prefill(session, &token, 1);
                }
            }
            n_generated += status == XELM_OK;
            if (xelm_session_close(session) != XELM_OK) {
                fail("a session could not be closed");
            }
        }
    }
    if (xelm_expert_close(expert) != XELM_OK) {
        fail("an expert could not be closed");
    }
    if (status == XELM_INTERNAL) {
        fail("XELM_INTERNAL");
    }
    return status;
}

/* Steele, Lea and Flood's SplitMix64. */
static uint64_t next_random(void) {
    static uint64_t state = 1;
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void damage(size_t header) {
    size_t n = 1 + next_random() % MAX_CHANGES;
    int in_a_row = next_random() % 2 == 0;
    size_t range = next_random() % 2 == 0 ? file_len : header;
    size_t at[MAX_CHANGES];
    unsigned char old[MAX_CHANGES];
    for (size_t i = 0; i < n; i++) {
        at[i] = in_a_row && i > 0 ? (at[i - 1] + 1) % file_len : next_random() % range;
        old[i] = file[at[i]];
        unsigned char random = (unsigned char)next_random();
        const unsigned char new[] = {random, 0, 0xff, (unsigned char)(old[i] + 1)};
        file[at[i]] = new[next_random() % 4];
    }
    use();
    for (size_t i = n; i-- > 0;) {
        file[at[i]] = old[i];
    }
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fail("FILE STRIDE N");
    }
    size_t stride = strtoull(argv[2], NULL, 10), n = strtoull(argv[3], NULL, 10);
    FILE *in = fopen(argv[1], "rb");
    if (in == NULL || stride == 0 || fseek(in, 0, SEEK_END) != 0) {
        fail(argv[1]);
    }
    file_len = (size_t)ftell(in);
    file = guarded(file_len);
    rewind(in);
    if (fread(file, 1, file_len, in) != file_len) {
        fail("the file cannot be read");
    }
    fclose(in);
    expert_memory = guarded(MAX_MEMORY);
    session_memory = guarded(MAX_MEMORY);

    xelm_params params;
    xelm_params_init(&params, XELM_ABI_VERSION);
    size_t size;
    xelm_expert *expert;
    if (use() != XELM_OK || n_generated != 1 ||
        xelm_expert_plan_bytes(&params, file, file_len, &size) != XELM_OK ||
        xelm_expert_open_bytes(&params, file, file_len, expert_memory, size, &expert) != XELM_OK) {
        fail("the whole file does not work");
    }
    /* Everything but the weights, and what aligns them. */
    size_t header = file_len - xelm_expert_weight_bytes(expert);
    xelm_expert_close(expert);

    unsigned long n_single = 0;
    n_opened = n_generated = 0;
    for (size_t at = 0; at < header; at += stride, n_single++) {
        unsigned char change = (unsigned char)(1 + next_random() % 255);
        file[at] ^= change;
        use();
        file[at] ^= change;
    }
    printf("%zu bytes before the weights, %lu changed one at a time: %lu opened, %lu generated\n", header,
           n_single, n_opened, n_generated);
    n_opened = n_generated = 0;
    for (size_t i = 0; i < n; i++) {
        damage(header);
    }
    printf("%zu damages of up to %d bytes: %lu opened, %lu generated\n", n, MAX_CHANGES, n_opened,
           n_generated);
    if (use() != XELM_OK) {
        fail("the file does not work any more");
    }
    return 0;
}
