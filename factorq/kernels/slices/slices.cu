// Outputs of the slices: bit-sliced, one thread per 64 slices, a table look-up for every four inputs.
//
// A warp holds four tiles, lane by lane the 8 words of each; its 32 lanes look up the same entry of 32 tables, so that
// shared memory has no conflicts. A block builds the tables of 32 inputs at a time, and each of its 8 warps takes every
// eighth of 128 outputs, whose sums stay in registers. Not yet measured on a GPU.

typedef unsigned long long word;

constexpr unsigned LANES = 32, TILES = 4, WORDS = 8, WARPS = 8, SUMS = 16, GROUPS = 8;

extern __shared__ word shared[];  // (GROUPS or as many as there are, 16, LANES)

// Eight bytes, lowest first, from any address: rows of a plane need not begin at words.
static __device__ __forceinline__ word load(const unsigned char *bytes)
{
    if (((word)bytes & 7) == 0)
        return *(const word *)bytes;
    word value = 0;
    for (unsigned k = 0; k < 8; ++k)
        value |= (word)bytes[k] << (8 * k);
    return value;
}

// Whole tiles. Grid: (ceil(tiles / TILES), ceil(n_out / (WARPS * SUMS)), planes); WARPS * LANES threads.
extern "C" __global__ void __launch_bounds__(256) slices_whole(
    const unsigned char *__restrict__ streams,  // of the first plane and tile: (tiles, n_in, 64) bytes
    word stride,                                // bytes from a plane to the next
    word tiles,
    const unsigned *__restrict__ matrix,        // (n_out, columns): bit q % 32 of column q / 32 is input q
    unsigned columns,
    unsigned n_in,
    unsigned n_out,
    word *__restrict__ out,                     // (tiles, n_out, WORDS), planes `out_stride` words apart
    word out_stride)
{
    const unsigned lane = threadIdx.x % LANES, warp = threadIdx.x / LANES, place = lane % WORDS;
    const word tile = (word)blockIdx.x * TILES + lane / WORDS;
    const unsigned char *tile_bytes = streams + blockIdx.z * stride + tile * n_in * (8 * WORDS) + 8 * place;
    const unsigned first = blockIdx.y * (WARPS * SUMS) + warp;
    word total[SUMS] = {};
    for (unsigned done = 0; done < n_in; done += 4 * GROUPS) {
        const unsigned left = n_in - done, groups = left < 4 * GROUPS ? (left + 3) / 4 : GROUPS;
        __syncthreads();  // nobody reads the tables of the inputs before
        if (warp < groups) {
            word x[4];
#pragma unroll
            for (unsigned k = 0; k < 4; ++k) {
                const unsigned q = done + 4 * warp + k;
                x[k] = q < n_in && tile < tiles ? load(tile_bytes + (word)q * (8 * WORDS)) : 0;
            }
#pragma unroll
            for (unsigned v = 0; v < 16; ++v)
                shared[(16 * warp + v) * LANES + lane] =
                    (v & 1 ? x[0] : 0) ^ (v & 2 ? x[1] : 0) ^ (v & 4 ? x[2] : 0) ^ (v & 8 ? x[3] : 0);
        }
        __syncthreads();
#pragma unroll
        for (unsigned r = 0; r < SUMS; ++r) {
            const unsigned i = first + WARPS * r;
            if (i < n_out) {
                const unsigned row = matrix[(word)i * columns + done / 32];
                const word *table = shared + lane;
#pragma unroll
                for (unsigned g = 0; g < GROUPS; ++g, table += 16 * LANES)
                    if (g < groups)
                        total[r] ^= table[(row >> (4 * g) & 15) * LANES];
            }
        }
    }
    word *target = out + blockIdx.z * out_stride + tile * n_out * WORDS + place;
#pragma unroll
    for (unsigned r = 0; r < SUMS; ++r)
        if (tile < tiles && first + WARPS * r < n_out)
            target[(word)(first + WARPS * r) * WORDS] = total[r];
}

// The last tile, narrower or with outputs missing: a thread per byte. Grid: (blocks for the bytes, 1, planes).
extern "C" __global__ void __launch_bounds__(256) slices_rest(
    const unsigned char *__restrict__ streams,  // of the first plane: (n_in, width) bytes
    word stride,
    const unsigned *__restrict__ matrix,
    unsigned columns,
    unsigned n_in,
    unsigned width,                             // bytes of a row, 1 to 64
    word size,                                  // outputs of this tile
    unsigned char *__restrict__ out,            // of the first plane
    word out_stride)                            // bytes
{
    const word byte = (word)blockIdx.x * blockDim.x + threadIdx.x;
    if (8 * byte >= size)
        return;
    const unsigned char *inputs = streams + blockIdx.z * stride + byte % width;
    const unsigned *row = matrix + byte / width * columns;
    unsigned total = 0;
    for (unsigned q = 0; q < n_in; ++q)
        total ^= inputs[q * width] & (0u - (row[q / 32] >> (q % 32) & 1));
    if (8 * byte + 8 > size)
        total &= ~(~0u << (unsigned)(size - 8 * byte));
    out[blockIdx.z * out_stride + byte] = (unsigned char)total;
}
