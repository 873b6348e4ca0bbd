// The functions of the runtime's math.rs, operation by operation: the same bits as on the CPU.
#pragma once
#include "common.cuh"

__device__ inline float exponential(float x) {
    const float round = 12582912.0f;
    float y = fminf(fmaxf(x, -88.0f), 89.0f);
    float shifted = y * 1.44269504088896341f + round;
    float whole = shifted - round;
    float r = (y - whole * 0.6933594f) - whole * -2.1219444e-4f;
    float p = 0.0013950479f;
    p = p * r + 0.008368882f;
    p = p * r + 0.041666206f;
    p = p * r + 0.1666652f;
    p = p * r + 0.5f;
    float e = p * (r * r) + r + 1.0f;
    int n = (int)(to_bits(shifted) - to_bits(round)), half = n >> 1;
    e = e * from_bits((u32)(half + 127) << 23) * from_bits((u32)(n - half + 127) << 23);
    e = x < -87.3f ? 0.0f : e;
    e = x > 88.72283f ? from_bits(0x7f800000) : e;
    return x != x ? x : e;
}

__device__ inline float error_function(float x) {
    float a = fabsf(x), t = a * a;
    float p = 7.889169e-5f;
    p = p * t - 8.0208573e-4f;
    p = p * t + 5.1895375e-3f;
    p = p * t - 2.6854446e-2f;
    p = p * t + 0.112836f;
    p = p * t - 0.37612626f;
    p = p * t + 1.1283791f;
    float b = a > 4.0f ? 4.0f : a;
    float q = 2.1686763e-5f;
    q = q * b - 4.413353e-4f;
    q = q * b + 4.2045563e-3f;
    q = q * b - 2.520824e-2f;
    q = q * b + 0.108418554f;
    q = q * b + 0.6332199f;
    q = q * b + 1.1295784f;
    q = q * b - 1.8803705e-4f;
    float large = copysignf(1.0f - exponential(-q), x);
    return a < 1.0f ? p * x : large;
}

__device__ inline float hyperbolic_tangent(float x) {
    float e = exponential(2.0f * fabsf(x));
    return copysignf(1.0f - 2.0f / (e + 1.0f), x);
}

enum After { NOTHING, GELU_ERF, GELU_TANH, RELU };

__device__ inline float activate(float x, u32 after) {
    if (after == GELU_ERF) return 0.5f * x * (1.0f + error_function(x * 0.70710678118654752f));
    if (after == GELU_TANH)
        return 0.5f * x * (1.0f + hyperbolic_tangent(0.7978846f * x * (1.0f + 0.044715f * x * x)));
    if (after == RELU) return x < 0.0f ? 0.0f : x;
    return x;
}
