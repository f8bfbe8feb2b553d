// Connected components of masks: a label for each pixel, and what is known of each component.
//
// What is united are runs, not pixels: of a row where edges touch. Where corners touch too, a run
// is one of columns in a strip of two rows, columns that have a pixel in either row: neighbouring
// columns' pixels touch always, so these runs are the strip's components. Half as many rows, and
// fewer runs (block-based decision trees, Grana et al. 2010, look at 2 x 2 pixels by the same
// fact).
//
// A component's root is its first run, rows or strips from the top and then from the left, and
// labels count roots in this order: it is OpenCV's order.
//
// Boxes are int32 [x0, y0, x1, y1], x1 and y1 exclusive. Components lie in the flat outputs by
// image, then by label.
#pragma once

#include <memory>
#include <vector>

#include "core/tensor_view.h"

namespace wsol {

struct LabelComponents {
  TensorView masks;   // (B, H, W) bool or uint8, not 0 is foreground; last dimension contiguous
  TensorView values;  // (B, H, W) floating, last dimension contiguous; or none
  TensorView labels;  // (B, H, W) int32, contiguous: 0 is background
  TensorView counts;  // (B,) int64: an image's components
  TensorView scratch;
  bool corners_touch;
};

// What was found on the CPU, each image's components in the order of their labels.
struct ComponentLists {
  struct Component {
    int32_t x0, y0, x1, y1, pixels;
    double sum;  // of its values
  };
  std::vector<std::vector<Component>> images;
};

struct MeasureComponents {
  TensorView values, labels;  // as label_components got and left them
  TensorView offsets;         // (B + 1,) int64: of each image's components
  TensorView areas;           // (M,) int32, for M = offsets[B]
  TensorView boxes;           // (M, 4) int32
  TensorView sums;            // (M,) float32, or float64 for values in float64; none without values
  TensorView scratch, sum_scratch;        // the first as label_components left it
  std::shared_ptr<ComponentLists> found;  // what that returned
  bool corners_touch;
};

namespace cpu {
inline int64_t label_components_scratch_bytes(int64_t, int64_t, int64_t, bool) { return 0; }
inline int64_t measure_components_scratch_bytes(int64_t, int64_t, bool) { return 0; }
std::shared_ptr<ComponentLists> label_components(const LabelComponents& args, int threads);
void measure_components(const MeasureComponents& args, int threads);
}  // namespace cpu

namespace cuda {
int64_t label_components_scratch_bytes(int64_t images, int64_t height, int64_t width,
                                       bool corners_touch);
// Of sums: nothing without values.
int64_t measure_components_scratch_bytes(int64_t images, int64_t components, bool has_values);
// Returns nothing: what it found lies in the scratch.
std::shared_ptr<ComponentLists> label_components(const LabelComponents& args, Stream stream);
void measure_components(const MeasureComponents& args, Stream stream);
}  // namespace cuda

}  // namespace wsol
