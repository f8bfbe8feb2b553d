// Intersection over union of every box of one list with every box of another, batched.
//
// a (B, N, 4), b (B, M, 4), out (B, N, M): one dtype, float32 or float64, contiguous but for the
// batches of a and b: one that is the same for all has the stride 0 there. Boxes are [x0, y0, x1, y1]; `inclusive` counts both end pixels of a side. 0 where both boxes are empty.
#pragma once

#include "core/tensor_view.h"

namespace wsol {

struct BoxIou {
  TensorView a, b, out;
  bool inclusive;
};

namespace cpu {
void box_iou(const BoxIou& args, int threads);
}
namespace cuda {
void box_iou(const BoxIou& args, Stream stream);
}

}  // namespace wsol
