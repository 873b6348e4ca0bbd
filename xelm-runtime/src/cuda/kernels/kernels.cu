// All kernels: what is compiled.
#include "attention.cu"
#include "embed.cu"
#include "matmul.cu"
#include "norm.cu"
