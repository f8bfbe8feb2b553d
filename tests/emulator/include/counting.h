// What a counting build counts: each access that a kernel makes to the tensors of its call and to
// shared memory, as the requests of warps that a GPU would make of it. Builds without
// WSOL_COUNTING count nothing.
//
// The kernels are compiled with -fsanitize=thread, so that a function is called before each access;
// counting.cpp has these functions, in place of the sanitizer's library. Accesses of a warp's lanes
// are one request where they come from one place in the code, for the same time since the lanes
// last met (at a barrier or a warp operation). So where lanes skip an access in one turn of a loop
// and make it in a later one, one request is counted, maybe with conflicts, where a GPU makes two.
// A kernel that has such loops says at the end of a turn that lanes meet (`lanes_meet` in
// cut_runs.cuh).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace pybind11 {
class module_;
}

// A function whose own accesses are not counted, and where __builtin_return_address(0) is in its
// caller.
#define EMULATOR_UNCOUNTED __attribute__((noinline, no_sanitize("thread")))

namespace emulator {

enum class Access : unsigned char { kRead, kWrite, kAtomic };

#if defined(WSOL_COUNTING)

// Counts an access of the running thread, for functions that stand in for an instruction. `site` is
// the place in the code.
void record(Access access, const void* address, size_t bytes, const void* site);

// What the emulator tells of a launch.
namespace counting {

void begin_launch(const char* operator_name, const void* kernel);
void begin_block(std::span<const unsigned char> shared);
void pass_barrier();         // by all threads of the block
void pass_warp_operation();  // by the running thread
void end_block();

// Adds `start_counting(ranges)` and `stop_counting()` to a Python module.
void bind(pybind11::module_& module);

}  // namespace counting

#else

inline void record(Access, const void*, size_t, const void*) {}

namespace counting {

inline void begin_launch(const char*, const void*) {}
inline void begin_block(std::span<const unsigned char>) {}
inline void pass_barrier() {}
inline void pass_warp_operation() {}
inline void end_block() {}
inline void bind(pybind11::module_&) {}

}  // namespace counting

#endif

}  // namespace emulator
