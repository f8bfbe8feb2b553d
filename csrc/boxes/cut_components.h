// The connected components of one cut of a map, and its holes, from the runs of its rows.
//
// A smooth map has few runs, and vectors find them 64 pixels at a time. Runs of neighbouring rows
// that touch are joined by union-find. As a graph, runs and touches have the Euler number of the
// picture: a touch between runs that are joined already closes a hole. Only a cut that has one is
// looked at further: its background's runs, with edges as neighbours, are labelled the same way.
#pragma once

#include <cstdint>
#include <vector>

#include "boxes/component.h"
#include "boxes/score_levels.h"

namespace wsol::cpu {

// Runs on a grid with a frame one pixel wide around the map: pixel (x, y) lies at (x + 1, y + 1).
struct Runs {
  int height = 0, width = 0;         // the frame's included
  std::vector<uint16_t> edges;       // each run's first x and the x after its last; may be longer
  std::vector<uint32_t> row_starts;  // (height + 1,): the first run of each row, and the end

  uint32_t count() const { return row_starts.back(); }
};

class RunComponents {
 public:
  template <Connectivity kConnectivity>
  void label(const Runs& runs);

  // The component of a run; the smallest of a component's numbers stands for it.
  int32_t root_of_run(uint32_t run) { return root_of(labels_[run]); }
  const Component& component(int32_t root) const { return components_[root]; }
  bool closed_a_ring() const { return closed_a_ring_; }

  // Calls visit(component), in raster order of their first pixels, for those from number `first`
  // on.
  template <typename Visit>
  void for_each(int32_t first, Visit&& visit) const {
    for (int32_t id = first; id < static_cast<int32_t>(components_.size()); ++id) {
      if (parents_[id] == id) visit(components_[id]);
    }
  }

 private:
  int32_t root_of(int32_t component) {
    while (parents_[component] != component) {
      component = parents_[component] = parents_[parents_[component]];
    }
    return component;
  }
  int32_t join(int32_t one, int32_t other);

  std::vector<int32_t> labels_, parents_;
  std::vector<Component> components_;
  bool closed_a_ring_ = false;
};

class CutComponents {
 public:
  // Labels the pixels above `cut`, corners touching.
  void find(const QuantizedMap& map, int cut);

  // Whether the component of largest area has the contour of largest area, whatever holes do to
  // areas: one with its holes filled is at most its box.
  bool largest_is_known() const;

  // Joins each hole, and all that lies in it, to what encloses it: then areas are those of the
  // outer contours, and only of contours that no other encloses.
  void fill_holes();

  template <typename Visit>
  void for_each_component(Visit&& visit) const {
    components_.for_each(0, visit);
  }
  template <typename Visit>
  void for_each_hole(Visit&& visit) {
    if (!components_.closed_a_ring()) return;
    label_background();
    background_components_.for_each(1, visit);
  }

  // Every contour before those that it encloses, of neighbours the one whose first pixel in raster
  // order comes last before the others: the order of OpenCV's tree.
  struct Contour {
    Component component;
    bool is_hole;
  };
  const std::vector<Contour>& in_tree_order();

 private:
  // A component or a hole among those that enclose each other.
  struct Region {
    int32_t parent;
    int32_t size = 1;   // with all that it encloses
    int32_t taken = 0;  // of its places, by what it encloses
    int32_t place = 0;
    Contour contour;
  };

  void label_background();

  Runs runs_, background_;
  RunComponents components_;
  RunComponents background_components_;  // the first holds the frame
  std::vector<Region> regions_;          // by first pixel, from the frame on
  std::vector<Contour> contours_;
};

}  // namespace wsol::cpu
