// Union-find by many threads at once: a label names another element of the same set with a smaller
// number, or the element itself, the root. So a set's root is its smallest element, whatever the
// order in which threads ran.
#pragma once

#include "core/cuda.h"

#if defined(__CUDACC__) || defined(WSOL_EMULATOR)

namespace wsol::cuda {

template <typename Label>
__device__ int find_root(const Label* labels, int element) {
  // Other threads may write meanwhile: what is read is the root or an element on the way to it,
  // then or now.
  const volatile Label* current = labels;
  for (int above = current[element]; above != element; above = current[element]) element = above;
  return element;
}

template <typename Label>
__device__ void unite(Label* labels, int a, int b) {
  for (;;) {
    a = find_root(labels, a);
    b = find_root(labels, b);
    if (a == b) return;
    if (a < b) {
      const int swapped = a;
      a = b;
      b = swapped;
    }
    const int before = atomicCAS(&labels[a], static_cast<Label>(a), static_cast<Label>(b));
    if (before == a) return;  // a was a root and now hangs under b
    a = before;               // it hung under another already: unite that with b
  }
}

// Makes an element's label its root, once all are united, by jumps that double: each shortens the
// ways of all who come by. Returns the root.
template <typename Label>
__device__ int flatten_way(Label* labels, int element) {
  volatile Label* current = labels;
  int label = current[element];
  for (int next = current[label]; next != label; next = current[label]) {
    label = next;
    current[element] = static_cast<Label>(label);
  }
  return label;
}

// The lane where this lane's run begins, where each lane says whether it goes on with the run of
// the one before. For whole warps.
__device__ inline int lane_of_start(bool goes_on) {
  const unsigned starts = __ballot_sync(kFullWarp, !goes_on) | 1u;
  const unsigned up_to_here = starts & ((2u << threadIdx.x % kWarpSize) - 1u);
  return kWarpSize - 1 - __clz(static_cast<int>(up_to_here));
}

}  // namespace wsol::cuda

#endif  // __CUDACC__ || WSOL_EMULATOR
