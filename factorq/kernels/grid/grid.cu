// Grouped integer grids: a thread per four values where codes are written or read, a warp per group where a scale is
// fitted. Compiled without fused multiply-add, so that every bit is the reference's. Not yet measured on a GPU.
#include "groups.cuh"

constexpr unsigned REFITS = 3, SCAN_BITS = 8;

struct Plan {
    int bits, digits;
    double base, frac, low, high, half;
};

// Grid: as `over_rows` says.
extern "C" __global__ void __launch_bounds__(256) grid_decode(
    const CODE *__restrict__ codes,      // (rows, n)
    const double *__restrict__ scales,   // (rows, groups)
    word rows,
    unsigned n,
    unsigned group,
    unsigned groups,
    unsigned wide,
    double zero,
    REAL *__restrict__ out)              // (rows, n)
{
    decode(codes, scales, (const double *)nullptr, rows, n, group, groups, wide, zero, out);
}

extern "C" __global__ void __launch_bounds__(256) grid_encode(
    const REAL *__restrict__ x,          // (rows, n)
    const double *__restrict__ scales,   // (rows, groups)
    word rows,
    unsigned n,
    unsigned group,
    unsigned groups,
    unsigned wide,
    double base,
    double frac,
    double low,
    double high,
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
                const REAL s = (REAL)scales[run.row * groups + (run.column + u) / group];
                const REAL k = s == 0 ? 0 : within(ceiling(values.at[u] / s + (REAL)frac), (REAL)low, (REAL)high);
                made.at[u] = (CODE)(int)(k + (REAL)base);
            }
        store(made, codes + at, run.count, written && run.count == RUN);
    }
}

// --- the fit ---------------------------------------------------------------------------------------------------------

// A scale as it is stored; one that is not zero does not become zero.
static __device__ __forceinline__ double stored(double scale, int digits)
{
    if (scale == 0.0)
        return 0.0;
    const double size = rounded(fabs(scale), digits, 0.0);
    return copysign(size > 0x1p-24 ? size : 0x1p-24, scale);
}

// A scale that gives the group back without error, or 0: x = h * c with integers c (odd on mid-rise grids).
static __device__ double exact(const Group &g, const Plan &grid)
{
    if (!g.whole())
        return 0.0;
    const bool odd = grid.half != 0.0;
    const long long below = odd ? 1 - 2 * (long long)grid.low : -(long long)grid.low;
    const long long above = odd ? 2 * (long long)grid.high - 1 : (long long)grid.high;
    const long long most = below > above ? below : above;
    unsigned part = 0;
    int highest = 0, deepest = 0;  // of the values, and of their opposites
    for (unsigned k = g.lane; k < g.size; k += LANES) {
        const int v = (int)g.integer(k);
        part = gcd(v < 0 ? -v : v, part);
        highest = v > highest ? v : highest;
        deepest = -v > deepest ? -v : deepest;
    }
    const unsigned divisor = warp_gcd(part);
    const long long high = warp_max(highest), low = warp_max(deepest), reach = high > low ? high : low;
    bool even = false;
    for (unsigned k = g.lane; k < g.size && odd; k += LANES)
        even = even || g.integer(k) / (int)divisor % 2 == 0;
    if (__any_sync(ALL, even))
        return 0.0;
    const unsigned last = (unsigned)(most * divisor / reach), step = odd ? 2 : 1;
    for (unsigned first = 1; first <= last; first += LANES * step) {  // a lane per d, the least of those that fit
        const unsigned d = first + g.lane * step;
        double scale = 0.0;
        if (d <= last && divisor % d == 0) {
            const double trial = (double)(divisor / d) / g.unit * (odd ? 2.0 : 1.0);
            if (stored(trial, grid.digits) == trial) {
                if (high * d <= above * divisor && low * d <= below * divisor)
                    scale = trial;
                else if (low * d <= above * divisor && high * d <= below * divisor)
                    scale = -trial;
            }
        }
        const unsigned hits = __ballot_sync(ALL, scale != 0.0);
        if (hits)
            return __shfl_sync(ALL, scale, __ffs(hits) - 1);
    }
    return 0.0;
}

// Squared error (fixed point), <I, c> and <c, c> of the codes at a stored scale.
struct Judged {
    long long error, cross, energy;

