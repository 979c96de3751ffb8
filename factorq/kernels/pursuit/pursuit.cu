// Sparse codes by greedy coordinate descent: a warp per row, a lane per 32nd coordinate.
//
// Lanes look for the best move among their own coordinates, the warp takes the best of those, the first of equal ones,
// and each lane brings its part of the gradient up to date. Every operation is rounded on its own, in the order of the
// reference. Not yet measured on a GPU.

typedef unsigned long long word;

extern __shared__ word shared[];

namespace pursuit {

constexpr unsigned LANES = 32, EVERY = ~0u, NONE = ~0u;

static __device__ __forceinline__ double add(double a, double b) { return __dadd_rn(a, b); }
static __device__ __forceinline__ double sub(double a, double b) { return __dsub_rn(a, b); }
static __device__ __forceinline__ double mul(double a, double b) { return __dmul_rn(a, b); }
static __device__ __forceinline__ double infinite() { return __longlong_as_double(0x7ff0000000000000ll); }

// What all rows share, and the price and the least gain of this one.
struct Terms {
    const double *G, *diagonal, *inverse, *cost;
    unsigned r, lane;
    double most, shift;
    bool zero;
    double price, least;
    long long count;
};

// A move of one coordinate and what it gains, or for the least useful one what it costs.
struct Move {
    unsigned at;
    double gain, target;
};

static __device__ __forceinline__ double paid(const Terms &t, unsigned j)
{
    return mul(t.price, t.cost[j]);
}

// The best of the moves of all lanes, by larger (or smaller) gain and the lower place; its target is of no use.
template <bool LARGEST>
static __device__ __forceinline__ Move best_of(Move own)
{
    for (unsigned reach = LANES / 2; reach; reach /= 2) {
        const double gain = __shfl_xor_sync(EVERY, own.gain, reach);
        const unsigned at = __shfl_xor_sync(EVERY, own.at, reach);
        const bool better = LARGEST ? gain > own.gain : gain < own.gain;
        if (at != NONE && (own.at == NONE || better || (gain == own.gain && at < own.at))) {
            own.gain = gain;
            own.at = at;
        }
    }
    return own;
}

// The best value of coordinate j and what it gains over what is there.
static __device__ __forceinline__ Move gain_of(const Terms &t, const double *z, const double *g, unsigned j, bool zero)
{
    const double d = t.diagonal[j], now = z[j], slope = g[j], price = paid(t, j);
    const double u = add(slope, mul(d, now)), magnitude = fabs(u);
    double size = mul(magnitude, t.inverse[j]);
    if (t.most > 0)
        size = add(fmin(fmax(floor(add(sub(size, t.shift), 0.5)), 1.0), t.most), t.shift);
    const double gain = sub(mul(size, sub(mul(2.0, magnitude), mul(d, size))), price);
    const bool stays = !zero || gain > 0;
    const double target = stays ? (u < 0 ? -size : size) : 0.0, step = sub(target, now);
    const double more = sub(stays ? price : 0.0, now != 0 ? price : 0.0);
    return {j, sub(mul(step, sub(mul(2.0, slope), mul(d, step))), more), target};
}

static __device__ __forceinline__ Move least_useful(const Terms &t, const double *z, const double *g)
{
    Move own = {NONE, infinite(), 0.0};
    for (unsigned j = t.lane; j < t.r; j += LANES)
        if (z[j] != 0 && t.diagonal[j] > 0) {
            const double gained = sub(mul(z[j], add(mul(2.0, g[j]), mul(t.diagonal[j], z[j]))), paid(t, j));
            if (gained < own.gain)
                own = {j, gained, 0.0};
        }
    return best_of<false>(own);
}

// Coordinate j takes the value: `before` is what it was, known to all lanes.
static __device__ __forceinline__ void set(const Terms &t, double *z, double *g, unsigned j, double before, double value)
{
    const double change = sub(value, before), *row = t.G + (word)j * t.r;
    for (unsigned k = t.lane; k < t.r; k += LANES)
        g[k] = sub(g[k], mul(row[k], change));
    if (t.lane == j % LANES)
        z[j] = value;
}

static __device__ __forceinline__ double value_at(const Terms &t, const double *z, unsigned j)
{
    const double own = t.lane == j % LANES ? z[j] : 0;
    return __shfl_sync(EVERY, own, j % LANES);
}

// The best move of this row; of those into zeros only, but for `except`, or of all that may be made.
static __device__ __forceinline__ Move best_move(const Terms &t, const double *z, const double *g, bool full,
                                                 double least, bool into_zeros, unsigned except)
{
    Move own = {NONE, least, 0.0};
    for (unsigned j = t.lane; j < t.r; j += LANES) {
        const bool empty = z[j] == 0;
        if (!(t.diagonal[j] > 0) || (full && empty) || (into_zeros && (!empty || j == except)))
            continue;
        const Move move = gain_of(t, z, g, j, t.zero || into_zeros);
        if (move.gain > own.gain)
            own = move;
    }
    Move best = best_of<true>(own);
    best.target = __shfl_sync(EVERY, own.target, best.at % LANES);
    return best;
}

// Replaces the nonzero that is missed least by the best other one, if that gains more than `least`.
static __device__ __forceinline__ bool exchange(const Terms &t, double *z, double *g)
{
    const Move out = least_useful(t, z, g);
    if (out.at == NONE)
        return false;
    const double old = value_at(t, z, out.at);
    set(t, z, g, out.at, old, 0.0);
    const Move in = best_move(t, z, g, false, add(out.gain, t.least), true, out.at);
    if (in.at == NONE) {
        set(t, z, g, out.at, 0.0, old);
        return false;
    }
    set(t, z, g, in.at, 0.0, in.target);
    return true;
}

static __device__ void descend(const Terms &t, double *z, double *g, unsigned steps)
{
    long long kept = 0;
    for (unsigned from = 0; from < t.r; from += LANES)
        kept += __popc(__ballot_sync(EVERY, from + t.lane < t.r && z[from + t.lane] != 0));
    while (t.zero && kept > t.count) {
        const Move out = least_useful(t, z, g);
        if (out.at == NONE)
            break;
        set(t, z, g, out.at, value_at(t, z, out.at), 0.0);
        --kept;
    }
    for (unsigned step = 0; step < steps; ++step) {
        const Move move = best_move(t, z, g, kept >= t.count, t.least, false, NONE);
        if (move.at != NONE) {
            const double before = value_at(t, z, move.at);
            kept += (move.target != 0) - (before != 0);
            set(t, z, g, move.at, before, move.target);
            continue;
        }
        const bool full = t.zero && kept == t.count && kept > 0 && kept < t.r;
        if (!full || !exchange(t, z, g))
            break;
    }
}

// Summed in order of the coordinates.
template <class Number>
static __device__ __forceinline__ double objective(const Terms &t, const Number *b, const double *z, const double *g)
{
    double total = 0;
    for (unsigned from = 0; from < t.r; from += LANES) {
        const unsigned j = from + t.lane;
        const bool used = j < t.r && z[j] != 0;
        const double own = used ? sub(paid(t, j), mul(z[j], add((double)b[j], g[j]))) : 0.0;
        const unsigned owners = __ballot_sync(EVERY, used);
        for (unsigned k = 0; k < LANES; ++k)
            if (owners >> k & 1)
                total = __dadd_rn(total, __shfl_sync(EVERY, own, k));
    }
    return total;
}

template <class Number>
static __device__ __forceinline__ void pursue(Terms t, const Number *B, const double *price, const long long *count,
                                              const double *least, bool restart, unsigned steps, word n,
                                              double *scratch, Number *Z)
{
    const unsigned warp = threadIdx.x / LANES, warps = blockDim.x / LANES, room = (restart ? 4 : 2) * t.r;
    const word first = (word)blockIdx.x * warps + warp;
    double *z = scratch ? scratch + first * room : (double *)shared + warp * room;
    double *g = z + t.r, *other = g + t.r, *h = other + t.r;
    for (word i = first; i < n; i += (word)gridDim.x * warps) {
        const Number *b = B + i * t.r;
        t.price = price[i];
        t.least = least[i];
        t.count = count[i];
        for (unsigned j = t.lane; j < t.r; j += LANES) {
            z[j] = (double)Z[i * t.r + j];
            g[j] = (double)b[j];
        }
        for (unsigned j = 0; j < t.r; ++j) {
            const double value = value_at(t, z, j);
            if (value != 0)
                for (unsigned k = t.lane; k < t.r; k += LANES)
                    g[k] = sub(g[k], mul(t.G[(word)j * t.r + k], value));
        }
        descend(t, z, g, steps);
        double *better = z;
        if (restart) {
            for (unsigned j = t.lane; j < t.r; j += LANES) {
                other[j] = 0;
                h[j] = (double)b[j];
            }
            descend(t, other, h, steps);
            if (objective(t, b, other, h) < objective(t, b, z, g))
                better = other;
        }
        for (unsigned j = t.lane; j < t.r; j += LANES)
            Z[i * t.r + j] = (Number)better[j];
    }
}

}  // namespace pursuit

