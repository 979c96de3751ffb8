// Codes of 1 to 16 bits as a stream of 32-bit words, and back.
//
// Four codes of a byte, or two of two bytes, are a word before packing and `4 * bits` or `2 * bits` bits after: a
// chunk. Every thread writes whole words, and neighbours write neighbouring ones. Not yet measured on a GPU.
#include "../common.cuh"

// The codes of a word of codes side by side.
static __device__ __forceinline__ unsigned squeezed(unsigned codes, unsigned bits, unsigned per)
{
    const unsigned lane = 32 / per, mask = (1u << bits) - 1;
    unsigned chunk = 0;
    for (unsigned c = 0; c < per; ++c)
        chunk |= (codes >> (c * lane) & mask) << (c * bits);
    return chunk;
}

static __device__ __forceinline__ unsigned spread(unsigned chunk, unsigned bits, unsigned per)
{
    const unsigned lane = 32 / per, mask = (1u << bits) - 1;
    unsigned codes = 0;
    for (unsigned c = 0; c < per; ++c)
        codes |= (chunk >> (c * bits) & mask) << (c * lane);
    return codes;
}

// A block packs 8192 chunks into 256 * (bits of a chunk) words. Grid: (blocks for the words, 1, 1).
extern "C" __global__ void __launch_bounds__(256) bits_pack(
    const u8 *__restrict__ codes,
    word size,                     // bytes of codes
    unsigned bits,
    unsigned per,                  // codes of a word: 4 up to 8 bits, else 2
    unsigned *__restrict__ out,
    word count)                    // words of it
{
    const unsigned width = per * bits;
    const word words = (word)blockIdx.x * 256 * width, chunks = (word)blockIdx.x * 8192;
    for (unsigned k = threadIdx.x; k < 256 * width && words + k < count; k += blockDim.x) {
        const unsigned skipped = 32 * k % width;
        word chunk = chunks + 32 * k / width;
        unsigned value = squeezed(bits_at(codes, size, chunk), bits, per) >> skipped;
        for (unsigned filled = width - skipped; filled < 32; filled += width)
            value |= squeezed(bits_at(codes, size, ++chunk), bits, per) << filled;
        out[words + k] = value;
    }
}

// Sixteen bytes of codes per thread.
extern "C" __global__ void __launch_bounds__(256) bits_unpack(
    const u8 *__restrict__ packed,
    word size,                              // bytes of it
    unsigned bits,
    unsigned per,
    Run<unsigned, RUN> *__restrict__ out,
    word count)                             // runs of it
{
    const word k = (word)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= count)
        return;
    const unsigned width = per * bits;
    Run<unsigned, RUN> codes;
#pragma unroll
    for (unsigned u = 0; u < RUN; ++u) {
        const word bit = (RUN * k + u) * width;
        const unsigned skipped = bit & 31;
        const unsigned low = bits_at(packed, size, bit >> 5);
        const unsigned high = skipped + width > 32 ? bits_at(packed, size, (bit >> 5) + 1) : 0;
        codes.at[u] = spread(__funnelshift_r(low, high, skipped), bits, per);
    }
    out[k] = codes;
}
