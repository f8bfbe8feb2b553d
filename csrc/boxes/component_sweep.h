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

#include "boxes/component.h"
#include "boxes/score_levels.h"

namespace wsol::cpu {

// What a pixel's earlier neighbours say about its arrival.
struct Arrival {
  std::array<int32_t, 4>
      neighbours;  // one adjacent neighbour of each cluster, relative to the pixel
  int8_t clusters;
  int8_t area2;  // growth of the quads' doubled area
};

// One for each set of earlier neighbours: bits 0..7 in raster order. `stride` is that of the
// pixels' rows.
std::array<Arrival, 256> arrivals(Connectivity connectivity, int stride);

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
    components_.push_back({});
    parents_.push_back(0);
    std::fill(labels_.begin(), labels_.end(), 0);
  }
  const std::array<Arrival, 256> table = arrivals(kConnectivity, map.stride);

  // Ends the version that the component had before this level.
  const auto begin_change = [&](Component& component, int level) {
    if (component.since <= level) return;
    emit(std::as_const(component), level + 1, component.since);
    component.since = level;
  };
  const auto merge = [&](int32_t into, int32_t from, int level) {
    if (from == 0) std::swap(into, from);  // the frame's component stays a root
    begin_change(components_[into], level);
    begin_change(components_[from], level);
    components_[into].add(components_[from]);
    parents_[from] = into;
    if (kFrameIsComponent) merges_.push_back({from, into, level});
    return into;
  };

  const uint32_t* next = order_.data();
  for (int level = levels; level >= 1; --level) {
    for (const uint32_t* end = order_.data() + ends_[level]; next != end; ++next) {
      const int x = static_cast<int>(*next & 0xffffu), y = static_cast<int>(*next >> 16);
      const int64_t place = static_cast<int64_t>(y + 1) * map.stride + x + 1;
      const Arrival& arrival = table[earlier_[place]];
      int32_t* label = labels_.data() + place;
      if (arrival.clusters == 0) {
        *label = static_cast<int32_t>(components_.size());
        components_.push_back({*next, 1, 0, x, y, x, y, level});
        parents_.push_back(*label);
        continue;
      }
      int32_t id = root_of(label[arrival.neighbours[0]]);
      for (int i = 1; i < arrival.clusters; ++i) {
        const int32_t other = root_of(label[arrival.neighbours[i]]);
        if (other != id) id = merge(id, other, level);
      }
      *label = id;
      if (kFrameIsComponent && id == 0) continue;
      begin_change(components_[id], level);
      components_[id].add(*next, x, y, arrival.area2);
    }
  }
  for (int32_t id = kFrameIsComponent ? 1 : 0; id < count(); ++id) {
    if (parents_[id] == id) emit(std::as_const(components_[id]), 1, components_[id].since);
  }
}

}  // namespace wsol::cpu
