// Products of a grouped integer matrix with a few vectors, straight from its packed codes.
//
// A lane keeps CHUNK neighbouring columns: their part of x (or of y) stays in registers while rows pass by, so that
// device memory is read for codes and scales only. A code is masked out where it stands, p bits up, and becomes a float
// by the exponent of 2**23 above it; 2**-p is in the number that it meets. With LEVELS it is looked up instead, without
// conflicts up to 32 of them. Sums are float32 and the same from run to run. Not yet measured on a GPU.
#include <cuda_fp16.h>

#include "../common.cuh"

#ifndef BITS
#define BITS 4
#endif
#ifndef BATCH
#define BATCH 1
#endif
#ifndef X
#define X float
#endif
#ifndef LEVELS
#define LEVELS 0
#endif

struct bfloat {
    u16 bits;
};

constexpr unsigned LANES = 32, WARPS = 8;
constexpr unsigned CHUNK = BATCH <= 2 ? 16 : 8;  // codes of a lane: whole bytes
constexpr unsigned TILE = LANES * CHUNK;
constexpr unsigned ROWS = BATCH <= 2 ? 4 : 2;    // rows whose codes are fetched together
constexpr unsigned MASK = (1u << BITS) - 1;
constexpr unsigned NBYTES = CHUNK * BITS / 8, WORDS = (NBYTES + 3) / 4;
constexpr unsigned TABLE = LEVELS ? MASK + 1 : 0;  // floats of shared memory before all others
constexpr unsigned UNIT = NBYTES % 16 == 0 ? 16 : NBYTES & (0u - NBYTES);  // bytes of a load

template <class T> struct Number {
    static __device__ __forceinline__ float of(T x) { return x; }
};

template <> struct Number<__half> {
    static __device__ __forceinline__ float of(__half x) { return __half2float(x); }
};

template <> struct Number<bfloat> {
    static __device__ __forceinline__ float of(bfloat x) { return __uint_as_float((unsigned)x.bits << 16); }
};

// How far the word of code c is shifted, and where the code stands then.
static constexpr __device__ __forceinline__ unsigned shift_of(unsigned c)
{
    const unsigned at = c * BITS % 32;
    return LEVELS || at + BITS > 32 ? at : at + BITS <= 23 ? 0 : at >= 16 ? 16 : at;
}

static constexpr __device__ __forceinline__ unsigned place_of(unsigned c)
{
    return c * BITS % 32 - shift_of(c);
}

template <unsigned SIZE> static __device__ __forceinline__ void fetch(const u8 *codes, unsigned (&words)[WORDS])
{
    if constexpr (SIZE >= 4) {
        constexpr unsigned PER = SIZE / 4;
#pragma unroll
        for (unsigned i = 0; i < WORDS / PER; ++i) {
            const Run<unsigned, PER> part = ((const Run<unsigned, PER> *)codes)[i];
#pragma unroll
            for (unsigned k = 0; k < PER; ++k)
                words[i * PER + k] = part.at[k];
        }
    } else {
        constexpr unsigned PER = 4 / SIZE;
#pragma unroll
        for (unsigned i = 0; i < WORDS; ++i)
            words[i] = 0;
#pragma unroll
        for (unsigned i = 0; i < NBYTES / SIZE; ++i) {
            const unsigned part = SIZE == 2 ? ((const u16 *)codes)[i] : codes[i];
            words[i / PER] |= part << (i % PER * 8 * SIZE);
        }
    }
}

// Code c of the words, times 2**place_of(c).
static __device__ __forceinline__ float raised(const unsigned (&words)[WORDS], unsigned c)
{
    const unsigned i = c * BITS / 32, across = c * BITS % 32 + BITS > 32;
    const unsigned shift = shift_of(c);
    const unsigned bits = across ? __funnelshift_r(words[i], words[i + across], shift) : words[i] >> shift;
    if (LEVELS)
        return ((const float *)shared)[bits & MASK];
    return __uint_as_float((bits & MASK << place_of(c)) | 0x4b000000) - 8388608.0f;
}

// The levels in shared memory; all threads must have passed a barrier before they are read.
static __device__ __forceinline__ void bring(const float *levels)
{
    for (int k = (int)threadIdx.x; k < (int)TABLE; k += (int)blockDim.x)
        ((float *)shared)[k] = levels[k];
}

// What codes are multiplied with, and what is added.
struct Line {
    float scale, offset;

