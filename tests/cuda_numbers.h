// The functions of CUDA C++ on numbers, for the host.
#pragma once
#pragma GCC system_header

#include <cmath>
#include <cstring>

static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift)
{
    return (unsigned)(((unsigned long long)high << 32 | low) >> (shift & 31));
}

struct alignas(16) float4 {
    float x, y, z, w;
};

// Rounded once each, and never contracted: compiled with -ffp-contract=off.
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dsub_rn(double a, double b) { return a - b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __ddiv_rn(double a, double b) { return a / b; }
static inline double __dsqrt_rn(double a) { return sqrt(a); }

static inline float __int_as_float(int bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }

// Fibers take turns at barriers only.
template <class Number>
static inline Number atomicAdd(Number *at, Number more)
{
    const Number before = *at;
    *at = before + more;
    return before;
}

static inline unsigned atomicOr(unsigned *at, unsigned bits)
{
    const unsigned before = *at;
    *at = before | bits;
    return before;
}

static inline unsigned atomicMin(unsigned *at, unsigned other)
{
    const unsigned before = *at;
    *at = other < before ? other : before;
    return before;
}

static inline int __ffs(unsigned x)
{
    return x ? __builtin_ctz(x) + 1 : 0;
}

static inline float __uint_as_float(unsigned x)
{
    float value;
    memcpy(&value, &x, sizeof value);
    return value;
}

static inline unsigned __float_as_uint(float x)
{
    unsigned value;
    memcpy(&value, &x, sizeof value);
    return value;
}

static inline double __longlong_as_double(long long x)
{
    double value;
    memcpy(&value, &x, sizeof value);
    return value;
}

static inline long long __double_as_longlong(double x)
{
    long long value;
    memcpy(&value, &x, sizeof value);
    return value;
}

// Instead of cuda_fp16.h.
struct __half {
    unsigned short bits;
};

static inline float __half2float(__half x)
{
    const unsigned sign = (x.bits & 0x8000u) << 16, rest = x.bits & 0x7fffu;
    if (rest >= 0x7c00)
        return __uint_as_float(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    return __uint_as_float(sign | __float_as_uint(__uint_as_float(rest << 13) * 0x1p112f));
}

static inline __half __float2half_rn(float x)
{
    const unsigned short sign = __float_as_uint(x) >> 16 & 0x8000;
    const float size = fabsf(x);
    if (size != size)
        return {0x7fff};
    if (size >= 65520)
        return {(unsigned short)(sign | 0x7c00)};
    if (size < 0x1p-14f)
        return {(unsigned short)(sign | (unsigned)rintf(size * 0x1p24f))};
    const unsigned bits = __float_as_uint(size);
    return {(unsigned short)(sign | ((bits + 0xfff + (bits >> 13 & 1)) >> 13) - (112 << 10))};
}
