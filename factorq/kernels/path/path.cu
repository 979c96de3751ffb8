// The path coder: a thread per block of integers.
//
// Within a block every symbol's table follows from the state of the trellis, that is from the symbol before: blocks are
// what can be decoded side by side. Tables are read through the first-level cache. Not yet measured on a GPU.

typedef unsigned long long word;

extern __shared__ word shared[];

namespace path {

constexpr unsigned PRECISION = 14, LOW = 1 << 16;

// What all blocks share. Symbol = (k >> drop) - least, table = class << union | parity.
struct Code {
    unsigned pairs;  // 1 if there is a table for each parity
    unsigned drop;
    int least;
    unsigned width;  // the escape
    const unsigned *frequency, *start;  // (tables, width + 1)
};

// Words of a block, read in order.
struct Reader {
    const unsigned short *words;
    word at, count;
    bool sound;

    __device__ __forceinline__ unsigned refilled(unsigned x)
    {
        if (x >= LOW)
            return x;
        if (at >= count) {
            sound = false;
            return LOW;
        }
        return x << 16 | words[at++];
    }
};

// Words of a block, written backwards from the end.
struct Writer {
    unsigned short *words;
    word at;

    __device__ __forceinline__ unsigned put(unsigned x, unsigned begin, unsigned share, unsigned bits)
    {
        if (x >= (word)share << (32 - bits)) {
            words[--at] = (unsigned short)x;
            x >>= 16;
        }
        const unsigned quotient = x / share;
        return (quotient << bits) + (x - quotient * share) + begin;
    }
};

// The table of each position of a block, whose rows of `run` integers have classes.
struct Tables {
    const unsigned char *classes;
    word left, run;

    __device__ __forceinline__ unsigned next()
    {
        if (left == 0) {
            ++classes;
            left = run;
        }
        --left;
        return *classes;
    }
};

static __device__ __forceinline__ bool decode(const Code &code, const unsigned char *slots, const unsigned *machine,
                                              Tables tables, Reader in, int *k, word count)
{
    if (in.count < 4)
        return false;
    unsigned even = in.words[0] | (unsigned)in.words[1] << 16, odd = in.words[2] | (unsigned)in.words[3] << 16;
    in.at = 4;
    const unsigned tail = code.drop - code.pairs;
    unsigned state = machine[0];  // its number << 1 and its parity
    for (word i = 0; i < count; ++i) {
        const unsigned parity = state & 1, table = (tables.next() << code.pairs) + parity;
        const unsigned slot = even & ((1u << PRECISION) - 1), symbol = slots[((word)table << PRECISION) + slot];
        const word at = (word)table * (code.width + 1) + symbol;
        unsigned x = in.refilled(code.frequency[at] * (even >> PRECISION) + slot - code.start[at]), value;
        if (symbol == code.width) {
            const unsigned high = x & 0xffff;
            x = in.refilled(x >> 16);
            value = high << 16 | (x & 0xffff);
            x = in.refilled(x >> 16);
        } else {
            value = symbol + (unsigned)code.least;
            if (tail) {
                value = value << tail | (x & ((1u << tail) - 1));
                x = in.refilled(x >> tail);
            }
        }
        if (!in.sound)
            return false;
        k[i] = (int)((value << code.pairs) + parity);
        state = machine[(state >> 1) * 2 + (value & 1) + 1];
        even = odd;
        odd = x;
    }
    return in.at == in.count && even == LOW && odd == LOW;
}

static __device__ __forceinline__ word encode(const Code &code, const unsigned char *classes, word run, word first,
                                              Writer out, const int *k, word count)
{
    const unsigned tail = code.drop - code.pairs;
    unsigned state[2] = {LOW, LOW};
    word row = (first + count - 1) / run, left = (first + count - 1) % run;
    for (word i = count; i-- > 0;) {
        const int value = k[i];
        const long long symbol_of = (long long)(value >> code.drop) - code.least;
        const unsigned table = ((unsigned)classes[row] << code.pairs) + ((unsigned)value & code.pairs);
        const word tables = (word)table * (code.width + 1);
        const bool inside = symbol_of >= 0 && symbol_of < code.width;
        unsigned symbol = inside ? (unsigned)symbol_of : code.width, x = i & 1 ? state[1] : state[0];
        if (!inside || code.frequency[tables + symbol] == 0) {
            symbol = code.width;
            const unsigned raw = (unsigned)(value >> code.pairs);
            x = out.put(x, raw & 0xffff, 1, 16);
            x = out.put(x, raw >> 16, 1, 16);
        } else if (tail) {
            x = out.put(x, (unsigned)(value >> code.pairs) & ((1u << tail) - 1), 1, tail);
        }
        x = out.put(x, code.start[tables + symbol], code.frequency[tables + symbol], PRECISION);
        (i & 1 ? state[1] : state[0]) = x;
        if (left == 0) {
            --row;
            left = run;
        }
        --left;
    }
    for (unsigned lane = 2; lane-- > 0;) {
        const unsigned x = lane ? state[1] : state[0];
        out.words[--out.at] = (unsigned short)(x >> 16);
        out.words[--out.at] = (unsigned short)x;
    }
    return out.at;
}

}  // namespace path

