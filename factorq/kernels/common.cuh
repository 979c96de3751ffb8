// What the kernels share: widths, runs of neighbouring values, words of bytes that begin and end anywhere.
#ifndef FACTORQ_COMMON
#define FACTORQ_COMMON

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned long long word;

extern __shared__ word shared[];

constexpr unsigned RUN = 4;   // neighbouring values of a thread, where values are many
constexpr unsigned ALL = ~0u;  // the lanes of a warp

template <class T, unsigned COUNT> struct alignas(sizeof(T) * COUNT < 16 ? sizeof(T) * COUNT : 16) Run {
    T at[COUNT];
};

// Whether runs from `x` on, one every `stride` values, may be read and written in one piece.
template <class T> static __device__ __forceinline__ bool in_runs(const T *x, word stride)
{
    return stride % RUN == 0 && (word)x % alignof(Run<T, RUN>) == 0;
}

// `count` values of a run, zeros after them.
template <class T> static __device__ __forceinline__ Run<T, RUN> load(const T *x, unsigned count, bool whole)
{
    if (whole)
        return *(const Run<T, RUN> *)x;
    Run<T, RUN> run;
#pragma unroll
    for (unsigned u = 0; u < RUN; ++u)
        run.at[u] = u < count ? x[u] : (T)0;
    return run;
}

template <class T>
static __device__ __forceinline__ void store(const Run<T, RUN> &run, T *x, unsigned count, bool whole)
{
    if (whole)
        *(Run<T, RUN> *)x = run;
    else
#pragma unroll
        for (unsigned u = 0; u < RUN; ++u)
            if (u < count)
                x[u] = run.at[u];
}

// The runs of a matrix (rows, n), `wide` (a power of two) threads side by side in a row.
struct Runs {
    unsigned column, count, step;  // the first value and how many there are; rows from one of this thread to its next
    word row;

    __device__ __forceinline__ Runs(unsigned n, unsigned wide)
    {
        const unsigned across = threadIdx.x & (wide - 1), lines = blockDim.x / wide;
        column = RUN * (blockIdx.x * wide + across);
        count = column >= n ? 0 : n - column < RUN ? n - column : RUN;
        step = gridDim.y * lines;
        row = (word)blockIdx.y * lines + threadIdx.x / wide;
    }
};

// Bits 32 k .. of a stream of `size` bytes; zeros beyond its end.
static __device__ __forceinline__ unsigned bits_at(const u8 *bytes, word size, word k)
{
    if (4 * k + 4 <= size && (word)bytes % 4 == 0)
        return ((const unsigned *)bytes)[k];
    unsigned value = 0;
#pragma unroll
    for (unsigned b = 0; b < 4; ++b)
        if (4 * k + b < size)
            value |= (unsigned)bytes[4 * k + b] << (8 * b);
    return value;
}

template <class T> static __device__ __forceinline__ T warp_sum(T value)
{
#pragma unroll
    for (unsigned lanes = 16; lanes; lanes /= 2)
        value += __shfl_xor_sync(ALL, value, lanes);
    return value;
}

template <class T> static __device__ __forceinline__ T warp_max(T value)
{
#pragma unroll
    for (unsigned lanes = 16; lanes; lanes /= 2) {
        const T other = __shfl_xor_sync(ALL, value, lanes);
        value = other > value ? other : value;
    }
    return value;
}

#endif
