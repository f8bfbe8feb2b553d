// SLIC superpixels of a batch of images (Achanta et al., TPAMI 2012), in integer arithmetic, so
// that every backend, split and schedule gives the same labels. In wsol_ext/ops/superpixels.py,
// slic_reference says what is computed.
//
// 1. CIELAB of every pixel, in 1/32, by two tables; or channels as they are given. They lie in
//    layers of three, of which the last may be filled up with zeros.
// 2. Labels are those of a grid of cells, or given; each centre is the mean of its pixels, places
//    in 1/16. One that has none is nowhere.
// 3. Up to max_num_iter times: each pixel goes to the nearest centre, the first of equals, of those
//    whose window it lies in, and stays where it lies in none; centres become their pixels' means,
//    an empty one stays. It ends when no label changes. With `least_contrast` (SLICO), a squared
//    difference of colours counts by the largest that the centre's pixels have had to it.
// 4. With `connect`, 4-connected pieces of equal labels become the segments. A piece is small where
//    2 * size * rows * columns < pixels. In rounds, while there is a small one and another, every
//    small piece joins the neighbour of most similar mean colour (of equals, the one whose first
//    pixel in raster order comes first), all at once.
// 5. Labels become consecutive: in the order of the first pixels with `connect`, else of centres.
#pragma once

#include <cmath>

#include "core/host_device.h"
#include "core/tensor_view.h"

namespace wsol {

struct Slic {
  TensorView images;  // (B, 3, h, w) uint8 or floating: sRGB; (B, C, h, w) int16: channels; rows
                      // contiguous
  TensorView labels;  // (B, h, w) int32, contiguous: the result
  TensorView linear;  // (4081,) int16: linear light of an sRGB level, in 1/16384; of bytes (256,)
  TensorView root;    // (16385,) int16: CIELAB's f of a tristimulus value over white's, in 1/16384
  TensorView start;   // (B, h, w) int32, contiguous, or none: the labels to start with, -1 outside
  TensorView scales;  // (B, 3) int64, contiguous, with `start`: each image's reach, weight, pixels
  TensorView scratch;
  int64_t rows, columns;     // of the grid of centres; with `start`, as many as there are labels
  int64_t reach_y, reach_x;  // how far a centre's window goes, in pixels
  int64_t weight;            // of a squared offset in 1/16 pixel, in 1/2^20 of the colour distance
  int64_t max_num_iter;
  int64_t least_contrast;  // of SLICO, what a centre's largest squared difference starts as; else 0
  bool connect;
};

namespace slic {

constexpr int kLayer = 3;  // channels

// What holds for an image.
struct Scale {
  int64_t reach_y, reach_x, weight;
  int64_t pixels;  // those that have labels
};

inline Scale scale_of(const Slic& args, int64_t image) {
  if (args.scales.data == nullptr) {
    return {args.reach_y, args.reach_x, args.weight, args.labels.size(1) * args.labels.size(2)};
  }
  const int64_t* own = args.scales.as<int64_t>() + 3 * image;
  return {own[0], own[0], own[1], own[2]};
}

inline int64_t layers_of(const Slic& args) { return (args.images.size(1) + kLayer - 1) / kLayer; }

constexpr int32_t kNowhere = -0x7fffffff - 1;  // a coordinate that no window reaches

constexpr int kPlaceUnit = 16, kWeightBits = 20;
constexpr int kLevels = 16 * 255;  // a floating value's level is nearest(value * kLevels)
constexpr int kLightBits = 14, kColourUnit = 32;

struct Colour {
  int32_t lightness, a, b;  // in 1/32: each fits int16
};

// Where in root[] the tristimulus values of linear red, green and blue are.
struct Tristimulus {
  int32_t x, y, z;
};
WSOL_HOST_DEVICE inline Tristimulus tristimulus_of(int32_t red, int32_t green, int32_t blue) {
  constexpr int32_t kHalf = 1 << (kLightBits - 1);
  return {(7110 * red + 6164 * green + 3110 * blue + kHalf) >> kLightBits,
          (3484 * red + 11718 * green + 1182 * blue + kHalf) >> kLightBits,
          (291 * red + 1794 * green + 14299 * blue + kHalf) >> kLightBits};
}

// The colour of the three entries of root[].
WSOL_HOST_DEVICE inline Colour colour_of(int32_t x, int32_t y, int32_t z) {
  constexpr int32_t kHalf = 1 << (kLightBits - 1);
  return {((116 * y - (16 << kLightBits)) * kColourUnit + kHalf) >> kLightBits,
          (500 * (x - y) * kColourUnit + kHalf) >> kLightBits,
          (200 * (y - z) * kColourUnit + kHalf) >> kLightBits};
}

// root[value], computed: nearest(16384 f(value / 16384)).
WSOL_HOST_DEVICE inline int32_t root_of(int32_t value) {
  constexpr int32_t kLinear = 145;  // (6 / 29)^3, below which 841 / 108 value + 4 / 29 is f
  if (value <= kLinear) return (2 * (24389 * value + (432 << kLightBits)) + 3132) / 6264;
  // 2^(28 / 3) times the cube root, which may lie beside the nearest.
  auto near = static_cast<int64_t>(cbrtf(static_cast<float>(value)) * 645.0796f + 0.5f);
  const auto is_below = [&](int64_t twice) {
    return twice * twice * twice < int64_t{value} << (2 * kLightBits + 3);
  };
  if (!is_below(2 * near - 1)) --near;
  if (is_below(2 * near + 1)) ++near;
  return static_cast<int32_t>(near);
}

// What a pixel's offset from a centre along one axis, in 1/16 pixel, adds to their distance.
WSOL_HOST_DEVICE inline int32_t place_term(int64_t offset, int64_t weight) {
  return static_cast<int32_t>((offset * offset * weight) >> kWeightBits);
}

// A squared difference of colours as SLICO counts it.
WSOL_HOST_DEVICE inline int32_t scaled_contrast(int32_t contrast, float factor) {
  return static_cast<int32_t>(static_cast<float>(contrast) * factor);
}

// floor(sum / count + 1/2).
WSOL_HOST_DEVICE inline int32_t rounded_mean(int64_t sum, int64_t count) {
  const int64_t numerator = 2 * sum + count, denominator = 2 * count;
  return static_cast<int32_t>(numerator >= 0 ? numerator / denominator
                                             : -((denominator - 1 - numerator) / denominator));
}

// The pixel a centre's coordinate lies on: the middle of its window.
WSOL_HOST_DEVICE inline int32_t pixel_of(int32_t coordinate) {
  return (coordinate + kPlaceUnit / 2) / kPlaceUnit;
}

}  // namespace slic

namespace cpu {
inline int64_t slic_scratch_bytes(int64_t, int64_t, int64_t, int64_t, int64_t) { return 0; }
void slic(const Slic& args, int threads);
}  // namespace cpu

namespace cuda {
int64_t slic_scratch_bytes(int64_t batch, int64_t height, int64_t width, int64_t centres,
                           int64_t layers);
void slic(const Slic& args, Stream stream);
}  // namespace cuda

}  // namespace wsol
