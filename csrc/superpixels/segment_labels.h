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

}  // namespace wsol::cpu
