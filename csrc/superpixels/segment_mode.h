// The commonest class of each segment of an image, in each of its pixels.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "core/tensor_view.h"

namespace wsol {

constexpr int64_t kMostSegmentedPixels = (int64_t{1} << 29) - 1;  // of an image

struct SegmentMode {
  TensorView classes;  // (B, N) int32, int64 or uint8, contiguous
  TensorView labels;   // (B, N) int32 or int64, contiguous
  TensorView out;      // (B, N), dtype of classes, contiguous
  TensorView scratch;
};

// Calls `run(ElementTag<T>{})` with the type of an integer dtype.
template <typename Run>
void with_class_type(DType dtype, Run&& run) {
  switch (dtype) {
    case DType::kUInt8:
      return run(ElementTag<uint8_t>{});
    case DType::kInt32:
      return run(ElementTag<int32_t>{});
    case DType::kInt64:
      return run(ElementTag<int64_t>{});
    default:
      unsupported_dtype("segment_mode");
  }
}

namespace cpu {
inline int64_t segment_mode_scratch_bytes(int64_t, int64_t) { return 0; }
// Throws std::invalid_argument where a label is outside [0, N).
void segment_mode(const SegmentMode& args, int threads);
}  // namespace cpu

namespace cuda {
int64_t segment_mode_scratch_bytes(int64_t images, int64_t pixels);
// Writes -1 (255 of uint8) where a label is outside [0, N).
void segment_mode(const SegmentMode& args, Stream stream);
}  // namespace cuda

}  // namespace wsol
