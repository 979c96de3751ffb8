// Enough of CUDA C++ to run a kernel on the host: the threads of a block are fibers that take turns at barriers.
//
// Between two barriers each warp runs alone, and between two exchanges of a warp each of its fibers, in rising order in
// even rounds and in falling order in odd ones, and the other way round in the next block and the next launch: a kernel
// that lacks a barrier reads what is not there yet. Shared memory is full of noise when a block begins, and what lies
// beyond the bytes asked for must not change. It is an error if some threads wait at a barrier and others have ended, or
// if lanes wait for others that are not at the same exchange.
#pragma once
#pragma GCC system_header  // warnings are for the kernels

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <setjmp.h>
#include <ucontext.h>
#include <utility>
#include <vector>

#include "cuda_numbers.h"

struct Index {
    unsigned x, y, z;
};

static Index threadIdx, blockIdx, blockDim, gridDim;

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__
#define __launch_bounds__(...)

constexpr size_t SHARED_BYTES = 48 << 10;

alignas(256) unsigned long long shared[SHARED_BYTES / 8];

namespace shim {

constexpr size_t STACK = 64 << 10;
constexpr unsigned LANES = 32;

enum State { READY, AT_WARP, AT_BLOCK, ENDED };

struct Fiber {
    jmp_buf place;  // where it goes on
    bool begun;
    State state;
    const char *exchange;            // the one it waits at,
    unsigned mask;                   // with these lanes,
    unsigned long long given, seen;  // what it gives, and what others see of it once all are there
};

static jmp_buf scheduler;
static std::vector<Fiber> fibers;
static std::unique_ptr<char[]> stacks;
static Fiber *current;
static void (*body)(void **);
static void **arguments;
static const char *misuse;
static unsigned blocks;  // that have begun; an odd number more for each launch

// Switches by jumps are ten times as fast as by swapcontext, which asks the system for the signals to block.
static void wait(State state)
{
    current->state = state;
    if (!_setjmp(current->place))
        _longjmp(scheduler, 1);
}

static void live()
{
    for (;;) {
        body(arguments);
        wait(ENDED);  // until there is another block
    }
}

static void begin(Fiber &fiber, char *stack)
{
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = STACK;
    context.uc_link = nullptr;
    makecontext(&context, live, 0);
    fiber.begun = true;
    setcontext(&context);
}

static void resume(unsigned t)
{
    current = &fibers[t];
    threadIdx = {t, 0, 0};
    if (_setjmp(scheduler))
        return;
    if (current->begun)
        _longjmp(current->place, 1);
    begin(*current, &stacks[t * STACK]);
}

// Until all lanes of the warp wait at the barrier or have ended.
static const char *run_warp(unsigned first, unsigned lanes, unsigned round)
{
    for (;; ++round) {
        for (unsigned k = 0; k < lanes; ++k) {
            const unsigned t = first + (round % 2 ? lanes - 1 - k : k);
            if (fibers[t].state == READY)
                resume(t);
        }
        unsigned waiting = 0;
        for (unsigned k = 0; k < lanes; ++k)
            waiting |= (unsigned)(fibers[first + k].state == AT_WARP) << k;
        if (!waiting || misuse)
            return misuse;
        for (unsigned k = 0; k < LANES; ++k)
            if (waiting >> k & 1) {
                const Fiber &lane = fibers[first + k];
                if (lane.mask & ~waiting || !(lane.mask >> k & 1))
                    return "lanes of a warp wait for others that do not come";
                for (unsigned other = 0; other < LANES; ++other)
                    if (lane.mask >> other & 1 && fibers[first + other].exchange != lane.exchange)
                        return "lanes of a warp wait at different exchanges";
            }
        for (unsigned k = 0; k < lanes; ++k)
            if (waiting >> k & 1) {
                fibers[first + k].seen = fibers[first + k].given;
                fibers[first + k].state = READY;
            }
    }
}

static const char *run_block(size_t shared_bytes)
{
    const unsigned threads = blockDim.x, warps = (threads + LANES - 1) / LANES;
    memset(shared, 0x5a, sizeof shared);
    misuse = nullptr;
    for (unsigned t = 0; t < threads; ++t)
        fibers[t].state = READY;
    for (unsigned round = blocks++ % 2, ended = 0; ended < threads; ++round) {
        for (unsigned k = 0; k < warps; ++k) {
            const unsigned first = LANES * (round % 2 ? warps - 1 - k : k);
            if (const char *fault = run_warp(first, threads - first < LANES ? threads - first : LANES, round))
                return fault;
        }
        ended = 0;
        for (unsigned t = 0; t < threads; ++t)
            ended += fibers[t].state == ENDED;
        if (ended && ended < threads)
            return "some threads of a block wait at a barrier, others have ended";
        for (unsigned t = 0; t < threads && !ended; ++t)
            fibers[t].state = READY;
    }
    for (size_t k = shared_bytes; k < sizeof shared; ++k)
        if (((const unsigned char *)shared)[k] != 0x5a)
            return "shared memory was written beyond what was asked for";
    return nullptr;
}

// Wait for the lanes of `mask`; then what lane k gave is seen(k).
template <class T>
static void exchange(const char *name, unsigned mask, T value)
{
    static_assert(sizeof value <= 8);
    current->given = 0;
    memcpy(&current->given, &value, sizeof value);
    current->exchange = name;
    current->mask = mask;
    wait(AT_WARP);
}

template <class T>
static T seen(unsigned mask, unsigned lane)
{
    if (lane >= LANES || !(mask >> lane & 1)) {
        misuse = "a lane reads from one that is not in the exchange";
        lane = threadIdx.x % LANES;
    }
    T value;
    memcpy(&value, &fibers[threadIdx.x / LANES * LANES + lane].seen, sizeof value);
    return value;
}

static unsigned ballot(const char *name, unsigned mask, bool value)
{
    exchange(name, mask, value);
    unsigned votes = 0;
    for (unsigned k = 0; k < LANES; ++k)
        if (mask >> k & 1)
            votes |= (unsigned)seen<bool>(mask, k) << k;
    return votes;
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
    blocks += 1 + grid[0] * grid[1] * grid[2] % 2;
    body = [](void **given) { call(kernel, given, std::index_sequence_for<Types...>{}); };
    arguments = values;
    blockDim = {threads, 1, 1};
    gridDim = {grid[0], grid[1], grid[2]};
    if (fibers.size() < threads) {
        fibers.assign(threads, Fiber());
        stacks.reset(new char[threads * STACK]);
    }
    for (blockIdx.z = 0; blockIdx.z < grid[2]; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < grid[1]; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < grid[0]; ++blockIdx.x)
                if (const char *fault = run_block(shared_bytes)) {
                    fibers.clear();  // they stand anywhere
                    return fault;
                }
    return nullptr;
}

}  // namespace shim

