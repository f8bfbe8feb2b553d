#include "boxes/score_levels.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "boxes/extract_boxes.h"
#include "core/element_types.h"
#include "core/multiversion.h"

namespace wsol::cpu {
namespace {

struct Quantized {
  int largest;
  bool in_range;
};

// u = floor(255 s) in float64, in which the product is exact for every narrower type.
template <typename T>
WSOL_MULTIVERSION Quantized quantize(const T* scores, int64_t row_stride, int height, int width,
                                     uint8_t* out) {
  int largest = 0;
  int bad = 0;
  for (int y = 0; y < height; ++y) {
    const T* row = scores + y * row_stride;
    uint8_t* out_row = out + static_cast<int64_t>(y) * width;
    for (int x = 0; x < width; ++x) {
      const double score = static_cast<double>(row[x]);
      bad |= !(score >= 0.0) | !(score <= 1.0);
      const double bounded = score >= 0.0 ? (score <= 1.0 ? score : 1.0) : 0.0;
      const int u = static_cast<int>(255.0 * bounded);
      largest = std::max(largest, u);
      out_row[x] = static_cast<uint8_t>(u);
    }
  }
  return {largest, bad == 0};
}

}  // namespace

void FramedBytes::set_frame(uint8_t value) {
  std::fill_n(row(-1) - 1, stride, value);
  std::fill_n(row(height) - 1, stride, value);
  for (int y = 0; y < height; ++y) row(y)[-1] = row(y)[width] = value;
}

int32_t ScoreLevels::read(const TensorView& score_maps, int64_t image,
                          const TensorView& thresholds) {
  const int height = static_cast<int>(score_maps.size(1)),
            width = static_cast<int>(score_maps.size(2));
  int32_t status = 0;
  quantized_.resize(static_cast<size_t>(height) * width);
  int largest = 0;
  with_floating_type("extract_boxes", score_maps.dtype, [&]<typename T>(ElementTag<T>) {
    const T* scores = score_maps.as<T>() + image * score_maps.stride(0);
    const Quantized result =
        quantize(scores, score_maps.stride(1), height, width, quantized_.data());
    largest = result.largest;
    if (!result.in_range) status |= kBadScore;
  });

  const double* threshold = thresholds.as<double>();
  cut_of_threshold.resize(thresholds.size(0));
  std::array<bool, 256> used{};
  for (size_t t = 0; t < cut_of_threshold.size(); ++t) {
    const bool good = threshold[t] >= 0.0 && threshold[t] < 1.0;
    if (!good) status |= kBadThreshold;
    const int cut = good ? static_cast<int>(threshold[t] * largest) : 0;
    cut_of_threshold[t] = cut < largest ? cut : kNoForeground;
    if (cut < largest) used[cut] = true;
  }
  std::array<int, 256> index_of_cut{};
  std::array<uint8_t, 256> level_of_value{};
  cuts = 0;
  for (int value = 0; value < 256; ++value) {
    level_of_value[value] = static_cast<uint8_t>(cuts);
    index_of_cut[value] = cuts;
    if (used[value]) ++cuts;
  }
  for (int& cut : cut_of_threshold) {
    if (cut != kNoForeground) cut = index_of_cut[cut];
  }

  levels.resize(height, width);
  levels.set_frame(0);
  for (int y = 0; y < height; ++y) {
    const uint8_t* from = quantized_.data() + static_cast<int64_t>(y) * width;
    uint8_t* to = levels.row(y);
    for (int x = 0; x < width; ++x) to[x] = level_of_value[from[x]];
  }
  return status;
}

}  // namespace wsol::cpu
