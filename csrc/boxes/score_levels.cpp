#include "boxes/score_levels.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <type_traits>

#include "boxes/extract_boxes.h"
#include "core/element_types.h"
#include "core/multiversion.h"

namespace wsol::cpu {
namespace {

struct Quantized {
  int largest;
  bool in_range;
};

// The nearest score in [0, 1]; 0 for NaN. Numbers that are not negative are ordered as their bits
// are: after a second comparison of floats GCC would jump, and vectorize no loop around it.
template <typename T, typename Bits>
T nearest_good(T score) {
  const T positive = score > 0 ? score : 0;
  return std::bit_cast<T>(std::min(std::bit_cast<Bits>(positive), std::bit_cast<Bits>(T(1))));
}
inline float nearest_good(float score) { return nearest_good<float, int32_t>(score); }
inline double nearest_good(double score) { return nearest_good<double, int64_t>(score); }

// floor(255 s) of a score in [0, 1]: in float64, in which the product is exact for every narrower
// type.
inline int quantized(double score) { return static_cast<int>(255.0 * score); }

// The same in float32. 256 s is exact, and so is its distance from the rounded product 255 s: that
// is below s where it was rounded up, and then steps one number down. The sign says so without a
// comparison, which would be a jump in the loop.
inline int quantized(float score) {
  const float times_256 = 256.0f * score;
  const float product = times_256 - score;
  const int32_t minus_rounded_up = std::bit_cast<int32_t>(times_256 - product - score) >> 31;
  return static_cast<int>(std::bit_cast<float>(std::bit_cast<int32_t>(product) + minus_rounded_up));
}

template <typename T>
using BitsOf = std::conditional_t<sizeof(Accumulator<T>) == 4, uint32_t, uint64_t>;

template <typename T>
WSOL_MULTIVERSION Quantized quantize(const T* scores, int64_t row_stride, QuantizedMap& map) {
  using A = Accumulator<T>;
  using Bits = BitsOf<T>;
  const int width = map.width;  // a byte that is written could be one of map's
  int largest = 0;
  int bad = 0;
  for (int y = 0; y < map.height; ++y) {
    const T* row = scores + y * row_stride;
    uint8_t* out = map.row(y);
    // Bits of scores in [0, 1], and of no others, are at most those of 1 (-0 may be looked at
    // twice).
    Bits top = 0;
    for (int x = 0; x < width; ++x) top = std::max(top, std::bit_cast<Bits>(A(row[x])));
    if (top <= std::bit_cast<Bits>(A(1))) {
      for (int x = 0; x < width; ++x) out[x] = static_cast<uint8_t>(quantized(A(row[x])));
      largest = std::max(largest, quantized(std::bit_cast<A>(top)));
    } else {
      for (int x = 0; x < width; ++x) {
        const A score = A(row[x]), good = nearest_good(score);
        bad |= good != score;
        const int u = quantized(good);
        largest = std::max(largest, u);
        out[x] = static_cast<uint8_t>(u);
      }
    }
    std::fill(out + width, out + map.stride, uint8_t{0});
  }
  return {largest, bad == 0};
}

// The bits of the largest score, which are at most those of 1 if all scores are in [0, 1] (-0 is
// not among them here).
template <typename T>
WSOL_MULTIVERSION BitsOf<T> top_bits(const T* scores, int64_t row_stride, int height, int width) {
  const bool one_row = row_stride == width;
  const int64_t count = one_row ? int64_t{height} * width : width;
  BitsOf<T> top = 0;
  for (int y = 0; y < (one_row ? 1 : height); ++y) {
    const T* row = scores + y * row_stride;
    for (int64_t x = 0; x < count; ++x) {
      top = std::max(top, std::bit_cast<BitsOf<T>>(Accumulator<T>(row[x])));
    }
  }
  return top;
}

// The least score that is above a cut once it is quantized: that grows with the score.
template <typename A>
A least_above(int cut) {
  A score = static_cast<A>(cut + 1) / 255;
  while (quantized(score) > cut) score = std::nextafter(score, A(0));
  while (quantized(score) <= cut) score = std::nextafter(score, A(2));
  return score;
}

// 1 where a score is at least `limit`, else 0.
template <typename T>
WSOL_MULTIVERSION void binarize(const T* scores, int64_t row_stride, Accumulator<T> limit,
                                QuantizedMap& map) {
  const int width = map.width;
  for (int y = 0; y < map.height; ++y) {
    const T* row = scores + y * row_stride;
    uint8_t* out = map.row(y);
    for (int x = 0; x < width; ++x) out[x] = Accumulator<T>(row[x]) >= limit;
    std::fill(out + width, out + map.stride, uint8_t{0});
  }
}

// The sum of |a - b| over neighbours in the rows.
WSOL_MULTIVERSION int64_t variation(const QuantizedMap& map) {
  int64_t sum = 0;
  for (int y = 0; y < map.height; ++y) {
    const uint8_t* row = map.row(y);
    int of_row = row[0];
    for (int x = 1; x < map.stride; ++x) of_row += std::abs(row[x] - row[x - 1]);
    sum += of_row;
  }
  return sum;
}

}  // namespace

void QuantizedMap::resize(int new_height, int new_width) {
  height = new_height, width = new_width, stride = (new_width / 64 + 1) * 64;
  const size_t size = static_cast<size_t>(height) * stride;
  if (bytes.size() < size) bytes.resize(size);
}

void FramedBytes::set_frame(uint8_t value) {
  std::fill_n(row(-1) - 1, stride, value);
  std::fill_n(row(height) - 1, stride, value);
  for (int y = 0; y < height; ++y) row(y)[-1] = row(y)[width] = value;
}

template <typename T>
bool ScoreLevels::read_one_cut(const T* scores, int64_t row_stride, double threshold) {
  using A = Accumulator<T>;
  if (!(threshold >= 0.0 && threshold < 1.0)) return false;
  const BitsOf<T> top = top_bits(scores, row_stride, quantized.height, quantized.width);
  if (top > std::bit_cast<BitsOf<T>>(A(1))) return false;
  const int largest = cpu::quantized(std::bit_cast<A>(top));
  const int cut = static_cast<int>(threshold * largest);
  cuts = cut < largest ? 1 : 0;
  cut_of_threshold.assign(1, cuts == 1 ? 0 : kNoForeground);
  value_of_cut[0] = 0;
  if (cuts == 1) binarize(scores, row_stride, least_above<A>(cut), quantized);
  return true;
}

int32_t ScoreLevels::read(const TensorView& score_maps, int64_t image,
                          const TensorView& thresholds) {
  int32_t status = 0;
  bool is_read = false;
  quantized.resize(static_cast<int>(score_maps.size(1)), static_cast<int>(score_maps.size(2)));
  with_floating_type("extract_boxes", score_maps.dtype, [&]<typename T>(ElementTag<T>) {
    const T* scores = score_maps.as<T>() + image * score_maps.stride(0);
    const int64_t row_stride = score_maps.stride(1);
    if (thresholds.size(0) == 1) {
      is_read = read_one_cut(scores, row_stride, *thresholds.as<double>());
      if (is_read) return;
    }
    const Quantized result = quantize(scores, row_stride, quantized);
    largest_ = result.largest;
    if (!result.in_range) status |= kBadScore;
  });
  if (is_read) return status;

  const double* threshold = thresholds.as<double>();
  cut_of_threshold.resize(thresholds.size(0));
  std::array<uint64_t, 4> used{};
  for (size_t t = 0; t < cut_of_threshold.size(); ++t) {
    const bool good = threshold[t] >= 0.0 && threshold[t] < 1.0;
    if (!good) status |= kBadThreshold;
    const int value = good ? static_cast<int>(threshold[t] * largest_) : 0;
    cut_of_threshold[t] = value < largest_ ? value : kNoForeground;
    if (value < largest_) used[value / 64] |= uint64_t{1} << value % 64;
  }
  std::array<int, 256> cut_of_value;  // of the used ones
  cuts = 0;
  for (int word = 0; word < 4; ++word) {
    for (uint64_t bits = used[word]; bits != 0; bits &= bits - 1) {
      const int value = 64 * word + std::countr_zero(bits);
      cut_of_value[value] = cuts;
      value_of_cut[cuts++] = value;
    }
  }
  for (int& cut : cut_of_threshold) {
    if (cut != kNoForeground) cut = cut_of_value[cut];
  }
  return status;
}

int64_t ScoreLevels::estimated_runs() const {
  if (cuts == 0) return 0;
  return variation(quantized) / 2 * cuts / largest_;
}

void ScoreLevels::levels(FramedBytes& out) const {
  std::array<uint8_t, 256> level_of_value;
  for (int value = 0, cut = 0; value < 256; ++value) {
    level_of_value[value] = static_cast<uint8_t>(cut);
    if (cut < cuts && value_of_cut[cut] == value) ++cut;
  }
  out.resize(quantized.height, quantized.width);
  out.set_frame(0);
  for (int y = 0; y < quantized.height; ++y) {
    const uint8_t* from = quantized.row(y);
    uint8_t* to = out.row(y);
    for (int x = 0; x < quantized.width; ++x) to[x] = level_of_value[from[x]];
  }
}

}  // namespace wsol::cpu
