// The contours of one cut map, by one block.
#pragma once

#include "boxes/cut_runs.cuh"

#if defined(__CUDACC__) || defined(WSOL_EMULATOR)

namespace wsol::cuda {

// Shared memory of its own: a value a warp, then a box.
struct Partial {
  unsigned long long ranks[kWarpSize];
  int box[4];

  __device__ int* ints() { return reinterpret_cast<int*>(ranks); }
  __device__ float* floats() { return reinterpret_cast<float*>(ranks); }
};

// The box of the runs with this label, given to all threads.
__device__ inline int4 box_of_label(const CutRuns& runs, int label, Partial& partial) {
  constexpr int kLargest = 0x7fffffff;
  int left = kLargest, top = kLargest, right = 0, bottom = 0;
  if (threadIdx.x < 4) partial.box[threadIdx.x] = threadIdx.x < 2 ? kLargest : 0;
  __syncthreads();
  runs.for_each_end(
      [&](int element, int x, int y) {
        if (runs.labels[element] != label) return;
        left = min(left, x);
        top = min(top, y), bottom = max(bottom, y + 1);
      },
      [&](int element, int end) {
        if (runs.labels[element] == label) right = max(right, end);
      });
  left = __reduce_min_sync(kFullWarp, left), top = __reduce_min_sync(kFullWarp, top);
  right = __reduce_max_sync(kFullWarp, right), bottom = __reduce_max_sync(kFullWarp, bottom);
  if (threadIdx.x % kWarpSize == 0) {
    atomicMin(&partial.box[0], left), atomicMin(&partial.box[1], top);
    atomicMax(&partial.box[2], right), atomicMax(&partial.box[3], bottom);
  }
  __syncthreads();
  return make_int4(partial.box[0], partial.box[1], partial.box[2], partial.box[3]);
}

// Adds what value_of(word, y, column) says of each piece of foreground, by a function of its bits,
// to the sum of its component.
template <typename ValueOf>
__device__ void add_pieces(const CutRuns& runs, int* sums, const ValueOf& value_of) {
  const int words = runs.size.words(), row_words = runs.size.row_words();
  const int lane = threadIdx.x % kWarpSize;
  for (int first = static_cast<int>(threadIdx.x) - lane; first < words; first += blockDim.x) {
    const int word = min(first + lane, words - 1), y = word / row_words;
    const auto value = value_of(word, y, word - y * row_words);
    unsigned rest = first + lane < words ? runs.bits[word] : 0u;
    while (__any_sync(kFullWarp, rest != 0)) {
      const unsigned piece = lowest_piece(rest);
      rest ^= piece;
      const bool none = piece == 0;
      const int place = none ? kOutside : runs.labels[runs.element_at(word, lowest_bit(piece))];
      add_by_place(sums, place, none ? 0 : value(piece));
    }
  }
  __syncthreads();
}

// The box of the contour of largest area. What the outside does not reach is foreground or enclosed
// by it: its components are the outermost ones with their holes filled, and the sum over the 2x2
// quads in one is its contour's area.
__device__ inline int4 largest_box(const CutRuns& runs, int* area2, Partial& partial) {
  for (int i = threadIdx.x; i < runs.elements; i += blockDim.x) area2[i] = 0;
  runs.label<true>();
  runs.fill_holes();
  // Of a quad's pixels each beyond the second counts. One with three has two of them side by side,
  // whose row's run it is added to; one with four is added to the upper row's.
  add_pieces(runs, area2, [&](int word, int y, int column) {
    const unsigned pairs = runs.to_the_right(word, column);
    unsigned one_above = 0, below = 0, below_right = 0;
    if (y > 0) {
      const int upper = word - runs.size.row_words();
      one_above = pairs & (runs.bits[upper] ^ runs.to_the_right(upper, column));
    }
    if (y + 1 < runs.size.height) {
      const int lower = word + runs.size.row_words();
      below = pairs & runs.bits[lower], below_right = pairs & runs.to_the_right(lower, column);
    }
    return [=](unsigned piece) {
      return __popc(piece & one_above) + __popc(piece & below) + __popc(piece & below_right);
    };
  });

  unsigned long long best = 0;
  for (int i = threadIdx.x; i < runs.elements; i += blockDim.x) {
    if (i == kOutside || runs.labels[i] != i) continue;
    // Of equal areas OpenCV's first contour is the one that starts last.
    const auto rank =
        static_cast<unsigned long long>(area2[i] + 1) << 32 | static_cast<unsigned>(i);
    best = max(best, rank);
  }
  return box_of_label(runs, static_cast<int>(block_max(best, partial.ranks) & 0xffffffffu),
                      partial);
}

// The box of the component of most pixels, of equals the first in raster order.
__device__ inline int4 most_pixels_box(const CutRuns& runs, int* counts, Partial& partial) {
  for (int i = threadIdx.x; i < runs.elements; i += blockDim.x) counts[i] = 0;
  runs.label<false>();
  add_pieces(runs, counts,
             [](int, int, int) { return [](unsigned piece) { return __popc(piece); }; });

  unsigned long long best = 0;
  for (int i = threadIdx.x; i < runs.elements; i += blockDim.x) {
    if (counts[i] == 0) continue;
    const auto rank = static_cast<unsigned long long>(counts[i]) << 32 | ~static_cast<unsigned>(i);
    best = max(best, rank);
  }
  return box_of_label(runs, static_cast<int>(~block_max(best, partial.ranks) & 0xffffffffu),
                      partial);
}

// Bounds of all contours of a cut, at its component's root: x and y ends exclusive.
struct Bounds {
  int *left, *right, *bottom;

  __device__ void find(const CutRuns& runs) const {
    for (int i = threadIdx.x; i < runs.elements; i += blockDim.x) {
      left[i] = runs.size.width;
      right[i] = bottom[i] = 0;
    }
    __syncthreads();
    runs.for_each_end(
        [&](int element, int x, int y) {
          const int root = runs.labels[element];
          if (root == kOutside) return;
          atomicMin(&left[root], x);
          atomicMax(&bottom[root], y + 1);
        },
        [&](int element, int end) {
          const int root = runs.labels[element];
          if (root != kOutside) atomicMax(&right[root], end);
        });
    __syncthreads();
  }
  __device__ int4 box(int root, int y, bool is_hole) const {
    const int grow = is_hole ? 1 : 0;
    return make_int4(left[root] - grow, y - grow, right[root] + grow, bottom[root] + grow);
  }
};

// Writes the boxes in order: outer contours first, then holes, by their roots.
__device__ inline void list_contours(const CutRuns& runs, const Bounds& bounds, int4* out,
                                     Partial& partial) {
  int outer = 0, holes = 0;
  runs.for_each_root([&](int, int, bool is_hole) { is_hole ? ++holes : ++outer; });
  const ExclusiveSum outer_places = block_exclusive_sum(outer, partial.ints());
  int next_outer = outer_places.before;
  int next_hole = outer_places.total + block_exclusive_sum(holes, partial.ints()).before;
  runs.for_each_root([&](int root, int y, bool is_hole) {
    const int place = is_hole ? next_hole : next_outer;
    out[place] = bounds.box(root, y, is_hole);
    is_hole ? ++next_hole : ++next_outer;
  });
}

}  // namespace wsol::cuda

#endif  // __CUDACC__ || WSOL_EMULATOR
