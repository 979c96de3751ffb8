// Asymmetric grids: a thread per four values where codes are written or read, a warp per group where scale and minimum
// are fitted. Compiled without fused multiply-add, so that every bit is the reference's. Not yet measured on a GPU.
#include "../groups.cuh"

constexpr unsigned REFITS = 3;
constexpr long long TRIES = 1 << 16;

// Grid: as `over_rows` says.
extern "C" __global__ void __launch_bounds__(256) asymmetric_decode(
    const CODE *__restrict__ codes,      // (rows, n)
    const double *__restrict__ scales,   // (rows, groups)
    const double *__restrict__ minima,   // (rows, groups)
    word rows,
    unsigned n,
    unsigned group,
    unsigned groups,
    unsigned wide,
    REAL *__restrict__ out)              // (rows, n)
{
    decode(codes, scales, minima, rows, n, group, groups, wide, 0.0, out);
}

extern "C" __global__ void __launch_bounds__(256) asymmetric_encode(
    const REAL *__restrict__ x,          // (rows, n)
    const double *__restrict__ scales,   // (rows, groups)
    const double *__restrict__ minima,   // (rows, groups)
    word rows,
    unsigned n,
    unsigned group,
    unsigned groups,
    unsigned wide,
    double most,                         // the largest code
    CODE *__restrict__ codes)            // (rows, n)
{
    Runs run(n, wide);
    const bool together = in_runs(x, n), written = in_runs(codes, n);
    for (; run.row < rows; run.row += run.step) {
        const word at = run.row * n + run.column;
        const Run<REAL, RUN> values = load(x + at, run.count, together && run.count == RUN);
        Run<CODE, RUN> made;
#pragma unroll
        for (unsigned u = 0; u < RUN; ++u)
            if (u < run.count) {
                const word g = run.row * groups + (run.column + u) / group;
                const REAL s = (REAL)scales[g], m = (REAL)minima[g];
                const REAL k = s == 0 ? 0 : ceiling((values.at[u] - m) / s - (REAL)0.5);
                made.at[u] = (CODE)(int)within(k, (REAL)0, (REAL)most);
            }
        store(made, codes + at, run.count, written && run.count == RUN);
    }
}

// --- the fit ---------------------------------------------------------------------------------------------------------

struct Pair {
    double scale, minimum;
};

// In float16 and multiples of 2**-23 of the largest value, so that s*k + m fits a float32 exactly.
static __device__ Pair stored(Pair pair, long long levels)
{
    const double bottom = fabs(pair.minimum), top = fabs(pair.minimum + pair.scale * (double)levels);
    const int finest = exponent(bottom > top ? bottom : top) - 23;
    const double floor = power(finest > -24 ? finest : -24), scale = rounded(pair.scale, 11, floor);
    return {scale > floor ? scale : floor, rounded(pair.minimum, 11, floor)};
}

// Whether some pair gives the group back without error, and the first one among TRIES; constants always.
static __device__ bool exact(const Group &g, long long levels, Pair &pair)
{
    const int origin = (int)g.integer(0);
    unsigned part = 0;
    int above = 0, below = 0;  // of the first value
    for (unsigned k = g.lane; k < g.size; k += LANES) {
        const int v = (int)g.integer(k) - origin;
        part = gcd(v < 0 ? -v : v, part);
        above = v > above ? v : above;
        below = -v > below ? -v : below;
    }
    const unsigned divisor = warp_gcd(part);
    if (divisor == 0) {  // a constant: its nearest float16, and what is left as one step
        const double x = (double)g.x[0];
        pair.minimum = rounded(x, 11, 0.0);
        pair.scale = rounded(x - pair.minimum, 11, 0.0);
        return true;
    }
    if (!g.whole())
        return false;
    const long long deep = warp_max(below), range = warp_max(above) + deep, low = origin - deep;
    long long failed = 0;  // minima
    for (long long first = 1;; first += LANES) {  // d = first + lane: a step is divisor / d
        const long long mine = first + g.lane;
        const bool inside = range * mine <= levels * divisor;
        bool fits = inside && divisor % (unsigned)mine == 0;
        if (fits) {
            const double s = (double)(divisor / (unsigned)mine) / g.unit;
            fits = rounded(s, 11, 0.0) == s;
        }
        const bool all = __all_sync(ALL, inside);
        for (unsigned hits = __ballot_sync(ALL, fits); hits; hits &= hits - 1) {
            const long long d = first + __ffs(hits) - 1, step = divisor / (unsigned)d;
            if (d - 1 + failed >= TRIES)
                return false;
            const long long left = TRIES - d - failed > 1 ? TRIES - d - failed : 1;
            const long long count = levels + 1 - range / step, tried = count < left ? count : left;
            for (long long j = 0; j < tried; j += LANES) {
                const double m = (double)(low - (j + g.lane) * step) / g.unit;
                const unsigned found = __ballot_sync(ALL, j + g.lane < tried && rounded(m, 11, 0.0) == m);
                if (found) {
                    pair.scale = (double)step / g.unit;
                    pair.minimum = __shfl_sync(ALL, m, __ffs(found) - 1);
                    return true;
                }
            }
            failed += tried;
        }
        if (!all)
            return false;
    }
}

