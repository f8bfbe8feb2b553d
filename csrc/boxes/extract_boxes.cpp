// CPU: one task an image. Where its cuts have few runs together, each cut is labelled by itself, at
// some nanoseconds a run. Otherwise its distinct levels are swept once (background, to fill or list
// holes) and once more (foreground), limited by the sort and by the latency of the pixels'
// neighbour look-ups. A map fits the second-level cache.
#include "boxes/extract_boxes.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <optional>
#include <span>

#include "boxes/component_sweep.h"
#include "boxes/cut_components.h"
#include "boxes/iou.h"
#include "boxes/score_levels.h"
#include "core/parallel_for.h"

namespace wsol::cpu {
namespace {

constexpr Box kNoBox{0, 0, 0, 0};

Box outer_box(const Component& c) { return {c.x0, c.y0, c.x1 + 1, c.y1 + 1}; }
Box hole_box(const Component& c) { return {c.x0 - 1, c.y0 - 1, c.x1 + 2, c.y1 + 2}; }

// The largest value raised at each cut, where values are raised over intervals of cuts: a sparse
// table filled from above.
template <typename T>
class IntervalMax {
 public:
  void reset(int cuts, const T& lowest) {
    cuts_ = cuts;
    const int layers = std::bit_width(static_cast<unsigned>(cuts));
    table_.assign(static_cast<size_t>(layers) * cuts, lowest);
  }
  void raise(int first, int last, const T& value) {
    const int layer = std::bit_width(static_cast<unsigned>(last - first + 1)) - 1;
    raise_at(layer, first, value);
    raise_at(layer, last + 1 - (1 << layer), value);
  }
  std::span<const T> finish() {
    for (int layer = std::bit_width(static_cast<unsigned>(cuts_)) - 1; layer >= 1; --layer) {
      for (int i = 0; i + (1 << layer) <= cuts_; ++i) {
        const T value = table_[static_cast<size_t>(layer) * cuts_ + i];
        raise_at(layer - 1, i, value);
        raise_at(layer - 1, i + (1 << (layer - 1)), value);
      }
    }
    return {table_.data(), static_cast<size_t>(cuts_)};
  }

 private:
  void raise_at(int layer, int i, const T& value) {
    T& held = table_[static_cast<size_t>(layer) * cuts_ + i];
    if (held < value) held = value;
  }

  int cuts_ = 0;
  std::vector<T> table_;
};

struct RankedBox {
  uint64_t rank;  // 0: no box
  Box box;
  bool operator<(const RankedBox& other) const { return rank < other.rank; }
};

// Everything one image needs; a thread keeps it from image to image.
class ImageContours {
 public:
  int32_t read(const TensorView& score_maps, int64_t image, const TensorView& thresholds) {
    const int32_t status = map_.read(score_maps, image, thresholds);
    // What a pixel of the sweep costs is about this many runs, of smooth maps and of noise.
    constexpr double kRunsAPixel = 1;
    const QuantizedMap& map = map_.quantized;
    const double most = kRunsAPixel * map.height * map.width;
    by_cut_ = cuts() == 1 || static_cast<double>(map_.estimated_runs()) <= most;
    if (!by_cut_) map_.levels(levels_);
    return status;
  }
  int cuts() const { return map_.cuts; }
  std::span<const int> cut_of_threshold() const { return map_.cut_of_threshold; }

  // The box of the contour of largest area at each cut.
  std::span<const RankedBox> largest() {
    const auto ranked = [](const Component& c) {
      return RankedBox{static_cast<uint64_t>(c.area2 + 1) << 32 | c.first, outer_box(c)};
    };
    if (by_cut_) {
      return best_of_cuts(ranked, [&] {
        if (!cut_.largest_is_known()) cut_.fill_holes();
      });
    }
    fill_holes();
    return best_of_sweep(filled_, ranked);
  }

  // The box of the component of most pixels at each cut, of equals the first in raster order.
  std::span<const RankedBox> most_pixels() {
    const auto ranked = [](const Component& c) {
      return RankedBox{static_cast<uint64_t>(c.pixels) << 32 | ~c.first, outer_box(c)};
    };
    return by_cut_ ? best_of_cuts(ranked, [] {}) : best_of_sweep(levels_, ranked);
  }

