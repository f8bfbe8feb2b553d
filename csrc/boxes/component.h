// What is known of a connected component of pixels.
#pragma once

#include <algorithm>
#include <cstdint>

namespace wsol::cpu {

enum class Connectivity { kFour, kEight };

struct Component {
  uint32_t first;  // its first pixel in raster order, y << 16 | x
  int32_t pixels;
  int32_t area2;           // twice the sum over its 2x2 quads: four pixels 1, three pixels 1/2
  int32_t x0, y0, x1, y1;  // its pixels' box, both ends inside
  int32_t since;           // in a sweep over levels: the level of its last change

  void add(uint32_t pixel, int x, int y, int pixel_area2) {
    first = std::min(first, pixel);
    ++pixels;
    area2 += pixel_area2;
    x0 = std::min(x0, x), y0 = std::min(y0, y);
    x1 = std::max(x1, x), y1 = std::max(y1, y);
  }
  void add(const Component& other) {
    first = std::min(first, other.first);
    pixels += other.pixels;
    area2 += other.area2;
    x0 = std::min(x0, other.x0), y0 = std::min(y0, other.y0);
    x1 = std::max(x1, other.x1), y1 = std::max(y1, other.y1);
  }
};

}  // namespace wsol::cpu
