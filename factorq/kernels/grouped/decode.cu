// A grouped integer matrix from its packed codes in one go: a thread per four values. Not yet measured on a GPU.
//
// Compiled without fused multiply-add, so that every bit is that of decoding the unpacked codes.
#include <cuda_fp16.h>

#include "../common.cuh"

#ifndef REAL
#define REAL float
#endif

template <class T> struct Made {  // what is computed for a type, and how it is stored
    typedef T Wide;
    static __device__ __forceinline__ T of(Wide x) { return x; }
};

template <> struct Made<__half> {  // what would pass the range becomes the largest number
    typedef float Wide;
    static __device__ __forceinline__ __half of(Wide x)
    {
        return __float2half_rn(fminf(fmaxf(x, -65504.0f), 65504.0f));
    }
};

// Grid: as `over_rows` says.
extern "C" __global__ void __launch_bounds__(256) grouped_decode(
    const u8 *__restrict__ codes,       // the stream of rows * n codes
    word size,                          // bytes of it
    unsigned bits,                      // at most 16
    const __half *__restrict__ scales,  // (rows, step), or null: 1
    const __half *__restrict__ minima,  // (rows, step), or null: 0
    unsigned step,                      // from the scales of a row to those of the next: 0 if all rows have the same
    double zero,                        // 0 if there are minima or levels
    const float *__restrict__ levels,   // (2**bits,), or null: the codes themselves
    double factor,                      // a power of two, for all values
    word rows,
    unsigned n,
    unsigned group,
    unsigned wide,
    REAL *__restrict__ out)             // (rows, n)
{
    typedef typename Made<REAL>::Wide Wide;
    Runs run(n, wide);
    const bool written = in_runs(out, n);
    const unsigned mask = (1u << bits) - 1;
    for (; run.row < rows; run.row += run.step) {
        if (!run.count)
            continue;
        const word at = run.row * n + run.column, bit = at * bits;
        const unsigned skipped = bit & 31, used = skipped + RUN * bits;
        const unsigned a = bits_at(codes, size, bit >> 5), b = used > 32 ? bits_at(codes, size, (bit >> 5) + 1) : 0;
        const unsigned c = used > 64 ? bits_at(codes, size, (bit >> 5) + 2) : 0;
        const word window = (word)__funnelshift_r(b, c, skipped) << 32 | __funnelshift_r(a, b, skipped);
        Run<REAL, RUN> values;
#pragma unroll
        for (unsigned u = 0; u < RUN; ++u)
            if (u < run.count) {
                const word g = run.row * step + (run.column + u) / group;
                const unsigned code = (unsigned)(window >> (u * bits)) & mask;
                const Wide value = levels ? (Wide)levels[code] : (Wide)code - (Wide)zero;
                const Wide scale = scales ? (Wide)__half2float(scales[g]) : (Wide)1;
                const Wide minimum = minima ? (Wide)__half2float(minima[g]) : (Wide)0;
                values.at[u] = Made<REAL>::of((scale * value + minimum) * (Wide)factor);
            }
        store(values, out + at, run.count, written && run.count == RUN);
    }
}
