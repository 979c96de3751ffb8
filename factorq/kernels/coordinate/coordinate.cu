// One pass of coordinate descent over the integers of each row: a warp per row, a lane per 32nd coordinate.
//
// A lane works out the step of its own coordinate and tells the others, which bring their gradients up to date. Up to
// 128 coordinates, as many as the door passes at a time, stay in registers. Every operation is rounded on its own, as
// in the reference. Not yet measured on a GPU.

typedef unsigned long long word;

namespace coordinate {

constexpr unsigned LANES = 32, EVERY = ~0u;

static __device__ __forceinline__ float add(float a, float b) { return __fadd_rn(a, b); }
static __device__ __forceinline__ float sub(float a, float b) { return __fsub_rn(a, b); }
static __device__ __forceinline__ float mul(float a, float b) { return __fmul_rn(a, b); }
static __device__ __forceinline__ float inverse(float a) { return __fdiv_rn(1.0f, a); }
static __device__ __forceinline__ float root(float a) { return __fsqrt_rn(a); }
static __device__ __forceinline__ float rounded(float a) { return rintf(a); }
static __device__ __forceinline__ float within(float a, float most) { return fminf(fmaxf(a, -most), most); }
static __device__ __forceinline__ double add(double a, double b) { return __dadd_rn(a, b); }
static __device__ __forceinline__ double sub(double a, double b) { return __dsub_rn(a, b); }
static __device__ __forceinline__ double mul(double a, double b) { return __dmul_rn(a, b); }
static __device__ __forceinline__ double inverse(double a) { return __ddiv_rn(1.0, a); }
static __device__ __forceinline__ double root(double a) { return __dsqrt_rn(a); }
static __device__ __forceinline__ double rounded(double a) { return rint(a); }
static __device__ __forceinline__ double within(double a, double most) { return fmin(fmax(a, -most), most); }

// From z to the level nearest to its minimum at the gradient g, plus noise.
template <class Number>
static __device__ __forceinline__ Number step_of(Number z, Number g, Number inverted, Number jitter, bool noisy,
                                                 Number most, Number shift)
{
    Number target = add(z, mul(g, inverted));
    if (noisy)
        target = add(target, jitter);
    return sub(within(add(rounded(sub(target, shift)), shift), most), z);
}

// At most 32 Q coordinates.
template <class Number, unsigned Q>
static __device__ __forceinline__ void sweep_registers(const Number *G, const Number *noise, unsigned r, Number most,
                                                       Number shift, Number *g_row, Number *z_row)
{
    const unsigned lane = threadIdx.x % LANES;
    Number g[Q], z[Q], inverted[Q], jitter[Q];
#pragma unroll
    for (unsigned q = 0; q < Q; ++q) {
        const unsigned j = LANES * q + lane;
        const Number d = j < r ? G[(word)j * r + j] : Number(0);
        g[q] = j < r ? g_row[j] : Number(0);
        z[q] = j < r ? z_row[j] : Number(0);
        inverted[q] = d > 0 ? inverse(d) : Number(0);
        jitter[q] = noise && d > 0 ? mul(noise[j], inverse(root(d))) : Number(0);
    }
#pragma unroll
    for (unsigned q = 0; q < Q; ++q) {
        const unsigned count = r < LANES * q ? 0 : r - LANES * q < LANES ? r - LANES * q : LANES;
        for (unsigned owner = 0; owner < count; ++owner) {
            Number row[Q];  // read before the step is known
#pragma unroll
            for (unsigned p = 0; p < Q; ++p)
                row[p] = LANES * p + lane < r ? G[(word)(LANES * q + owner) * r + LANES * p + lane] : Number(0);
            const Number own = inverted[q] == 0
                                   ? Number(0)
                                   : step_of(z[q], g[q], inverted[q], jitter[q], noise != nullptr, most, shift);
            const Number step = __shfl_sync(EVERY, own, owner);
            if (step != 0) {
#pragma unroll
                for (unsigned p = 0; p < Q; ++p)
                    g[p] = sub(g[p], mul(step, row[p]));
                z[q] = lane == owner ? add(z[q], step) : z[q];
            }
        }
    }
#pragma unroll
    for (unsigned q = 0; q < Q; ++q)
        if (LANES * q + lane < r) {
            g_row[LANES * q + lane] = g[q];
            z_row[LANES * q + lane] = z[q];
        }
}

// Any number of coordinates: a lane reads and writes only its own ones, where they are.
template <class Number>
static __device__ __forceinline__ void sweep_memory(const Number *G, const Number *noise, unsigned r, Number most,
                                                    Number shift, Number *g_row, Number *z_row)
{
    const unsigned lane = threadIdx.x % LANES;
    for (unsigned j = 0; j < r; ++j) {
        const Number *row = G + (word)j * r, d = row[j];
        if (!(d > 0))
            continue;
        Number own = 0;
        if (lane == j % LANES) {
            const Number jitter = noise ? mul(noise[j], inverse(root(d))) : Number(0);
            own = step_of(z_row[j], g_row[j], inverse(d), jitter, noise != nullptr, most, shift);
        }
        const Number step = __shfl_sync(EVERY, own, j % LANES);
        if (step == 0)
            continue;
        for (unsigned k = lane; k < r; k += LANES)
            g_row[k] = sub(g_row[k], mul(step, row[k]));
        if (lane == j % LANES)
            z_row[j] = add(z_row[j], step);
    }
}

template <class Number>
static __device__ __forceinline__ void sweep(const Number *G, const Number *noise, word n, unsigned r, Number most,
                                             Number shift, Number *g, Number *Z)
{
    const word row = (word)blockIdx.x * (blockDim.x / LANES) + threadIdx.x / LANES, at = row * r;
    if (row >= n)  // a whole warp
        return;
    const Number *jitter = noise ? noise + at : nullptr;
    if (r <= LANES)
        sweep_registers<Number, 1>(G, jitter, r, most, shift, g + at, Z + at);
    else if (r <= 4 * LANES)
        sweep_registers<Number, 4>(G, jitter, r, most, shift, g + at, Z + at);
    else
        sweep_memory<Number>(G, jitter, r, most, shift, g + at, Z + at);
}

}  // namespace coordinate

// Grid: (ceil(n / 8), 1, 1).
extern "C" __global__ void __launch_bounds__(256) coordinate_float(
    const float *__restrict__ G,      // (r, r)
    const float *__restrict__ noise,  // (n, r), or null
    word n,
    unsigned r,
    float most,
    float shift,
    float *__restrict__ g,            // (n, r)
    float *__restrict__ Z)            // (n, r)
{
    coordinate::sweep<float>(G, noise, n, r, most, shift, g, Z);
}

extern "C" __global__ void __launch_bounds__(256) coordinate_double(
    const double *__restrict__ G,
    const double *__restrict__ noise,
    word n,
    unsigned r,
    double most,
    double shift,
    double *__restrict__ g,
    double *__restrict__ Z)
{
    coordinate::sweep<double>(G, noise, n, r, most, shift, g, Z);
}
