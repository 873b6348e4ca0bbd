// What xelm calls of libnccl.so.2, by the library's documentation, for the cards of the driver beside it: sums over
// cards, in groups of calls, one for each card.
//
// FAKE_NCCL_FAIL=connect: the cards cannot be connected; sum: no sum begins; apart: the last card's sums are wrong.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <functional>
#include <vector>

namespace {

enum Status { SUCCESS = 0, SYSTEM_ERROR = 2, INVALID_ARGUMENT = 4, INVALID_USAGE = 5 };
const int FLOAT32 = 7, SUM = 0;

struct Group {
    int n_cards, n_left;
};

struct Comm {
    Group* group;
    int rank;
    long card; // counted from 1
};

struct Call {
    Comm* comm;
    float* at;
    size_t n;
};

bool grouping = false;
std::vector<Call> calls;

// The driver is another library of this process.
template <class F>
F driver(const char* name) {
    return (F)dlsym(dlopen("libcuda.so", RTLD_LAZY | RTLD_NOLOAD), name);
}

void hold(int n) { driver<void (*)(int)>("fake_hold")(n); }

bool failing(const char* what) {
    const char* text = getenv("FAKE_NCCL_FAIL");
    return text && strcmp(text, what) == 0;
}

// Adds up in the order of the cards, once; every card receives the sum.
void add_up(const std::vector<Call>& calls) {
    for (size_t i = 0; i < calls[0].n; i++) {
        float sum = 0;
        for (const Call& call : calls) sum += call.at[i];
        for (const Call& call : calls) call.at[i] = sum;
    }
    if (failing("apart")) calls.back().at[0] += 1;
}

} // namespace

#define CALL(name, ...) extern "C" int name(__VA_ARGS__)

CALL(ncclCommInitAll, Comm** comms, int n, const int* cards) {
    if (n < 1) return INVALID_ARGUMENT;
    if (failing("connect")) return SYSTEM_ERROR;
    Group* group = new Group{n, n};
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < i; j++)
            if (cards[i] == cards[j]) return INVALID_USAGE;
        comms[i] = new Comm{group, i, cards[i] + 1};
    }
    hold(n);
    return SUCCESS;
}
CALL(ncclCommDestroy, Comm* comm) {
    if (--comm->group->n_left == 0) delete comm->group;
    delete comm;
    hold(-1);
    return SUCCESS;
}
CALL(ncclCommAbort, Comm* comm) { return ncclCommDestroy(comm); }
CALL(ncclGroupStart) {
    if (failing("sum")) return SYSTEM_ERROR;
    if (grouping) return INVALID_USAGE;
    grouping = true;
    return SUCCESS;
}
CALL(ncclAllReduce, const void* from, void* to, size_t n, int type, int operation, Comm* comm, void* stream) {
    // One thread has several cards: single calls would wait for each other.
    if (!grouping) return INVALID_USAGE;
    if (from != to || type != FLOAT32 || operation != SUM || (long)stream != comm->card) return INVALID_ARGUMENT;
    auto owner = driver<long (*)(uint64_t, size_t)>("fake_owner");
    if (owner((uint64_t)to, n * 4) != comm->card) return INVALID_ARGUMENT;
    calls.push_back({comm, (float*)to, n});
    return SUCCESS;
}
CALL(ncclGroupEnd) {
    std::vector<Call> all;
    all.swap(calls);
    if (!grouping) return INVALID_USAGE;
    grouping = false;
    if (all.empty() || (int)all.size() != all[0].comm->group->n_cards) return INVALID_USAGE;
    for (size_t i = 0; i < all.size(); i++)
        if (all[i].comm->rank != (int)i || all[i].comm->group != all[0].comm->group || all[i].n != all[0].n)
            return INVALID_USAGE;
    add_up(all);
    return SUCCESS;
}
extern "C" const char* ncclGetErrorString(int status) {
    return status == SUCCESS ? "no error" : status == SYSTEM_ERROR ? "unhandled system error" : "invalid usage";
}
