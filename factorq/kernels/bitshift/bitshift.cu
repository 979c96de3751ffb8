// The bit-shift trellis: look-ups of overlapping windows, and the Viterbi search for the best stream.
//
// Costs are float32, compiled without fused multiply-add and never added in another order, so that every bit is the
// reference's. Not yet measured on a GPU.
#include "../common.cuh"

#ifndef REAL
#define REAL float
#endif

// A thread reads the six bytes that hold the windows of four weights. Grid: (blocks for the runs of a row, blocks that
// share the rows, 1); shared memory for the table if `near`.
extern "C" __global__ void __launch_bounds__(256) bitshift_decode(
    const u8 *__restrict__ codes,     // (rows, size)
    unsigned size,
    const float *__restrict__ table,  // (states,)
    unsigned states,                  // 2**depth
    unsigned depth,                   // at most 16
    unsigned near,
    unsigned bits,                    // at most 8
    const REAL *__restrict__ scales,  // (rows,)
    word rows,
    unsigned n,
    unsigned wide,
    REAL *__restrict__ out)           // (rows, n)
{
    const float *points = table;
    if (near) {
        float *copy = (float *)shared;
        for (unsigned k = threadIdx.x; k < states; k += blockDim.x)
            copy[k] = table[k];
        __syncthreads();
        points = copy;
    }
    Runs run(n, wide);
    const bool written = in_runs(out, n);
    const word bit = (word)run.column * bits;
    const unsigned skipped = bit & 7;
    for (; run.row < rows; run.row += run.step) {
        if (!run.count)
            continue;
        const u8 *stream = codes + run.row * size;
        word window = 0;
        for (unsigned k = 0; k < 6; ++k) {
            const word at = (bit >> 3) + k;
            window = window << 8 | stream[at < size ? at : at % size];  // the stream is a circle
        }
        const REAL scale = scales[run.row];
        Run<REAL, RUN> values;
#pragma unroll
        for (unsigned u = 0; u < RUN; ++u)
            if (u < run.count)
                values.at[u] = scale * (REAL)points[window >> (48 - skipped - u * bits - depth) & (states - 1)];
        store(values, out + run.row * n + run.column, run.count, written && run.count == RUN);
    }
}

// --- the search ------------------------------------------------------------------------------------------------------

// A trellis: state s came from one of s / 2**bits + j * width, all of which end in the same overlap, one of `width` =
// 2**depth / 2**bits. The least costs of the overlaps are kept twice, before a weight and after it.
struct Search {
    const float *table;
    unsigned bits, width;
    float *before, *after;

    __device__ __forceinline__ float cost(unsigned state, float x, bool counted) const
    {
        const float distance = counted ? x - table[state] : 0.0f;
        return before[state >> bits] + distance * distance;
    }

    // The least cost of the 2**bits states that end in an overlap, and the first digit of the lowest of equals.
    __device__ __forceinline__ float meet(unsigned overlap, float x, bool counted, unsigned &digit) const
    {
        float least = cost(overlap, x, counted);
        digit = 0;
        for (unsigned j = 1; j < 1u << bits; ++j) {
            const float other = cost(j * width + overlap, x, counted);
            if (other < least) {
                least = other;
                digit = j;
            }
        }
        return least;
    }

    // All weights but the last one of `steps` from `first` on, around the block; choices[t] are those before weight t.
    __device__ __forceinline__ void run(
        const float *x, unsigned period, unsigned length, unsigned first, unsigned steps, u8 *choices)
    {
        for (unsigned step = 1; step < steps; ++step) {
            const unsigned t = (first + step - 1) % period;
            for (unsigned g = threadIdx.x; g < width; g += blockDim.x) {
                unsigned digit;
                after[g] = meet(g, x[t], t < length, digit);
                choices[(word)step * width + g] = (u8)digit;
            }
            float *spare = before;
            before = after;
            after = spare;
            __syncthreads();
        }
    }

    __device__ __forceinline__ unsigned previous(const u8 *choices, unsigned step, unsigned state) const
    {
        return choices[(word)step * width + (state >> bits)] * width + (state >> bits);
    }
};

