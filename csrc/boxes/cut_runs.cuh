// The runs of one cut map and their connected components, by one block.
//
// A bit a pixel says what is foreground. Where a row's bits change a run begins: runs of foreground
// and of background alternate, and are numbered together, from 1, in raster order. These are the
// elements of a union-find, with 0 for the outside of the image. After `label` each run's label is
// the smallest element of its component: the outside, or the run that holds the component's first
// pixel. So labels do not depend on the order in which threads ran.
#pragma once

#include "core/cuda.h"
#include "core/row_contacts.h"
#include "core/union_find.cuh"

namespace wsol::cuda {

struct MapSize {
  int height, width;
  WSOL_HOST_DEVICE int pixels() const { return height * width; }
  WSOL_HOST_DEVICE int row_words() const { return (width + 31) / 32; }
  WSOL_HOST_DEVICE int words() const { return height * row_words(); }
};

// Words of a thread whose words lie next to each other: an odd number, so that those of a warp's
// lanes do not lie in one bank.
WSOL_HOST_DEVICE inline int words_each(int words, unsigned threads) {
  return (words + static_cast<int>(threads) - 1) / static_cast<int>(threads) | 1;
}

// Ints of memory for so many labels.
template <typename Label>
WSOL_HOST_DEVICE constexpr int64_t label_ints(int64_t labels) {
  return (labels * static_cast<int64_t>(sizeof(Label)) + 3) / 4;
}
// Ints of memory for all of a map's CutRuns but the labels.
template <typename Label>
WSOL_HOST_DEVICE inline int64_t word_ints(MapSize size) {
  return 2 * int64_t{size.words()} + label_ints<Label>(size.words());
}

}  // namespace wsol::cuda

#if defined(__CUDACC__) || defined(WSOL_EMULATOR)

namespace wsol::cuda {

constexpr int kOutside = 0;  // the element

// Label: an integer that holds the number of elements, unsigned short or int.
template <typename Label>
struct CutRuns {
  MapSize size;
  unsigned* bits;    // (words,): the foreground, 0 beyond the end of a row
  unsigned* starts;  // (words,): where a run begins
  Label* before;     // (words,): how many runs begin in earlier words
  Label* labels;     // (elements,)
  int elements = 0;  // runs, and the outside

  // In memory of as many ints as label_ints and word_ints say.
  __device__ CutRuns(MapSize size, int* memory)
      : size(size),
        bits(reinterpret_cast<unsigned*>(memory)),
        starts(bits + size.words()),
        before(reinterpret_cast<Label*>(starts + size.words())),
        labels(reinterpret_cast<Label*>(memory + word_ints<Label>(size))) {}

  // Of words of 32 pixels, those that this thread goes through: (word, y, column of words).
  template <typename Visit>
  __device__ void for_each_word(Visit&& visit) const {
    const int row_words = size.row_words(), words = size.words();
    const int step = blockDim.x, step_rows = step / row_words;
    const int step_columns = step - step_rows * row_words;
    int y = static_cast<int>(threadIdx.x) / row_words;
    int column = static_cast<int>(threadIdx.x) - y * row_words;
    for (int word = threadIdx.x; word < words; word += step) {
      visit(word, y, column);
      y += step_rows, column += step_columns;
      if (column >= row_words) column -= row_words, ++y;
    }
  }

  // The same, but each thread's words lie next to each other, and threads are in raster order.
  template <typename Visit>
  __device__ void for_each_own_word(Visit&& visit) const {
    const int row_words = size.row_words(), words = size.words();
    const int own = words_each(words, blockDim.x);
    int word = min(own * static_cast<int>(threadIdx.x), words);
    const int end = min(word + own, words);
    int y = word / row_words, column = word - y * row_words;
    for (; word < end; ++word) {
      visit(word, y, column);
      if (++column == row_words) column = 0, ++y;
    }
  }

  // The pixels of the map among a word's bits.
  __device__ unsigned inside(int column) const {
    const int rest = size.width - column * 32;
    return rest >= 32 ? ~0u : (1u << rest) - 1u;
  }
  // The run that a word's pixel lies in.
  __device__ int element_at(int word, int bit) const {
    return before[word] + __popc(starts[word] & ((2u << bit) - 1u));
  }

  // The word's pixels' neighbours to the left, and to the right.
  __device__ unsigned to_the_left(int word, int column) const {
    return bits[word] << 1 | (column > 0 ? bits[word - 1] >> 31 : 0u);
  }
  __device__ unsigned to_the_right(int word, int column) const {
    return bits[word] >> 1 | (column + 1 < size.row_words() ? bits[word + 1] << 31 : 0u);
  }

  // Sets all but the labels, and `before` where Label holds it, from bit planes of the quantized
  // map: for each word the four lower bits of its pixels, then for each the four upper ones.
  // `partial` is as for block_exclusive_sum.
  __device__ void find(const uint4* planes, int cut, int* partial) {
    // u > cut bit by bit, from the lowest: where the bits of u and cut are the same, what the lower
    // ones say stands.
    const auto exceeds = [&](unsigned below, unsigned plane, int bit) {
      const unsigned zero = (cut >> bit & 1) != 0 ? 0u : ~0u;
      return (plane & below) | (plane & zero) | (below & zero);
    };
    const int words = size.words();
    for (int word = threadIdx.x; word < words; word += blockDim.x) {
      const uint4 low = planes[word], high = planes[words + word];
      unsigned above = exceeds(exceeds(0u, low.x, 0), low.y, 1);
      above = exceeds(exceeds(above, low.z, 2), low.w, 3);
      above = exceeds(exceeds(above, high.x, 4), high.y, 5);
      bits[word] = exceeds(exceeds(above, high.z, 6), high.w, 7);
    }
    __syncthreads();
    int count = 0;
    for_each_own_word([&](int word, int, int column) {
      unsigned changes = bits[word] ^ to_the_left(word, column);
      if (column == 0) changes |= 1u;
      starts[word] = changes &= inside(column);
      count += __popc(changes);
    });
    auto [next, total] = block_exclusive_sum(count, partial);
    for_each_own_word([&](int word, int, int) {
      before[word] = static_cast<Label>(next);
      next += __popc(starts[word]);
    });
    elements = total + 1;
    __syncthreads();
  }