  // Whether a cut's contours are emitted in the order of their lists.
  bool in_order() const { return by_cut_; }

  // Calls emit(box, is_hole, first pixel, first cut, last cut) for every contour that some interval
  // of cuts has.
  template <typename Emit>
  void for_each_contour(Emit&& emit) {
    if (by_cut_) {
      for (int cut = 0; cut < cuts(); ++cut) {
        cut_.find(map_.quantized, map_.value_of_cut[cut]);
        cut_.for_each_component(
            [&](const Component& c) { emit(outer_box(c), false, c.first, cut, cut); });
        cut_.for_each_hole([&](const Component& c) { emit(hole_box(c), true, c.first, cut, cut); });
      }
      return;
    }
    sweep_.run<Connectivity::kEight, false>(levels_, cuts(),
                                            [&](const Component& c, int low, int high) {
                                              emit(outer_box(c), false, c.first, low - 1, high - 1);
                                            });
    sweep_background([&](const Component& c, int low, int high) {
      emit(hole_box(c), true, c.first, cuts() - high, cuts() - low);
    });
  }

  // The same cut by cut, in the order of OpenCV's tree.
  template <typename Emit>
  void for_each_in_tree_order(Emit&& emit) {
    for (int cut = 0; cut < cuts(); ++cut) {
      cut_.find(map_.quantized, map_.value_of_cut[cut]);
      for (const auto& [c, is_hole] : cut_.in_tree_order()) {
        emit(is_hole ? hole_box(c) : outer_box(c), is_hole, c.first, cut, cut);
      }
    }
  }

 private:
  template <typename Ranked, typename Prepare>
  std::span<const RankedBox> best_of_cuts(Ranked&& ranked, Prepare&& prepare) {
    best_of_cut_.assign(cuts(), {0, kNoBox});
    for (int cut = 0; cut < cuts(); ++cut) {
      cut_.find(map_.quantized, map_.value_of_cut[cut]);
      prepare();
      RankedBox& best = best_of_cut_[cut];
      cut_.for_each_component([&](const Component& c) { best = std::max(best, ranked(c)); });
    }
    return best_of_cut_;
  }

  template <typename Ranked>
  std::span<const RankedBox> best_of_sweep(const FramedBytes& levels, Ranked&& ranked) {
    best_.reset(cuts(), {0, kNoBox});
    sweep_.run<Connectivity::kEight, false>(
        levels, cuts(),
        [&](const Component& c, int low, int high) { best_.raise(low - 1, high - 1, ranked(c)); });
    return best_.finish();
  }

  // Sweeps from the lowest level up: after level v of the complement has come, the background of
  // cut cuts - v is there.
  template <typename Emit>
  void sweep_background(Emit&& emit) {
    complement_.resize(levels_.height, levels_.width);
    const int top = cuts();
    for (size_t i = 0; i < complement_.bytes.size(); ++i) {
      complement_.bytes[i] = static_cast<uint8_t>(top - levels_.bytes[i]);
    }
    complement_.set_frame(255);
    sweep_.run<Connectivity::kFour, true>(complement_, top, emit);
  }

  // Raises each pixel to the level up to which it is foreground or inside a hole.
  void fill_holes() {
    sweep_background([](const Component&, int, int) {});
    fill_level_.assign(sweep_.count(), static_cast<uint8_t>(cuts()));  // holes at every cut
    const std::vector<ComponentSweep::Merge>& merges = sweep_.merges();
    for (auto merge = merges.rbegin(); merge != merges.rend(); ++merge) {
      fill_level_[merge->from] =
          merge->into == 0 ? static_cast<uint8_t>(cuts() - merge->level) : fill_level_[merge->into];
    }
    fill_level_[0] = 0;
    filled_.resize(levels_.height, levels_.width);
    const std::vector<int32_t>& labels = sweep_.labels();
    for (size_t i = 0; i < labels.size(); ++i) {
      filled_.bytes[i] = std::max(levels_.bytes[i], fill_level_[labels[i]]);
    }
  }

  ScoreLevels map_;
  bool by_cut_ = true;  // rather than by a sweep over levels

  CutComponents cut_;
  std::vector<RankedBox> best_of_cut_;