    __device__ __forceinline__ Line(const __half *scales, const __half *minima, float zero, word at)
    {
        scale = scales ? __half2float(scales[at]) : 1.0f;
        offset = minima ? __half2float(minima[at]) : -zero * scale;
    }

    __device__ __forceinline__ Line() : scale(0.0f), offset(0.0f) {}
};

// The sums over the warp of COUNT numbers of each lane, a power of two: lane k has that of number k % COUNT.
template <unsigned COUNT, unsigned STEP = COUNT>
static __device__ __forceinline__ float warp_sums(const float (&numbers)[COUNT])
{
    if constexpr (COUNT > 1) {
        const bool upper = threadIdx.x & COUNT / 2;
        float left[COUNT / 2];
#pragma unroll
        for (unsigned i = 0; i < COUNT / 2; ++i) {
            const float low = numbers[i], high = numbers[i + COUNT / 2];
            left[i] = (upper ? high : low) + __shfl_xor_sync(ALL, upper ? low : high, COUNT / 2);
        }
        return warp_sums<COUNT / 2, STEP>(left);
    } else {
        float sum = numbers[0];
#pragma unroll
        for (unsigned lanes = STEP; lanes < LANES; lanes *= 2)
            sum += __shfl_xor_sync(ALL, sum, lanes);
        return sum;
    }
}

// y = M x. Grid: (blocks of `share` rows, 1, 1); shared memory for TABLE + WARPS * share * BATCH floats.
extern "C" __global__ void __launch_bounds__(256, 2) grouped_matmul(
    const u8 *__restrict__ codes,       // rows of n * BITS / 8 bytes, the first at a multiple of 16
    const __half *__restrict__ scales,  // (rows, step), or null: 1
    const __half *__restrict__ minima,  // (rows, step), or null: -zero * scale
    unsigned step,                      // from the scales of a row to those of the next: 0 if all rows have the same
    float zero,
    const float *__restrict__ levels,   // (2**BITS,) if LEVELS
    unsigned rows,
    unsigned n,                         // a multiple of CHUNK
    unsigned group,                     // so is it, unless there is one group
    const X *__restrict__ x,            // (n, batch)
    unsigned batch,                     // at most BATCH
    unsigned share,                     // a multiple of ROWS
    float *__restrict__ out)            // (rows, batch)
{
    const unsigned lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    const unsigned first = blockIdx.x * share, stop = rows - first < share ? rows : first + share;
    float *sums = (float *)shared + TABLE + warp * share * BATCH;
    for (unsigned k = lane; k < share * BATCH; k += LANES)
        sums[k] = 0;
    bring(levels);
    __syncthreads();
    for (unsigned start = warp * TILE; start < n; start += WARPS * TILE) {
        const unsigned column = start + lane * CHUNK, g = column / group;
        const bool active = column < n;
        float lowered[CHUNK][BATCH], total[BATCH] = {};
#pragma unroll
        for (unsigned c = 0; c < CHUNK; ++c)
#pragma unroll
            for (unsigned j = 0; j < BATCH; ++j) {
                const float value = active && j < batch ? Number<X>::of(x[(word)(column + c) * batch + j]) : 0.0f;
                total[j] += value;
                lowered[c][j] = value * (1.0f / (1u << place_of(c)));
            }
        for (unsigned row = first; row < stop; row += ROWS) {
            unsigned words[ROWS][WORDS];
            Line lines[ROWS];
#pragma unroll
            for (unsigned r = 0; r < ROWS; ++r) {
#pragma unroll
                for (unsigned i = 0; i < WORDS; ++i)
                    words[r][i] = 0;
                if (active && row + r < stop) {
                    fetch<UNIT>(codes + ((word)(row + r) * n + column) / 8 * BITS, words[r]);
                    lines[r] = Line(scales, minima, zero, (word)(row + r) * step + g);
                }
            }
            float y[ROWS * BATCH] = {};
#pragma unroll
            for (unsigned r = 0; r < ROWS; ++r) {
#pragma unroll
                for (unsigned c = 0; c < CHUNK; ++c) {
                    const float code = raised(words[r], c);
#pragma unroll
                    for (unsigned j = 0; j < BATCH; ++j)
                        y[r * BATCH + j] = fmaf(code, lowered[c][j], y[r * BATCH + j]);
                }
#pragma unroll
                for (unsigned j = 0; j < BATCH; ++j)
                    y[r * BATCH + j] = fmaf(lines[r].scale, y[r * BATCH + j], lines[r].offset * total[j]);
            }
            const float sum = warp_sums(y);
            if (lane < ROWS * BATCH)
                sums[(row - first) * BATCH + lane] += sum;
        }
    }
    __syncthreads();
    for (unsigned k = threadIdx.x; k < share * BATCH; k += blockDim.x) {
        const unsigned row = first + k / BATCH, j = k % BATCH;
        float sum = 0;
        for (unsigned w = 0; w < WARPS; ++w)
            sum += ((const float *)shared)[TABLE + w * share * BATCH + k];
        if (row < stop && j < batch)
            out[(word)row * batch + j] = sum;
    }
}