  // Labels components: of the foreground, corners touching, and with kBackground also of the
  // background, edges touching, where the map's border touches the outside.
  template <bool kBackground>
  __device__ void label() const {
    for (int i = threadIdx.x; i < elements; i += blockDim.x) labels[i] = static_cast<Label>(i);
    __syncthreads();
    const int row_words = size.row_words();
    for_each_word([&](int word, int y, int column) {
      const unsigned here = bits[word], left = to_the_left(word, column);
      if (y > 0) {
        const int upper = word - row_words;
        const unsigned above = bits[upper], above_left = to_the_left(upper, column);
        const RowContacts<unsigned> contacts(here, left, above, above_left);
        const unsigned falls = contacts.falls, rises = contacts.rises;
        unsigned touches = contacts.joins | falls | rises;
        if constexpr (kBackground) {
          const unsigned first = column == 0 ? 1u : 0u;
          touches |= ~here & ~above & (left | above_left | first) & inside(column);
        }
        for (; touches != 0; touches &= touches - 1) {
          const int bit = lowest_bit(touches);
          unite(labels, element_at(word, bit) - static_cast<int>(rises >> bit & 1u),
                element_at(upper, bit) - static_cast<int>(falls >> bit & 1u));
        }
      }
      if constexpr (kBackground) {
        unsigned border = y == 0 || y == size.height - 1 ? starts[word] : 0u;
        if (column == 0) border |= 1u;
        if (column == row_words - 1) border |= 1u << ((size.width - 1) & 31);
        for (border &= ~here; border != 0; border &= border - 1) {
          unite(labels, element_at(word, lowest_bit(border)), kOutside);
        }
      }
    });
    __syncthreads();
    flatten();
  }

  // Makes each label a root.
  __device__ void flatten() const {
    for (int i = threadIdx.x; i < elements; i += blockDim.x) flatten_way(labels, i);
    __syncthreads();
  }

  // Joins each hole to the runs beside it, and so to all that encloses it and lies in it; then
  // makes it foreground.
  __device__ void fill_holes() const {
    bool found = false;
    for_each_word([&](int word, int, int) {
      for (unsigned holes = starts[word] & ~bits[word]; holes != 0; holes &= holes - 1) {
        const int element = element_at(word, lowest_bit(holes));
        if (labels[element] == kOutside) continue;
        found = true;
        unite(labels, element, element - 1);
        unite(labels, element, element + 1);
      }
    });
    if (__syncthreads_or(found) == 0) return;
    flatten();
    for_each_word([&](int word, int, int column) {
      unsigned filled = bits[word];
      for (unsigned rest = ~filled & inside(column); rest != 0;) {
        const unsigned piece = lowest_piece(rest);
        rest ^= piece;
        if (labels[element_at(word, lowest_bit(piece))] != kOutside) filled |= piece;
      }
      bits[word] = filled;
    });
    __syncthreads();
  }

  // Calls on_start(element, x, y) and on_end(element, the x after its last) for all runs.
  template <typename OnStart, typename OnEnd>
  __device__ void for_each_end(const OnStart& on_start, const OnEnd& on_end) const {
    const int row_words = size.row_words();
    for_each_word([&](int word, int y, int column) {
      int element = before[word];  // the run that comes into this word, or ended with the last row
      for (unsigned rest = starts[word]; rest != 0; rest &= rest - 1) {
        const int x = column * 32 + lowest_bit(rest);
        if (x > 0) on_end(element, x);
        on_start(++element, x, y);
      }
      if (column == row_words - 1) on_end(element, size.width);
    });
  }

  // Calls visit(root, y, is_hole) for all components, each thread in raster order, as threads are.
  template <typename Visit>
  __device__ void for_each_root(const Visit& visit) const {
    for_each_own_word([&](int word, int y, int) {
      int element = before[word];
      for (unsigned rest = starts[word]; rest != 0; rest &= rest - 1) {
        ++element;
        if (labels[element] != element) continue;
        visit(element, y, (bits[word] >> lowest_bit(rest) & 1u) == 0);
      }
    });
  }
};

// Adds each lane's value to sums[place], lanes of one place together. For whole warps.
__device__ inline void add_by_place(int* sums, int place, int value) {
  const int lane = threadIdx.x % kWarpSize;
  for (unsigned waiting = __ballot_sync(kFullWarp, value != 0); waiting != 0;) {
    const int leader = lowest_bit(waiting);
    const int chosen = __shfl_sync(kFullWarp, place, leader);
    const bool mine = value != 0 && place == chosen;
    const int sum = __reduce_add_sync(kFullWarp, mine ? value : 0);
    if (lane == leader) atomicAdd(&sums[chosen], sum);
    waiting &= ~__ballot_sync(kFullWarp, mine);
  }
}

}  // namespace wsol::cuda

#endif  // __CUDACC__ || WSOL_EMULATOR