// Grid: (ceil(r / 256), 1, 1).
extern "C" __global__ void __launch_bounds__(256) pursuit_diagonal(const double *__restrict__ G, unsigned r,
                                                                   double *__restrict__ both)  // (2, r)
{
    const unsigned j = blockIdx.x * blockDim.x + threadIdx.x;
    if (j < r) {
        const double d = G[(word)j * r + j];
        both[j] = d;
        both[r + j] = d > 0 ? __ddiv_rn(1.0, d) : 0.0;
    }
}

// Grid: (blocks that share the rows, 1, 1); a multiple of 32 threads.
extern "C" __global__ void __launch_bounds__(256) pursuit_float(
    const double *__restrict__ G,         // (r, r)
    const double *__restrict__ diagonal,  // (2, r): that of G, and its inverse
    const float *__restrict__ B,          // (n, r)
    const double *__restrict__ price,     // (n,)
    const double *__restrict__ cost,      // (r,)
    const long long *__restrict__ count,  // (n,)
    const double *__restrict__ least,     // (n,)
    double most,
    double shift,
    unsigned zero,
    unsigned restart,
    unsigned steps,
    word n,
    unsigned r,
    double *scratch,                      // (warps, 2 r or with a restart 4 r), or null: in shared memory
    float *__restrict__ Z)                // (n, r)
{
    const pursuit::Terms t = {G, diagonal, diagonal + r, cost, r, threadIdx.x % pursuit::LANES, most, shift, zero != 0,
                              0, 0, 0};
    pursuit::pursue<float>(t, B, price, count, least, restart != 0, steps, n, scratch, Z);
}

extern "C" __global__ void __launch_bounds__(256) pursuit_double(
    const double *__restrict__ G,
    const double *__restrict__ diagonal,
    const double *__restrict__ B,
    const double *__restrict__ price,
    const double *__restrict__ cost,
    const long long *__restrict__ count,
    const double *__restrict__ least,
    double most,
    double shift,
    unsigned zero,
    unsigned restart,
    unsigned steps,
    word n,
    unsigned r,
    double *scratch,
    double *__restrict__ Z)
{
    const pursuit::Terms t = {G, diagonal, diagonal + r, cost, r, threadIdx.x % pursuit::LANES, most, shift, zero != 0,
                              0, 0, 0};
    pursuit::pursue<double>(t, B, price, count, least, restart != 0, steps, n, scratch, Z);
}
