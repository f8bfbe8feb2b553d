// Intersection over union of two boxes, for CPU and CUDA. `extra` is 1 where both end pixels of a
// side count, else 0.
#pragma once

#include "core/host_device.h"

namespace wsol {

template <typename T>
struct BoxOf {
  T x0, y0, x1, y1;
};

template <typename T>
WSOL_HOST_DEVICE inline BoxOf<T> box_at(const T* corners) {
  return {corners[0], corners[1], corners[2], corners[3]};
}

template <typename T>
WSOL_HOST_DEVICE inline T side_of(T low, T high, T extra) {
  const T length = high - low + extra;
  return length > 0 ? length : T(0);
}

template <typename T>
WSOL_HOST_DEVICE inline T area_of(const BoxOf<T>& box, T extra) {
  return side_of(box.x0, box.x1, extra) * side_of(box.y0, box.y1, extra);
}

// 0 where both are empty. `area_a` is a's: it meets many.
template <typename T>
WSOL_HOST_DEVICE inline T iou_of(const BoxOf<T>& a, T area_a, const BoxOf<T>& b, T extra) {
  const T shared = side_of(a.x0 > b.x0 ? a.x0 : b.x0, a.x1 < b.x1 ? a.x1 : b.x1, extra) *
                   side_of(a.y0 > b.y0 ? a.y0 : b.y0, a.y1 < b.y1 ? a.y1 : b.y1, extra);
  const T joined = area_a + area_of(b, extra) - shared;
  return joined > 0 ? shared / joined : T(0);
}

// A box of pixels, x1 and y1 exclusive, clipped as the public evaluator clips its boxes.
WSOL_HOST_DEVICE inline BoxOf<float> clipped_box(int x0, int y0, int x1, int y1, int width,
                                                 int height) {
  return {static_cast<float>(x0), static_cast<float>(y0),
          static_cast<float>(x1 < width ? x1 : width - 1),
          static_cast<float>(y1 < height ? y1 : height - 1)};
}

}  // namespace wsol
