// The quantised formats, 32 numbers at a time: two runs of 16 neighbours that come with the same bytes.
#pragma once
#include "common.cuh"

// x = d * s[h] * (q[h] - OFFSET) + m[h] for run h of the two, which are number run[h] of their row.
struct Unit {
    int q[2][RUN / 4]; // four numbers in each
    float d;
    int s[2];
    float m[2];
    u32 run[2];
};

__device__ inline float half_at(const u8* at) { return __half2float(*(const f16*)at); }

__device__ inline void set(int (&q)[4], uint4 v) {
    q[0] = (int)v.x;
    q[1] = (int)v.y;
    q[2] = (int)v.z;
    q[3] = (int)v.w;
}

// The lower or, with shift 4, the upper halves of bytes.
__device__ inline uint4 nibbles(uint4 v, int shift) {
    const u32 mask = 0x0f0f0f0f;
    return {v.x >> shift & mask, v.y >> shift & mask, v.z >> shift & mask, v.w >> shift & mask};
}

// Adds bits of bytes, those of `mask` after a shift, as bits 4 and on.
__device__ inline uint4 with_upper(uint4 v, uint4 bits, int shift, u32 mask) {
    return {v.x | (bits.x >> shift & mask) << 4, v.y | (bits.y >> shift & mask) << 4,
            v.z | (bits.z >> shift & mask) << 4, v.w | (bits.w >> shift & mask) << 4};
}

// Both runs of a group, with one scale.
__device__ inline Unit group(u32 unit, float d, float m) {
    return {{}, d, {1, 1}, {m, m}, {2 * unit, 2 * unit + 1}};
}

struct Q8_0 {
    static const u32 TYPE = 8;
    static const int OFFSET = 0;
    static const bool HAS_MIN = false, IS_GROUP = true;
    __device__ static Unit load(const Site& w, u32 n_cols, u32 row, u32 unit) {
        u64 block = (u64)row * (n_cols / GROUP) + unit;
        Unit u = group(unit, half_at(w.rest + 2 * block), 0.0f);
        set(u.q[0], load16(w.body + 32 * block));
        set(u.q[1], load16(w.body + 32 * block + 16));
        return u;
    }
};

struct Q4_0 {
    static const u32 TYPE = 2;
    static const int OFFSET = 8;
    static const bool HAS_MIN = false, IS_GROUP = true;
    __device__ static Unit load(const Site& w, u32 n_cols, u32 row, u32 unit) {
        u64 block = (u64)row * (n_cols / GROUP) + unit;
        Unit u = group(unit, half_at(w.rest + 2 * block), 0.0f);
        uint4 q = load16(w.body + 16 * block);
        set(u.q[0], nibbles(q, 0));
        set(u.q[1], nibbles(q, 4));
        return u;
    }
};

struct Q4_1 {
    static const u32 TYPE = 3;
    static const int OFFSET = 0;
    static const bool HAS_MIN = true, IS_GROUP = true;
    __device__ static Unit load(const Site& w, u32 n_cols, u32 row, u32 unit) {
        u64 block = (u64)row * (n_cols / GROUP) + unit;
        Unit u = group(unit, half_at(w.rest + 4 * block), half_at(w.rest + 4 * block + 2));
        uint4 q = load16(w.body + 16 * block);
        set(u.q[0], nibbles(q, 0));
        set(u.q[1], nibbles(q, 4));
        return u;
    }
};

// Q4_K and Q5_K: groups 2p and 2p + 1 share bytes; a unit is a half of both. Scale and minimum of the groups
// are six bits each in the twelve bytes of `words`: see GroupScales of the runtime.
__device__ inline Unit two_groups(uint4 header, u32 unit, u32 p, u32 half) {
    Unit u;
    u.d = __half2float(__ushort_as_half((unsigned short)header.x));
    float dmin = __half2float(__ushort_as_half((unsigned short)(header.x >> 16)));
    UNROLL
    for (int h = 0; h < 2; h++) {
        u32 g = 2 * p + h, shift = g % 4 * 8;
        u32 a = header.y >> shift & 0xff, b = header.z >> shift & 0xff, c = header.w >> shift & 0xff;
        u32 s = g < 4 ? a & 63 : (c & 15) | a >> 6 << 4;
        u32 m = g < 4 ? b & 63 : c >> 4 | b >> 6 << 4;
        u.s[h] = (int)s;
        u.m[h] = -(dmin * (float)m);
        u.run[h] = unit / 8 * 16 + 2 * g + half;
    }
    return u;
}

struct Q4_K {
    static const u32 TYPE = 12;
    static const int OFFSET = 0;
    static const bool HAS_MIN = true, IS_GROUP = false;
    __device__ static Unit load(const Site& w, u32 n_cols, u32 row, u32 unit) {
        const u8* block = w.body + 144 * ((u64)row * (n_cols / SUPER_BLOCK) + unit / 8);
        u32 p = unit % 8 / 2, half = unit % 2;
        Unit u = two_groups(load16(block), unit, p, half);
        uint4 q = load16(block + 16 + 32 * p + 16 * half);
        set(u.q[0], nibbles(q, 0));
        set(u.q[1], nibbles(q, 4));
        return u;
    }
};

struct Q5_K {
    static const u32 TYPE = 13;
    static const int OFFSET = 0;
    static const bool HAS_MIN = true, IS_GROUP = false;
    __device__ static Unit load(const Site& w, u32 n_cols, u32 row, u32 unit) {
        const u8* block = w.body + 176 * ((u64)row * (n_cols / SUPER_BLOCK) + unit / 8);
        u32 p = unit % 8 / 2, half = unit % 2;
        Unit u = two_groups(load16(block), unit, p, half);
        uint4 fifth = load16(block + 16 + 16 * half), q = load16(block + 48 + 32 * p + 16 * half);
        set(u.q[0], with_upper(nibbles(q, 0), fifth, 2 * p, 0x01010101));
        set(u.q[1], with_upper(nibbles(q, 4), fifth, 2 * p + 1, 0x01010101));
        return u;
    }
};

// Groups j and j + 2 of a half of the super-block share bytes of the lower four bits; a unit is a half of both.
struct Q6_K {
    static const u32 TYPE = 14;
    static const int OFFSET = 32;
    static const bool HAS_MIN = false, IS_GROUP = false;
    __device__ static Unit load(const Site& w, u32 n_cols, u32 row, u32 unit) {
        u64 index = (u64)row * (n_cols / SUPER_BLOCK) + unit / 8;
        const u8* block = w.body + 208 * index;
        u32 part = unit % 8 / 4, j = unit % 4 / 2, half = unit % 2;
        uint4 low = load16(block + 64 * part + 32 * j + 16 * half);
        uint4 high = load16(block + 128 + 32 * part + 16 * half);
        Unit u;
        set(u.q[0], with_upper(nibbles(low, 0), high, 2 * j, 0x03030303));
        set(u.q[1], with_upper(nibbles(low, 4), high, 2 * j + 4, 0x03030303));
        u.d = half_at(w.rest + 2 * index);
        UNROLL
        for (int h = 0; h < 2; h++) {
            u32 run = 8 * part + 2 * (j + 2 * h) + half;
            u.s[h] = (i8)block[192 + run];
            u.m[h] = 0.0f;
            u.run[h] = unit / 8 * 16 + run;
        }
        return u;
    }
};
