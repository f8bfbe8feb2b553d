// Connected components of a cut map by one block: union-find over the pixels' labels in global
// memory.
//
// Element 0 stands for the outside of the image, element p + 1 for pixel p in raster order. A label
// names another element of the same component with a smaller number, or the element itself, the
// root: after `flatten` every label is the root, and a root is its component's first pixel. So
// labels do not depend on the order in which threads ran.
#pragma once

#include "core/cuda.h"
#include "core/union_find.cuh"

#if defined(__CUDACC__) || defined(WSOL_EMULATOR)

namespace wsol::cuda {

struct MapSize {
  int height, width;
  __host__ __device__ int pixels() const { return height * width; }
};

constexpr int kOutside = 0;  // the element

// Calls visit(p, inside) for all pixels, a whole warp at a time; `inside` is false for lanes beyond
// the last pixel.
template <typename Visit>
__device__ void for_each_pixel(MapSize size, Visit&& visit) {
  const int pixels = size.pixels();
  for (int first = static_cast<int>(threadIdx.x) / kWarpSize * kWarpSize; first < pixels;
       first += blockDim.x) {
    const int p = first + static_cast<int>(threadIdx.x) % kWarpSize;
    visit(p, p < pixels);
  }
}

// Labels each pixel with the first one of its run, as far as the run lies within a warp's 32
// pixels. class_of(p) says which pixels belong together; those of a negative class are left out.
template <typename ClassOf>
__device__ void start_runs(MapSize size, const ClassOf& class_of, int* labels) {
  for_each_pixel(size, [&](int p, bool inside) {
    const int lane = p % kWarpSize;
    const int own = inside ? class_of(p) : -1;
    const bool joins_left = own >= 0 && p % size.width != 0 && class_of(p - 1) == own;
    const int start = p - lane + lane_of_start(joins_left);
    if (own >= 0) labels[p + 1] = start + 1;
  });
}

// Unites a pixel with the neighbours before it. With kDiagonal corners touch; else the border
// touches the outside.
template <bool kDiagonal, typename ClassOf>
__device__ void unite_with_earlier(MapSize size, const ClassOf& class_of, int p, int* labels) {
  const int own = class_of(p), width = size.width;
  const int x = p % width, y = p / width;
  const bool left = x > 0 && class_of(p - 1) == own;
  const bool above = y > 0 && class_of(p - width) == own;
  const bool above_left = x > 0 && y > 0 && class_of(p - width - 1) == own;
  if (left && p % kWarpSize == 0) unite(labels, p + 1, p);
  if (above && !(left && above_left)) unite(labels, p + 1, p - width + 1);
  if constexpr (kDiagonal) {
    if (above_left && !above && !left) unite(labels, p + 1, p - width);
    const bool above_right = x + 1 < width && y > 0 && class_of(p - width + 1) == own;
    if (above_right && !above) unite(labels, p + 1, p - width + 2);
  } else if (x == 0 || y == 0 || x == width - 1 || y == size.height - 1) {
    unite(labels, p + 1, kOutside);
  }
}

// Adds each lane's value to sums[place], lanes of one place together. For whole warps.
__device__ inline void add_by_place(int* sums, int place, int value) {
  const int lane = threadIdx.x % kWarpSize;
  for (unsigned waiting = __ballot_sync(kFullWarp, value != 0); waiting != 0;) {
    const int leader = __ffs(static_cast<int>(waiting)) - 1;
    const int chosen = __shfl_sync(kFullWarp, place, leader);
    const bool mine = value != 0 && place == chosen;
    const int sum = warp_sum(mine ? value : 0);
    if (lane == leader) atomicAdd(&sums[chosen], sum);
    waiting &= ~__ballot_sync(kFullWarp, mine);
  }
}

}  // namespace wsol::cuda

#endif  // __CUDACC__ || WSOL_EMULATOR