// The state of least cost after a last weight, the lowest of equals; for the first thread.
static __device__ __forceinline__ unsigned cheapest(
    const Search &search, float x, bool counted, unsigned states, float *costs)
{
    unsigned *places = (unsigned *)costs + blockDim.x;
    float least = 0;
    unsigned best = states;
    for (unsigned s = threadIdx.x; s < states; s += blockDim.x) {
        const float cost = search.cost(s, x, counted);
        if (best == states || cost < least) {
            least = cost;
            best = s;
        }
    }
    costs[threadIdx.x] = least;
    places[threadIdx.x] = best;
    for (unsigned reach = blockDim.x / 2; reach; reach /= 2) {
        __syncthreads();
        if (threadIdx.x < reach) {
            const unsigned other = places[threadIdx.x + reach];
            const float cost = costs[threadIdx.x + reach], own = costs[threadIdx.x];
            if (other < states && (cost < own || (cost == own && other < places[threadIdx.x]))) {
                costs[threadIdx.x] = cost;
                places[threadIdx.x] = other;
            }
        }
    }
    return places[0];
}

// A block per block of weights. Shared memory: 2 * blockDim.x words of four bytes for the cheapest state, one for the
// overlap, then the costs and then the table, each if it is `near`.
extern "C" __global__ void __launch_bounds__(256, 2) bitshift_encode(
    const float *__restrict__ x,      // (blocks, period)
    word blocks,
    unsigned period,
    const float *__restrict__ table,  // (states,)
    unsigned states,
    unsigned bits,
    unsigned length,                  // weights that count
    unsigned wide,                    // weights on either side of the seam
    unsigned near,                    // 1: the costs are in shared memory; 2: the table is, too
    float *costs,                     // (gridDim.x, 2, width) if they are not
    u8 *all_choices,                  // (gridDim.x, period, width)
    u8 *__restrict__ codes)           // (blocks, size)
{
    const unsigned width = states >> bits, size = period * bits / 8;
    float *reduced = (float *)shared, *room = reduced + 2 * blockDim.x + 1;
    unsigned *kept = (unsigned *)reduced + 2 * blockDim.x;
    Search search = {table, bits, width, nullptr, nullptr};
    if (near > 1) {
        float *copy = room + 2 * width;
        for (unsigned k = threadIdx.x; k < states; k += blockDim.x)
            copy[k] = table[k];
        search.table = copy;
    }
    search.before = near ? room : costs + (word)blockIdx.x * 2 * width;
    search.after = search.before + width;
    u8 *choices = all_choices + (word)blockIdx.x * period * width;

    for (word b = blockIdx.x; b < blocks; b += gridDim.x) {
        const float *weights = x + b * period;
        unsigned overlap = 0;
        if (wide) {
            for (unsigned g = threadIdx.x; g < width; g += blockDim.x)
                search.before[g] = 0;
            __syncthreads();
            search.run(weights, period, length, period - wide, 2 * wide, choices);
            unsigned state = cheapest(search, weights[wide - 1], wide - 1 < length, states, reduced);
            if (threadIdx.x == 0) {
                for (unsigned step = 2 * wide - 1; step > wide; --step)
                    state = search.previous(choices, step, state);
                *kept = state >> bits;
            }
            __syncthreads();
            overlap = *kept;
        }
        for (unsigned g = threadIdx.x; g < width; g += blockDim.x)
            search.before[g] = g == overlap ? 0.0f : __uint_as_float(0x7f800000);
        __syncthreads();
        search.run(weights, period, length, 0, period, choices);
        if (threadIdx.x == 0) {
            unsigned digit;
            search.meet(overlap, weights[period - 1], period - 1 < length, digit);
            unsigned state = digit * width + overlap;
            for (unsigned t = period - 1; t; --t) {
                const unsigned before = search.previous(choices, t, state);
                choices[(word)t * width] = (u8)(state / width);  // its digit, in the place of what is used up
                state = before;
            }
            choices[0] = (u8)(state / width);
        }
        __syncthreads();
        for (unsigned k = threadIdx.x; k < size; k += blockDim.x) {
            unsigned value = 0;
            for (unsigned bit = 8 * k; bit < 8 * k + 8; ++bit)
                value = value << 1 | (choices[(word)(bit / bits) * width] >> (bits - 1 - bit % bits) & 1);
            codes[b * size + k] = (u8)value;
        }
        __syncthreads();
    }
}
