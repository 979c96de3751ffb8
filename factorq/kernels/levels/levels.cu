// Scalar codebooks: a thread per four values; levels in shared memory where they fit. Compiled without fused
// multiply-add, so that every bit is the reference's. Not yet measured on a GPU.
#include "../common.cuh"

#ifndef REAL
#define REAL float
#endif
#ifndef CODE
#define CODE u8
#endif

// The levels in shared memory if `near`, else where they are.
static __device__ __forceinline__ const REAL *brought(const REAL *levels, unsigned count, unsigned near)
{
    if (!near)
        return levels;
    REAL *copy = (REAL *)shared;
    for (unsigned k = threadIdx.x; k < count; k += blockDim.x)
        copy[k] = levels[k];
    __syncthreads();
    return copy;
}

// The number of levels below `value`: the first that is not, unless there is none.
static __device__ __forceinline__ unsigned below(const REAL *levels, unsigned count, REAL value)
{
    unsigned first = 0;
    while (count) {
        const unsigned half = count / 2;
        if (levels[first + half] < value) {
            first += half + 1;
            count -= half + 1;
        } else
            count = half;
    }
    return first;
}

// argmin |levels|, the lowest of equals.
static __device__ __forceinline__ unsigned nearest_to_zero(const REAL *levels, unsigned count)
{
    const unsigned above = below(levels, count, 0);
    if (above == 0)
        return 0;
    if (above < count && levels[above] < -levels[above - 1])
        return above;
    return below(levels, count, levels[above - 1]);
}

// The number of thresholds below x; `size` is that of the scale. A middle that rounds up to the upper value gives way
// to the lower one, so that thresholds rise with the levels and encode(decode(c)) is c.
static __device__ __forceinline__ unsigned nearest_code(const REAL *levels, unsigned count, REAL size, REAL x)
{
    unsigned first = 0, left = count - 1;
    while (left) {
        const unsigned half = left / 2, k = first + half;
        const REAL low = size * levels[k], high = size * levels[k + 1], middle = (REAL)0.5 * (low + high);
        if (x > (middle >= high ? low : middle)) {
            first = k + 1;
            left -= half + 1;
        } else
            left = half;
    }
    return first;
}

// Grid: as `over_rows` says; shared memory for the levels if `near`.
extern "C" __global__ void __launch_bounds__(256) levels_encode(
    const REAL *__restrict__ x,       // (rows, n)
    const REAL *__restrict__ levels,  // (count,), not decreasing
    unsigned count,
    unsigned near,
    const REAL *__restrict__ scales,  // (rows, groups)
    word rows,
    unsigned n,
    unsigned group,
    unsigned groups,
    unsigned wide,
    CODE *__restrict__ codes)         // (rows, n)
{
    const REAL *table = brought(levels, count, near);
    Runs run(n, wide);
    const bool together = in_runs(x, n), written = in_runs(codes, n);
    for (; run.row < rows; run.row += run.step) {
        const word at = run.row * n + run.column;
        const Run<REAL, RUN> values = load(x + at, run.count, together && run.count == RUN);
        Run<CODE, RUN> made;
#pragma unroll
        for (unsigned u = 0; u < RUN; ++u)
            if (u < run.count) {
                const REAL s = scales[run.row * groups + (run.column + u) / group];
                const REAL value = s < 0 ? -values.at[u] : values.at[u];
                made.at[u] = (CODE)(s == 0 ? nearest_to_zero(table, count)
                                           : nearest_code(table, count, s < 0 ? -s : s, value));
            }
        store(made, codes + at, run.count, written && run.count == RUN);
    }
}

extern "C" __global__ void __launch_bounds__(256) levels_decode(
    const CODE *__restrict__ codes,   // (rows, n), each below count; what is not is taken for the last
    const REAL *__restrict__ levels,  // (count,)
    unsigned count,
    unsigned near,
    const REAL *__restrict__ scales,  // (rows, groups)
    word rows,
    unsigned n,
    unsigned group,
    unsigned groups,
    unsigned wide,
    REAL *__restrict__ out)           // (rows, n)
{
    const REAL *table = brought(levels, count, near);
    Runs run(n, wide);
    const bool together = in_runs(codes, n), written = in_runs(out, n);
    for (; run.row < rows; run.row += run.step) {
        const word at = run.row * n + run.column;
        const Run<CODE, RUN> given = load(codes + at, run.count, together && run.count == RUN);
        Run<REAL, RUN> values;
#pragma unroll
        for (unsigned u = 0; u < RUN; ++u)
            if (u < run.count) {
                const unsigned code = given.at[u] < count ? given.at[u] : count - 1;
                values.at[u] = scales[run.row * groups + (run.column + u) / group] * table[code];
            }
        store(values, out + at, run.count, written && run.count == RUN);
    }
}
