#include "boxes/cut_components.h"

#include <algorithm>
#include <array>
#include <bit>

#include "core/bytes_above.h"
#include "core/multiversion.h"

namespace wsol::cpu {
namespace {

// Twice the sum over the quads of two rows' runs that touch: of a quad's four pixels, each beyond
// the second counts. A quad has two pixels of a run inside of it and one beside each of its ends.
int32_t quads_area2(int above_begin, int above_end, int begin, int end) {
  const auto inside = [](int x, int first, int last) { return first <= x && x < last; };
  const int both = std::max(0, std::min(above_end, end) - std::max(above_begin, begin) - 1);
  return 2 * both + inside(begin - 1, above_begin, above_end - 1) +
         inside(end - 1, above_begin, above_end - 1) + inside(above_begin - 1, begin, end - 1) +
         inside(above_end - 1, begin, end - 1);
}

}  // namespace

int32_t RunComponents::join(int32_t one, int32_t other) {
  if (one == other) {
    closed_a_ring_ = true;
    return one;
  }
  const int32_t into = std::min(one, other), from = std::max(one, other);
  components_[into].add(components_[from]);
  parents_[from] = into;
  return into;
}

template <Connectivity kConnectivity>
void RunComponents::label(const Runs& runs) {
  constexpr int kReach = kConnectivity == Connectivity::kEight ? 1 : 0;
  if (labels_.size() < runs.count()) labels_.resize(runs.edges.size() / 2);
  components_.clear(), parents_.clear();
  closed_a_ring_ = false;
  const uint16_t* edges = runs.edges.data();
  for (int row = 0; row < runs.height; ++row) {
    const uint32_t row_end = runs.row_starts[row + 1], above_end = runs.row_starts[row];
    uint32_t above = row == 0 ? 0 : runs.row_starts[row - 1];
    for (uint32_t run = above_end; run < row_end; ++run) {
      const int begin = edges[2 * run], end = edges[2 * run + 1];
      const int x = begin - 1, y = row - 1;
      while (above < above_end && edges[2 * above + 1] + kReach <= begin) ++above;
      int32_t id = -1, area2 = 0;
      for (; above < above_end && edges[2 * above] < end + kReach; ++above) {
        const int32_t other = root_of(labels_[above]);
        id = id < 0 ? other : join(id, other);
        if (kConnectivity == Connectivity::kEight) {
          area2 += quads_area2(edges[2 * above], edges[2 * above + 1], begin, end);
        }
        if (edges[2 * above + 1] + kReach > end) break;  // it may touch the next run too
      }
      if (id < 0) {
        id = static_cast<int32_t>(components_.size());
        const auto first = static_cast<uint32_t>(y) << 16 | static_cast<uint32_t>(x);
        components_.push_back({first, end - begin, 0, x, y, end - 2, y, 0});
        parents_.push_back(id);
      } else {
        Component& component = components_[id];
        component.pixels += end - begin;
        component.area2 += area2;
        component.x0 = std::min(component.x0, x), component.x1 = std::max(component.x1, end - 2);
        component.y1 = y;
      }
      labels_[run] = id;
    }
  }
}

void CutComponents::find(const QuantizedMap& map, int cut) {
  runs_.height = map.height + 2, runs_.width = map.width + 2;
  runs_.row_starts.resize(runs_.height + 1);
  runs_.row_starts[0] = runs_.row_starts[1] = 0;
  const auto limit = static_cast<uint8_t>(cut);
  with_vectors([&]<int kBytes>() {
    size_t count = 0;
    for (int y = 0; y < map.height; ++y) {
      if (runs_.edges.size() < count + map.stride + 1) {
        runs_.edges.resize(2 * (count + map.stride + 1));
      }
      uint16_t* edges = runs_.edges.data();
      uint64_t last = 0;  // the foreground's last pixel before the 64
      for (int x = 0; x < map.stride; x += 64) {
        const uint64_t bits = above<kBytes>(map.row(y) + x, limit);
        uint64_t changes = bits ^ (bits << 1 | last);
        last = bits >> 63;
        for (; changes != 0; changes &= changes - 1) {
          edges[count++] = static_cast<uint16_t>(x + std::countr_zero(changes) + 1);
        }
      }
      runs_.row_starts[y + 2] = static_cast<uint32_t>(count / 2);
    }
  });
  runs_.row_starts[runs_.height] = runs_.row_starts[runs_.height - 1];
  components_.label<Connectivity::kEight>(runs_);
}

void CutComponents::label_background() {
  background_.height = runs_.height, background_.width = runs_.width;
  background_.row_starts.resize(runs_.height + 1);
  background_.edges.resize(2 * (runs_.count() + runs_.height));
  uint16_t* out = background_.edges.data();
  for (int row = 0; row < runs_.height; ++row) {
    const uint32_t begin = runs_.row_starts[row], end = runs_.row_starts[row + 1];
    background_.row_starts[row] = begin + row;
    *out++ = 0;
    out = std::copy(runs_.edges.data() + 2 * begin, runs_.edges.data() + 2 * end, out);
    *out++ = static_cast<uint16_t>(runs_.width);
  }
  background_.row_starts[runs_.height] = runs_.count() + runs_.height;
  background_components_.label<Connectivity::kFour>(background_);
}

const std::vector<CutComponents::Contour>& CutComponents::in_tree_order() {
  label_background();
  regions_.clear();
  std::array<std::vector<int32_t>, 2> region_of;  // of background and foreground, by their roots
  region_of[0].resize(background_.count(), -1), region_of[1].resize(runs_.count(), -1);
  // A region lies in the one that is left of its first pixel, and begins with the first of its
  // runs.
  const auto enter = [&](bool foreground, uint32_t run, int32_t before) {
    RunComponents& components = foreground ? components_ : background_components_;
    const int32_t root = components.root_of_run(run);
    int32_t& region = region_of[foreground][root];
    if (region < 0) {
      region = static_cast<int32_t>(regions_.size());
      regions_.push_back({.parent = before, .contour = {components.component(root), !foreground}});
    }
    return region;
  };
  for (int row = 0; row < runs_.height; ++row) {
    int32_t before = enter(false, runs_.row_starts[row] + row, -1);
    for (uint32_t run = runs_.row_starts[row]; run < runs_.row_starts[row + 1]; ++run) {
      before = enter(true, run, before);
      before = enter(false, run + row + 1, before);
    }
  }
  for (size_t i = regions_.size() - 1; i > 0; --i) {
    regions_[regions_[i].parent].size += regions_[i].size;
  }
  contours_.resize(regions_.size() - 1);
  for (size_t i = 1; i < regions_.size(); ++i) {
    Region& region = regions_[i];
    Region& parent = regions_[region.parent];
    parent.taken += region.size;
    region.place = parent.place + parent.size - parent.taken;
    contours_[region.place - 1] = region.contour;
  }
  return contours_;
}

bool CutComponents::largest_is_known() const {
  int32_t largest = -1, largest_box = 0, other_boxes = -1;
  for_each_component([&](const Component& c) {
    const int32_t box = 2 * (c.x1 - c.x0) * (c.y1 - c.y0);
    if (c.area2 > largest) {
      if (largest >= 0) other_boxes = std::max(other_boxes, largest_box);
      largest = c.area2, largest_box = box;
    } else {
      other_boxes = std::max(other_boxes, box);
    }
  });
  return other_boxes < largest;
}

void CutComponents::fill_holes() {
  if (!components_.closed_a_ring()) return;
  label_background();
  uint16_t* edges = runs_.edges.data();
  uint32_t count = 0, run = 0;
  for (int row = 0; row < runs_.height; ++row) {
    const uint32_t row_start = count;
    for (const uint32_t end = runs_.row_starts[row + 1]; run < end; ++run) {
      // The gap before a run is one of the background's runs, of which a row has one more.
      const bool fills = count > row_start && background_components_.root_of_run(run + row) != 0;
      if (!fills) edges[2 * count++] = edges[2 * run];
      edges[2 * count - 1] = edges[2 * run + 1];
    }
    runs_.row_starts[row] = row_start;
    // Its end is where the next row begins; the old one is still read there.
    if (row + 1 == runs_.height) runs_.row_starts[row + 1] = count;
  }
  components_.label<Connectivity::kEight>(runs_);
}

}  // namespace wsol::cpu
