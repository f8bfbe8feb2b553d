// The answers of (image, cut) pairs from their runs, by a block each.
#pragma once

#include <type_traits>

#include "boxes/box_scratch.cuh"
#include "boxes/iou.h"

namespace wsol::cuda {

constexpr int kPairThreads = 512;
using ShortLabel = unsigned short;  // of the runs in shared memory

// A block's memory for a pair: so many ints, which do for pairs of up to `capacity` elements. None
// does for a capacity of 0. In the scratch, where labels are ints, it does for all.
struct PairMemory {
  int ints, capacity;
};

struct GtBoxes {
  const float* data;
  int count;  // an image
};

// What the pair kernels ask of a pair.
struct Question {
  int thresholds;
  GtBoxes gt;
  const int64_t* offsets;  // of the boxes that are listed
  int4* boxes;
};

}  // namespace wsol::cuda

#if defined(__CUDACC__) || defined(WSOL_EMULATOR)

namespace wsol::cuda {

__device__ inline float best_iou(int4 box, MapSize size, const GtBoxes& gt, int64_t image) {
  const BoxOf<float> clipped = clipped_box(box.x, box.y, box.z, box.w, size.width, size.height);
  const float area = area_of(clipped, 1.0f);
  float best = 0;
#pragma unroll 1  // a division takes registers
  for (int g = 0; g < gt.count; ++g) {
    const BoxOf<float> at = box_at(gt.data + (image * gt.count + g) * 4);
    const bool padding = at.x0 == -1.0f && at.y0 == -1.0f && at.x1 == -1.0f && at.y1 == -1.0f;
    const bool finite = isfinite(at.x0) && isfinite(at.y0) && isfinite(at.x1) && isfinite(at.y1);
    if (padding || !finite) continue;
    best = fmaxf(best, iou_of(clipped, area, at, 1.0f));
  }
  return best;
}

// Answers an image's cut, if its elements fit `memory`.
template <Answer kAnswer, typename Label>
__device__ void answer_pair(MapSize size, int* ints, PairMemory memory, int64_t image, int64_t pair,
                            const BoxScratch& scratch, const Question& question, Partial& partial) {
  CutRuns<Label> runs(size, ints);
  runs.find(scratch.quantized + image * 2 * size.words(), scratch.cut_values[pair], partial.ints());
  const bool overflows = runs.elements > memory.capacity;
  if (threadIdx.x == 0) scratch.overflows[pair] = overflows ? 1 : 0;
  if (overflows) return;

  int4 answer = make_int4(0, 0, 0, 0);
  if constexpr (kAnswer == Answer::kCount) {
    runs.template label<true>();
    runs.for_each_root([&](int, int, bool) { ++answer.x; });
    answer.x = block_sum(answer.x, partial.ints());
  } else {
    // What the labels leave is for the roots.
    const int64_t used = word_ints<Label>(size) + label_ints<Label>(runs.elements);
    RootSums sums{ints + used, runs.elements};
    if constexpr (std::is_same_v<Label, ShortLabel>) {
      sums.room = min(sums.room, (memory.ints - static_cast<int>(used)) / planes_for(kAnswer));
    }
    if constexpr (kAnswer == Answer::kLargestBox) {
      answer = largest_box(runs, sums, partial);
    } else if constexpr (kAnswer == Answer::kMostPixelsBox) {
      answer = most_pixels_box(runs, sums, partial);
    } else {
      runs.template label<true>();
      if constexpr (kAnswer == Answer::kList) {
        const int64_t at = image * question.thresholds + scratch.first_thresholds[pair];
        list_contours(runs, sums, question.boxes + question.offsets[at], partial);
      } else {
        float best = 0;
        for_each_box(runs, sums, [&](bool, int4 box) {
          best = fmaxf(best, best_iou(box, size, question.gt, image));
        });
        answer.x = __float_as_int(block_max(best, partial.floats()));
      }
    }
  }
  if (threadIdx.x == 0) scratch.answers[pair] = answer;
}

template <Answer kAnswer>
__global__ void __launch_bounds__(kPairThreads, planes_for(kAnswer) == kBoundPlanes ? 2 : 3)
    pair_kernel(MapSize size, PairMemory memory, BoxScratch scratch, Question question) {
  const int64_t image = blockIdx.x, pair = image * scratch.slots + blockIdx.y;
  const bool exists = static_cast<int>(blockIdx.y) < scratch.cuts[image];
  if (!exists || memory.capacity == 0) {
    if (threadIdx.x == 0) scratch.overflows[pair] = exists ? 1 : 0;
    return;
  }
  Partial& partial = *reinterpret_cast<Partial*>(dynamic_shared());
  int* ints = reinterpret_cast<int*>(dynamic_shared() + sizeof(Partial));
  answer_pair<kAnswer, ShortLabel>(size, ints, memory, image, pair, scratch, question, partial);
}

// In shared memory where labels are short, else in the scratch.
template <Answer kAnswer, typename Label>
__global__ void __launch_bounds__(kPairThreads, 2)
    rest_kernel(MapSize size, int64_t pairs, PairMemory memory, BoxScratch scratch,
                Question question) {
  Partial& partial = *reinterpret_cast<Partial*>(dynamic_shared());
  int* ints;
  if constexpr (std::is_same_v<Label, ShortLabel>) {
    ints = reinterpret_cast<int*>(dynamic_shared() + sizeof(Partial));
  } else {
    ints = scratch.runs + blockIdx.x * scratch.ints_a_block;
  }
  const int64_t step = gridDim.x;
  // Mostly there is no pair left: each thread looks at one, before the block looks at all of these.
  for (int64_t first = blockIdx.x; first < pairs; first += blockDim.x * step) {
    const int64_t own = first + threadIdx.x * step;
    if (__syncthreads_or(own < pairs && scratch.overflows[own] != 0) == 0) continue;
    for (int i = 0; i < static_cast<int>(blockDim.x); ++i) {
      const int64_t pair = first + i * step;
      if (pair >= pairs) break;
      if (scratch.overflows[pair] == 0) continue;
      answer_pair<kAnswer, Label>(size, ints, memory, pair / scratch.slots, pair, scratch, question,
                                  partial);
      __syncthreads();
    }
  }
}

}  // namespace wsol::cuda

#endif  // __CUDACC__ || WSOL_EMULATOR
