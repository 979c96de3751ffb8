// The trellis search: a thread per state, 256 / S paths in a block, so that all S have 256 threads.
//
// For 16 samples at a time the block works out what the best point of each subset costs; then its threads add, compare
// and select, sample by sample, and keep 32 decisions in a register. A window of 512 samples is decided by walking back
// from the best state, a thread per path. Every operation is rounded on its own, as in the reference. Not yet measured
// on a GPU.

typedef unsigned long long word;

extern __shared__ word shared[];

namespace trellis {

constexpr unsigned THREADS = 256, WINDOW = 512, CHUNK = 16, GROUP = 32, GROUPS = WINDOW / GROUP;

struct Rates {
    const float *table;
    unsigned width;
};

static __device__ __forceinline__ float cost_of(const Rates &rates, unsigned which, float v, float point)
{
    const int most = (int)(rates.width - 1) / 2, k = (int)point;
    const int inside = k < -most ? -most : k > most ? most : k;
    const float gap = __fsub_rn(v, point);
    return __fadd_rn(__fmul_rn(gap, gap), rates.table[(word)which * rates.width + (unsigned)(inside + most)]);
}

// The cheaper of the point q and its neighbour toward 0: itself, and its cost.
static __device__ __forceinline__ float candidate(const Rates &rates, unsigned which, float v, float q, float spacing,
                                                  float *cost)
{
    const float inner = __fsub_rn(q, q > 0 ? spacing : -spacing);
    const float own = cost_of(rates, which, v, q), other = cost_of(rates, which, v, inner);
    *cost = other < own ? other : own;
    return other < own ? inner : q;
}

// The same for the nearest point of subset d, the integers d, d + 4, ..
static __device__ __forceinline__ float candidate_of(const Rates &rates, unsigned which, float v, unsigned d,
                                                     float *cost)
{
    const float first = (float)d;
    const float q = __fadd_rn(__fmul_rn(rintf(__fmul_rn(__fsub_rn(v, first), 0.25f)), 4.0f), first);
    return candidate(rates, which, v, q, 4.0f, cost);
}

}  // namespace trellis

