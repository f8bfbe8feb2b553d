// Threads for CPU kernels: one small pool for the process. Between calls its threads wait awake for
// some tens of microseconds, then sleep.
//
// Not OpenMP: torch carries its own OpenMP runtime, and a second one beside it makes both pools
// spin on the same cores.
#pragma once

#include <cstdint>
#include <functional>

namespace wsol::cpu {

// Splits [0, count) into contiguous ranges of at least `grain` items and runs `body(begin, end)` on
// each, on at most `threads` threads, the caller's among them. Results must not depend on the
// split. The first exception is rethrown.
void parallel_for(int64_t count, int64_t grain, int threads,
                  const std::function<void(int64_t begin, int64_t end)>& body);

}  // namespace wsol::cpu
