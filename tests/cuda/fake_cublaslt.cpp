// What xelm calls of libcublasLt.so, by the library's documentation: column-major matrices, the product of
// op(A) and op(B) with alpha and beta, a bias per row of the result. FAKE_PRODUCTS names a file that receives
// the number of products.
//
// FAKE_CANDIDATES=n: algorithms for every product, each of which adds in another order; all but the FAKE_FASTESTth
// take twice its time. FAKE_LIBRARY: the library's version.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <functional>
#include <initializer_list>

namespace {

enum Status { SUCCESS = 0, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };
enum Type { F32 = 0, BF16 = 14 };
const int COMPUTE_32F = 68;

struct Layout {
    int type;
    uint64_t rows, cols;
    int64_t ld;
};

struct Product {
    int trans_a = 0, trans_b = 0, epilogue = 1;
    const void* bias = nullptr;
};

const int EPILOGUE_BIAS = 4;
const uint64_t ALGORITHM = 0x616c676f;

// Its number among the candidates is the last word.
struct Algorithm {
    uint64_t data[8];
};

long setting(const char* name, long otherwise) {
    const char* text = getenv(name);
    return text ? atol(text) : otherwise;
}

// The driver is another library of this process.
void* driver(const char* name) { return dlsym(dlopen("libcuda.so", RTLD_LAZY | RTLD_NOLOAD), name); }

// Tells the driver that its card has worked.
void spend(double ms) {
    static auto fake_spend = (void (*)(double))driver("fake_spend");
    fake_spend(ms);
}

// Puts work on a stream.
int queue(const std::function<void()>& work) {
    static auto fake_queue = (int (*)(const std::function<void()>*))driver("fake_queue");
    return fake_queue(&work);
}

bool known(const Algorithm* a) {
    return a->data[0] == ALGORITHM && a->data[7] < (uint64_t)setting("FAKE_CANDIDATES", 1);
}

struct Heuristic {
    Algorithm algorithm;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

long n_products = 0;

float read(const void* matrix, int type, uint64_t at) {
    float value;
    if (type == F32) {
        memcpy(&value, (const char*)matrix + at * 4, 4);
    } else {
        uint16_t half;
        memcpy(&half, (const char*)matrix + at * 2, 2);
        uint32_t bits = (uint32_t)half << 16;
        memcpy(&value, &bits, 4);
    }
    return value;
}

void write(void* matrix, int type, uint64_t at, float value) {
    if (type == F32) {
        memcpy((char*)matrix + at * 4, &value, 4);
        return;
    }
    uint32_t bits;
    memcpy(&bits, &value, 4);
    uint16_t half = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    memcpy((char*)matrix + at * 2, &half, 2);
}

// Whether the matrices fit: op(A) [m, k], op(B) [k, n], C and D [m, n].
bool fit(const Product* p, const Layout* a, const Layout* b, const Layout* c, const Layout* d) {
    uint64_t m = p->trans_a ? a->cols : a->rows, k = p->trans_a ? a->rows : a->cols;
    uint64_t k_b = p->trans_b ? b->cols : b->rows, n = p->trans_b ? b->rows : b->cols;
    if (k != k_b || d->rows != m || d->cols != n || c->rows != m || c->cols != n) return false;
    for (const Layout* x : {a, b, c, d})
        if (x->ld < (int64_t)x->rows) return false;
    return a->type == b->type && (d->type == a->type || d->type == F32) && c->type == d->type;
}

// D = alpha * op(A) * op(B) + beta * C.
void multiply(Product p, uint64_t number, float alpha, const void* a, Layout la, const void* b, Layout lb, float beta,
              const void* c, Layout lc, void* d, Layout ld) {
    spend((long)number == setting("FAKE_FASTEST", 0) ? 1 : 2);
    uint64_t depth = p.trans_a ? la.rows : la.cols;
    for (uint64_t j = 0; j < ld.cols; j++) {
        for (uint64_t i = 0; i < ld.rows; i++) {
            double sum = 0;
            float rough = 0;
            for (uint64_t step = 0; step < depth; step++) {
                uint64_t k = (step + 7 * number) % depth;
                uint64_t in_a = p.trans_a ? i * la.ld + k : k * la.ld + i;
                uint64_t in_b = p.trans_b ? k * lb.ld + j : j * lb.ld + k;
                double product = (double)read(a, la.type, in_a) * read(b, lb.type, in_b);
                sum += product;
                rough += (float)product;
            }
            float value = alpha * (number == 0 ? (float)sum : rough);
            if (beta != 0) value += beta * read(c, lc.type, j * lc.ld + i);
            if (p.epilogue == EPILOGUE_BIAS) value += read(p.bias, ld.type, i);
            write(d, ld.type, j * ld.ld + i, value);
        }
    }
    n_products++;
}

} // namespace

#define CALL(name, ...) extern "C" int name(__VA_ARGS__)

extern "C" size_t cublasLtGetVersion() { return setting("FAKE_LIBRARY", 130000); }

CALL(cublasLtCreate, void** handle) {
    *handle = (void*)1;
    return SUCCESS;
}
CALL(cublasLtDestroy, void*) {
    if (const char* path = getenv("FAKE_PRODUCTS")) {
        FILE* file = fopen(path, "a");
        fprintf(file, "%ld\n", n_products);
        fclose(file);
    }
    return SUCCESS;
}
CALL(cublasLtMatrixLayoutCreate, Layout** layout, int type, uint64_t rows, uint64_t cols, int64_t ld) {
    if (type != F32 && type != BF16) return INVALID_VALUE;
    *layout = new Layout{type, rows, cols, ld};
    return SUCCESS;
}
CALL(cublasLtMatrixLayoutDestroy, Layout* layout) {
    delete layout;
    return SUCCESS;
}
CALL(cublasLtMatmulDescCreate, Product** product, int compute, int scale) {
    if (compute != COMPUTE_32F || scale != F32) return INVALID_VALUE;
    *product = new Product;
    return SUCCESS;
}
CALL(cublasLtMatmulDescDestroy, Product* product) {
    delete product;
    return SUCCESS;
}
CALL(cublasLtMatmulDescSetAttribute, Product* product, int what, const void* value, size_t size) {
    void* field = what == 3   ? (void*)&product->trans_a
                  : what == 4 ? (void*)&product->trans_b
                  : what == 7 ? (void*)&product->epilogue
                  : what == 8 ? (void*)&product->bias
                              : nullptr;
    if (!field || size != (what == 8 ? 8 : 4)) return INVALID_VALUE;
    memcpy(field, value, size);
    return SUCCESS;
}
CALL(cublasLtMatmulPreferenceCreate, void** preference) {
    *preference = malloc(1);
    return SUCCESS;
}
CALL(cublasLtMatmulPreferenceDestroy, void* preference) {
    free(preference);
    return SUCCESS;
}
CALL(cublasLtMatmulPreferenceSetAttribute, void*, int what, const void* value, size_t size) {
    // 1: workspace, 8 bytes; 3: reduction schemes; 5 to 8: alignments of A, B, C, D.
    if (what == 1) return size == 8 ? SUCCESS : INVALID_VALUE;
    uint32_t number;
    if (size != 4) return INVALID_VALUE;
    memcpy(&number, value, 4);
    if (what == 3) return number == 2 ? SUCCESS : INVALID_VALUE;
    if (what < 5 || what > 8) return INVALID_VALUE;
    return number >= 4 && number <= 256 && (number & (number - 1)) == 0 ? SUCCESS : INVALID_VALUE;
}
CALL(cublasLtMatmulAlgoGetHeuristic, void*, const Product* p, const Layout* a, const Layout* b, const Layout* c,
     const Layout* d, void*, int requested, Heuristic* found, int* n_found) {
    *n_found = 0;
    if (!fit(p, a, b, c, d) || requested < 1) return INVALID_VALUE;
    if (p->epilogue == EPILOGUE_BIAS && !p->bias) return NOT_SUPPORTED;
    for (; *n_found < requested && *n_found < setting("FAKE_CANDIDATES", 1); found++) {
        memset(found, 0, sizeof(*found));
        found->algorithm.data[0] = ALGORITHM;
        found->algorithm.data[7] = (*n_found)++;
    }
    return SUCCESS;
}
CALL(cublasLtMatmulAlgoCheck, void*, const Product* p, const Layout* a, const Layout* b, const Layout* c,
     const Layout* d, const Algorithm* algorithm, Heuristic* found) {
    if (!fit(p, a, b, c, d) || !known(algorithm)) return NOT_SUPPORTED;
    memset(found, 0, sizeof(*found));
    return SUCCESS;
}
CALL(cublasLtMatmul, void*, const Product* p, const float* alpha, const void* a, const Layout* la, const void* b,
     const Layout* lb, const float* beta, const void* c, const Layout* lc, void* d, const Layout* ld,
     const Algorithm* algorithm, void* workspace, size_t workspace_bytes, void* stream) {
    if (!fit(p, la, lb, lc, ld) || !known(algorithm) || !stream) return INVALID_VALUE;
    if (workspace_bytes > 0 && !workspace) return INVALID_VALUE;
    auto work = [=, p = *p, la = *la, lb = *lb, lc = *lc, ld = *ld, number = algorithm->data[7], alpha = *alpha,
                 beta = *beta] { multiply(p, number, alpha, a, la, b, lb, beta, c, lc, d, ld); };
    return queue(work) ? EXECUTION_FAILED : SUCCESS;
}
