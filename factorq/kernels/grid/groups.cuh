// What both kinds of grids share: float16 as numbers of doubles, a warp per group in fixed point, decoding.
//
// Sums that decide are sums of integers, and everything else every lane computes for itself: all agree on every bit.
#include "../common.cuh"

#ifndef REAL
#define REAL float
#endif
#ifndef CODE
#define CODE u8
#endif

constexpr unsigned LANES = 32;
constexpr int FIXED = 24;

static __device__ __forceinline__ float ceiling(float x) { return ceilf(x); }
static __device__ __forceinline__ double ceiling(double x) { return ceil(x); }
static __device__ __forceinline__ float nearest(float x) { return rintf(x); }
static __device__ __forceinline__ double nearest(double x) { return rint(x); }

template <class T> static __device__ __forceinline__ T within(T x, T low, T high)
{
    x = x < low ? low : x;
    return x > high ? high : x;
}

// 2**e and its inverse, the e with 2**(e - 1) <= |x| < 2**e (0 for 0): for normal numbers.
static __device__ __forceinline__ double power(int e)
{
    return __longlong_as_double((long long)(e + 1023) << 52);
}

static __device__ __forceinline__ int exponent(double x)
{
    return x == 0.0 ? 0 : (int)(__double_as_longlong(x) >> 52 & 2047) - 1022;
}

// At `digits` significant bits, no finer than `floor` and float16's 2**-24, in float16's range.
static __device__ double rounded(double value, int digits, double floor)
{
    if (value == 0.0)
        return 0.0;
    const int finest = exponent(value) - digits;
    double quantum = power(finest > -24 ? finest : -24);
    quantum = quantum > floor ? quantum : floor;
    const double top = 65536.0 - power(16 - digits);
    return within(rint(value / quantum) * quantum, -top, top);
}

static __device__ __forceinline__ unsigned gcd(unsigned a, unsigned b)
{
    while (b) {
        const unsigned rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static __device__ __forceinline__ unsigned warp_gcd(unsigned value)
{
#pragma unroll
    for (unsigned lanes = 16; lanes; lanes /= 2)
        value = gcd(value, __shfl_xor_sync(ALL, value, lanes));
    return value;
}

// A group of values x[k], k < size, a lane's are lane, lane + 32, ..; round(x * unit), |.| <= 2**24, are its integers.
struct Group {
    const REAL *x;
    unsigned size, lane;
    double peak, unit;  // the largest |x|; a power of two, 0 for tiny groups

    __device__ __forceinline__ Group(const REAL *values, word which, unsigned n, unsigned groups, unsigned group)
    {
        const word row = which / groups;
        const unsigned start = (unsigned)(which % groups) * group;
        x = values + row * n + start;
        size = n - start < group ? n - start : group;
        lane = threadIdx.x % LANES;
        REAL largest = 0;
        for (unsigned k = lane; k < size; k += LANES) {
            const REAL value = x[k] < 0 ? -x[k] : x[k];
            largest = value > largest ? value : largest;
        }
        peak = warp_max(largest);
        unit = peak < 0x1p-28 ? 0.0 : power(FIXED - exponent(peak));
    }

    __device__ __forceinline__ long long integer(unsigned k) const
    {
        return (long long)nearest(x[k] * (REAL)unit);
    }

    // Whether nothing was lost in the integers.
    __device__ __forceinline__ bool whole() const
    {
        bool same = true;
        for (unsigned k = lane; k < size; k += LANES) {
            const REAL scaled = x[k] * (REAL)unit;
            same = same && nearest(scaled) == scaled;
        }
        return __all_sync(ALL, same);
    }
};

// out = scale * (code - zero) + minimum, rounded after each step.
template <class T, class Code>
static __device__ __forceinline__ void decode(
    const Code *codes, const double *scales, const double *minima, word rows, unsigned n, unsigned group,
    unsigned groups, unsigned wide, double zero, T *out)
{
    Runs run(n, wide);
    const bool together = in_runs(codes, n), written = in_runs(out, n);
    for (; run.row < rows; run.row += run.step) {
        const word at = run.row * n + run.column;
        const Run<Code, RUN> given = load(codes + at, run.count, together && run.count == RUN);
        Run<T, RUN> values;
#pragma unroll
        for (unsigned u = 0; u < RUN; ++u)
            if (u < run.count) {
                const word g = run.row * groups + (run.column + u) / group;
                values.at[u] = (T)scales[g] * ((T)given.at[u] - (T)zero) + (minima ? (T)minima[g] : (T)0);
            }
        store(values, out + at, run.count, written && run.count == RUN);
    }
}
