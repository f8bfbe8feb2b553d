// Boxes around what of a score map lies above each of many thresholds, and the best IoU of those.
//
//   u = floor(255 score),  cut = floor(threshold * max u),  foreground: u > cut, 8-connected
//
// The contours, their areas and their order are those of OpenCV's findContours (RETR_TREE). Three
// facts make them cheap:
// - The contour of largest area is an outer one that no other contour encloses: what a contour
//   encloses, a hole of the same component included, has no larger area and comes later in the
//   list.
// - An outer contour's area is that of its component with all holes filled: the sum over the 2x2
//   quads of pixels, 1 for four pixels in it and 1/2 for three. Of equal areas, OpenCV lists the
//   contour first whose first pixel in raster order comes last.
// - A hole's box is the box of its pixels grown by one.
//
// Beside them there is the box of the component of most pixels, of equals the first in raster
// order.
//
// score_maps (B, H, W): any floating dtype, last dimension contiguous. thresholds (T,): float64,
// contiguous. Boxes are int32 [x0, y0, x1, y1], x1 and y1 exclusive; where nothing lies above a cut
// it has one box of zeros.
#pragma once

#include <memory>
#include <vector>

#include "core/tensor_view.h"

namespace wsol {

// Bits that a kernel sets in `status` (1,) int32 where it meets a value it should not. On the CPU
// extract_boxes and best_box_iou return them instead, and no status need be given.
enum BoxStatus : int32_t { kBadScore = 1, kBadThreshold = 2, kBadGtBox = 4 };

constexpr int kLargestSide = 32767;  // a pixel's row and column fit 16 bits, a doubled area 32

struct ExtractBoxes {
  TensorView score_maps, thresholds;
  TensorView boxes;  // (B, T, 4)
  TensorView status, scratch;
  bool most_pixels;  // the box of the component of most pixels, else of the contour of largest area
};

// Two calls list every contour: the first finds and counts them, the second writes where the
// offsets say. In a range outer contours come first, then holes, each in raster order of their
// component's or hole's first pixel; or, on the CPU alone, all are in the order of OpenCV's tree.
struct CountBoxes {
  TensorView score_maps, thresholds;
  TensorView counts;  // (B, T) int64
  TensorView status, scratch;
};

struct Box {
  int32_t x0, y0, x1, y1;  // x1, y1 exclusive
};

// What was found and counted on the CPU: each image's contours in their final order, each with the
// interval of the image's cuts that has it.
struct ContourLists {
  struct Contour {
    uint64_t place;  // outer contours before holes, then the first pixel: the usual order
    int first, last;
    Box box;
  };
  struct Image {
    std::vector<Contour> contours;
    std::vector<int> cut_of_threshold;
    int cuts = 0;
  };
  std::vector<Image> images;
};

struct ListBoxes {
  TensorView score_maps, thresholds;
  TensorView offsets;                   // (B * T + 1,) int64
  TensorView boxes;                     // (offsets[B * T], 4)
  TensorView scratch;                   // as count_boxes left it
  std::shared_ptr<ContourLists> found;  // what that returned
};

struct BestBoxIou {
  TensorView score_maps, thresholds;
  TensorView gt_boxes;  // (B, G, 4) float32, contiguous; rows of -1 are padding
  TensorView best_iou;  // (B, T) float32
  TensorView status, scratch;
  bool all_contours;  // else the contour of largest area alone
};

namespace cpu {
inline int64_t extract_boxes_scratch_bytes(int64_t, int64_t, int64_t, int64_t) { return 0; }
inline int64_t count_boxes_scratch_bytes(int64_t, int64_t, int64_t, int64_t) { return 0; }
inline int64_t best_box_iou_scratch_bytes(int64_t, int64_t, int64_t, int64_t, bool) { return 0; }
int32_t extract_boxes(const ExtractBoxes& args, int threads);
std::shared_ptr<ContourLists> count_boxes(const CountBoxes& args, int threads);
std::shared_ptr<ContourLists> count_boxes_in_tree_order(const CountBoxes& args, int threads);
void list_boxes(const ListBoxes& args, int threads);
int32_t best_box_iou(const BestBoxIou& args, int threads);
}  // namespace cpu

namespace cuda {
int64_t extract_boxes_scratch_bytes(int64_t images, int64_t height, int64_t width,
                                    int64_t thresholds);
int64_t count_boxes_scratch_bytes(int64_t images, int64_t height, int64_t width,
                                  int64_t thresholds);
int64_t best_box_iou_scratch_bytes(int64_t images, int64_t height, int64_t width,
                                   int64_t thresholds, bool all_contours);
void extract_boxes(const ExtractBoxes& args, Stream stream);
// Returns nothing: what it found lies in the scratch.
std::shared_ptr<ContourLists> count_boxes(const CountBoxes& args, Stream stream);
void list_boxes(const ListBoxes& args, Stream stream);
void best_box_iou(const BestBoxIou& args, Stream stream);
}  // namespace cuda

}  // namespace wsol
