// A driver without a card: what xelm calls of libcuda.so, with the kernels executed by the shim. It is
// stricter than NVIDIA's: memory must be given back before its context, copies and launches need a
// current context and live in allocated memory.
//
// FAKE_FAIL_AFTER=n: launches until the card is lost. FAKE_MEMORY=bytes, FAKE_COMPUTE=major*10+minor,
// FAKE_CARDS=n. FAKE_OLD: the driver does not know the PTX's version.
#include "launch.cpp"
#include <map>
#include <mutex>
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
};

std::mutex lock;
bool initialized = false;
int n_retained = 0;
thread_local bool current = false;
std::map<uint64_t, size_t> allocated; // device memory: address, bytes
size_t n_allocated = 0;
int n_handles = 0; // streams, events, page-locked memory, modules
long n_launches = 0;

long setting(const char* name, long otherwise) {
    const char* text = getenv(name);
    return text ? atol(text) : otherwise;
}

bool lost() { return n_launches >= setting("FAKE_FAIL_AFTER", 1l << 60); }

// What every call on the card returns first.
int check() {
    if (!initialized) return NOT_INITIALIZED;
    if (!current) return INVALID_CONTEXT;
    return lost() ? LAUNCH_FAILED : SUCCESS;
}

bool inside(uint64_t address, size_t n_bytes) {
    auto next = allocated.upper_bound(address);
    if (next == allocated.begin()) return false;
    --next;
    return address + n_bytes <= next->first + next->second;
}

int release_handle() {
    n_handles--;
    return SUCCESS;
}

template <class H>
int new_handle(H* handle) {
    if (int error = check()) return error;
    n_handles++;
    *handle = (H)1;
    return SUCCESS;
}

} // namespace

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
    snprintf(name, len, "Fake card %d", index);
    return SUCCESS;
}
CALL(cuDevicePrimaryCtxRetain, void** context, int) {
    ALONE;
    n_retained++;
    *context = (void*)1;
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
    current = context != nullptr;
    return SUCCESS;
}
CALL(cuStreamCreate, void** stream, unsigned) {
    ALONE;
    return new_handle(stream);
}
CALL(cuStreamSynchronize, void*) {
    ALONE;
    return check();
}
CALL(cuStreamDestroy_v2, void*) {
    ALONE;
    return release_handle();
}
CALL(cuEventCreate, void** event, unsigned) {
    ALONE;
    return new_handle(event);
}
CALL(cuEventRecord, void*, void*) {
    ALONE;
    return check();
}
CALL(cuEventSynchronize, void*) {
    ALONE;
    return check();
}
CALL(cuEventDestroy_v2, void*) {
    ALONE;
    return release_handle();
}
CALL(cuModuleLoadData, void** module, const char* image) {
    ALONE;
    if (getenv("FAKE_OLD")) return UNSUPPORTED_PTX_VERSION;
    // The library holds the kernels of one precision: is it that of the PTX?
    bool has_narrow = strstr(image, ".entry narrow(") != nullptr;
#ifdef XELM_F32
    if (has_narrow) return INVALID_IMAGE;
#else
    if (!has_narrow) return INVALID_IMAGE;
#endif
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
CALL(cuMemAlloc_v2, uint64_t* address, size_t n_bytes) {
    ALONE;
    if (int error = check()) return error;
    if (n_allocated + n_bytes > (size_t)setting("FAKE_MEMORY", 1l << 30)) return OUT_OF_MEMORY;
    void* memory = aligned_alloc(256, (n_bytes + 255) / 256 * 256);
    memset(memory, 0xff, n_bytes);
    *address = (uint64_t)memory;
    allocated[*address] = n_bytes;
    n_allocated += n_bytes;
    return SUCCESS;
}
CALL(cuMemFree_v2, uint64_t address) {
    ALONE;
    auto found = allocated.find(address);
    if (found == allocated.end()) return INVALID_VALUE;
    n_allocated -= found->second;
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
CALL(cuMemcpyHtoDAsync_v2, uint64_t to, const void* from, size_t n_bytes, void*) {
    ALONE;
    if (int error = check()) return error;
    if (!inside(to, n_bytes)) return ILLEGAL_ADDRESS;
    memcpy((void*)to, from, n_bytes);
    return SUCCESS;
}
CALL(cuMemcpyDtoH_v2, void* to, uint64_t from, size_t n_bytes) {
    ALONE;
    if (int error = check()) return error;
    if (!inside(from, n_bytes)) return ILLEGAL_ADDRESS;
    memcpy(to, (const void*)from, n_bytes);
    return SUCCESS;
}
CALL(cuMemsetD8Async, uint64_t at, unsigned char value, size_t n_bytes, void*) {
    ALONE;
    if (int error = check()) return error;
    if (!inside(at, n_bytes)) return ILLEGAL_ADDRESS;
    memset((void*)at, value, n_bytes);
    return SUCCESS;
}
CALL(cuLaunchKernel, const Entry* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
     unsigned bz, unsigned shared, void*, void** args, void** extra) {
    ALONE;
    if (int error = check()) return error;
    if (by != 1 || bz != 1 || shared != 0 || extra || gx == 0 || gy - 1 >= 65535 || gz - 1 >= 65535)
        return INVALID_VALUE;
    n_launches++;
    if (lost()) return SUCCESS; // a launch fails later than it is queued
    unsigned grid[3] = {gx, gy, gz};
    shim::launch(grid, bx, shim::FORWARD, [&] { function->call(args); });
    return SUCCESS;
}