// Squared error (fixed point), <I, k>, <k, k> and <1, k> of the codes at a stored pair.
struct Judged {
    long long error, cross, energy, total;

    __device__ __forceinline__ Judged(const Group &g, Pair pair, long long levels)
    {
        const REAL s = (REAL)pair.scale, m = (REAL)pair.minimum, unit = (REAL)g.unit;
        error = cross = energy = total = 0;
        for (unsigned at = g.lane; at < g.size; at += LANES) {
            const REAL x = g.x[at];
            const REAL k = within(ceiling((x - m) / s - (REAL)0.5), (REAL)0, (REAL)levels);
            const long long r = (long long)nearest((x - (s * k + m)) * unit), c = (long long)k;
            error += r * r;
            cross += c * g.integer(at);
            energy += c * c;
            total += c;
        }
        error = warp_sum(error);
        cross = warp_sum(cross);
        energy = warp_sum(energy);
        total = warp_sum(total);
    }
};

static __device__ Pair fitted(const Group &g, const double *shares, unsigned count, long long levels)
{
    long long sum = 0;
    int highest = -(1 << FIXED), deepest = -(1 << FIXED);
    for (unsigned k = g.lane; k < g.size; k += LANES) {
        const int v = (int)g.integer(k);
        sum += v;
        highest = v > highest ? v : highest;
        deepest = -v > deepest ? -v : deepest;
    }
    const double n = (double)g.size, total = (double)warp_sum(sum);
    const double high = (double)warp_max(highest), low = -(double)warp_max(deepest);
    Pair chosen = {0.0, 0.0}, best = {0.0, 0.0};
    long long least = 1ll << 62;
    for (unsigned trial = 0; trial < count + REFITS; ++trial) {
        const bool scanning = trial < count;
        Pair pair = best;
        if (scanning) {
            const double reach = (high - low) * shares[trial];
            pair.scale = reach / (double)levels / g.unit;
            pair.minimum = (0.5 * (low + high) - 0.5 * reach) / g.unit;
        }
        pair = stored(pair, levels);
        if (pair.scale == chosen.scale && pair.minimum == chosen.minimum)
            continue;
        const Judged judged(g, pair, levels);
        const bool better = judged.error < least;
        if (better) {
            least = judged.error;
            chosen = pair;
        }
        const double codes = (double)judged.total, spread = n * (double)judged.energy - codes * codes;
        if (spread > 0.0 && (better || !scanning)) {
            const double slope = (n * (double)judged.cross - total * codes) / spread;
            best.scale = slope / g.unit;
            best.minimum = (total - slope * codes) / n / g.unit;
        }
    }
    return chosen;
}

// Grid: (blocks for the groups, a warp each, 1, 1).
extern "C" __global__ void __launch_bounds__(256) asymmetric_fit(
    const REAL *__restrict__ x,       // (rows, n)
    word rows,
    unsigned n,
    unsigned group,
    unsigned groups,
    const double *__restrict__ shares,
    unsigned count,                   // of the shares
    unsigned levels,                  // the largest code
    double *__restrict__ scales,      // (rows, groups)
    double *__restrict__ minima)      // (rows, groups)
{
    const word which = (word)blockIdx.x * (blockDim.x / LANES) + threadIdx.x / LANES;
    if (which >= rows * groups)
        return;
    const Group g(x, which, n, groups, group);
    Pair pair = {0.0, 0.0};
    if (g.unit != 0.0 && !exact(g, levels, pair))
        pair = fitted(g, shares, count, levels);
    if (g.lane == 0) {
        scales[which] = pair.scale;
        minima[which] = pair.minimum;
    }
}
