// The contours of one cut map, by one block.
#pragma once

#include "boxes/component_labels.cuh"

#if defined(__CUDACC__) || defined(WSOL_EMULATOR)

namespace wsol::cuda {

// Labels the pixels of class 1 with their components' roots, corners touching; leaves other labels.
template <typename ClassOf>
__device__ void label_components(MapSize size, const ClassOf& class_of, int* labels) {
  start_runs(size, class_of, labels);
  __syncthreads();
  for_each_pixel(size, [&](int p, bool inside) {
    if (inside && class_of(p) > 0) unite_with_earlier<true>(size, class_of, p, labels);
  });
  __syncthreads();
  for_each_pixel(size, [&](int p, bool inside) {
    if (inside && class_of(p) > 0) labels[p + 1] = find_root(labels, p + 1);
  });
  __syncthreads();
}

// The box of the pixels with this label, given to all threads.
__device__ inline int4 box_of_label(MapSize size, const int* labels, int label) {
  int* partial = reinterpret_cast<int*>(dynamic_shared());
  const int width = size.width;
  int right = 0, bottom = 0, left = width, top = size.height;
  for_each_pixel(size, [&](int p, bool inside) {
    if (!inside || labels[p + 1] != label) return;
    left = min(left, p % width), right = max(right, p % width + 1);
    top = min(top, p / width), bottom = max(bottom, p / width + 1);
  });
  left = -block_max(-left, partial), top = -block_max(-top, partial);
  right = block_max(right, partial), bottom = block_max(bottom, partial);
  return make_int4(left, top, right, bottom);
}

// The box of the contour of largest area. What the outside does not reach is foreground or enclosed
// by it: its components are the outermost ones with their holes filled, and the sum over the 2x2
// quads in one is its contour's area.
__device__ inline int4 largest_box(const uint8_t* u, int cut, MapSize size, int* labels,
                                   int* area2) {
  auto* partial = reinterpret_cast<unsigned long long*>(dynamic_shared());
  const int width = size.width;
  const auto is_foreground = [=](int p) { return static_cast<int>(u[p] > cut); };
  start_runs(size, is_foreground, labels);
  if (threadIdx.x == 0) labels[kOutside] = area2[kOutside] = 0;
  __syncthreads();
  for_each_pixel(size, [&](int p, bool inside) {
    if (inside) area2[p + 1] = 0;
    if (inside && !is_foreground(p)) unite_with_earlier<false>(size, is_foreground, p, labels);
  });
  __syncthreads();
  for_each_pixel(size, [&](int p, bool inside) {
    if (inside && !is_foreground(p)) labels[p + 1] = find_root(labels, p + 1);
  });
  __syncthreads();

  const auto is_filled = [=](int p) { return labels[p + 1] != kOutside ? 1 : -1; };
  label_components(size, is_filled, labels);
  for_each_pixel(size, [&](int p, bool inside) {
    int place = kOutside, filled = 0;
    if (inside && p % width < width - 1 && p / width < size.height - 1) {
      for (const int q : {p, p + 1, p + width, p + width + 1}) {
        if (labels[q + 1] == kOutside) continue;
        place = labels[q + 1];
        ++filled;
      }
    }
    add_by_place(area2, place, max(filled - 2, 0));
  });
  __syncthreads();

  unsigned long long best = 0;
  for_each_pixel(size, [&](int p, bool inside) {
    if (!inside || labels[p + 1] != p + 1) return;
    // Of equal areas OpenCV's first contour is the one that starts last.
    const auto rank =
        static_cast<unsigned long long>(area2[p + 1] + 1) << 32 | static_cast<unsigned>(p + 1);
    best = max(best, rank);
  });
  const int winner = static_cast<int>(block_max(best, partial) & 0xffffffffu);
  return box_of_label(size, labels, winner);
}

// The box of the component of most pixels, of equals the first in raster order.
__device__ inline int4 most_pixels_box(const uint8_t* u, int cut, MapSize size, int* labels,
                                       int* counts) {
  auto* partial = reinterpret_cast<unsigned long long*>(dynamic_shared());
  const auto class_of = [=](int p) { return u[p] > cut ? 1 : -1; };
  for_each_pixel(size, [&](int p, bool inside) {
    if (!inside) return;
    labels[p + 1] = kOutside;
    counts[p + 1] = 0;
  });
  label_components(size, class_of, labels);
  for_each_pixel(size, [&](int p, bool inside) {
    const int root = inside ? labels[p + 1] : kOutside;
    add_by_place(counts, root, root != kOutside ? 1 : 0);
  });
  __syncthreads();

  unsigned long long best = 0;
  for_each_pixel(size, [&](int p, bool inside) {
    if (!inside || counts[p + 1] == 0) return;
    const auto rank =
        static_cast<unsigned long long>(counts[p + 1]) << 32 | ~static_cast<unsigned>(p + 1);
    best = max(best, rank);
  });
  const int winner = static_cast<int>(~block_max(best, partial) & 0xffffffffu);
  return box_of_label(size, labels, winner);
}

// All contours of a cut: its roots and, at a root's place, bounds of its component's pixels.
struct ContourRoots {
  const uint8_t* u;
  int cut;
  MapSize size;
  int *labels, *left, *right, *bottom;

