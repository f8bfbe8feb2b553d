#include "boxes/component_sweep.h"

#include <bit>
#include <cstdlib>

#include "core/multiversion.h"

namespace wsol::cpu {
namespace {

constexpr std::array<int8_t, 8> kDx{-1, 0, 1, -1, 1, -1, 0, 1};
constexpr std::array<int8_t, 8> kDy{-1, -1, -1, 0, 0, 1, 1, 1};

bool adjacent(Connectivity connectivity, int dx, int dy) {
  dx = std::abs(dx), dy = std::abs(dy);
  return connectivity == Connectivity::kEight ? std::max(dx, dy) <= 1 : dx + dy <= 1;
}

Arrival arrival_of(Connectivity connectivity, int bits) {
  // Flood the neighbours that are present from each one adjacent to the pixel.
  Arrival arrival{};
  int seen = 0;
  for (int start = 0; start < 8; ++start) {
    if (!(bits >> start & 1) || (seen >> start & 1)) continue;
    if (!adjacent(connectivity, kDx[start], kDy[start])) continue;
    arrival.dx[arrival.clusters] = kDx[start];
    arrival.dy[arrival.clusters++] = kDy[start];
    int cluster = 1 << start;
    for (int before = 0; before != cluster;) {
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
    arrival.area2 += static_cast<int8_t>(kArea2[others + 1] - kArea2[others]);
  }
  return arrival;
}

std::array<Arrival, 256> table_of(Connectivity connectivity) {
  std::array<Arrival, 256> table;
  for (int bits = 0; bits < 256; ++bits) table[bits] = arrival_of(connectivity, bits);
  return table;
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

const std::array<Arrival, 256>& arrivals(Connectivity connectivity) {
  static const std::array<Arrival, 256> four = table_of(Connectivity::kFour);
  static const std::array<Arrival, 256> eight = table_of(Connectivity::kEight);
  return connectivity == Connectivity::kFour ? four : eight;
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
