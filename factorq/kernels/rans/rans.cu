// The rANS decoder: a thread per block, one or four states in its registers.
//
// An entry of a table has all that a slot says: its symbol, the frequency, and the place among the symbol's slots. Four
// states do not wait for each other's entries, only for how many words the others took. Not yet measured on a GPU.

typedef unsigned long long word;

namespace rans {

constexpr unsigned LOW = 1 << 16;

// Symbols of a block; whether it ends where its encoder began.
template <unsigned LANES, class Symbol>
static __device__ __forceinline__ bool decode(const unsigned short *words, word size, const unsigned char *contexts,
                                              const word *entries, unsigned precision, word count, Symbol *out)
{
    unsigned state[LANES];
    word at = 2 * LANES;
    if (size < at)
        return false;
#pragma unroll
    for (unsigned k = 0; k < LANES; ++k)
        state[k] = (unsigned)words[2 * k] << 16 | words[2 * k + 1];
    const unsigned mask = (1u << precision) - 1;
    for (word i = 0; i < count; i += LANES) {
        word entry[LANES];
#pragma unroll
        for (unsigned k = 0; k < LANES; ++k) {
            const unsigned table = contexts && i + k < count ? contexts[i + k] : 0;
            entry[k] = entries[(word)table << precision | (state[k] & mask)];
        }
#pragma unroll
        for (unsigned k = 0; k < LANES; ++k)
            if (i + k < count) {
                out[i + k] = (Symbol)entry[k];
                unsigned x = (unsigned)(entry[k] >> 16 & 0xffff) * (state[k] >> precision) + (unsigned)(entry[k] >> 32);
                if (x < LOW && (LANES > 1 || at < size)) {
                    if (at == size)
                        return false;
                    x = x << 16 | words[at++];
                }
                state[k] = x;
            }
    }
    bool ended = at == size;
#pragma unroll
    for (unsigned k = 0; k < LANES; ++k)
        ended = ended && state[k] == (LANES > 1 ? LOW : 1);
    return ended;
}

template <class Symbol>
static __device__ __forceinline__ void decode_block(const unsigned short *words, const long long *offsets, word blocks,
                                                    const unsigned char *contexts, const word *entries,
                                                    unsigned precision, unsigned lanes, word block, word count,
                                                    Symbol *out, unsigned char *sound)
{
    const word b = (word)blockIdx.x * blockDim.x + threadIdx.x;
    if (b >= blocks)
        return;
    const word first = b * block, own = count - first < block ? count - first : block;
    const word size = offsets[b + 1] - offsets[b];
    const unsigned short *begin = words + offsets[b];
    const unsigned char *chosen = contexts ? contexts + first : nullptr;
    sound[b] = lanes == 4 ? decode<4>(begin, size, chosen, entries, precision, own, out + first)
                          : decode<1>(begin, size, chosen, entries, precision, own, out + first);
}

}  // namespace rans

// Grid: (ceil(blocks / threads), 1, 1); any number of threads.
extern "C" __global__ void __launch_bounds__(256) rans_decode_bytes(
    const unsigned short *__restrict__ words,
    const long long *__restrict__ offsets,        // (blocks + 1,): where the words of each begin
    word blocks,
    const unsigned char *__restrict__ contexts,   // (count,), or null: one table
    const word *__restrict__ entries,             // (tables, 2**precision): symbol, frequency << 16, place << 32
    unsigned precision,
    unsigned lanes,                               // 1 or 4
    word block,                                   // symbols of a block
    word count,
    unsigned char *__restrict__ out,              // (count,)
    unsigned char *__restrict__ sound)            // (blocks,)
{
    rans::decode_block(words, offsets, blocks, contexts, entries, precision, lanes, block, count, out, sound);
}

extern "C" __global__ void __launch_bounds__(256) rans_decode_shorts(
    const unsigned short *__restrict__ words,
    const long long *__restrict__ offsets,
    word blocks,
    const unsigned char *__restrict__ contexts,
    const word *__restrict__ entries,
    unsigned precision,
    unsigned lanes,
    word block,
    word count,
    unsigned short *__restrict__ out,
    unsigned char *__restrict__ sound)
{
    rans::decode_block(words, offsets, blocks, contexts, entries, precision, lanes, block, count, out, sound);
}

// Grid: (2**precision / threads, 1, tables).
extern "C" __global__ void __launch_bounds__(256) rans_entries(
    const long long *__restrict__ starts,  // (tables, symbols): sums of the frequencies before each
    unsigned symbols,
    unsigned precision,
    word *__restrict__ entries)
{
    const unsigned slot = blockIdx.x * blockDim.x + threadIdx.x;
    const long long *start = starts + (word)blockIdx.z * symbols;
    unsigned low = 0, high = symbols;  // the last symbol that begins at the slot or before: the others there have none
    while (high - low > 1) {
        const unsigned middle = (low + high) / 2;
        if (start[middle] <= slot)
            low = middle;
        else
            high = middle;
    }
    const word end = low + 1 < symbols ? (word)start[low + 1] : 1ull << precision;
    entries[((word)blockIdx.z << precision) + slot] = low | (end - start[low]) << 16 | (word)(slot - start[low]) << 32;
}