  __device__ int is_foreground(int p) const { return u[p] > cut; }
  __device__ bool is_root(int p) const { return labels[p + 1] == p + 1; }
  __device__ bool is_hole(int p) const { return !is_foreground(p); }

  __device__ int4 box(int root) const {
    const int grow = is_hole(root) ? 1 : 0;
    return make_int4(left[root + 1] - grow, root / size.width - grow, right[root + 1] + 1 + grow,
                     bottom[root + 1] + 1 + grow);
  }
};

__device__ inline void label_all(const ContourRoots& map) {
  const MapSize size = map.size;
  int* labels = map.labels;
  const auto class_of = [&](int p) { return map.is_foreground(p); };
  start_runs(size, class_of, labels);
  if (threadIdx.x == 0) labels[kOutside] = kOutside;
  __syncthreads();
  for_each_pixel(size, [&](int p, bool inside) {
    if (!inside) return;
    if (map.is_foreground(p)) {
      unite_with_earlier<true>(size, class_of, p, labels);
    } else {
      unite_with_earlier<false>(size, class_of, p, labels);
    }
  });
  __syncthreads();
  for_each_pixel(size, [&](int p, bool inside) {
    if (!inside) return;
    labels[p + 1] = find_root(labels, p + 1);
    map.left[p + 1] = size.width;
    map.right[p + 1] = map.bottom[p + 1] = -1;
  });
  __syncthreads();
  for_each_pixel(size, [&](int p, bool inside) {
    const int root = inside ? labels[p + 1] : kOutside;
    if (root == kOutside) return;
    const int own = map.is_foreground(p), x = p % size.width, y = p / size.width;
    // Only a pixel without a neighbour of its class on that side can be the outermost.
    if (x == 0 || map.is_foreground(p - 1) != own) atomicMin(&map.left[root], x);
    if (x == size.width - 1 || map.is_foreground(p + 1) != own) atomicMax(&map.right[root], x);
    const bool last_row = y == size.height - 1;
    if (last_row || map.is_foreground(p + size.width) != own) atomicMax(&map.bottom[root], y);
  });
  __syncthreads();
}

// Writes the boxes in order: outer contours first, then holes, by their roots.
__device__ inline void list_contours(const ContourRoots& map, int4* out) {
  int* partial = reinterpret_cast<int*>(dynamic_shared());  // a count a warp
  int outer = 0;
  for_each_pixel(map.size, [&](int p, bool inside) {
    if (inside && map.is_root(p) && !map.is_hole(p)) ++outer;
  });
  int next[2] = {0, block_sum(outer, partial)};
  const int lane = threadIdx.x % kWarpSize;
  const unsigned warp = threadIdx.x / kWarpSize, warps = blockDim.x / kWarpSize;
  for (int first = 0; first < map.size.pixels(); first += blockDim.x) {
    const int p = first + static_cast<int>(threadIdx.x);
    const bool root = p < map.size.pixels() && map.is_root(p);
    for (int hole = 0; hole < 2; ++hole) {
      const bool mine = root && map.is_hole(p) == (hole == 1);
      const unsigned same = __ballot_sync(kFullWarp, mine);
      __syncthreads();
      if (lane == 0) partial[warp] = __popc(same);
      __syncthreads();
      int place = next[hole] + __popc(same & ((1u << lane) - 1u));
      for (unsigned other = 0; other < warps; ++other) {
        if (other < warp) place += partial[other];
        next[hole] += partial[other];
      }
      if (mine) out[place] = map.box(p);
    }
  }
}

}  // namespace wsol::cuda

#endif  // __CUDACC__ || WSOL_EMULATOR
