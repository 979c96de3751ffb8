// The nearest codeword of each point: points in registers, tiles of codewords in shared memory.

namespace lloyd {

constexpr unsigned LANES = 16;               // codewords of a tile
constexpr unsigned THREADS = 256;
constexpr unsigned WIDE = 8, ROW = 512 + 4;  // dimensions that are staged together; a row of points, padded
#define LLOYD_INFINITE __int_as_float(0x7f800000)

static __device__ __forceinline__ float part(const float4 &four, unsigned k)
{
    return k == 0 ? four.x : k == 1 ? four.y : k == 2 ? four.z : four.w;
}

// The first codeword of a quad whose score is the least one.
static __device__ __forceinline__ int first_of(const float *point, unsigned dims, const float *tiles, const float *bias,
                                               unsigned quad, float least)
{
    const unsigned group = quad / 4, lane = quad % 4 * 4;
    const float *tile = tiles + (word)group * dims * LANES;
    for (unsigned k = 0; k < 3; ++k) {
        float score = bias[group * LANES + lane + k];
        for (unsigned d = 0; d < dims; ++d)
            score = __fmaf_rn(tile[d * LANES + lane + k], point[d], score);
        if (score == least)
            return (int)(4 * quad + k);
    }
    return (int)(4 * quad + 3);
}

// P points of D dimensions in the registers of a thread, a chunk of tiles in shared memory.
template <unsigned D, unsigned P>
static __device__ __forceinline__ void search(const float *y, word n, const float *tiles, const float *bias,
                                              unsigned groups, unsigned chunk, int *codes)
{
    float *table = (float *)shared, *start = table + chunk * D * LANES;
    const word first = (word)blockIdx.x * (THREADS * P) + threadIdx.x;
    float point[P][D], best[P];
    unsigned quad[P];
#pragma unroll
    for (unsigned p = 0; p < P; ++p) {
        const word i = first + p * THREADS;
        best[p] = LLOYD_INFINITE;
        quad[p] = 0;
#pragma unroll
        for (unsigned d = 0; d < D; ++d)
            point[p][d] = i < n ? y[i * D + d] : 0;
    }
    for (unsigned done = 0; done < groups; done += chunk) {
        const unsigned count = groups - done < chunk ? groups - done : chunk;
        __syncthreads();
        for (unsigned k = threadIdx.x; k < count * D * LANES; k += THREADS)
            table[k] = tiles[(word)done * D * LANES + k];
        for (unsigned k = threadIdx.x; k < count * LANES; k += THREADS)
            start[k] = bias[done * LANES + k];
        __syncthreads();
        for (unsigned q = 0; q < 4 * count; ++q) {
            const float4 *row = (const float4 *)(table + q / 4 * (D * LANES) + q % 4 * 4);
            const float4 shift = ((const float4 *)start)[q];
            float score[P][4];
#pragma unroll
            for (unsigned p = 0; p < P; ++p)
#pragma unroll
                for (unsigned k = 0; k < 4; ++k)
                    score[p][k] = part(shift, k);
#pragma unroll
            for (unsigned d = 0; d < D; ++d) {
                const float4 c = row[d * (LANES / 4)];  // one address for all threads
#pragma unroll
                for (unsigned p = 0; p < P; ++p)
#pragma unroll
                    for (unsigned k = 0; k < 4; ++k)
                        score[p][k] = __fmaf_rn(part(c, k), point[p][d], score[p][k]);
            }
#pragma unroll
            for (unsigned p = 0; p < P; ++p) {
                const float least = fminf(fminf(score[p][0], score[p][1]), fminf(score[p][2], score[p][3]));
                quad[p] = least < best[p] ? 4 * done + q : quad[p];
                best[p] = least < best[p] ? least : best[p];
            }
        }
    }
#pragma unroll
    for (unsigned p = 0; p < P; ++p) {
        const word i = first + p * THREADS;
        if (i < n)
            codes[i] = first_of(y + i * D, D, tiles, bias, quad[p], best[p]);
    }
}

}  // namespace lloyd
