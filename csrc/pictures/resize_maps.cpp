// CPU: one task a map. Its rows are widened one after another, few of them where a map is enlarged;
// then each new row is a sum of widened ones, as wide as vectors are. Limited by the second level
// cache, which holds a map of 224 x 224, and by the divisions that normalize.
#include "pictures/resize_maps.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "core/multiversion.h"
#include "core/parallel_for.h"

namespace wsol::cpu {
namespace {

// The old pixels that make a new one of an axis, and their weights: of a cubic's float32 always.
template <int kTaps, typename T>
struct Window {
  using Weights = std::array<std::conditional_t<kTaps == 4, float, T>, kTaps>;
  std::array<int64_t, kTaps> pixels;
  Weights weights;
};

template <typename T>
std::array<T, 2> linear_weights(T x) {
  return {1 - x, x};
}

// Keys' cubic convolution (IEEE Trans. ASSP 29(6), 1981, eq. 3) at distances 1 + x, x and 1 - x.
std::array<float, 4> cubic_weights(float x) {
  constexpr float kA = -0.75f;
  const auto near = [](float d) { return ((kA + 2) * d - (kA + 3)) * d * d + 1; };
  const auto far = [](float d) { return ((kA * d - 5 * kA) * d + 8 * kA) * d - 4 * kA; };
  const float first = far(x + 1), second = near(x), third = near(1 - x);
  return {first, second, third, 1.0f - first - second - third};
}

template <int kTaps, typename T>
std::vector<Window<kTaps, T>> windows(int64_t old_size, int64_t new_size) {
  const double scale = 1.0 / (static_cast<double>(new_size) / static_cast<double>(old_size));
  std::vector<Window<kTaps, T>> result(new_size);
  for (int64_t i = 0; i < new_size; ++i) {
    const double exact = (static_cast<double>(i) + 0.5) * scale - 0.5;
    const double place = kTaps == 4 ? static_cast<float>(exact) : exact;
    const double before = std::floor(place);
    if constexpr (kTaps == 2) {
      result[i].weights = linear_weights(static_cast<T>(place - before));
    } else {
      result[i].weights = cubic_weights(static_cast<float>(place - before));
    }
    for (int t = 0; t < kTaps; ++t) {
      const auto pixel = static_cast<int64_t>(before) + t - kTaps / 2 + 1;
      result[i].pixels[t] = std::clamp<int64_t>(pixel, 0, old_size - 1);
    }
  }
  return result;
}

template <int kTaps, typename T>
void widen(const T* row, const std::vector<Window<kTaps, T>>& columns, T* out) {
  for (const Window<kTaps, T>& window : columns) {
    T sum = row[window.pixels[0]] * window.weights[0];
    for (int t = 1; t < kTaps; ++t) sum += row[window.pixels[t]] * window.weights[t];
    *out++ = sum;
  }
}

// One new row; of each column the least and the largest so far.
template <int kTaps, typename T>
WSOL_MULTIVERSION void blend(const std::array<const T*, kTaps>& rows,
                             const typename Window<kTaps, T>::Weights& weights, int64_t width,
                             T* __restrict out, T* __restrict low, T* __restrict high) {
#pragma omp simd
  for (int64_t x = 0; x < width; ++x) {
    T sum = rows[0][x] * weights[0];
    for (int t = 1; t < kTaps; ++t) sum += rows[t][x] * weights[t];
    out[x] = sum;
    low[x] = sum < low[x] ? sum : low[x];
    high[x] = sum > high[x] ? sum : high[x];
  }
}

template <typename T>
WSOL_MULTIVERSION void normalize(T* values, int64_t count, T low, T range) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) values[i] = (values[i] - low) / range;
}

// What a map has of values, before it is resized.
template <typename T>
struct Values {
  T low = std::numeric_limits<T>::infinity(), high = -low;
  bool has_nan = false;

  Values(const T* map, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      has_nan |= std::isnan(map[i]);
      low = std::min(low, map[i]), high = std::max(high, map[i]);
    }
  }
  bool has_infinity() const { return std::isinf(low) || std::isinf(high); }
};

template <int kTaps, typename T>
bool resize(const ResizeMaps& args, int threads) {
  const int64_t old_height = args.maps.size(1), old_width = args.maps.size(2);
  const int64_t height = args.out.size(1), width = args.out.size(2);
  const auto rows = windows<kTaps, T>(old_height, height);
  const auto columns = windows<kTaps, T>(old_width, width);
  std::atomic<bool> are_finite{true};
  parallel_for(args.maps.size(0), 1, threads, [&](int64_t begin, int64_t end) {
    std::vector<T> widened(old_height * width), lows(width), highs(width);
    for (int64_t map = begin; map < end; ++map) {
      const T* const in = args.maps.as<T>() + map * old_height * old_width;
      T* const out = args.out.as<T>() + map * height * width;
      if (args.normalize) {
        const Values<T> values(in, old_height * old_width);
        if (!values.has_nan && values.has_infinity()) are_finite = false;
        if (values.has_nan || values.low == values.high) {
          std::fill_n(out, height * width, T{0});
          continue;
        }
      }
      for (int64_t y = 0; y < old_height; ++y) {
        widen(in + y * old_width, columns, widened.data() + y * width);
      }
      std::fill(lows.begin(), lows.end(), std::numeric_limits<T>::infinity());
      std::fill(highs.begin(), highs.end(), -std::numeric_limits<T>::infinity());
      for (int64_t y = 0; y < height; ++y) {
        std::array<const T*, kTaps> taps;
        for (int t = 0; t < kTaps; ++t) taps[t] = widened.data() + rows[y].pixels[t] * width;
        blend<kTaps, T>(taps, rows[y].weights, width, out + y * width, lows.data(), highs.data());
      }
      if (!args.normalize) continue;
      const T low = *std::ranges::min_element(lows), high = *std::ranges::max_element(highs);
      if (std::isinf(low) || std::isinf(high)) are_finite = false;  // where it overflows
      if (low < high) {
        normalize(out, height * width, low, high - low);
      } else {
        std::fill_n(out, height * width, T{0});
      }
    }
  });
  return are_finite;
}

}  // namespace

bool resize_maps(const ResizeMaps& args, int threads) {
  bool are_finite = true;
  with_float_or_double("resize_maps", args.maps.dtype, [&]<typename T>(ElementTag<T>) {
    are_finite = args.cubic ? resize<4, T>(args, threads) : resize<2, T>(args, threads);
  });
  return are_finite;
}

}  // namespace wsol::cpu
