// An image as the CPU kernel of SLIC holds it: CIELAB and labels in tiles of 8 rows of 16 pixels,
// which one list of candidate centres serves and which lie together in memory.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "superpixels/slic.h"

namespace wsol::cpu {

// Uninitialized memory that grows where it has to.
template <typename T>
class Buffer {
 public:
  T* reserve(int64_t count) {
    if (count > capacity_) {
      data_ = std::make_unique_for_overwrite<T[]>(count);
      capacity_ = count;
    }
    return data_.get();
  }
  T* get() const { return data_.get(); }
  int64_t bytes() const { return capacity_ * static_cast<int64_t>(sizeof(T)); }

 private:
  std::unique_ptr<T[]> data_;
  int64_t capacity_ = 0;
};

constexpr int64_t kTileRows = 8, kTileColumns = 16, kTilePixels = kTileRows * kTileColumns;

// Of a segment's pixels; colours are a layer's. Places and pixels are counted in the first layer.
struct SegmentSums {
  int64_t lightness, a, b, y, x, pixels;
};

// Three channels: L, a and b where the image is sRGB.
struct Layer {
  Buffer<int32_t> light_and_a;  // two int16, L in the lower half
  Buffer<int16_t> b;
};

struct TiledImage {
  int64_t height = 0, width = 0;
  int64_t strips = 0, tiles_across = 0;  // a strip is one row of tiles
  int colour_bits = 0;                   // colours are 2^colour_bits times those in slic.h's unit
  std::vector<Layer> layers;
  Buffer<int32_t> labels;  // -1 outside of a mask; what lies right of and below is no pixel's

  void resize(int64_t height, int64_t width, int64_t layers);
  int64_t bytes() const;
  int64_t index(int64_t y, int64_t x) const {
    return (y / kTileRows * tiles_across + x / kTileColumns) * kTilePixels +
           y % kTileRows * kTileColumns + x % kTileColumns;
  }
};

// Reads the strips [begin, end) of image `number` and gives each pixel its first label, to whose
// `sums` (layers, labels) it is added.
void read_strips(const Slic& args, int64_t number, int64_t begin, int64_t end, TiledImage& image,
                 SegmentSums* sums);

}  // namespace wsol::cpu
