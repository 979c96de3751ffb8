// The codes of two neighbouring books of each point, chosen together.

namespace lloyd {

// The codes of books a and a + 1 of P points, all pairs tried; a thread has codewords of book a + 1.
template <unsigned P>
static __device__ __forceinline__ void pair(const float *x, word n, unsigned dims, const float *table,
                                            const float *bias, const float *cross, unsigned books, unsigned wide,
                                            unsigned a, int *codes)
{
    float *left = (float *)shared, *least = left + P * wide;  // (P, wide), (P, 256)
    unsigned *place = (unsigned *)(least + P * THREADS);
    float *now = (float *)(place + P * THREADS);  // (P,) what the codes cost that are there
    const word first = (word)blockIdx.x * P, row = (word)books * wide;
    const unsigned t = threadIdx.x;
    // The score of a codeword beside the codes of the other books.
    const auto score = [&](word i, unsigned book, unsigned k) {
        float total = bias[(word)book * wide + k];
        for (unsigned d = 0; d < dims; ++d)
            total = __fmaf_rn(table[((word)book * dims + d) * wide + k], x[i * dims + d], total);
        for (unsigned other = 0; other < books; ++other)
            if (other != a && other != a + 1)
                total = __fadd_rn(total, cross[((word)other * wide + codes[i * books + other]) * row + book * wide + k]);
        return total;
    };
    const float *products = cross + ((word)a * wide) * row + (a + 1) * wide;  // [i * row + j]
    for (unsigned e = t; e < P * wide; e += THREADS)
        left[e] = first + e / wide < n ? score(first + e / wide, a, e % wide) : 0;
    __syncthreads();
    float best[P];
    unsigned at[P];
#pragma unroll
    for (unsigned p = 0; p < P; ++p) {
        best[p] = LLOYD_INFINITE;
        at[p] = ~0u;
    }
    for (unsigned j = t; j < wide; j += THREADS) {
        float right[P];
#pragma unroll
        for (unsigned p = 0; p < P; ++p)
            right[p] = first + p < n ? score(first + p, a + 1, j) : 0;
        for (unsigned i = 0; i < wide; ++i) {
            const float c = products[i * row + j];
#pragma unroll
            for (unsigned p = 0; p < P; ++p) {
                const float total = __fadd_rn(__fadd_rn(left[p * wide + i], c), right[p]);
                const unsigned flat = i * wide + j;
                const bool better = total < best[p] || (total == best[p] && flat < at[p]);
                best[p] = better ? total : best[p];
                at[p] = better ? flat : at[p];
            }
        }
#pragma unroll
        for (unsigned p = 0; p < P; ++p)
            if (first + p < n && j == (unsigned)codes[(first + p) * books + a + 1]) {
                const unsigned i = (unsigned)codes[(first + p) * books + a];
                now[p] = __fadd_rn(__fadd_rn(left[p * wide + i], products[i * row + j]), right[p]);
            }
    }
#pragma unroll
    for (unsigned p = 0; p < P; ++p) {
        least[p * THREADS + t] = best[p];
        place[p * THREADS + t] = at[p];
    }
    for (unsigned half = THREADS / 2; half; half /= 2) {
        __syncthreads();
        if (t < half)
            for (unsigned p = 0; p < P; ++p) {
                const unsigned one = p * THREADS + t, two = one + half;
                if (least[two] < least[one] || (least[two] == least[one] && place[two] < place[one])) {
                    least[one] = least[two];
                    place[one] = place[two];
                }
            }
    }
    __syncthreads();
    if (t < P && first + t < n && least[t * THREADS] < now[t]) {
        codes[(first + t) * books + a] = (int)(place[t * THREADS] / wide);
        codes[(first + t) * books + a + 1] = (int)(place[t * THREADS] % wide);
    }
}

}  // namespace lloyd
