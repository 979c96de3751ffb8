// Nearest codewords, sums by codeword, k-means++ seeds, and codes of two books chosen together.
//
// Scores are sums of fused multiply-adds from the bias on, in order of the dimensions, as the Numba twin has them where
// the CPU has such instructions. Sums by codeword are added in order of the points: no result depends on the order in
// which blocks run. Not yet measured on a GPU.

#include "../common.cuh"
#include "search.cuh"
#include "pairs.cuh"

namespace lloyd {

constexpr unsigned STAGED = 2048, COLUMNS = 32;  // numbers of a codeword that are staged together, dimensions of a block
constexpr unsigned SHIFT = 40;                   // of the codeword in a key, above the number of the point

// Where the keys of codeword k begin among n sorted ones.
static __device__ __forceinline__ word begin_of(const word *keys, word n, word k)
{
    word low = 0, high = n;
    while (low < high) {
        const word middle = low + (high - low) / 2;
        if (keys[middle] >> SHIFT < k)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

// Sums of the values of the threads up to each one; `room` holds a number for each thread.
static __device__ __forceinline__ double prefix(double value, double *room)
{
    const unsigned t = threadIdx.x;
    __syncthreads();
    room[t] = value;
    for (unsigned reach = 1; reach < THREADS; reach *= 2) {
        __syncthreads();
        const double before = t >= reach ? room[t - reach] : 0;
        __syncthreads();
        room[t] = __dadd_rn(room[t], before);
    }
    __syncthreads();
    return room[t];
}

// The first thread whose `found` is true, THREADS if none is.
static __device__ __forceinline__ unsigned first_true(bool found, unsigned *room)
{
    __syncthreads();
    if (threadIdx.x == 0)
        *room = THREADS;
    __syncthreads();
    if (found)
        atomicMin(room, threadIdx.x);
    __syncthreads();
    return *room;
}

}  // namespace lloyd

// 1 to 8, 12 or 16 dimensions. Grid: (ceil(n / (256 points)), 1, 1), 4 points a thread up to 8 dimensions, then 2.
extern "C" __global__ void __launch_bounds__(256) lloyd_nearest(
    const float *__restrict__ y,      // (n, dims)
    word n,
    unsigned dims,
    const float *__restrict__ tiles,  // (groups, dims, 16)
    const float *__restrict__ bias,   // (groups, 16)
    unsigned groups,
    unsigned chunk,                   // groups in shared memory
    int *__restrict__ codes)          // (n,)
{
    switch (dims) {
    case 1: lloyd::search<1, 4>(y, n, tiles, bias, groups, chunk, codes); break;
    case 2: lloyd::search<2, 4>(y, n, tiles, bias, groups, chunk, codes); break;
    case 3: lloyd::search<3, 4>(y, n, tiles, bias, groups, chunk, codes); break;
    case 4: lloyd::search<4, 4>(y, n, tiles, bias, groups, chunk, codes); break;
    case 5: lloyd::search<5, 4>(y, n, tiles, bias, groups, chunk, codes); break;
    case 6: lloyd::search<6, 4>(y, n, tiles, bias, groups, chunk, codes); break;
    case 7: lloyd::search<7, 4>(y, n, tiles, bias, groups, chunk, codes); break;
    case 8: lloyd::search<8, 4>(y, n, tiles, bias, groups, chunk, codes); break;
    case 12: lloyd::search<12, 2>(y, n, tiles, bias, groups, chunk, codes); break;
    case 16: lloyd::search<16, 2>(y, n, tiles, bias, groups, chunk, codes); break;
    }
}

// Any number of dimensions: two points and a tile at a time in registers. Grid: (ceil(n / 512), 1, 1).
extern "C" __global__ void __launch_bounds__(256) lloyd_nearest_wide(
    const float *__restrict__ y,
    word n,
    unsigned dims,
    const float *__restrict__ tiles,
    const float *__restrict__ bias,
    unsigned groups,
    int *__restrict__ codes)
{
    using namespace lloyd;
    float *points = (float *)shared, *table = points + WIDE * ROW;  // (WIDE, ROW), (WIDE, 16)
    const unsigned t = threadIdx.x;
    const word first = (word)blockIdx.x * (2 * THREADS);
    float best[2] = {LLOYD_INFINITE, LLOYD_INFINITE};
    unsigned at[2] = {};
    for (unsigned g = 0; g < groups; ++g) {
        float score[2][LANES];
#pragma unroll
        for (unsigned k = 0; k < LANES; ++k)
            score[0][k] = score[1][k] = bias[g * LANES + k];
        for (unsigned done = 0; done < dims; done += WIDE) {
            __syncthreads();
            for (unsigned e = t; e < 2 * THREADS * WIDE; e += THREADS) {
                const unsigned d = done + e % WIDE;
                const word i = first + e / WIDE;
                points[e % WIDE * ROW + e / WIDE] = i < n && d < dims ? y[i * dims + d] : 0;
            }
            if (t < WIDE * LANES)
                table[t] = done + t / LANES < dims ? tiles[((word)g * dims + done) * LANES + t] : 0;
            __syncthreads();
            const unsigned count = dims - done < WIDE ? dims - done : WIDE;
            for (unsigned d = 0; d < count; ++d) {
                const float one = points[d * ROW + t], two = points[d * ROW + THREADS + t];
#pragma unroll
                for (unsigned q = 0; q < LANES / 4; ++q) {
                    const float4 c = ((const float4 *)table)[d * (LANES / 4) + q];
#pragma unroll
                    for (unsigned k = 0; k < 4; ++k) {
                        score[0][4 * q + k] = __fmaf_rn(part(c, k), one, score[0][4 * q + k]);
                        score[1][4 * q + k] = __fmaf_rn(part(c, k), two, score[1][4 * q + k]);
                    }
                }
            }
        }
#pragma unroll
        for (unsigned k = 0; k < LANES; ++k)
#pragma unroll
            for (unsigned p = 0; p < 2; ++p) {
                at[p] = score[p][k] < best[p] ? g * LANES + k : at[p];
                best[p] = score[p][k] < best[p] ? score[p][k] : best[p];
            }
    }
    for (unsigned p = 0; p < 2; ++p)
        if (first + p * THREADS + t < n)
            codes[first + p * THREADS + t] = (int)at[p];
}

// A key for each point: sorted, the points of a codeword follow each other in their order.
extern "C" __global__ void __launch_bounds__(256) lloyd_keys(const int *__restrict__ codes, word n,
                                                             word *__restrict__ keys)
{
    const word i = (word)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        keys[i] = (word)(unsigned)codes[i] << lloyd::SHIFT | i;
}

// Adds the points of a codeword, in their order. Grid: (codewords, ceil(dims / 32), 1).
extern "C" __global__ void __launch_bounds__(256) lloyd_sums(
    const float *__restrict__ y,     // (n, dims)
    word n,
    unsigned dims,
    const word *__restrict__ keys,   // (n,), sorted
    double *__restrict__ sums,       // (codewords, dims)
    long long *__restrict__ counts)  // (codewords,)
{
    using namespace lloyd;
    float *staged = (float *)shared;  // (points, width)
    const unsigned from = blockIdx.y * COLUMNS, width = dims - from < COLUMNS ? dims - from : COLUMNS;
    const unsigned most = STAGED / width, t = threadIdx.x;
    const word begin = begin_of(keys, n, blockIdx.x), end = begin_of(keys, n, blockIdx.x + 1ull);
    double *target = sums + (word)blockIdx.x * dims + from + t;
    double total = t < width ? *target : 0;
    for (word done = begin; done < end; done += most) {
        const unsigned count = end - done < most ? (unsigned)(end - done) : most;
        for (unsigned e = t; e < count * width; e += THREADS)
            staged[e] = y[(keys[done + e / width] & ((1ull << SHIFT) - 1)) * dims + from + e % width];
        __syncthreads();
        if (t < width)
            for (unsigned k = 0; k < count; ++k)
                total = __dadd_rn(total, (double)staged[k * width + t]);
        __syncthreads();
    }
    if (t < width)
        *target = total;
    if (t == 0 && blockIdx.y == 0)
        counts[blockIdx.x] += (long long)(end - begin);
}

// Chooses seed `turn` by the distances to those before it and writes the distances to all up to it; grid: (blocks, 1, 1).
// All blocks choose, each for itself, from what the launch before wrote.
extern "C" __global__ void __launch_bounds__(256) lloyd_seed(
    const float *__restrict__ columns,    // (dims, n)
    word n,
    unsigned dims,
    const double *__restrict__ uniform,   // (seeds,)
    unsigned turn,
    const double *__restrict__ before,    // (n,) squared distances to the nearest seed; for turn 0 nothing is read
    const double *__restrict__ sums,      // (blocks,) sums of 256 distances each
    double *__restrict__ after,           // (n,)
    double *__restrict__ sums_after,
    long long *__restrict__ chosen)       // (seeds,), -1 where no point is left
{
    using namespace lloyd;
    double *room = (double *)shared;  // (256,), then a number
    unsigned *number = (unsigned *)(room + THREADS);
    const unsigned t = threadIdx.x, blocks = gridDim.x;
    const word i = (word)blockIdx.x * THREADS + t;
    long long seed = -1;
    if (turn == 0) {
        const double at = __dmul_rn(uniform[0], (double)n);
        seed = at < (double)n ? (long long)at : (long long)n - 1;
    } else {
        // Stretches of the blocks' sums, one per thread; then the block; then the point.
        const unsigned stretch = (blocks + THREADS - 1) / THREADS;
        double own = 0;
        for (unsigned b = t * stretch; b < (t + 1) * stretch && b < blocks; ++b)
            own = __dadd_rn(own, sums[b]);
        double sum = prefix(own, room);
        const double total = room[THREADS - 1], target = __dmul_rn(uniform[turn], total);
        if (total > 0) {
            const unsigned one = first_true(sum > target, number);
            double run = one && one < THREADS ? room[one - 1] : 0;
            unsigned block = one * stretch;
            if (one < THREADS)  // the same walk in all threads
                while (block + 1 < (one + 1) * stretch && block + 1 < blocks && __dadd_rn(run, sums[block]) <= target)
                    run = __dadd_rn(run, sums[block++]);
            const word j = (word)block * THREADS + t;
            const bool inside = one < THREADS && j < n;
            sum = prefix(inside ? before[j] : 0, room);
            const unsigned two = first_true(inside && __dadd_rn(run, sum) > target && before[j] > 0, number);
            if (two < THREADS) {
                seed = (long long)((word)block * THREADS + two);
            } else {  // rounding left none: the farthest of all, the first of equal ones
                double farthest = -1;
                word place = 0;
                for (word k = 0; k < n; ++k)
                    if (before[k] > farthest) {
                        farthest = before[k];
                        place = k;
                    }
                seed = (long long)place;
            }
        }
    }
    double distance = i < n && turn ? before[i] : 0;
    if (seed >= 0 && i < n) {
        double squared = 0;
        for (unsigned d = 0; d < dims; ++d) {
            const float gap = __fsub_rn(columns[d * n + i], columns[d * n + (word)seed]);
            squared = __dadd_rn(squared, (double)__fmul_rn(gap, gap));
        }
        distance = turn && distance < squared ? distance : squared;
    }
    if (i < n)
        after[i] = distance;
    prefix(distance, room);
    if (t == 0) {
        sums_after[blockIdx.x] = room[THREADS - 1];
        if (blockIdx.x == 0)
            chosen[turn] = seed;
    }
}

// One search over two neighbouring books. Grid: (ceil(n / points), 1, 1).
extern "C" __global__ void __launch_bounds__(256) lloyd_pair(
    const float *__restrict__ x,      // (n, dims)
    word n,
    unsigned dims,
    const float *__restrict__ table,  // (books, dims, wide), the codewords with opposite sign
    const float *__restrict__ bias,   // (books, wide)
    const float *__restrict__ cross,  // (books, wide, books, wide)
    unsigned books,
    unsigned wide,
    unsigned a,
    unsigned points,                  // of a block, 4 or 1
    int *codes)                       // (n, books)
{
    if (points == 4)
        lloyd::pair<4>(x, n, dims, table, bias, cross, books, wide, a, codes);
    else
        lloyd::pair<1>(x, n, dims, table, bias, cross, books, wide, a, codes);
}
