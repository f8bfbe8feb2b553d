// Pillow's bilinear resizing of 8-bit pictures, to the last bit, in its two passes: each row to its
// new width, then each column to its new height. The CPU's alone: pictures are read there.
#pragma once

#include "core/tensor_view.h"

namespace wsol {

// How many pixels are made at once.
inline constexpr int kResizeLanes = 64;

// pixels (h, w, 3) uint8, contiguous; out (3, h, `width` rounded up to kResizeLanes) uint8, whose
// channels may lie anywhere, and a channel's rows one after another.
struct ResizeRows {
  TensorView pixels, out;
  int64_t width;
};

// pixels (3, h, columns) uint8 as ResizeRows gives it; levels (3, 256) float32, what each channel's
// levels become; out (3, height, width) float32; all contiguous.
struct ResizeColumns {
  TensorView pixels, levels, out;
};

namespace cpu {
void resize_rows(const ResizeRows& args, int threads);
void resize_columns(const ResizeColumns& args, int threads);
}  // namespace cpu

}  // namespace wsol
