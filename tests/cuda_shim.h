// Enough of CUDA C++ to run a kernel on the host: the threads of a block are fibers that take turns at barriers.
//
// Between two barriers each fiber runs alone, in rising order in even rounds and in falling order in odd ones: a kernel
// that lacks a barrier reads what is not there yet. Shared memory is full of noise when a block begins, and what lies
// beyond the bytes asked for must not change. It is an error if some threads wait at a barrier and others have ended.
#pragma once
#pragma GCC system_header  // warnings are for the kernels

#include <cstddef>
#include <cstring>
#include <memory>
#include <ucontext.h>
#include <utility>
#include <vector>

struct Index {
    unsigned x, y, z;
};

static Index threadIdx, blockIdx, blockDim, gridDim;

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__
#define __launch_bounds__(threads)

constexpr size_t SHARED_BYTES = 48 << 10;

alignas(256) unsigned long long shared[SHARED_BYTES / 8];

static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift)
{
    return (unsigned)(((unsigned long long)high << 32 | low) >> (shift & 31));
}

namespace shim {

constexpr size_t STACK = 64 << 10;

struct Fiber {
    ucontext_t context;
    bool ended;
};

static ucontext_t scheduler;
static std::vector<Fiber> fibers;
static std::unique_ptr<char[]> stacks;
static Fiber *current;
static void (*body)(void **);
static void **arguments;

static void enter()
{
    body(arguments);
    current->ended = true;  // and on to the scheduler, by uc_link
}

static const char *run_block(size_t shared_bytes)
{
    const unsigned threads = blockDim.x;
    memset(shared, 0x5a, sizeof shared);
    for (unsigned t = 0; t < threads; ++t) {
        Fiber &fiber = fibers[t];
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = &stacks[t * STACK];
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = &scheduler;
        fiber.ended = false;
        makecontext(&fiber.context, enter, 0);
    }
    for (unsigned round = 0, ended = 0; ended < threads; ++round) {
        ended = 0;
        for (unsigned k = 0; k < threads; ++k) {
            const unsigned t = round % 2 ? threads - 1 - k : k;
            current = &fibers[t];
            threadIdx = {t, 0, 0};
            swapcontext(&scheduler, &current->context);
            ended += current->ended;
        }
        if (ended && ended < threads)
            return "some threads of a block wait at a barrier, others have ended";
    }
    for (size_t k = shared_bytes; k < sizeof shared; ++k)
        if (((const unsigned char *)shared)[k] != 0x5a)
            return "shared memory was written beyond what was asked for";
    return nullptr;
}

static void wait_for_others()
{
    swapcontext(&current->context, &scheduler);
}

template <class... Types, size_t... Is>
static void call(void (*kernel)(Types...), void **values, std::index_sequence<Is...>)
{
    kernel(*(Types *)values[Is]...);
}

// As the driver does it, values are pointers to the arguments: what is wrong, or null. `sizes` are theirs in bytes.
template <auto kernel, class... Types>
static const char *launch(void (*)(Types...), const unsigned *grid, unsigned threads, size_t shared_bytes, void **values,
                          const unsigned *sizes, size_t count)
{
    const size_t expected[] = {sizeof(Types)...};
    if (count != sizeof...(Types))
        return "wrong number of arguments";
    for (size_t k = 0; k < count; ++k)
        if (sizes[k] != expected[k])
            return "an argument has the wrong size";
    if (!grid[0] || !grid[1] || !grid[2] || grid[1] > 65535 || grid[2] > 65535 || threads > 1024)
        return "no such grid";
    if (shared_bytes > SHARED_BYTES)
        return "too much shared memory";
    body = [](void **given) { call(kernel, given, std::index_sequence_for<Types...>{}); };
    arguments = values;
    blockDim = {threads, 1, 1};
    gridDim = {grid[0], grid[1], grid[2]};
    if (fibers.size() < threads) {
        fibers.resize(threads);
        stacks.reset(new char[threads * STACK]);
    }
    for (blockIdx.z = 0; blockIdx.z < grid[2]; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < grid[1]; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < grid[0]; ++blockIdx.x)
                if (const char *fault = run_block(shared_bytes))
                    return fault;
    return nullptr;
}

}  // namespace shim

static inline void __syncthreads()
{
    shim::wait_for_others();
}

// After the kernel: its launcher, for ctypes.
#define LAUNCHER(kernel)                                                                                               \
    extern "C" const char *launch_##kernel(const unsigned *grid, unsigned threads, size_t shared_bytes, void **values, \
                                           const unsigned *sizes, size_t count)                                       \
    {                                                                                                                  \
        return shim::launch<kernel>(kernel, grid, threads, shared_bytes, values, sizes, count);                        \
    }
