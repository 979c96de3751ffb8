// Outputs of the banded XOR network: a table look-up for every four bits of a window, one thread per 64 outputs.
//
// A block keeps the tables of `wide` words of a step in shared memory, groups * 16 * wide of them, and goes through
// steps; neighbouring threads have neighbouring words, so that stores are coalesced. Not yet measured on a GPU.

typedef unsigned long long word;

extern __shared__ word shared[];

// Grid: (blocks that share the steps, step / (64 * wide), planes). blockDim.x is a multiple of wide.
extern "C" __global__ void __launch_bounds__(256) banded_outputs(
    const unsigned *__restrict__ streams,  // (planes, length): bits from `slots` on are zero
    word length,                           // at least slots / 32 + groups / 8 + 1
    word slots,
    const long long *__restrict__ starts,  // (steps,), each 0 to slots; what is not is taken for slots
    word steps,
    const word *__restrict__ tables,       // (step / (64 * wide), groups, 16, wide)
    unsigned groups,                       // a multiple of 8
    unsigned wide,
    word size,                             // outputs; beyond, zeros are written
    word *__restrict__ out)                // (planes, steps, step / 64)
{
    const unsigned entries = groups * 16 * wide;
    for (unsigned k = threadIdx.x; k < entries; k += blockDim.x)
        shared[k] = tables[(word)blockIdx.y * entries + k];
    __syncthreads();

    const unsigned column = threadIdx.x % wide, side_by_side = blockDim.x / wide, chunks = gridDim.y;
    const unsigned *stream = streams + blockIdx.z * length;
    word *target = out + blockIdx.z * steps * chunks * wide;
    word t = (word)blockIdx.x * side_by_side + threadIdx.x / wide;
    for (; t < steps; t += (word)gridDim.x * side_by_side) {
        const word given = (word)starts[t], start = given < slots ? given : slots;
        const unsigned *next = stream + (start >> 5);
        const word *table = shared + column;
        unsigned low = *next++;
        word sum = 0;
        for (unsigned g = 0; g < groups; g += 8) {
            const unsigned high = *next++;
            const unsigned bits = __funnelshift_r(low, high, (unsigned)start);  // by start % 32
            low = high;
#pragma unroll
            for (unsigned k = 0; k < 8; ++k, table += 16 * wide)
                sum ^= table[(bits >> (4 * k) & 15) * wide];
        }
        const word at = (t * chunks + blockIdx.y) * wide + column;
        const word before = 64 * at;
        if (before + 64 > size)
            sum &= before < size ? ~(~0ull << (size - before)) : 0;
        target[at] = sum;
    }
}
