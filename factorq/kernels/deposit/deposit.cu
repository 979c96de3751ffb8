// Bits to the ones of a mask and back, and the rank directory: a thread per 64 positions.
//
// How many ones come before a word follows from a count for each stretch of 256 words, a sum of those in front, and a
// sum over the threads of a block. Not yet measured on a GPU.

typedef unsigned long long word;

extern __shared__ word shared[];

namespace deposit {

constexpr unsigned LANES = 32, EVERY = ~0u, THREADS = 256, WARPS = THREADS / LANES, ENTRIES = 16;

// Eight bytes from byte `at` on, lowest first; zeros beyond the end.
static __device__ __forceinline__ word load(const unsigned char *bytes, word at, word size)
{
    if (at + 8 <= size && ((word)(bytes + at) & 7) == 0)
        return *(const word *)(bytes + at);
    word value = 0;
    for (unsigned k = 0; k < 8; ++k)
        if (at + k < size)
            value |= (word)bytes[at + k] << (8 * k);
    return value;
}

// 64 bits from bit `at` on.
static __device__ __forceinline__ word bits_at(const unsigned char *bytes, word at, word size)
{
    const word low = load(bytes, at / 8, size);
    const unsigned shift = at % 8;
    if (!shift)
        return low;
    const word high = at / 8 + 8 < size ? bytes[at / 8 + 8] : 0;
    return low >> shift | high << (64 - shift);
}

static __device__ __forceinline__ void store(unsigned char *bytes, word at, word size, word value)
{
    if (at + 8 <= size && ((word)(bytes + at) & 7) == 0) {
        *(word *)(bytes + at) = value;
        return;
    }
    for (unsigned k = 0; k < 8; ++k)
        if (at + k < size)
            bytes[at + k] = (unsigned char)(value >> (8 * k));
}

// The sum of the values of the threads before this one, and that of all; `room` has 9 words.
static __device__ __forceinline__ word before(word value, word *room, word *all)
{
    const unsigned lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    word sum = value;
    for (unsigned reach = 1; reach < LANES; reach *= 2) {
        const word other = __shfl_up_sync(EVERY, sum, reach);
        sum += lane >= reach ? other : 0;
    }
    __syncthreads();  // nobody reads the room any more
    if (lane == LANES - 1)
        room[warp] = sum;
    __syncthreads();
    word ahead = 0, total = 0;
    for (unsigned k = 0; k < WARPS; ++k) {
        ahead += k < warp ? room[k] : 0;
        total += room[k];
    }
    *all = total;
    return ahead + sum - value;
}

}  // namespace deposit

// directory[e] = ones of stretch e; a warp each. Grid: (ceil(entries / 8), 1, 1).
extern "C" __global__ void __launch_bounds__(256) deposit_counts(
    const unsigned char *__restrict__ mask,
    word size,                        // bytes
    word stretch,                     // bytes, a multiple of 8
    word entries,
    long long *__restrict__ directory)
{
    using namespace deposit;
    const word e = (word)blockIdx.x * WARPS + threadIdx.x / LANES;
    if (e >= entries)  // a whole warp
        return;
    const unsigned lane = threadIdx.x % LANES;
    const word begin = e * stretch, end = size - begin < stretch ? size : begin + stretch;
    long long ones = 0;
    for (word at = begin + 8 * lane; at < end; at += 8 * LANES)
        ones += __popcll(load(mask, at, size));
    for (unsigned reach = LANES / 2; reach; reach /= 2)
        ones += __shfl_xor_sync(EVERY, ones, reach);
    if (lane == 0)
        directory[e] = ones;
}

// Each entry becomes the sum of those before it, entry `entries` that of all. One block.
extern "C" __global__ void __launch_bounds__(256) deposit_sums(word entries, long long *directory)
{
    using namespace deposit;
    word total = 0;
    for (word done = 0; done < entries; done += THREADS * ENTRIES) {
        const word first = done + threadIdx.x * ENTRIES;
        const unsigned count = first >= entries ? 0 : entries - first < ENTRIES ? (unsigned)(entries - first) : ENTRIES;
        word own = 0, all;
        for (unsigned k = 0; k < count; ++k)
            own += (word)directory[first + k];
        word run = total + before(own, shared, &all);
        for (unsigned k = 0; k < count; ++k) {
            const word ones = (word)directory[first + k];
            directory[first + k] = (long long)run;
            run += ones;
        }
        total += all;
    }
    if (threadIdx.x == 0)
        directory[entries] = (long long)total;
}