static inline void __syncthreads()
{
    shim::wait(shim::AT_BLOCK);
}

// --- within a warp ---------------------------------------------------------------------------------------------------

static inline void __syncwarp(unsigned mask = ~0u)
{
    shim::exchange("syncwarp", mask, 0);
}

template <class T>
static inline T __shfl_sync(unsigned mask, T value, unsigned lane)
{
    shim::exchange("shfl", mask, value);
    return shim::seen<T>(mask, lane % shim::LANES);
}

template <class T>
static inline T __shfl_xor_sync(unsigned mask, T value, unsigned lanes)
{
    shim::exchange("shfl_xor", mask, value);
    return shim::seen<T>(mask, threadIdx.x % shim::LANES ^ lanes);
}

template <class T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned lanes)
{
    shim::exchange("shfl_down", mask, value);
    const unsigned source = threadIdx.x % shim::LANES + lanes;
    return source < shim::LANES ? shim::seen<T>(mask, source) : value;
}

template <class T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned lanes)
{
    shim::exchange("shfl_up", mask, value);
    const unsigned lane = threadIdx.x % shim::LANES;
    return lane >= lanes ? shim::seen<T>(mask, lane - lanes) : value;
}

static inline unsigned __ballot_sync(unsigned mask, bool value)
{
    return shim::ballot("ballot", mask, value);
}

static inline bool __any_sync(unsigned mask, bool value)
{
    return shim::ballot("any", mask, value) != 0;
}

static inline bool __all_sync(unsigned mask, bool value)
{
    return shim::ballot("all", mask, value) == mask;
}

// After the kernel: its launcher, for ctypes.
#define LAUNCHER(kernel)                                                                                               \
    extern "C" const char *launch_##kernel(const unsigned *grid, unsigned threads, size_t shared_bytes, void **values, \
                                           const unsigned *sizes, size_t count)                                       \
    {                                                                                                                  \
        return shim::launch<kernel>(kernel, grid, threads, shared_bytes, values, sizes, count);                        \
    }
