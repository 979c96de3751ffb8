// Products with a matrix of codewords that is never built.
//
// By tables: a block works out what every codeword of some places gives with x, in shared memory, and its threads, each
// with rows of its own, add what they find there by their codes: a look-up and an addition for a whole codeword.
// Directly: a codeword is multiplied where it lies. What several blocks found for a row or a column is added in their
// order by a second kernel: results do not depend on how blocks are scheduled. Not yet measured on a GPU.
#include "../common.cuh"

#ifndef CODE
#define CODE u8
#endif

namespace lookup {

constexpr unsigned THREADS = 256, LANES = 32, ROWS = 4;  // rows of a thread
constexpr unsigned PLACES = 64, TEAMS = THREADS / PLACES, DIMS = 8;

// A matrix of float32 with any strides, in numbers.
struct Matrix {
    const float *at;
    long long down, across;

    __device__ __forceinline__ float operator()(word i, word j) const { return at[(long long)i * down + (long long)j * across]; }
};

// Codes (rows, places) of words of `dim` numbers in `groups` books of `count`.
struct Codes {
    const CODE *at;
    word pitch, rows;
    unsigned places, groups, count, dim;

    __device__ __forceinline__ const float *book(const float *books, unsigned place) const
    {
        return books + (word)place * groups / places * ((word)count * dim);
    }
};

// C columns of x from `column` on; those beyond `columns` count as zero.
template <unsigned C>
static __device__ __forceinline__ void by_tables(const Codes &codes, const float *books, const Matrix &x, word n,
                                                 unsigned column, unsigned columns, unsigned stretch, float *partial)
{
    float *tables = (float *)shared, *entries = tables + stretch * codes.count * C;  // (stretch, count, C), (.., dim, C)
    const unsigned t = threadIdx.x;
    const word first = (word)blockIdx.x * (THREADS * ROWS) + t;
    float total[ROWS][C] = {};
    const unsigned stretches = (codes.places + stretch - 1) / stretch;
    for (unsigned s = blockIdx.y; s < stretches; s += gridDim.y) {
        const unsigned start = s * stretch, places = codes.places - start < stretch ? codes.places - start : stretch;
        for (unsigned e = t; e < places * codes.dim * C; e += THREADS) {
            const word j = (word)start * codes.dim + e / C;
            entries[e] = j < n && e % C < columns ? x(j, column + e % C) : 0;
        }
        __syncthreads();  // the entries are there, and nobody reads the tables of the places before
        for (unsigned e = t; e < places * codes.count; e += THREADS) {
            const unsigned place = e / codes.count, k = e % codes.count;
            const float *codeword = codes.book(books, start + place) + (word)k * codes.dim;
            const float *own = entries + place * codes.dim * C;
            Run<float, C> sum = {};
            for (unsigned j = 0; j < codes.dim; ++j) {
                const float entry = codeword[j];
#pragma unroll
                for (unsigned c = 0; c < C; ++c)
                    sum.at[c] = __fmaf_rn(entry, own[j * C + c], sum.at[c]);
            }
            *(Run<float, C> *)(tables + e * C) = sum;
        }
        __syncthreads();
#pragma unroll
        for (unsigned r = 0; r < ROWS; ++r) {
            const word i = first + r * THREADS;
            if (i >= codes.rows)
                continue;
            const CODE *line = codes.at + i * codes.pitch + start;
            const bool whole = (word)line % alignof(Run<CODE, RUN>) == 0;
            for (unsigned place = 0; place < places; place += RUN) {
                const unsigned count = places - place < RUN ? places - place : RUN;
                const Run<CODE, RUN> found = load(line + place, count, whole && count == RUN);
#pragma unroll
                for (unsigned u = 0; u < RUN; ++u)
                    if (u < count) {
                        const unsigned at = ((place + u) * codes.count + found.at[u]) * C;
                        const Run<float, C> entry = *(const Run<float, C> *)(tables + at);
#pragma unroll
                        for (unsigned c = 0; c < C; ++c)
                            total[r][c] = __fadd_rn(total[r][c], entry.at[c]);
                    }
            }
        }
    }
#pragma unroll
    for (unsigned r = 0; r < ROWS; ++r)
#pragma unroll
        for (unsigned c = 0; c < C; ++c)
            if (first + r * THREADS < codes.rows && c < columns)
                partial[(blockIdx.y * codes.rows + first + r * THREADS) * columns + c] = total[r][c];
}

// A warp per row, a lane per 32nd place.
template <unsigned C>
static __device__ __forceinline__ void directly(const Codes &codes, const float *books, const Matrix &x, word n,
                                                unsigned column, unsigned columns, float *partial)
{
    const unsigned lane = threadIdx.x % LANES;
    const word i = (word)blockIdx.x * (THREADS / LANES) + threadIdx.x / LANES;
    if (i >= codes.rows)  // a whole warp
        return;
    float total[C] = {};
    for (unsigned place = lane; place < codes.places; place += LANES) {
        const unsigned code = codes.at[i * codes.pitch + place];
        const float *codeword = codes.book(books, place) + (word)code * codes.dim;
        const word start = (word)place * codes.dim, end = n - start < codes.dim ? n - start : codes.dim;
        for (unsigned j = 0; start < n && j < end; ++j) {
            const float entry = codeword[j];
#pragma unroll
            for (unsigned c = 0; c < C; ++c)
                total[c] = c < columns ? __fmaf_rn(entry, x(start + j, column + c), total[c]) : 0;
        }
    }
#pragma unroll
    for (unsigned c = 0; c < C; ++c) {
        const float sum = warp_sum(total[c]);
        if (lane == 0 && c < columns)
            partial[i * columns + c] = sum;
    }
}

// In the other direction: 64 places of a block, four teams that take every fourth row; 8 numbers of each codeword.
template <unsigned C>
static __device__ __forceinline__ void transposed(const Codes &codes, const float *books, const Matrix &x, word n,
                                                  unsigned column, unsigned columns, word chunk, float *partial)
{
    float *room = (float *)shared;  // (C * DIMS, PLACES)
    const unsigned lane = threadIdx.x % PLACES, team = threadIdx.x / PLACES, from = blockIdx.z * DIMS;
    const unsigned place = blockIdx.x * PLACES + lane, dims = codes.dim - from < DIMS ? codes.dim - from : DIMS;
    const word begin = blockIdx.y * chunk, end = codes.rows - begin < chunk ? codes.rows : begin + chunk;
    float total[C][DIMS] = {};
    if (place < codes.places) {
        const float *book = codes.book(books, place) + from;
        for (word i = begin + team; i < end; i += TEAMS) {
            const float *codeword = book + (word)codes.at[i * codes.pitch + place] * codes.dim;
            float input[C];
#pragma unroll
            for (unsigned c = 0; c < C; ++c)
                input[c] = c < columns ? x(column + c, i) : 0;
#pragma unroll
            for (unsigned j = 0; j < DIMS; ++j) {
                const float entry = j < dims ? codeword[j] : 0;
#pragma unroll
                for (unsigned c = 0; c < C; ++c)
                    total[c][j] = __fmaf_rn(entry, input[c], total[c][j]);
            }
        }
    }
    for (unsigned other = 1; other < TEAMS; ++other) {
        __syncthreads();
        if (team == other)
#pragma unroll
            for (unsigned e = 0; e < C * DIMS; ++e)
                room[e * PLACES + lane] = total[e / DIMS][e % DIMS];
        __syncthreads();
        if (team == 0)
#pragma unroll
            for (unsigned e = 0; e < C * DIMS; ++e)
                total[e / DIMS][e % DIMS] = __fadd_rn(total[e / DIMS][e % DIMS], room[e * PLACES + lane]);
    }
    if (team || place >= codes.places)
        return;
#pragma unroll
    for (unsigned c = 0; c < C; ++c)
#pragma unroll
        for (unsigned j = 0; j < DIMS; ++j) {
            const word at = (word)place * codes.dim + from + j;
            if (c < columns && j < dims && at < n)
                partial[(blockIdx.y * n + at) * columns + c] = total[c][j];
        }
}

}  // namespace lookup