// Grid: (stretches of 256 words, 1, 1).
extern "C" __global__ void __launch_bounds__(256) deposit_spread(
    const unsigned char *__restrict__ packed,  // (planes, length)
    word length,
    const unsigned char *__restrict__ mask,
    word size,                                 // bytes
    const long long *__restrict__ directory,   // ones before each stretch
    word planes,
    unsigned char *__restrict__ out)           // (planes, size)
{
    using namespace deposit;
    const word at = ((word)blockIdx.x * THREADS + threadIdx.x) * 8, ones = at < size ? load(mask, at, size) : 0;
    word all;
    const word rank = (word)directory[blockIdx.x] + before((word)__popcll(ones), shared, &all);
    if (at >= size)
        return;
    for (word plane = 0; plane < planes; ++plane) {
        word bits = ones ? bits_at(packed + plane * length, rank, length) : 0, value = 0;
        for (word left = ones; left; left &= left - 1, bits >>= 1)
            value |= bits & 1 ? left & (0 - left) : 0;
        store(out + plane * size, at, size, value);
    }
}

// Grid: (stretches of 256 words, 1, 1). Neighbours share words of the result: their bits are ORed in.
extern "C" __global__ void __launch_bounds__(256) deposit_gather(
    const unsigned char *__restrict__ bits,   // (planes, size)
    const unsigned char *__restrict__ mask,
    word size,
    const long long *__restrict__ directory,
    word planes,
    word length,                              // words of 32 bits, room for all ones and 64 bits more
    unsigned *__restrict__ packed)            // (planes, length), zeros
{
    using namespace deposit;
    const word at = ((word)blockIdx.x * THREADS + threadIdx.x) * 8, ones = at < size ? load(mask, at, size) : 0;
    word all;
    const word rank = (word)directory[blockIdx.x] + before((word)__popcll(ones), shared, &all);
    if (!ones)
        return;
    for (word plane = 0; plane < planes; ++plane) {
        const word given = load(bits + plane * size, at, size);
        word value = 0;
        unsigned count = 0;
        for (word left = ones; left; left &= left - 1, ++count)
            value |= (word)((given & left & (0 - left)) != 0) << count;
        unsigned *target = packed + plane * length + rank / 32;
        const unsigned shift = rank % 32;
        const word low = value << shift;
        atomicOr(target, (unsigned)low);
        atomicOr(target + 1, (unsigned)(low >> 32));
        if (shift)
            atomicOr(target + 2, (unsigned)(value >> (64 - shift)));
    }
}

// Ones before each position. Grid: (ceil(wanted / 256), 1, 1).
extern "C" __global__ void __launch_bounds__(256) deposit_rank(
    const unsigned char *__restrict__ mask,
    word size,
    const long long *__restrict__ directory,
    word stretch,                            // bytes
    const long long *__restrict__ positions,
    word wanted,
    long long *__restrict__ out)
{
    const word q = (word)blockIdx.x * blockDim.x + threadIdx.x;
    if (q >= wanted)
        return;
    const word i = (word)positions[q], entry = i / (8 * stretch);
    long long ones = directory[entry];
    word at = entry * stretch;
    for (; at + 8 <= i / 8; at += 8)
        ones += __popcll(deposit::load(mask, at, size));
    if (8 * at < i)
        ones += __popcll(deposit::load(mask, at, size) & ~(~0ull << (i - 8 * at)));
    out[q] = ones;
}

// Position of each k-th one. Grid: (ceil(wanted / 256), 1, 1).
extern "C" __global__ void __launch_bounds__(256) deposit_select(
    const unsigned char *__restrict__ mask,
    word size,
    const long long *__restrict__ directory,  // (entries + 1,)
    word entries,
    word stretch,
    const long long *__restrict__ numbers,    // each below the number of ones
    word wanted,
    long long *__restrict__ out)
{
    const word q = (word)blockIdx.x * blockDim.x + threadIdx.x;
    if (q >= wanted)
        return;
    const long long k = numbers[q];
    word low = 0, high = entries;  // the last entry with at most k ones before it
    while (high - low > 1) {
        const word middle = low + (high - low) / 2;
        if (directory[middle] <= k)
            low = middle;
        else
            high = middle;
    }
    long long left = k - directory[low];
    for (word at = low * stretch; at < size; at += 8) {
        word ones = deposit::load(mask, at, size);
        const int count = __popcll(ones);
        if (left < count) {
            for (; left; --left)
                ones &= ones - 1;
            out[q] = (long long)(8 * at) + __popcll((ones & (0 - ones)) - 1);
            return;
        }
        left -= count;
    }
}
