// A driver without a card: what xelm calls of libcuda.so, with the kernels executed by the shim. It is
// stricter than NVIDIA's: memory must be given back before its context, copies and launches need the
// context of their card and live in its allocated memory.
//
// FAKE_FAIL_AFTER=n: launches until a card is lost, of several the FAKE_LOST one. FAKE_MEMORY=bytes,
// FAKE_COMPUTE=major*10+minor, FAKE_CARDS=n, FAKE_OTHER=n: one of them has another name. FAKE_OLD: the driver does not know the PTX's version. FAKE_ORDER: of the fibres, a number of
// the shim's; a test in the same process changes it with fake_set_order and asks fake_count. FAKE_DRIVER: its
// version.
#include "launch.cpp"
#include <map>
#include <mutex>
#include <set>
#include <string>

namespace {

enum Result {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    UNSUPPORTED_PTX_VERSION = 222,
    NOT_FOUND = 500,
    ILLEGAL_ADDRESS = 700,
    LAUNCH_FAILED = 719,
    INVALID_HANDLE = 400,
    NOT_READY = 600,
    CAPTURE_UNSUPPORTED = 900,
};

const std::map<int, const char*> names = {
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE"},
    {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
    {UNSUPPORTED_PTX_VERSION, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS"},
    {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"},
};

std::mutex lock;
bool initialized = false;
int n_retained = 0;
// Contexts, streams and events are the numbers of their cards, counted from 1.
thread_local long current = 0;
struct Memory {
    size_t n_bytes;
    long card;
};
std::map<uint64_t, Memory> allocated; // by address
std::map<long, size_t> n_allocated;   // bytes of each card
int n_handles = 0; // streams, events, page-locked memory, modules, graphs
std::set<std::string> launched;
// Milliseconds that the card has worked: only what fake_spend says.
double now = 0;
long n_launches = 0, n_graph_launches = 0, n_allocations = 0;

// What was queued on a stream while it was captured; other threads have streams of their own.
typedef std::vector<std::function<void()>> Graph;
thread_local Graph* capture = nullptr;

long setting(const char* name, long otherwise) {
    const char* text = getenv(name);
    return text ? atol(text) : otherwise;
}

shim::Order order = (shim::Order)setting("FAKE_ORDER", shim::FORWARD);

bool lost(long card) {
    return card == setting("FAKE_LOST", 0) + 1 && n_launches >= setting("FAKE_FAIL_AFTER", 1l << 60);
}

// What every call on the card returns first.
int check() {
    if (!initialized) return NOT_INITIALIZED;
    if (!current) return INVALID_CONTEXT;
    return lost(current) ? LAUNCH_FAILED : SUCCESS;
}

// The same of calls that are given a stream.
int check(void* stream) {
    if (int error = check()) return error;
    return (long)stream == current ? SUCCESS : INVALID_HANDLE;
}

// The same of calls that wait for the card, which a capture forbids.
int check_waiting() {
    if (int error = check()) return error;
    return capture ? CAPTURE_UNSUPPORTED : SUCCESS;
}

// Whose memory it is; 0 for nobody's.
long owner(uint64_t address, size_t n_bytes) {
    auto next = allocated.upper_bound(address);
    if (next == allocated.begin()) return 0;
    --next;
    return address + n_bytes <= next->first + next->second.n_bytes ? next->second.card : 0;
}

bool inside(uint64_t address, size_t n_bytes) { return owner(address, n_bytes) == current; }

// Does now, or later where a graph is being made.
void act(const std::function<void()>& action) {
    if (capture)
        capture->push_back(action);
    else
        action();
}

int release_handle() {
    n_handles--;
    return SUCCESS;
}

template <class H>
int new_handle(H* handle) {
    if (int error = check()) return error;
    n_handles++;
    *handle = (H)current;
    return SUCCESS;
}

} // namespace

// A library's work takes time.
extern "C" void fake_spend(double ms) { now += ms; }
// What another library queues on a stream.
extern "C" int fake_queue(const std::function<void()>* action) {
    std::lock_guard<std::mutex> alone(lock);
    if (int error = check()) return error;
    act(*action);
    return SUCCESS;
}
// The card, counted from 1, of memory; 0 for nobody's.
extern "C" long fake_owner(uint64_t address, size_t n_bytes) {
    std::lock_guard<std::mutex> alone(lock);
    return owner(address, n_bytes);
}
// A library holds something of the driver's, or gives it back.
extern "C" void fake_hold(int n) {
    std::lock_guard<std::mutex> alone(lock);
    n_handles += n;
}
extern "C" void fake_set_order(unsigned of) { order = (shim::Order)of; }
// Allocations so far, launches so far, graph launches so far.
extern "C" int64_t fake_count(unsigned what) {
    int64_t counts[] = {n_allocations, n_launches, n_graph_launches};
    return counts[what];
}

// The first kernel that has not run; null where all have.
extern "C" const char* fake_never_launched() {
    for (const Entry& e : entries)
        if (!launched.count(e.name)) return e.name;
    return nullptr;
}

#define CALL(name, ...) extern "C" int name(__VA_ARGS__)
#define ALONE std::lock_guard<std::mutex> alone(lock)

CALL(cuInit, unsigned) {
    if (setting("FAKE_CARDS", 1) == 0) return NO_DEVICE;
    initialized = true;
    return SUCCESS;
}
CALL(cuGetErrorName, int error, const char** name) {
    auto found = names.find(error);
    *name = found == names.end() ? "CUDA_ERROR_UNKNOWN" : found->second;
    return SUCCESS;
}
CALL(cuGetErrorString, int error, const char** text) { return cuGetErrorName(error, text); }
CALL(cuDriverGetVersion, int* version) {
    *version = (int)setting("FAKE_DRIVER", 13000);
    return SUCCESS;
}
CALL(cuDeviceGetCount, int* n) {
    *n = (int)setting("FAKE_CARDS", 1);
    return initialized ? SUCCESS : NOT_INITIALIZED;
}
CALL(cuDeviceGet, int* device, int index) {
    *device = index;
    return index < setting("FAKE_CARDS", 1) ? SUCCESS : INVALID_DEVICE;
}
CALL(cuDeviceTotalMem_v2, size_t* n_bytes, int) {
    *n_bytes = setting("FAKE_MEMORY", 1l << 30);
    return SUCCESS;
}
CALL(cuDeviceGetAttribute, int* value, int what, int) {
    long compute = setting("FAKE_COMPUTE", 80);
    if (what != 75 && what != 76) return INVALID_VALUE;
    *value = (int)(what == 75 ? compute / 10 : compute % 10);
    return SUCCESS;
}
CALL(cuDeviceGetName, char* name, int len, int index) {
    // Cards of one kind have one name.
    snprintf(name, len, "Fake card %d", index == setting("FAKE_OTHER", -1) ? 1 : 0);
    return SUCCESS;
}
CALL(cuDevicePrimaryCtxRetain, void** context, int device) {
    ALONE;
    n_retained++;
    *context = (void*)(long)(device + 1);
    return SUCCESS;
}
CALL(cuDevicePrimaryCtxRelease_v2, int) {
    ALONE;
    if (--n_retained == 0 && (!allocated.empty() || n_handles != 0)) {
        fprintf(stderr, "fake driver: %zu allocations and %d handles are left\n", allocated.size(), n_handles);
        abort();
    }
    return SUCCESS;
}
CALL(cuCtxSetCurrent, void* context) {
    current = (long)context;
    return SUCCESS;
}
CALL(cuStreamCreate, void** stream, unsigned) {
    ALONE;
    return new_handle(stream);
}
CALL(cuStreamSynchronize, void* stream) {
    ALONE;
    if (int error = check(stream)) return error;
    return check_waiting();
}
CALL(cuStreamQuery, void* stream) {
    ALONE;
    if (int error = check(stream)) return error;
    if (int error = check_waiting()) return error;
    // Every second time there is still work.
    static std::map<void*, bool> asked;
    return (asked[stream] = !asked[stream]) ? NOT_READY : SUCCESS;
}
CALL(cuStreamBeginCapture_v2, void* stream, int) {
    ALONE;
    if (int error = check(stream)) return error;
    if (int error = check_waiting()) return error;
    capture = new Graph;
    return SUCCESS;
}
CALL(cuStreamEndCapture, void*, Graph** graph) {
    ALONE;
    if (!capture) return INVALID_VALUE;
    *graph = capture;
    capture = nullptr;
    n_handles++;
    return SUCCESS;
}
CALL(cuGraphInstantiateWithFlags, Graph** ready, Graph* graph, unsigned long long) {
    ALONE;
    if (int error = check_waiting()) return error;
    *ready = new Graph(*graph);
    n_handles++;
    return SUCCESS;
}
CALL(cuGraphUpload, Graph*, void*) {
    ALONE;
    return check_waiting();
}
CALL(cuGraphLaunch, Graph* graph, void* stream) {
    ALONE;
    if (int error = check(stream)) return error;
    if (int error = check_waiting()) return error;
    n_graph_launches++;
    for (auto& action : *graph) action();
    return SUCCESS;
}
CALL(cuGraphDestroy, Graph* graph) {
    ALONE;
    delete graph;
    return release_handle();
}
CALL(cuGraphExecDestroy, Graph* graph) {
    ALONE;
    delete graph;
    return release_handle();
}
CALL(cuStreamDestroy_v2, void*) {
    ALONE;
    return release_handle();
}
struct Event {
    long card;
    bool timed;
    double at;
};
CALL(cuEventCreate, Event** event, unsigned flags) {
    ALONE;
    if (int error = new_handle(event)) return error;
    *event = new Event{current, (flags & 2) == 0, -1};
    return SUCCESS;
}
CALL(cuEventRecord, Event* event, void* stream) {
    ALONE;
    if (int error = check(stream)) return error;
    if (event->card != current) return INVALID_HANDLE;
    event->at = now;
    return SUCCESS;
}
CALL(cuEventSynchronize, Event*) {
    ALONE;
    return check_waiting();
}
CALL(cuEventElapsedTime_v2, float* ms, const Event* from, const Event* to) {
    ALONE;
    if (int error = check_waiting()) return error;
    if (!from->timed || !to->timed || from->at < 0 || to->at < 0) return INVALID_HANDLE;
    *ms = (float)(to->at - from->at);
    return SUCCESS;
}
CALL(cuEventDestroy_v2, Event* event) {
    ALONE;
    delete event;
    return release_handle();
}
CALL(cuModuleLoadData, void** module, const char* image) {
    ALONE;
    if (getenv("FAKE_OLD")) return UNSUPPORTED_PTX_VERSION;
    // The library holds one set of kernels: is it that of the PTX?
    size_t n_entries = 0;
    for (const char* at = image; (at = strstr(at, ".entry ")); at++) n_entries++;
    if (n_entries != entries.size()) return INVALID_IMAGE;
    for (const Entry& e : entries)
        if (!strstr(image, (".entry " + std::string(e.name) + "(").c_str())) return INVALID_IMAGE;
    return new_handle(module);
}
CALL(cuModuleGetFunction, void** function, void*, const char* name) {
    ALONE;
    if (int error = check()) return error;
    for (const Entry& e : entries) {
        if (strcmp(e.name, name) != 0) continue;
        *function = (void*)&e;
        return SUCCESS;
    }
    return NOT_FOUND;
}
CALL(cuModuleUnload, void*) {
    ALONE;
    return release_handle();
}
CALL(cuMemGetInfo_v2, size_t* left, size_t* total) {
    ALONE;
    if (int error = check()) return error;
    *total = setting("FAKE_MEMORY", 1l << 30);
    *left = *total - n_allocated[current];
    return SUCCESS;
}
CALL(cuMemAlloc_v2, uint64_t* address, size_t n_bytes) {
    ALONE;
    if (int error = check_waiting()) return error;
    n_allocations++;
    if (n_allocated[current] + n_bytes > (size_t)setting("FAKE_MEMORY", 1l << 30)) return OUT_OF_MEMORY;
    void* memory = aligned_alloc(256, (n_bytes + 255) / 256 * 256);
    memset(memory, 0xff, n_bytes);
    *address = (uint64_t)memory;
    allocated[*address] = {n_bytes, current};
    n_allocated[current] += n_bytes;
    return SUCCESS;
}
CALL(cuMemFree_v2, uint64_t address) {
    ALONE;
    auto found = allocated.find(address);
    if (found == allocated.end()) return INVALID_VALUE;
    if (found->second.card != current) return INVALID_CONTEXT;
    n_allocated[current] -= found->second.n_bytes;
    allocated.erase(found);
    free((void*)address);
    return SUCCESS;
}
CALL(cuMemHostAlloc, void** memory, size_t n_bytes, unsigned) {
    ALONE;
    if (int error = new_handle(memory)) return error;
    *memory = malloc(n_bytes);
    return SUCCESS;
}
CALL(cuMemFreeHost, void* memory) {
    ALONE;
    free(memory);
    return release_handle();
}
CALL(cuMemcpyHtoDAsync_v2, uint64_t to, const void* from, size_t n_bytes, void* stream) {
    ALONE;
    if (int error = check(stream)) return error;
    if (int error = check_waiting()) return error;
    if (!inside(to, n_bytes)) return ILLEGAL_ADDRESS;
    memcpy((void*)to, from, n_bytes);
    return SUCCESS;
}
CALL(cuMemcpyDtoH_v2, void* to, uint64_t from, size_t n_bytes) {
    ALONE;
    if (int error = check_waiting()) return error;
    if (!inside(from, n_bytes)) return ILLEGAL_ADDRESS;
    memcpy(to, (const void*)from, n_bytes);
    return SUCCESS;
}
CALL(cuMemcpyDtoHAsync_v2, void* to, uint64_t from, size_t n_bytes, void* stream) {
    ALONE;
    if (int error = check(stream)) return error;
    if (int error = check_waiting()) return error;
    if (!inside(from, n_bytes)) return ILLEGAL_ADDRESS;
    memcpy(to, (const void*)from, n_bytes);
    return SUCCESS;
}
// CUDA_MEMCPY2D.
struct Place {
    size_t x, y;
    int type; // 1 host, 2 device
    void* host;
    uint64_t device;
    void* array;
    size_t pitch;
};
struct Rectangle {
    Place from, to;
    size_t width, height;
};
CALL(cuMemcpy2DAsync_v2, const Rectangle* copy, void* stream) {
    ALONE;
    if (int error = check(stream)) return error;
    if (int error = check_waiting()) return error;
    if (copy->width == 0 || copy->height == 0) return SUCCESS;
    char* at[2];
    int i = 0;
    for (const Place* place : {&copy->from, &copy->to}) {
        if (place->array || place->pitch < copy->width) return INVALID_VALUE;
        size_t offset = place->y * place->pitch + place->x;
        size_t extent = (copy->height - 1) * place->pitch + copy->width;
        if (place->type == 2 && !inside(place->device + offset, extent)) return ILLEGAL_ADDRESS;
        at[i++] = (place->type == 2 ? (char*)place->device : (char*)place->host) + offset;
    }
    for (size_t row = 0; row < copy->height; row++)
        memcpy(at[1] + row * copy->to.pitch, at[0] + row * copy->from.pitch, copy->width);
    return SUCCESS;
}
CALL(cuMemsetD8Async, uint64_t at, unsigned char value, size_t n_bytes, void* stream) {
    ALONE;
    if (int error = check(stream)) return error;
    if (!inside(at, n_bytes)) return ILLEGAL_ADDRESS;
    act([=] { memset((void*)at, value, n_bytes); });
    return SUCCESS;
}
CALL(cuLaunchKernel, const Entry* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
     unsigned bz, unsigned shared, void* stream, void** args, void** extra) {
    ALONE;
    if (int error = check(stream)) return error;
    if (by != 1 || bz != 1 || shared != 0 || extra || gx == 0 || gy - 1 >= 65535 || gz - 1 >= 65535)
        return INVALID_VALUE;
    // A launch fails later than it is queued.
    act([=, card = current, kernel = function->bind(args)] {
        unsigned grid[3] = {gx, gy, gz};
        n_launches++;
        launched.insert(function->name);
        if (!lost(card)) shim::launch(grid, bx, order, kernel);
    });
    return SUCCESS;
}
