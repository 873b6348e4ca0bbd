// All kernels of one type: what is compiled.
#include "attention.cu"
#include "elementwise.cu"
#include "embed.cu"
#include "head.cu"
#include "norm.cu"
#include "optimizer.cu"
#ifdef XELM_F32
#include "gemm_f32.cu"
#else
#include "attention_mma.cu"
#include "gemm_bf16.cu"
#endif