    __device__ __forceinline__ Judged(const Group &g, double scale, const Plan &grid)
    {
        const REAL s = (REAL)scale, frac = (REAL)grid.frac, half = (REAL)grid.half, unit = (REAL)g.unit;
        error = cross = energy = 0;
        for (unsigned k = g.lane; k < g.size; k += LANES) {
            const REAL x = g.x[k];
            const REAL q = within(ceiling(x / s + frac), (REAL)grid.low, (REAL)grid.high) - half;
            const long long r = (long long)nearest((x - s * q) * unit), c = (long long)(q + q);
            error += r * r;
            cross += c * g.integer(k);
            energy += c * c;
        }
        error = warp_sum(error);
        cross = warp_sum(cross);
        energy = warp_sum(energy);
    }
};

// The least-squares scale of the best codes among the candidates: the score <I, c>^2 / <c, c> is maximal.
static __device__ double start(const Group &g, const double *ratios, unsigned count, const Plan &grid)
{
    const REAL norm = (REAL)(g.unit * 0x1p-24);
    const float offset = (float)(grid.frac + 0.5), low = (float)grid.low, high = (float)grid.high;
    const float twice_half = (float)(2.0 * grid.half);
    const int shift = grid.bits + 1;
    float largest = 0;
    for (unsigned k = g.lane; k < g.size; k += LANES) {
        const float f = fabsf((float)(g.x[k] * norm));
        largest = f > largest ? f : largest;
    }
    const double peak = warp_max(largest);
    double best = -1.0, found = 0.0;
    for (unsigned t = 0; t < count; ++t) {
        const float inverse = (float)(ratios[t] / peak);
        long long cross = 0, energy = 0;
        for (unsigned k = g.lane; k < g.size; k += LANES) {
            const float f = (float)(g.x[k] * norm);
            const int c = (int)(2.0f * within(rintf(f * inverse + offset), low, high) - twice_half);
            cross += (long long)c * (int)(g.integer(k) >> shift);
            energy += (long long)c * c;
        }
        const double a = (double)warp_sum(cross), b = (double)warp_sum(energy);
        const double score = b > 0 ? a * a / b : 0.0;
        if (score > best) {
            best = score;
            found = b > 0 ? 2.0 * a / b * power(shift) / g.unit : 0.0;
        }
    }
    return found;
}

// The candidate with the least error, for codes too long for 32-bit products.
static __device__ double start_judged(const Group &g, const double *ratios, unsigned count, const Plan &grid)
{
    long long least = 1ll << 62;
    double found = 0.0;
    for (unsigned t = 0; t < count; ++t) {
        const double s = stored(g.peak / ratios[t], grid.digits);
        const Judged judged(g, s, grid);
        if (judged.error < least) {
            least = judged.error;
            found = s;
        }
    }
    return found;
}

// Grid: (blocks for the groups, a warp each, 1, 1).
extern "C" __global__ void __launch_bounds__(256, 2) grid_fit(
    const REAL *__restrict__ x,       // (rows, n)
    word rows,
    unsigned n,
    unsigned group,
    unsigned groups,
    const double *__restrict__ ratios,
    unsigned count,                   // of the ratios
    int bits,
    int digits,
    double base,
    double frac,
    double low,
    double high,
    double half,
    double *__restrict__ scales)      // (rows, groups)
{
    const word which = (word)blockIdx.x * (blockDim.x / LANES) + threadIdx.x / LANES;
    if (which >= rows * groups)
        return;
    const Plan grid = {bits, digits, base, frac, low, high, half};
    const Group g(x, which, n, groups, group);
    double chosen = 0.0;
    if (g.unit != 0.0) {
        chosen = exact(g, grid);
        if (chosen == 0.0) {
            double s = bits <= (int)SCAN_BITS ? start(g, ratios, count, grid) : start_judged(g, ratios, count, grid);
            long long least = 1ll << 62;
            for (unsigned refit = 0; refit < REFITS; ++refit) {
                s = stored(s, digits);
                if (s == 0.0 || s == chosen)
                    break;
                const Judged judged(g, s, grid);
                if (judged.error < least) {
                    least = judged.error;
                    chosen = s;
                }
                s = judged.energy > 0 ? 2.0 * (double)judged.cross / (double)judged.energy / g.unit : 0.0;
            }
        }
    }
    if (g.lane == 0)
        scales[which] = chosen;
}