// Grid: (ceil(rows / 1024), splits, 1).
extern "C" __global__ void __launch_bounds__(256) lookup_tables(
    const CODE *__restrict__ codes,    // (rows, places), rows `pitch` codes apart
    word pitch,
    word rows,
    unsigned places,
    const float *__restrict__ books,   // (groups, count, dim)
    unsigned groups,
    unsigned count,
    unsigned dim,
    const float *__restrict__ x,       // (n, ..)
    long long down,
    long long across,
    word n,
    unsigned column,                   // the first of `columns`, at most 4
    unsigned columns,
    unsigned stretch,                  // places whose tables are in shared memory together
    float *__restrict__ partial)       // (splits, rows, columns)
{
    const lookup::Codes given = {codes, pitch, rows, places, groups, count, dim};
    const lookup::Matrix from = {x, down, across};
    if (columns == 1)
        lookup::by_tables<1>(given, books, from, n, column, columns, stretch, partial);
    else if (columns == 2)
        lookup::by_tables<2>(given, books, from, n, column, columns, stretch, partial);
    else
        lookup::by_tables<4>(given, books, from, n, column, columns, stretch, partial);
}

// Grid: (ceil(rows / 8), 1, 1).
extern "C" __global__ void __launch_bounds__(256) lookup_dots(
    const CODE *__restrict__ codes,
    word pitch,
    word rows,
    unsigned places,
    const float *__restrict__ books,
    unsigned groups,
    unsigned count,
    unsigned dim,
    const float *__restrict__ x,
    long long down,
    long long across,
    word n,
    unsigned column,
    unsigned columns,
    float *__restrict__ partial)       // (1, rows, columns)
{
    const lookup::Codes given = {codes, pitch, rows, places, groups, count, dim};
    const lookup::Matrix from = {x, down, across};
    if (columns == 1)
        lookup::directly<1>(given, books, from, n, column, columns, partial);
    else
        lookup::directly<4>(given, books, from, n, column, columns, partial);
}

