// The contours of one cut map, by one block.
#pragma once

#include "boxes/cut_runs.cuh"

namespace wsol::cuda {

constexpr int kBoundPlanes = 3;  // of a contour's box: its root says where it begins

}  // namespace wsol::cuda

#if defined(__CUDACC__) || defined(WSOL_EMULATOR)

namespace wsol::cuda {

// Shared memory of its own: a value a warp, then a box.
struct Partial {
  unsigned long long ranks[kWarpSize];
  int box[4];

  __device__ int* ints() { return reinterpret_cast<int*>(ranks); }
  __device__ float* floats() { return reinterpret_cast<float*>(ranks); }
};

// What is added up, or bounded, at the roots: for so many elements at a time. What a function below
// looks for it finds part by part, if need be.
struct RootSums {
  int* memory;
  int room;  // elements

  __device__ void clear() const {
    for (int i = threadIdx.x; i < room; i += blockDim.x) memory[i] = 0;
  }
};

// The box of the runs with this label, given to all threads.
template <typename Label>
__device__ int4 box_of_label(const CutRuns<Label>& runs, int label, Partial& partial) {
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
// to the sum of its component, where its root is one of `room` from `first_root` on.
template <typename Label, typename ValueOf>
__device__ void add_pieces(const CutRuns<Label>& runs, RootSums sums, int first_root,
                           const ValueOf& value_of) {
  const int words = runs.size.words(), row_words = runs.size.row_words();
  const int lane = threadIdx.x % kWarpSize;
  for (int first = static_cast<int>(threadIdx.x) - lane; first < words; first += blockDim.x) {
    const int word = min(first + lane, words - 1), y = word / row_words;
    const auto value = value_of(word, y, word - y * row_words);
    unsigned rest = first + lane < words ? runs.bits[word] : 0u;
    while (__any_sync(kFullWarp, rest != 0)) {
      const unsigned piece = lowest_piece(rest);
      rest ^= piece;
      int place = -1;
      if (piece != 0) place = runs.labels[runs.element_at(word, lowest_bit(piece))] - first_root;
      const bool counts = place >= 0 && place < sums.room;
      add_by_place(sums.memory, place, counts ? value(piece) : 0);
    }
  }
  __syncthreads();
}

// The largest rank_of(element, what add_pieces adds up there). All `sums` are 0 before.
template <typename Label, typename ValueOf, typename RankOf>
__device__ unsigned long long best_rank(const CutRuns<Label>& runs, RootSums sums, Partial& partial,
                                        const ValueOf& value_of, const RankOf& rank_of) {
  unsigned long long best = 0;
  for (int first = 0;;) {
    add_pieces(runs, sums, first, value_of);
    const int here = min(sums.room, runs.elements - first);
    for (int i = threadIdx.x; i < here; i += blockDim.x) {
      best = max(best, rank_of(first + i, sums.memory[i]));
      sums.memory[i] = 0;
    }
    first += sums.room;
    if (first >= runs.elements) return block_max(best, partial.ranks);
    __syncthreads();
  }
}

// The box of the contour of largest area. What the outside does not reach is foreground or enclosed
// by it: its components are the outermost ones with their holes filled, and the sum over the 2x2
// quads in one is its contour's area.
template <typename Label>
__device__ int4 largest_box(const CutRuns<Label>& runs, RootSums sums, Partial& partial) {
  sums.clear();
  runs.template label<true>();
  runs.fill_holes();
  // Of a quad's pixels each beyond the second counts. One with three has two of them side by side,
  // whose row's run it is added to; one with four is added to the upper row's.
  const auto area2_of = [&](int word, int y, int column) {
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
  };
  // Of equal areas OpenCV's first contour is the one that starts last.
  const auto rank_of = [&](int element, int area2) -> unsigned long long {
    if (element == kOutside || runs.labels[element] != element) return 0;
    return static_cast<unsigned long long>(area2 + 1) << 32 | static_cast<unsigned>(element);
  };
  const auto best = best_rank(runs, sums, partial, area2_of, rank_of);
  return box_of_label(runs, static_cast<int>(best & 0xffffffffu), partial);
}

// The box of the component of most pixels, of equals the first in raster order.
template <typename Label>
__device__ int4 most_pixels_box(const CutRuns<Label>& runs, RootSums sums, Partial& partial) {
  sums.clear();
  runs.template label<false>();
  const auto pixels_of = [](int, int, int) { return [](unsigned piece) { return __popc(piece); }; };
  const auto rank_of = [](int element, int pixels) -> unsigned long long {
    if (pixels == 0) return 0;
    return static_cast<unsigned long long>(pixels) << 32 | ~static_cast<unsigned>(element);
  };
  const auto best = best_rank(runs, sums, partial, pixels_of, rank_of);
  return box_of_label(runs, static_cast<int>(~best & 0xffffffffu), partial);
}

// Calls visit(is_hole, box) for all contours of a cut, each thread in raster order of their
// roots, as threads are. `bounds` has kBoundPlanes ints an element.
template <typename Label, typename Visit>
__device__ void for_each_box(const CutRuns<Label>& runs, RootSums bounds, const Visit& visit) {
  const int room = bounds.room;
  int *left = bounds.memory, *right = left + room, *bottom = right + room;  // ends are exclusive
  for (int first = 0;;) {
    const int here = min(room, runs.elements - first);
    for (int i = threadIdx.x; i < here; i += blockDim.x) {
      left[i] = runs.size.width;
      right[i] = bottom[i] = 0;
    }
    __syncthreads();
    // Where the bounds of an element's root lie, or -1.
    const auto place_of = [&](int element) {
      const int root = runs.labels[element];
      return root != kOutside && root >= first && root < first + here ? root - first : -1;
    };
    runs.for_each_end(
        [&](int element, int x, int y) {
          const int place = place_of(element);
          if (place < 0) return;
          atomicMin(&left[place], x);
          atomicMax(&bottom[place], y + 1);
        },
        [&](int element, int end) {
          const int place = place_of(element);
          if (place >= 0) atomicMax(&right[place], end);
        });
    __syncthreads();
    runs.for_each_root([&](int root, int y, bool is_hole) {
      const int place = place_of(root), grow = is_hole ? 1 : 0;
      if (place < 0) return;
      visit(is_hole,
            make_int4(left[place] - grow, y - grow, right[place] + grow, bottom[place] + grow));
    });
    first += room;
    if (first >= runs.elements) return;
    __syncthreads();
  }
}

// Writes the boxes in order: outer contours first, then holes, by their roots.
template <typename Label>
__device__ void list_contours(const CutRuns<Label>& runs, RootSums bounds, int4* out,
                              Partial& partial) {
  int outer = 0, holes = 0;
  runs.for_each_root([&](int, int, bool is_hole) { is_hole ? ++holes : ++outer; });
  const ExclusiveSum outer_places = block_exclusive_sum(outer, partial.ints());
  int next_outer = outer_places.before;
  int next_hole = outer_places.total + block_exclusive_sum(holes, partial.ints()).before;
  for_each_box(runs, bounds, [&](bool is_hole, int4 box) {
    out[is_hole ? next_hole : next_outer] = box;
    is_hole ? ++next_hole : ++next_outer;
  });
}

}  // namespace wsol::cuda

#endif  // __CUDACC__ || WSOL_EMULATOR
