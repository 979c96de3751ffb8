// Outputs of the sequential XOR network: table look-ups per step, one thread per 64 outputs.
//
// The tables are in shared memory, one for each piece of `width` bits of each of the inputs of a step. A word of outputs
// may lie within a step or reach over several. Not yet measured on a GPU.

typedef unsigned long long word;

extern __shared__ word shared[];

// Bits t * n_in .. of a stream, at most 8 of them; zeros beyond its end.
static __device__ __forceinline__ unsigned input(const unsigned char *stream, word length, word t, unsigned n_in)
{
    const word bit = t * n_in, at = bit >> 3;
    const unsigned low = at < length ? stream[at] : 0, high = at + 1 < length ? stream[at + 1] : 0;
    return (low | high << 8) >> (bit & 7) & ((1u << n_in) - 1);
}

// Grid: (blocks that share the words, 1, planes).
extern "C" __global__ void __launch_bounds__(256) sequential_outputs(
    const unsigned char *__restrict__ streams,  // (planes, length)
    word length,
    word first,                                 // the step that the outputs begin with
    word size,                                  // outputs; beyond, zeros are written
    unsigned n_in,                              // 1 to 8
    unsigned n_out,
    unsigned inputs,                            // of a step: x_t, x_{t-1}, ..
    unsigned pieces,                            // of an input, ceil(n_in / width)
    unsigned width,
    const word *__restrict__ tables,            // (inputs, pieces, 2**width, ceil(n_out / 64))
    word *__restrict__ out,                     // (planes, count)
    word count)
{
    const unsigned row = (n_out + 63) / 64, entries = inputs * pieces * row << width;
    for (unsigned k = threadIdx.x; k < entries; k += blockDim.x)
        shared[k] = tables[k];
    __syncthreads();

    const unsigned char *stream = streams + blockIdx.z * length;
    word *target = out + blockIdx.z * count;
    for (word at = (word)blockIdx.x * blockDim.x + threadIdx.x; at < count; at += (word)gridDim.x * blockDim.x) {
        word t = first + 64 * at / n_out, total = 0;
        unsigned j = (unsigned)(64 * at % n_out);
        const unsigned needed = 64 * at >= size ? 0 : size - 64 * at < 64 ? (unsigned)(size - 64 * at) : 64;
        for (unsigned done = 0; done < needed; j = 0, ++t) {  // outputs j .. of step t
            word low = 0, high = 0;
            for (unsigned k = 0; k < inputs && k <= t; ++k) {
                const unsigned x = input(stream, length, t - k, n_in);
                for (unsigned piece = 0; piece < pieces; ++piece) {
                    const unsigned v = x >> (piece * width) & ((1u << width) - 1);
                    const word *entry = shared + (((k * pieces + piece) << width) + v) * row + j / 64;
                    low ^= entry[0];
                    if (j / 64 + 1 < row)
                        high ^= entry[1];
                }
            }
            const unsigned left = n_out - j;
            const word bits = low >> (j % 64) | high << 1 << (63 - j % 64);
            total |= bits << done;  // of the table's rows, bits from n_out on are zero
            done += left;
        }
        if (needed < 64)
            total &= ~(~0ull << needed);
        target[at] = total;
    }
}
