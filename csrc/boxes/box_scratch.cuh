// The memory in which the CUDA kernels of extract_boxes leave what the next ones need.
#pragma once

#include <algorithm>

#include "boxes/cut_contours.cuh"
#include "core/scratch.h"

namespace wsol::cuda {

constexpr int kMaxCuts = 255;  // cuts 0..254 lie below a largest value of up to 255
constexpr int kNoForeground = -1;
// The blocks that keep runs in this memory are as many as have room within this, but at least one.
#if defined(WSOL_PAIR_SCRATCH_BYTES)  // the emulated build: so little that in every test a block
                                      // owns many pairs
constexpr int64_t kPairScratchBytes = WSOL_PAIR_SCRATCH_BYTES;
#else
constexpr int64_t kPairScratchBytes = int64_t{64} << 20;
#endif

enum class Answer { kLargestBox, kMostPixelsBox, kBestIou, kCount, kList };

// Ints by root: the area, or the number of pixels, or the bounds of the box.
WSOL_HOST_DEVICE constexpr int planes_for(Answer answer) {
  if (answer == Answer::kCount) return 0;
  return answer == Answer::kLargestBox || answer == Answer::kMostPixelsBox ? 1 : kBoundPlanes;
}

// Ints of a pair's runs, of which there are fewer than `elements`, and of sums for so many roots.
template <typename Label>
int64_t pair_ints(MapSize size, int64_t elements, int64_t roots, Answer answer) {
  return word_ints<Label>(size) + label_ints<Label>(elements) + planes_for(answer) * roots;
}

// The scratch memory, cut up.
struct BoxScratch {
  uint4* quantized;       // (B, 2, words): bit planes, see CutRuns::find
  int* cuts;              // (B,): how many distinct cuts the image has
  int* cut_values;        // (B, S)
  int* first_thresholds;  // (B, S): the first threshold with this cut
  int* cut_of_threshold;  // (B, T): index of its cut, or kNoForeground
  uint8_t* overflows;     // (B, S): whether the pair is still without an answer
  int4* answers;          // (B, S): a box, or in x the best IoU's bits or the number of boxes
  int* runs;              // (blocks for the rest, ints_a_block)
  int slots;              // S: cuts an image can have
  int64_t ints_a_block, blocks, bytes;

  BoxScratch(const TensorView& memory, int64_t images, MapSize size, int64_t thresholds,
             Answer answer)
      : slots(static_cast<int>(std::min<int64_t>(thresholds, kMaxCuts))) {
    ScratchParts parts(memory);
    parts.take(quantized, images * 2 * size.words());
    parts.take(cuts, images);
    parts.take(cut_values, images * slots);
    parts.take(first_thresholds, images * slots);
    parts.take(cut_of_threshold, images * thresholds);
    parts.take(overflows, images * slots);
    parts.take(answers, images * slots);
    const int64_t elements = int64_t{size.pixels()} + 1;
    ints_a_block = pair_ints<int>(size, elements, elements, answer);
    const int64_t most = std::min<int64_t>(images * slots, 0x7fffffff);
    blocks =
        std::clamp<int64_t>(kPairScratchBytes / (4 * ints_a_block), 1, std::max<int64_t>(most, 1));
    parts.take(runs, blocks * ints_a_block);
    bytes = parts.bytes();
  }
};

}  // namespace wsol::cuda
