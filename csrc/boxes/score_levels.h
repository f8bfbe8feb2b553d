// A score map in 256 steps, the cuts that its thresholds make, and the map as the few levels that
// those tell apart.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "core/tensor_view.h"

namespace wsol::cpu {

// floor(255 score), in rows of a multiple of 64 bytes that end with at least one 0.
struct QuantizedMap {
  int height = 0, width = 0, stride = 0;
  std::vector<uint8_t> bytes;

  void resize(int new_height, int new_width);
  uint8_t* row(int y) { return bytes.data() + static_cast<size_t>(y) * stride; }
  const uint8_t* row(int y) const { return bytes.data() + static_cast<size_t>(y) * stride; }
};

// Bytes on a (height, width) grid inside a frame one pixel wide.
struct FramedBytes {
  int height = 0, width = 0, stride = 0;  // stride = width + 2
  std::vector<uint8_t> bytes;

  void resize(int new_height, int new_width) {
    height = new_height, width = new_width, stride = new_width + 2;
    bytes.resize(static_cast<size_t>(height + 2) * stride);
  }
  // The row's pixel 0; -1 and `width` are the frame. So are the rows -1 and `height`.
  uint8_t* row(int y) { return bytes.data() + static_cast<size_t>(y + 1) * stride + 1; }
  const uint8_t* row(int y) const { return const_cast<FramedBytes*>(this)->row(y); }

  void set_frame(uint8_t value);
};

struct ScoreLevels {
  static constexpr int kNoForeground = -1;

  QuantizedMap quantized;  // of one threshold perhaps only whether a pixel is above it, 1 or 0
  // Distinct cuts below the map's maximum, from the lowest: cut i has a foreground, the pixels
  // above value_of_cut[i].
  int cuts = 0;
  std::array<int, 256> value_of_cut;
  std::vector<int> cut_of_threshold;  // (T,): which cut, or kNoForeground

  // Reads image `image` of (B, H, W) scores. Returns the BoxStatus bits of what is wrong with it; a
  // bad score counts as the nearest good one, NaN as 0.
  int32_t read(const TensorView& score_maps, int64_t image, const TensorView& thresholds);

  // How many runs of foreground the rows have at all cuts together, if levels are evenly used.
  int64_t estimated_runs() const;

  // 0..cuts: how many cuts a pixel is above; 0 in the frame.
  void levels(FramedBytes& out) const;

 private:
  // Reads scores for one threshold, if all are good: to compare them is quicker than to quantize
  // them.
  template <typename T>
  bool read_one_cut(const T* scores, int64_t row_stride, double threshold);

  int largest_ = 0;
};

}  // namespace wsol::cpu
