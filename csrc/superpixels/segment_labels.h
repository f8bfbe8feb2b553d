// What the operators on segments share: their labels, checked and narrowed once for all channels.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor_view.h"

namespace wsol::cpu {

struct SegmentLabels {
  const int32_t* data;            // (B, N)
  std::vector<int32_t> segments;  // (B,): an image's largest label, and one
  std::vector<int32_t> narrowed;  // what `data` points into, if the labels were wider
};

// `labels` is (B, N) int32 or int64, contiguous. Throws std::invalid_argument unless all are in
// [0, N).
SegmentLabels read_labels(const char* operator_name, const TensorView& labels, int threads);

// Calls add(p) for the pixels [begin, end), four places of the image in turn: an addition waits for
// the last one to the same segment, most often that of the pixel before.
template <typename Add>
void in_turns(int64_t begin, int64_t end, const Add& add) {
  constexpr int64_t kPlaces = 4;
  const int64_t quarter = (end - begin) / kPlaces;
  for (int64_t i = 0; i < quarter; ++i) {
    for (int64_t place = 0; place < kPlaces; ++place) add(begin + place * quarter + i);
  }
  for (int64_t p = begin + kPlaces * quarter; p < end; ++p) add(p);
}

}  // namespace wsol::cpu
