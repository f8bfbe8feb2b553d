// Maps resized as OpenCV's resize does it, cubic ones of float64 to the last bit: weights in
// float32, rows before columns, sums from the first tap to the last, no fused multiplications. In
// the same step, where it is asked for, min-max normalized. The CPU's alone: a GPU has PyTorch's
// own.
#pragma once

#include "core/tensor_view.h"

namespace wsol {

// maps (N, h, w) and out (N, height, width), both float32 or both float64, contiguous.
struct ResizeMaps {
  TensorView maps, out;
  bool cubic;      // with coefficient -0.75, else linear
  bool normalize;  // to [0, 1]; a map that is constant or has a NaN becomes zeros
};

namespace cpu {
// Whether all maps that were to be normalized are finite, or have a NaN.
bool resize_maps(const ResizeMaps& args, int threads);
}  // namespace cpu

}  // namespace wsol
