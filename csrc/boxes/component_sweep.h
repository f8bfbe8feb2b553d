// The connected components of all the superlevel sets of a map, in one pass from its highest level
// to its lowest.
//
// Pixels are added level by level, in raster order within a level. The eight neighbours say
// everything about a pixel's coming: those added before it fall into clusters that are connected
// within the neighbourhood. No cluster: a component is born. One: the pixel joins it. More:
// components may merge, found by union-find over components (not pixels), of which a smooth map has
// few. A component changes only at some levels; between changes it is one *version*, which is what
// the sweep hands out.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "boxes/score_levels.h"

namespace wsol::cpu {

enum class Connectivity { kFour, kEight };

struct Component {
  uint32_t first;          // its first pixel in raster order, y << 16 | x
  int32_t area2;           // twice the sum over its 2x2 quads: four pixels 1, three pixels 1/2
  int32_t x0, y0, x1, y1;  // its pixels' box, both ends inside
  int32_t since;           // the level of its last change
};

// What a pixel's neighbours of earlier coming (a bit each) say about it.
struct Arrival {
  std::array<int8_t, 4> dx, dy;  // one adjacent neighbour of each cluster
  int8_t clusters;
  int8_t area2;  // growth of the quads' doubled area
};

// Bits 0..7 are the neighbours in raster order.
const std::array<Arrival, 256>& arrivals(Connectivity connectivity);

class ComponentSweep {
 public:
  struct Merge {
    int32_t from, into, level;
  };

  // Sweeps the levels `levels`..1 of `map`, whose pixels of level 0 never come. With
  // kFrameIsComponent the frame's pixels are there from the start, as component 0, which has no
  // versions. Calls emit(component, low, high) for each version: it was so after the levels high,
  // high - 1, …, low had come.
  template <Connectivity kConnectivity, bool kFrameIsComponent, typename Emit>
  void run(const FramedBytes& map, int levels, Emit&& emit);

  // The component, a root when the pixel came, of each framed pixel of level > 0.
  const std::vector<int32_t>& labels() const { return labels_; }
  const std::vector<Merge>& merges() const { return merges_; }  // in order of coming
  int count() const { return static_cast<int>(components_.size()); }

 private:
  void sort_pixels(const FramedBytes& map);
  void find_earlier_neighbours(const FramedBytes& map, bool frame_is_earlier);
  int32_t root_of(int32_t component) {
    while (parents_[component] != component) {
      component = parents_[component] = parents_[parents_[component]];
    }
    return component;
  }

  std::vector<uint32_t> order_;    // pixels from the highest level to the lowest, y << 16 | x
  std::array<int64_t, 257> ends_;  // of each level's pixels in order_
  std::vector<uint8_t> earlier_;   // framed: a bit for each neighbour that comes before the pixel
  std::vector<int32_t> labels_, parents_;
  std::vector<Component> components_;
  std::vector<Merge> merges_;
};

template <Connectivity kConnectivity, bool kFrameIsComponent, typename Emit>
void ComponentSweep::run(const FramedBytes& map, int levels, Emit&& emit) {
  sort_pixels(map);
  find_earlier_neighbours(map, kFrameIsComponent);
  labels_.resize(map.bytes.size());
  components_.clear(), parents_.clear(), merges_.clear();
  if (kFrameIsComponent) {
    components_.push_back({0, 0, 0, 0, 0, 0, 0});
    parents_.push_back(0);
    std::fill(labels_.begin(), labels_.end(), 0);
  }
  const auto& table = arrivals(kConnectivity);
  const int stride = map.stride;
  std::array<std::array<int32_t, 4>, 256> offsets;
  for (int bits = 0; bits < 256; ++bits) {
    for (int i = 0; i < table[bits].clusters; ++i) {
      offsets[bits][i] = table[bits].dy[i] * stride + table[bits].dx[i];
    }
  }

  // Ends the version that the component had before this level.
  const auto begin_change = [&](int32_t id, int level) {
    Component& component = components_[id];
    if (component.since > level) {
      emit(std::as_const(component), level + 1, component.since);
      component.since = level;
    }
  };
  const auto merge = [&](int32_t a, int32_t b, int level) {
    if (b == 0) std::swap(a, b);  // the frame's component stays a root
    begin_change(a, level);
    begin_change(b, level);
    Component& into = components_[a];
    const Component& from = components_[b];
    into.first = std::min(into.first, from.first);
    into.area2 += from.area2;
    into.x0 = std::min(into.x0, from.x0), into.y0 = std::min(into.y0, from.y0);
    into.x1 = std::max(into.x1, from.x1), into.y1 = std::max(into.y1, from.y1);
    parents_[b] = a;
    if (kFrameIsComponent) merges_.push_back({b, a, level});
    return a;
  };

  int64_t next = 0;
  for (int level = levels; level >= 1; --level) {
    for (; next < ends_[level]; ++next) {
      const uint32_t pixel = order_[next];
      const int x = static_cast<int>(pixel & 0xffffu), y = static_cast<int>(pixel >> 16);
      const int64_t place = static_cast<int64_t>(y + 1) * stride + x + 1;
      const int bits = earlier_[place];
      const Arrival& arrival = table[bits];
      int32_t id;
      if (arrival.clusters == 0) {
        id = static_cast<int32_t>(components_.size());
        components_.push_back({pixel, 0, x, y, x, y, level});
        parents_.push_back(id);
      } else {
        id = root_of(labels_[place + offsets[bits][0]]);
        for (int i = 1; i < arrival.clusters; ++i) {
          const int32_t other = root_of(labels_[place + offsets[bits][i]]);
          if (other != id) id = merge(id, other, level);
        }
      }
      labels_[place] = id;
      if (kFrameIsComponent && id == 0) continue;
      begin_change(id, level);
      Component& component = components_[id];
      component.first = std::min(component.first, pixel);
      component.area2 += arrival.area2;
      component.x0 = std::min(component.x0, x), component.y0 = std::min(component.y0, y);
      component.x1 = std::max(component.x1, x), component.y1 = std::max(component.y1, y);
    }
  }
  for (int32_t id = kFrameIsComponent ? 1 : 0; id < count(); ++id) {
    if (parents_[id] == id) emit(std::as_const(components_[id]), 1, components_[id].since);
  }
}

}  // namespace wsol::cpu
