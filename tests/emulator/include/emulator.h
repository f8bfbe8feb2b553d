// A CUDA emulator for tests: it runs kernels on the host, strictly, so that a machine without a GPU
// finds their mistakes.
//
// Blocks run one after another. A block's threads are fibers: one runs until it meets a barrier or
// a warp operation, and waits there until everyone it meets has come. Nothing else interrupts a
// thread, so a kernel may not spin on memory that another thread will write.
//
// Strict where a GPU is lenient:
//   - threads that miss each other at a barrier or a warp operation are an error, also where
//     hardware would go on. (A call is known by its line, so two calls of one helper that holds a
//     barrier look alike.)
//   - shared memory is a heap allocation of exactly the size asked for, poisoned for each block;
//   - launch limits are the smallest of the architectures the package is built for;
//   - the order of blocks and threads, and the poison, are the tests' to choose (`Schedule`): where
//     they change a result, a barrier is missing, blocks rely on each other, or shared memory is
//     read that nobody wrote.
// AddressSanitizer and UndefinedBehaviorSanitizer, which this is built with, see the rest.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <source_location>
#include <vector>

#include "counting.h"

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline uint3 threadIdx, blockIdx;  // of the fiber that runs
inline dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace emulator {

enum class Order { kAscending, kDescending, kShuffled };

struct Schedule {
  Order order = Order::kAscending;  // of the blocks of a grid, and of the threads of a block
  uint64_t seed = 0;                // of kShuffled
  unsigned char poison = 0xff;      // what shared memory holds before it is written
};

inline Schedule schedule;

constexpr unsigned kMaxThreads = 1024;
constexpr size_t kMaxSharedBytes = 99 * 1024;  // compute capability 8.6 and 8.9

// Runs `thread_body`, which calls `kernel`, once for each thread of the grid. Throws
// std::runtime_error where the threads of a block diverge, and whatever a thread throws.
void launch(const char* operator_name, const void* kernel, dim3 grid, dim3 block,
            size_t shared_bytes, const std::function<void()>& thread_body);

// The limits of shared memory that were set for kernels, in their order.
inline std::map<const void*, std::vector<int>> shared_limits;
inline std::mutex shared_limits_mutex;

// The running block's shared memory; null where the launch asked for none.
unsigned char* dynamic_shared();

// Throws unless `address` is a multiple of `bytes`, and that many bytes from it on are the block's
// shared memory.
void demand_shared(const char* operation, const void* address, size_t bytes);

// cp.async: what `to` holds is poison from here until this thread waits for its copies; then it is
// `present` bytes from `from`, and zeros up to `bytes`. A GPU may copy any time between, so that
// reading too early, or without a barrier before the copy begins, shows.
void cp_async(void* to, const void* from, size_t bytes, size_t present);

// cp.async.wait_all. A thread that ends without it, while it has copies under way, is an error.
void cp_async_wait_all();

// Waits for all the block's threads, which must come to this very call. Returns how many came with
// `predicate`.
int barrier(const char* operation, bool predicate, const std::source_location& where);

using WarpValues = std::array<uint64_t, warpSize>;

// Waits for the lanes that `mask` names, which must come to this very call with this mask. Returns
// the value each brought; lanes that the mask does not name read as poison.
const WarpValues& exchange(const char* operation, unsigned mask, uint64_t value,
                           const std::source_location& where);

int rank();  // of the fiber that runs, in its block: x fastest, then y, z
int lane();  // of the fiber that runs

// Adds `set_schedule(order, seed, poison)` to a Python module of emulated kernels, and what a
// counting build has.
void bind(pybind11::module_& module);

}  // namespace emulator