// Grid: (ceil(blocks / threads), 1, 1); any number of threads.
extern "C" __global__ void __launch_bounds__(256) path_decode(
    const unsigned short *__restrict__ words,
    const long long *__restrict__ offsets,    // (blocks + 1,): where the words of each begin
    const long long *__restrict__ places,     // (blocks + 1,): where its integers begin
    const long long *__restrict__ rows,       // (3, blocks): where its classes begin, integers of a row, and how many
                                              // of the first row are missing
    word blocks,
    const unsigned char *__restrict__ classes,
    unsigned pairs,
    unsigned drop,
    int least,
    unsigned width,
    const unsigned *__restrict__ frequency,
    const unsigned *__restrict__ start,
    const unsigned char *__restrict__ slots,      // (tables, 2**14)
    const unsigned char *__restrict__ parity,     // (states,)
    const unsigned char *__restrict__ successor,  // (states, 2)
    unsigned states,
    int *__restrict__ k,
    unsigned char *__restrict__ sound)            // (blocks,)
{
    unsigned *machine = (unsigned *)shared;  // state 0, then the two after each state, each with its parity below it
    for (unsigned e = threadIdx.x; e <= 2 * states; e += blockDim.x) {
        const unsigned state = e ? successor[e - 1] : 0;
        machine[e] = state << 1 | parity[state];
    }
    __syncthreads();
    const word b = (word)blockIdx.x * blockDim.x + threadIdx.x;
    if (b >= blocks)
        return;
    const word run = rows[blocks + b], first = rows[2 * blocks + b];
    const path::Code code = {pairs, drop, least, width, frequency, start};
    const path::Tables tables = {classes + rows[b] + first / run, run - first % run, run};
    const path::Reader in = {words + offsets[b], 0, (word)(offsets[b + 1] - offsets[b]), true};
    sound[b] = path::decode(code, slots, machine, tables, in, k + places[b], places[b + 1] - places[b]);
}

// Grid: (ceil(blocks / threads), 1, 1). Block b writes up to place 4 (places[b + 1] + b + 1) of the words.
extern "C" __global__ void __launch_bounds__(256) path_encode(
    const int *__restrict__ k,
    const long long *__restrict__ places,
    const long long *__restrict__ rows,  // (3, blocks)
    word blocks,
    const unsigned char *__restrict__ classes,
    unsigned pairs,
    unsigned drop,
    int least,
    unsigned width,
    const unsigned *__restrict__ frequency,
    const unsigned *__restrict__ start,
    unsigned short *__restrict__ words,
    long long *__restrict__ begins)      // (blocks,): where the words of each begin
{
    const word b = (word)blockIdx.x * blockDim.x + threadIdx.x;
    if (b >= blocks)
        return;
    const path::Code code = {pairs, drop, least, width, frequency, start};
    const path::Writer out = {words, 4 * ((word)places[b + 1] + b + 1)};
    begins[b] = (long long)path::encode(code, classes + rows[b], rows[blocks + b], rows[2 * blocks + b], out,
                                        k + places[b], places[b + 1] - places[b]);
}

// The words of all blocks without what is between them. Grid: (blocks, 1, 1).
extern "C" __global__ void __launch_bounds__(256) path_gather(
    const unsigned short *__restrict__ words,
    const long long *__restrict__ begins,
    const long long *__restrict__ offsets,  // (blocks + 1,)
    unsigned short *__restrict__ out)
{
    const unsigned short *from = words + begins[blockIdx.x];
    const word count = offsets[blockIdx.x + 1] - offsets[blockIdx.x];
    for (word i = threadIdx.x; i < count; i += blockDim.x)
        out[offsets[blockIdx.x] + i] = from[i];
}

// Grid: (blocks that share the integers, 1, 1). Counts are whole numbers: their order does not matter.
extern "C" __global__ void __launch_bounds__(256) path_histogram(
    const int *__restrict__ k,
    word size,
    word first,
    const unsigned char *__restrict__ classes,
    word run,
    unsigned pairs,
    unsigned drop,
    int least,
    unsigned width,
    unsigned entries,                 // tables * (width + 1) where they fit into shared memory, else 0
    word *__restrict__ counts)        // (tables, width + 1)
{
    unsigned *own = (unsigned *)shared;
    for (unsigned e = threadIdx.x; e < entries; e += blockDim.x)
        own[e] = 0;
    __syncthreads();
    for (word i = (word)blockIdx.x * blockDim.x + threadIdx.x; i < size; i += (word)gridDim.x * blockDim.x) {
        const long long symbol = (long long)(k[i] >> drop) - least;
        const unsigned table = ((unsigned)classes[(first + i) / run] << pairs) + ((unsigned)k[i] & pairs);
        const word at = (word)table * (width + 1) + (symbol >= 0 && symbol < width ? (unsigned)symbol : width);
        if (entries)
            atomicAdd(&own[at], 1u);
        else
            atomicAdd(&counts[at], (word)1);
    }
    __syncthreads();
    for (unsigned e = threadIdx.x; e < entries; e += blockDim.x)
        if (own[e])
            atomicAdd(&counts[e], (word)own[e]);
}