// Grid: (ceil(places / 64), chunks of rows, ceil(dim / 8)).
extern "C" __global__ void __launch_bounds__(256) lookup_axpys(
    const CODE *__restrict__ codes,
    word pitch,
    word rows,
    unsigned places,
    const float *__restrict__ books,
    unsigned groups,
    unsigned count,
    unsigned dim,
    const float *__restrict__ x,       // (.., rows)
    long long down,
    long long across,
    word n,                            // columns of the product
    unsigned column,                   // the first row of x of `columns`, at most 4
    unsigned columns,
    word chunk,                        // rows of codes of a block
    float *__restrict__ partial)       // (chunks, n, columns)
{
    const lookup::Codes given = {codes, pitch, rows, places, groups, count, dim};
    const lookup::Matrix from = {x, down, across};
    if (columns == 1)
        lookup::transposed<1>(given, books, from, n, column, columns, chunk, partial);
    else
        lookup::transposed<4>(given, books, from, n, column, columns, chunk, partial);
}

// Adds the partial sums in their order. Grid: (ceil(size * columns / 256), 1, 1).
extern "C" __global__ void __launch_bounds__(256) lookup_add(
    const float *__restrict__ partial,  // (splits, size, columns)
    unsigned splits,
    word size,
    unsigned columns,
    float *__restrict__ out,
    long long down,                     // from an entry to the next, and from a column to the next
    long long across)
{
    const word e = (word)blockIdx.x * blockDim.x + threadIdx.x;
    if (e >= size * columns)
        return;
    float total = 0;
    for (unsigned s = 0; s < splits; ++s)
        total = __fadd_rn(total, partial[s * size * columns + e]);
    float *target = out + (long long)(e / columns) * down + (long long)(e % columns) * across;
    *target = __fadd_rn(*target, total);
}
