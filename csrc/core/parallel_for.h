// Threads for CPU kernels: torch's own, which its last operator left awake, where they are those of
// GNU's OpenMP (its Linux builds). A second pool would compete with them for the cores. Elsewhere
// one small pool for the process, whose threads wait awake for some tens of microseconds between
// calls, then sleep.
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