// Grid: (ceil(lanes / (256 / states)), 1, 1); 256 threads.
extern "C" __global__ void __launch_bounds__(256) trellis_search(
    const float *__restrict__ x,                // (lanes, length)
    const unsigned char *__restrict__ classes,  // (lanes, length)
    const float *__restrict__ rate,             // (classes, width)
    unsigned width,
    word lanes,
    word length,
    unsigned states,                            // 4 to 256, a power of two
    const unsigned *__restrict__ machine,       // (states,): two predecessors and the subsets from them, a byte each
    long long *__restrict__ state,              // (lanes,): first, then last
    int *__restrict__ k)                        // (lanes, length)
{
    using namespace trellis;
    const Rates rates = {rate, width};
    const unsigned t = threadIdx.x, paths = THREADS / states, path = t / states, s = t % states;
    word *picked = shared;                                        // (GROUPS, paths): the subsets, two bits each
    float *branch = (float *)(picked + GROUPS * paths);           // (CHUNK, paths, 4)
    float *metric = branch + CHUNK * paths * 4;                   // (2, 256)
    unsigned *taken = (unsigned *)(metric + 2 * THREADS);         // (GROUPS, 256): bits, a sample each
    unsigned *best = taken + GROUPS * THREADS;                    // (256,)
    unsigned *moves = best + THREADS;                             // (states,)
    const word lane = (word)blockIdx.x * paths;                   // of path 0
    if (t < states)
        moves[t] = machine[t];
    unsigned now = lane + path < lanes ? (unsigned)state[lane + path] : 0;  // where the path is when a window begins
    __syncthreads();
    const unsigned own = moves[s], a = path * states + (own & 255), b = path * states + (own >> 8 & 255);
    const unsigned subset_a = 4 * path + (own >> 16 & 255), subset_b = 4 * path + (own >> 24);

    for (word start = 0; start < length; start += WINDOW) {
        const unsigned steps = length - start < WINDOW ? (unsigned)(length - start) : WINDOW;
        metric[t] = s == now ? 0.0f : 1e30f;
        unsigned bits = 0, half = 0;
        for (unsigned done = 0; done < steps; done += CHUNK) {
            __syncthreads();  // nobody reads the costs of the samples before
            for (unsigned e = t; e < CHUNK * paths * 4; e += THREADS) {
                const unsigned d = e % 4, step = e / 4 % CHUNK, p = e / (4 * CHUNK);
                if (done + step < steps && lane + p < lanes) {
                    const word at = (lane + p) * length + start + done + step;
                    candidate_of(rates, classes[at], x[at], d, &branch[(step * paths + p) * 4 + d]);
                }
            }
            __syncthreads();
            const unsigned count = steps - done < CHUNK ? steps - done : CHUNK;
            for (unsigned step = 0; step < count; ++step, half ^= THREADS) {
                const float *cost = branch + step * paths * 4;
                const float first = __fadd_rn(metric[half + a], cost[subset_a]);
                const float second = __fadd_rn(metric[half + b], cost[subset_b]);
                metric[(half ^ THREADS) + t] = second < first ? second : first;
                bits |= (unsigned)(second < first) << ((done + step) % GROUP);
                if (states <= 32)
                    __syncwarp();  // a path stays within a warp
                else
                    __syncthreads();
            }
            if ((done + count) % GROUP == 0 || done + count == steps) {
                taken[(done + count - 1) / GROUP * THREADS + t] = bits;
                bits = 0;
            }
        }
        best[t] = s;
        for (unsigned reach = states / 2; reach; reach /= 2) {
            __syncthreads();
            if (s < reach) {
                const unsigned mine = best[t], other = best[t + reach];
                const float least = metric[half + path * states + mine], more = metric[half + path * states + other];
                best[t] = more < least || (more == least && other < mine) ? other : mine;
            }
        }
        __syncthreads();
        now = best[path * states];
        if (t < paths) {
            unsigned at = best[t * states];
            for (unsigned group = (steps - 1) / GROUP + 1; group-- > 0;) {
                const unsigned first = group * GROUP;
                word subsets = 0;
                for (unsigned i = steps - first < GROUP ? steps - first : GROUP; i-- > 0;) {
                    const unsigned move = moves[at], b_taken = taken[group * THREADS + t * states + at] >> i & 1;
                    subsets |= (word)(move >> (b_taken ? 24 : 16) & 3) << (2 * i);
                    at = move >> (b_taken ? 8 : 0) & 255;
                }
                picked[group * paths + t] = subsets;
            }
        }
        __syncthreads();
        for (unsigned e = t; e < paths * steps; e += THREADS) {
            const unsigned p = e / steps, step = e % steps;
            if (lane + p < lanes) {
                const word at = (lane + p) * length + start + step;
                const unsigned d = (unsigned)(picked[step / GROUP * paths + p] >> (2 * (step % GROUP))) & 3;
                float cost;
                k[at] = (int)candidate_of(rates, classes[at], x[at], d, &cost);
            }
        }
    }
    if (s == 0 && lane + path < lanes)
        state[lane + path] = now;
}

// Without a trellis: a thread per sample.
extern "C" __global__ void __launch_bounds__(256) trellis_deadzone(
    const float *__restrict__ x,                // (size,)
    const unsigned char *__restrict__ classes,  // (size,)
    const float *__restrict__ rate,             // (classes, width)
    unsigned width,
    word size,
    int *__restrict__ k)                        // (size,)
{
    const word i = (word)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < size) {
        float cost;
        k[i] = (int)trellis::candidate({rate, width}, classes[i], x[i], rintf(x[i]), 1.0f, &cost);
    }
}
