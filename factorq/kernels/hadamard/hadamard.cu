// Rows turned by signs, butterflies and the odd part: a block per row, which stays in shared memory where it fits.
//
// Additions come in the order of the reference and are compiled without fused multiply-add, so that every bit is the
// reference's. Not yet measured on a GPU.
#include "../common.cuh"

#ifndef REAL
#define REAL float
#endif

static __device__ __forceinline__ void turn(REAL *row, const REAL *signs, unsigned n)
{
    for (unsigned j = threadIdx.x; j < n; j += blockDim.x)
        row[j] *= signs[j];
}

// Runs of `span` entries times Sylvester's matrix / sqrt(span).
static __device__ __forceinline__ void butterflies(REAL *row, unsigned reach, unsigned span, REAL scale)
{
    for (unsigned j = threadIdx.x; j < reach; j += blockDim.x)
        row[j] *= scale;
    for (unsigned h = 1; h < span; h *= 2) {
        __syncthreads();
        for (unsigned k = threadIdx.x; k < reach / 2; k += blockDim.x) {
            const unsigned low = 2 * k - (k & (h - 1)), high = low + h;
            const REAL a = row[low], b = row[high];
            row[low] = a + b;
            row[high] = a - b;
        }
    }
    __syncthreads();
}

// The runs times `odd` (m, m), summed one after the other.
static __device__ __forceinline__ void mix(const REAL *row, const REAL *odd, unsigned m, unsigned span, REAL *mixed)
{
    for (unsigned at = threadIdx.x; at < m * span; at += blockDim.x) {
        const REAL *factors = odd + at / span * m;
        REAL total = factors[0] * row[at % span];
        for (unsigned k = 1; k < m; ++k)
            total = total + factors[k] * row[k * span + at % span];
        mixed[at] = total;
    }
    __syncthreads();
}

// Grid: (blocks that share the rows, 1, 1); shared memory for one row, two if m > 1, if they are `near`.
extern "C" __global__ void __launch_bounds__(256) hadamard_rotate(
    const REAL *__restrict__ x,            // (rows, n)
    word rows,
    unsigned n,
    const long long *__restrict__ order,   // (n,)
    const REAL *__restrict__ signs,        // (steps, n)
    const long long *__restrict__ starts,  // (steps,)
    unsigned steps,
    unsigned span,
    REAL scale,
    const REAL *__restrict__ odd,          // (m, m)
    unsigned m,
    unsigned inverse,
    unsigned near,
    REAL *room,                            // (gridDim.x, 2, n) if not near
    REAL *__restrict__ out)                // (rows, n)
{
    REAL *const first = near ? (REAL *)shared : room + (word)blockIdx.x * 2 * n;
    REAL *const second = first + n;
    for (word i = blockIdx.x; i < rows; i += gridDim.x) {
        REAL *row = first, *spare = second;
        const REAL *given = x + i * n;
        REAL *target = out + i * n;
        for (unsigned j = threadIdx.x; j < n; j += blockDim.x)
            row[j] = given[inverse ? j : order[j]];
        for (unsigned k = 0; k < steps; ++k) {
            const unsigned step = inverse ? steps - 1 - k : k;
            __syncthreads();
            if (!inverse) {
                turn(row, signs + (word)step * n, n);
                __syncthreads();
            }
            butterflies(row + starts[step], m * span, span, scale);
            if (m > 1) {  // then there is one step, of the whole row
                mix(row, odd, m, span, spare);
                REAL *mixed = spare;
                spare = row;
                row = mixed;
            }
            if (inverse)
                turn(row, signs + (word)step * n, n);
        }
        for (unsigned j = threadIdx.x; j < n; j += blockDim.x)  // what this thread wrote, or a barrier ago
            target[inverse ? order[j] : j] = row[j];
    }
}
