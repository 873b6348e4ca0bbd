/* The most products of bytes, summed in 32 bits, that T threads of this processor do in a second: independent sums in
 * registers, no memory. Prints GOP/s, a product and its sum being two operations.
 *
 *   cc -O2 -march=native -pthread tests/int8_peak.c -o peak && ./peak T
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define STEPS 20000000L
#define SUMS 12

#if defined(__AVX512VNNI__)
#include <immintrin.h>
typedef __m512i vector;
#define BYTES 64
#define ZERO _mm512_setzero_si512()
#define ADD_PRODUCTS(sum, w, x) _mm512_dpbusd_epi32(sum, w, x)
#elif defined(__AVXVNNI__)
#include <immintrin.h>
typedef __m256i vector;
#define BYTES 32
#define ZERO _mm256_setzero_si256()
#define ADD_PRODUCTS(sum, w, x) _mm256_dpbusd_avx_epi32(sum, w, x)
#elif defined(__AVX2__)
#include <immintrin.h>
typedef __m256i vector;
#define BYTES 32
#define ZERO _mm256_setzero_si256()
/* Ones are taken from w, which is 0 here as well as there: the instructions are what counts. */
#define ADD_PRODUCTS(sum, w, x) _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), w))
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
typedef int32x4_t vector;
#define BYTES 16
#define ZERO vdupq_n_s32(0)
#define ADD_PRODUCTS(sum, w, x) vdotq_s32(sum, vreinterpretq_s8_s32(w), vreinterpretq_s8_s32(x))
#else
#error "no instruction for products of bytes"
#endif

static void *work(void *unused)
{
    vector sums[SUMS], w = ZERO, x = ZERO;
    for (int i = 0; i < SUMS; i++)
        sums[i] = ZERO;
    for (long step = 0; step < STEPS; step++) {
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++) {
            /* The compiler must take them for new each time, and below the sums for used. */
#if defined(__aarch64__)
            __asm__ volatile("" : "+w"(w), "+w"(x));
#else
            __asm__ volatile("" : "+x"(w), "+x"(x));
#endif
            sums[i] = ADD_PRODUCTS(sums[i], w, x);
        }
    }
    for (int i = 0; i < SUMS; i++)
        __asm__ volatile("" : : "m"(sums[i]));
    return unused;
}

int main(int argc, char **argv)
{
    int n = argc > 1 ? atoi(argv[1]) : 1;
    pthread_t threads[64];
    if (n < 1 || n > 64)
        return 2;
    double best = 0;
    for (int round = 0; round < 5; round++) {
        struct timespec from, to;
        clock_gettime(CLOCK_MONOTONIC, &from);
        for (int i = 0; i < n; i++)
            if (pthread_create(&threads[i], NULL, work, NULL) != 0)
                return 1;
        for (int i = 0; i < n; i++)
            pthread_join(threads[i], NULL);
        clock_gettime(CLOCK_MONOTONIC, &to);
        double seconds = (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) * 1e-9;
        double rate = 2e-9 * n * (double)STEPS * SUMS * BYTES / seconds;
        best = rate > best ? rate : best;
    }
    printf("%.1f\n", best);
    return 0;
}