// y = x M, in parts of the rows. Grid: (ceil(n / TILE), parts of `share` rows, 1); shared memory for TABLE + TILE *
// BATCH floats.
extern "C" __global__ void __launch_bounds__(256, 2) grouped_rmatmul(
    const u8 *__restrict__ codes,       // as above, up to the group
    const __half *__restrict__ scales,
    const __half *__restrict__ minima,
    unsigned step,
    float zero,
    const float *__restrict__ levels,
    unsigned rows,
    unsigned n,
    unsigned group,
    const X *__restrict__ x,            // (batch, rows)
    unsigned batch,
    unsigned share,
    float *__restrict__ out)            // (parts, batch, n)
{
    const unsigned lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    const unsigned column = blockIdx.x * TILE + lane * CHUNK, g = column / group;
    const unsigned first = blockIdx.y * share, stop = rows - first < share ? rows : first + share;
    const bool active = column < n;
    bring(levels);
    __syncthreads();
    float y[CHUNK][BATCH] = {}, offset[BATCH] = {};
    for (unsigned row = first + warp; row < stop; row += WARPS * ROWS) {
        unsigned words[ROWS][WORDS];
        float scaled[ROWS][BATCH];
#pragma unroll
        for (unsigned r = 0; r < ROWS; ++r) {
            const unsigned i = row + r * WARPS;
            const bool there = active && i < stop;
            Line line;
#pragma unroll
            for (unsigned k = 0; k < WORDS; ++k)
                words[r][k] = 0;
            if (there) {
                fetch<UNIT>(codes + ((word)i * n + column) / 8 * BITS, words[r]);
                line = Line(scales, minima, zero, (word)i * step + g);
            }
#pragma unroll
            for (unsigned j = 0; j < BATCH; ++j) {
                const float value = there && j < batch ? Number<X>::of(x[(word)j * rows + i]) : 0.0f;
                scaled[r][j] = line.scale * value;
                offset[j] = fmaf(line.offset, value, offset[j]);
            }
        }
#pragma unroll
        for (unsigned r = 0; r < ROWS; ++r)
#pragma unroll
            for (unsigned c = 0; c < CHUNK; ++c) {
                const float code = raised(words[r], c);
#pragma unroll
                for (unsigned j = 0; j < BATCH; ++j)
                    y[c][j] = fmaf(code, scaled[r][j], y[c][j]);
            }
    }
    float *sums = (float *)shared + TABLE;  // (CHUNK, BATCH, LANES)
    for (unsigned w = 0; w < WARPS; ++w) {
        if (warp == w)
#pragma unroll
            for (unsigned c = 0; c < CHUNK; ++c)
#pragma unroll
                for (unsigned j = 0; j < BATCH; ++j) {
                    float &sum = sums[(c * BATCH + j) * LANES + lane];
                    const float value = fmaf(y[c][j], 1.0f / (1u << place_of(c)), offset[j]);
                    sum = w ? sum + value : value;
                }
        __syncthreads();
    }
    for (unsigned k = threadIdx.x; k < TILE * BATCH; k += blockDim.x) {
        const unsigned j = k / TILE, at = k % TILE, target = blockIdx.x * TILE + at;
        if (target < n && j < batch)
            out[((word)blockIdx.y * batch + j) * n + target] = sums[(at % CHUNK * BATCH + j) * LANES + at / CHUNK];
    }
}

// out = the sum of the parts, in their order. Grid: (blocks for the numbers, 1, 1).
extern "C" __global__ void __launch_bounds__(256) grouped_fold(
    const float *__restrict__ parts,  // (count, size)
    unsigned count,
    word size,
    float *__restrict__ out)          // (size,)
{
    const word k = (word)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= size)
        return;
    float sum = parts[k];
    for (unsigned i = 1; i < count; ++i)
        sum += parts[i * size + k];
    out[k] = sum;
}