  FramedBytes levels_, complement_, filled_;
  ComponentSweep sweep_;
  std::vector<uint8_t> fill_level_;
  IntervalMax<RankedBox> best_;
};

// Of maps up to so many pixels a thread keeps its memory, some 2 MB, from call to call: to allocate
// it takes as long as their boxes.
constexpr int64_t kSmallMap = 256 * 256;

// Runs work(contours, image) for each image, its scores read, and adds what was wrong with them to
// `status`.
template <typename Work>
void for_each_image(const TensorView& score_maps, const TensorView& thresholds,
                    std::atomic<int32_t>& status, int threads, Work&& work) {
  const bool is_small = score_maps.size(1) * score_maps.size(2) <= kSmallMap;
  parallel_for(score_maps.size(0), 1, threads, [&](int64_t begin, int64_t end) {
    thread_local ImageContours kept;
    std::optional<ImageContours> own;
    ImageContours& contours = is_small ? kept : own.emplace();
    for (int64_t image = begin; image < end; ++image) {
      status |= contours.read(score_maps, image, thresholds);
      work(contours, image);
    }
  });
}

// An image's ground truth, without the padding and without what is no number, which sets kBadGtBox.
std::vector<BoxOf<float>> gt_of(const TensorView& gt_boxes, int64_t image,
                                std::atomic<int32_t>& status) {
  std::vector<BoxOf<float>> result;
  const float* row = gt_boxes.as<float>() + image * gt_boxes.size(1) * 4;
  for (int64_t g = 0; g < gt_boxes.size(1); ++g, row += 4) {
    if (std::all_of(row, row + 4, [](float v) { return v == -1.0f; })) continue;
    if (!std::all_of(row, row + 4, [](float v) { return std::isfinite(v); })) {
      status |= kBadGtBox;
      continue;
    }
    result.push_back(box_at(row));
  }
  return result;
}

float best_iou(Box box, int width, int height, std::span<const BoxOf<float>> gt) {
  const BoxOf<float> clipped = clipped_box(box.x0, box.y0, box.x1, box.y1, width, height);
  const float area = area_of(clipped, 1.0f);
  float best = 0;
  for (const BoxOf<float>& g : gt) best = std::max(best, iou_of(clipped, area, g, 1.0f));
  return best;
}

}  // namespace

int32_t extract_boxes(const ExtractBoxes& args, int threads) {
  const int64_t count = args.thresholds.size(0);
  std::atomic<int32_t> status{0};
  for_each_image(args.score_maps, args.thresholds, status, threads,
                 [&](ImageContours& contours, int64_t image) {
                   const std::span<const RankedBox> largest =
                       args.most_pixels ? contours.most_pixels() : contours.largest();
                   Box* out = args.boxes.as<Box>() + image * count;
                   for (int64_t t = 0; t < count; ++t) {
                     const int cut = contours.cut_of_threshold()[t];
                     out[t] = cut == ScoreLevels::kNoForeground ? kNoBox : largest[cut].box;
                   }
                 });
  return status;
}

namespace {

template <bool kInTreeOrder>
std::shared_ptr<ContourLists> counted(const CountBoxes& args, int threads) {
  const int64_t count = args.thresholds.size(0);
  const auto found = std::make_shared<ContourLists>();
  found->images.resize(args.score_maps.size(0));
  std::atomic<int32_t> status{0};
  for_each_image(
      args.score_maps, args.thresholds, status, threads,
      [&](ImageContours& contours, int64_t index) {
        ContourLists::Image& image = found->images[index];
        image.cuts = contours.cuts();
        const std::span<const int> cuts = contours.cut_of_threshold();
        image.cut_of_threshold.assign(cuts.begin(), cuts.end());
        std::vector<int64_t> counts(image.cuts + 1);  // first as differences
        const auto keep = [&](Box box, bool hole, uint32_t pixel, int first, int last) {
          image.contours.push_back({static_cast<uint64_t>(hole) << 32 | pixel, first, last, box});
          ++counts[first];
          --counts[last + 1];
        };
        if constexpr (kInTreeOrder) {
          contours.for_each_in_tree_order(keep);
        } else {
          contours.for_each_contour(keep);
          if (!contours.in_order()) {
            std::ranges::sort(image.contours, {}, &ContourLists::Contour::place);
          }
        }
        for (int cut = 1; cut < image.cuts; ++cut) counts[cut] += counts[cut - 1];
        int64_t* out = args.counts.as<int64_t>() + index * count;
        for (int64_t t = 0; t < count; ++t) {
          out[t] = cuts[t] == ScoreLevels::kNoForeground ? 1 : counts[cuts[t]];
        }
      });
  *args.status.as<int32_t>() |= status;
  return found;
}

}  // namespace

std::shared_ptr<ContourLists> count_boxes(const CountBoxes& args, int threads) {
  return counted<false>(args, threads);
}

std::shared_ptr<ContourLists> count_boxes_in_tree_order(const CountBoxes& args, int threads) {
  return counted<true>(args, threads);
}

void list_boxes(const ListBoxes& args, int threads) {
  const int64_t count = args.thresholds.size(0);
  parallel_for(args.score_maps.size(0), 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const ContourLists::Image& image = args.found->images[index];
      const int64_t* offsets = args.offsets.as<int64_t>() + index * count;
      Box* boxes = args.boxes.as<Box>();
      // The contours go where the first threshold of their cut wants them, the others copy.
      std::vector<Box*> first_of_cut(image.cuts, nullptr);
      for (int64_t t = 0; t < count; ++t) {
        const int cut = image.cut_of_threshold[t];
        if (cut == ScoreLevels::kNoForeground) {
          boxes[offsets[t]] = kNoBox;
        } else if (first_of_cut[cut] == nullptr) {
          first_of_cut[cut] = boxes + offsets[t];
        }
      }
      std::vector<Box*> next = first_of_cut;
      for (const ContourLists::Contour& contour : image.contours) {
        for (int cut = contour.first; cut <= contour.last; ++cut) {
          *next[cut]++ = contour.box;
        }
      }
      for (int64_t t = 0; t < count; ++t) {
        const int cut = image.cut_of_threshold[t];
        if (cut == ScoreLevels::kNoForeground || first_of_cut[cut] == boxes + offsets[t]) continue;
        std::copy(first_of_cut[cut], next[cut], boxes + offsets[t]);
      }
    }
  });
}

