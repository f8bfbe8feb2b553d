#include "boxes/component_sweep.h"

#include <bit>

#include "core/multiversion.h"

namespace wsol::cpu {
namespace {

// The neighbours, in raster order.
constexpr std::array<int, 8> kDx{-1, 0, 1, -1, 1, -1, 0, 1};
constexpr std::array<int, 8> kDy{-1, -1, -1, 0, 0, 1, 1, 1};

constexpr bool adjacent(Connectivity connectivity, int dx, int dy) {
  const int square = dx * dx + dy * dy;
  return square == 1 || (square == 2 && connectivity == Connectivity::kEight);
}

// A neighbour of each cluster, by its bit, and the area.
struct Pattern {
  std::array<int8_t, 4> neighbours{};
  int8_t clusters = 0;
  int8_t area2 = 0;
};

constexpr Pattern pattern_of(Connectivity connectivity, int bits) {
  Pattern pattern;
  for (int seen = 0, start = 0; start < 8; ++start) {
    if (!((bits & ~seen) >> start & 1) || !adjacent(connectivity, kDx[start], kDy[start])) continue;
    pattern.neighbours[pattern.clusters++] = static_cast<int8_t>(start);
    int cluster = 1 << start;
    for (int before = 0; before != cluster;) {  // flood it
      before = cluster;
      for (int i = 0; i < 8; ++i) {
        for (int j = 0; j < 8; ++j) {
          const bool joined = (cluster >> i & 1) && (bits >> j & 1) &&
                              adjacent(connectivity, kDx[i] - kDx[j], kDy[i] - kDy[j]);
          if (joined) cluster |= 1 << j;
        }
      }
    }
    seen |= cluster;
  }
  // The three other pixels of each quad around the pixel.
  constexpr int kQuads[4] = {0b00001011, 0b00010110, 0b01101000, 0b11010000};
  constexpr int kArea2[5] = {0, 0, 0, 1, 2};
  for (const int quad : kQuads) {
    const int others = std::popcount(static_cast<unsigned>(bits & quad));
    pattern.area2 += static_cast<int8_t>(kArea2[others + 1] - kArea2[others]);
  }
  return pattern;
}

constexpr std::array<Pattern, 256> patterns_of(Connectivity connectivity) {
  std::array<Pattern, 256> patterns;
  for (int bits = 0; bits < 256; ++bits) patterns[bits] = pattern_of(connectivity, bits);
  return patterns;
}

// Neighbours before the pixel in raster order come first on the same level too; those after it only
// from a higher one.
WSOL_MULTIVERSION void earlier_in_row(const uint8_t* above, const uint8_t* row,
                                      const uint8_t* below, int width, uint8_t* out) {
  for (int x = 0; x < width; ++x) {
    const uint8_t v = row[x];
    const uint8_t before = static_cast<uint8_t>((above[x - 1] >= v) | (above[x] >= v) << 1 |
                                                (above[x + 1] >= v) << 2 | (row[x - 1] >= v) << 3);
    const uint8_t after = static_cast<uint8_t>((row[x + 1] > v) << 4 | (below[x - 1] > v) << 5 |
                                               (below[x] > v) << 6 | (below[x + 1] > v) << 7);
    out[x] = before | after;
  }
}

}  // namespace

std::array<Arrival, 256> arrivals(Connectivity connectivity, int stride) {
  static constexpr std::array<Pattern, 256> kFour = patterns_of(Connectivity::kFour);
  static constexpr std::array<Pattern, 256> kEight = patterns_of(Connectivity::kEight);
  const auto& patterns = connectivity == Connectivity::kFour ? kFour : kEight;
  std::array<Arrival, 256> result;
  for (int bits = 0; bits < 256; ++bits) {
    const Pattern& pattern = patterns[bits];
    result[bits] = {{}, pattern.clusters, pattern.area2};
    for (int i = 0; i < pattern.clusters; ++i) {
      const int neighbour = pattern.neighbours[i];
      result[bits].neighbours[i] = kDy[neighbour] * stride + kDx[neighbour];
    }
  }
  return result;
}

void ComponentSweep::sort_pixels(const FramedBytes& map) {
  std::array<int64_t, 256> counts{};
  for (int y = 0; y < map.height; ++y) {
    const uint8_t* row = map.row(y);
    for (int x = 0; x < map.width; ++x) ++counts[row[x]];
  }
  std::array<int64_t, 256> next;
  int64_t begin = 0;
  for (int level = 255; level >= 1; --level) {
    next[level] = begin;
    begin += counts[level];
    ends_[level] = begin;
  }
  next[0] = begin;
  order_.resize(begin + counts[0]);
  for (int y = 0; y < map.height; ++y) {
    const uint8_t* row = map.row(y);
    for (int x = 0; x < map.width; ++x) {
      order_[next[row[x]]++] = static_cast<uint32_t>(y) << 16 | static_cast<uint32_t>(x);
    }
  }
}

void ComponentSweep::find_earlier_neighbours(const FramedBytes& map, bool frame_is_earlier) {
  earlier_.resize(map.bytes.size());
  for (int y = 0; y < map.height; ++y) {
    uint8_t* out = earlier_.data() + static_cast<size_t>(y + 1) * map.stride + 1;
    earlier_in_row(map.row(y - 1), map.row(y), map.row(y + 1), map.width, out);
    if (frame_is_earlier) {  // even beside a pixel of the frame's own level 255
      out[map.width - 1] |= 0b10010000;
      out[0] |= 0b00100000;
    }
    if (frame_is_earlier && y == map.height - 1) {
      for (int x = 0; x < map.width; ++x) out[x] |= 0b11100000;
    }
  }
}

}  // namespace wsol::cpu
