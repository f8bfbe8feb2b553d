// Intersection over union of every box of one list with every box of another, batched.
//
// a (B, N, 4) or (N, 4), b (B, M, 4) or (M, 4), which are the same for the whole batch, out
// (B, N, M) or (N, M): one dtype, float32 or float64, contiguous. Boxes are [x0, y0, x1, y1];
// `inclusive` counts both end pixels of a side. 0 where both boxes are empty.
#pragma once

#include "core/tensor_view.h"

namespace wsol {

struct BoxIou {
  TensorView a, b, out;
  bool inclusive;
};

inline int64_t batch_of(const TensorView& boxes) { return boxes.dims == 3 ? boxes.size(0) : 1; }
inline int64_t rows_of(const TensorView& boxes) { return boxes.size(boxes.dims - 2); }
// From one batch's first box to the next one's.
inline int64_t batch_stride(const TensorView& boxes) {
  return boxes.dims == 3 ? 4 * boxes.size(1) : 0;
}

namespace cpu {
void box_iou(const BoxIou& args, int threads);
}
namespace cuda {
void box_iou(const BoxIou& args, Stream stream);
}

}  // namespace wsol