int32_t best_box_iou(const BestBoxIou& args, int threads) {
  const int64_t images = args.score_maps.size(0), count = args.thresholds.size(0);
  const int height = static_cast<int>(args.score_maps.size(1));
  const int width = static_cast<int>(args.score_maps.size(2));
  // A map that all images share is looked at once.
  TensorView maps = args.score_maps;
  if (maps.stride(0) == 0) maps.shape[0] = std::min<int64_t>(images, 1);
  const int64_t sharing = maps.size(0) == images ? 1 : images;
  std::atomic<int32_t> status{0};
  for_each_image(
      maps, args.thresholds, status, threads, [&](ImageContours& contours, int64_t image) {
        std::vector<std::vector<BoxOf<float>>> gt(sharing);
        std::vector<IntervalMax<float>> best(sharing);
        for (int64_t i = 0; i < sharing; ++i) {
          gt[i] = gt_of(args.gt_boxes, image * sharing + i, status);
          best[i].reset(contours.cuts(), 0);
        }
        const auto raise = [&](int first, int last, Box box) {
          for (int64_t i = 0; i < sharing; ++i) {
            best[i].raise(first, last, best_iou(box, width, height, gt[i]));
          }
        };
        if (args.all_contours) {
          contours.for_each_contour(
              [&](Box box, bool, uint32_t, int first, int last) { raise(first, last, box); });
        } else {
          const std::span<const RankedBox> largest = contours.largest();
          for (int cut = 0; cut < contours.cuts(); ++cut) raise(cut, cut, largest[cut].box);
        }
        for (int64_t i = 0; i < sharing; ++i) {
          const std::span<const float> of_cut = best[i].finish();
          float* out = args.best_iou.as<float>() + (image * sharing + i) * count;
          for (int64_t t = 0; t < count; ++t) {
            const int cut = contours.cut_of_threshold()[t];
            out[t] = cut == ScoreLevels::kNoForeground ? best_iou(kNoBox, width, height, gt[i])
                                                       : of_cut[cut];
          }
        }
      });
  return status;
}

}  // namespace wsol::cpu
