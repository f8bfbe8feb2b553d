// The mean over each segment of an image, in each of its pixels.
//
// Sums are in double in an order that the shape alone fixes: they round far below float32, whose
// largest numbers do not overflow, and are the same for any number of threads.
#pragma once

#include <cstdint>

#include "core/tensor_view.h"

namespace wsol {

struct SegmentMean {
  TensorView values;  // (B, C, N) floating, contiguous
  TensorView labels;  // (B, N) int32 or int64, contiguous
  TensorView out;     // (B, C, N), dtype of values, contiguous
  TensorView scratch;
};

namespace cpu {
inline int64_t segment_mean_scratch_bytes(int64_t, int64_t) { return 0; }
// Throws std::invalid_argument where a label is outside [0, N).
void segment_mean(const SegmentMean& args, int threads);
}  // namespace cpu

namespace cuda {
int64_t segment_mean_scratch_bytes(int64_t images, int64_t pixels);
// Writes NaN where a label is outside [0, N).
void segment_mean(const SegmentMean& args, Stream stream);
}  // namespace cuda

}  // namespace wsol
