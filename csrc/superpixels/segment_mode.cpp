// CPU: a task owns an image; if there are fewer images than threads, threads share one. Where a
// table of (segment, class) counts is not much larger than the image, it is filled and searched;
// otherwise classes are put side by side by segment, and sorted there: so memory never grows with
// the values of classes. Limited by the additions to the table, in cache.
#include "superpixels/segment_mode.h"

#include <algorithm>
#include <vector>

#include "core/multiversion.h"
#include "core/parallel_for.h"
#include "superpixels/segment_labels.h"

namespace wsol::cpu {
namespace {

constexpr int64_t kCountsAPixel = 8;     // of the table, at most
constexpr int64_t kGrain = 16384;        // pixels a part of an image
constexpr int64_t kCountsATask = 32768;  // of the table, when it is searched

template <typename T>
struct Image {
  const T* classes;
  const int32_t* labels;
  T* out;
  int64_t pixels;
  int64_t segments;
};

// How many classes from 0 on there are, or more than `limit` where one is negative or larger.
template <typename T>
WSOL_MULTIVERSION int64_t classes_of(const T* classes, int64_t pixels, int64_t limit) {
  using Unsigned = std::make_unsigned_t<T>;
  Unsigned largest = 0;
  for (int64_t p = 0; p < pixels; ++p) {
    largest = std::max(largest, static_cast<Unsigned>(classes[p]));
  }
  return largest < static_cast<uint64_t>(limit) ? static_cast<int64_t>(largest) + 1 : limit + 1;
}

// `counts` is (segments, class_count).
template <typename T>
void count(const Image<T>& image, int64_t class_count, int64_t begin, int64_t end,
           int32_t* counts) {
  in_turns(begin, end, [&](int64_t p) {
    ++counts[image.labels[p] * class_count + static_cast<int64_t>(image.classes[p])];
  });
}

// Adds the tables of the other parts to the first one's row, and returns where its largest is.
WSOL_MULTIVERSION int64_t largest_of_row(int32_t* row, int64_t class_count, int64_t parts,
                                         int64_t part_stride) {
  for (int64_t part = 1; part < parts; ++part) {
    for (int64_t c = 0; c < class_count; ++c) row[c] += row[part * part_stride + c];
  }
  int32_t most = 0;
  for (int64_t c = 0; c < class_count; ++c) most = std::max(most, row[c]);
  return std::find(row, row + class_count, most) - row;
}

template <typename T>
void modes_by_table(const Image<T>& image, int64_t class_count, int threads, T* modes) {
  const int64_t table = image.segments * class_count;
  const int64_t parts = std::clamp<int64_t>(
      std::min(image.pixels / kGrain, kCountsAPixel * image.pixels / table), 1, threads);
  thread_local std::vector<int32_t> kept;  // new memory for each image would cost more than it all
  std::vector<int32_t>& counts = kept;     // the caller's, in other threads too
  counts.assign(parts * table, 0);
  parallel_for(parts, 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      count(image, class_count, part * image.pixels / parts, (part + 1) * image.pixels / parts,
            &counts[part * table]);
    }
  });
  parallel_for(image.segments, 1 + kCountsATask / class_count, threads,
               [&](int64_t begin, int64_t end) {
                 for (int64_t segment = begin; segment < end; ++segment) {
                   modes[segment] = static_cast<T>(
                       largest_of_row(&counts[segment * class_count], class_count, parts, table));
                 }
               });
}

// Of classes in ascending order, the first of those that are commonest.
template <typename T>
T mode_of_sorted(const T* classes, int64_t count) {
  T mode{};
  int64_t most = 0;
  for (int64_t i = 0, next; i < count; i = next) {
    for (next = i + 1; next < count && classes[next] == classes[i]; ++next) {
    }
    if (next - i > most) {
      most = next - i;
      mode = classes[i];
    }
  }
  return mode;
}

template <typename T>
void modes_by_sorting(const Image<T>& image, int threads, T* modes) {
  std::vector<int32_t> ends(image.segments + 1);  // at first, where segments start
  for (int64_t p = 0; p < image.pixels; ++p) ++ends[image.labels[p] + 1];
  for (int64_t segment = 0; segment < image.segments; ++segment) ends[segment + 1] += ends[segment];
  std::vector<T> classes(image.pixels);
  for (int64_t p = 0; p < image.pixels; ++p) classes[ends[image.labels[p]]++] = image.classes[p];
  const int64_t grain = 1 + kGrain * image.segments / image.pixels;
  parallel_for(image.segments, grain, threads, [&](int64_t begin, int64_t end) {
    for (int64_t segment = begin; segment < end; ++segment) {
      const int64_t first = segment == 0 ? 0 : ends[segment - 1], size = ends[segment] - first;
      std::sort(&classes[first], &classes[first] + size);
      modes[segment] = mode_of_sorted(&classes[first], size);
    }
  });
}

template <typename T>
WSOL_MULTIVERSION void spread(const int32_t* __restrict labels, const T* __restrict modes,
                              int64_t count, T* __restrict out) {
  for (int64_t p = 0; p < count; ++p) out[p] = modes[labels[p]];
}

template <typename T>
void mode_of_image(const Image<T>& image, int threads) {
  std::vector<T> modes(image.segments);
  const int64_t limit = kCountsAPixel * image.pixels / image.segments;
  const int64_t class_count = classes_of(image.classes, image.pixels, limit);
  if (class_count <= limit) {
    modes_by_table(image, class_count, threads, modes.data());
  } else {
    modes_by_sorting(image, threads, modes.data());
  }
  parallel_for(image.pixels, 2 * kGrain, threads, [&](int64_t begin, int64_t end) {
    spread(image.labels + begin, modes.data(), end - begin, image.out + begin);
  });
}

}  // namespace

void segment_mode(const SegmentMode& args, int threads) {
  const int64_t images = args.classes.size(0), pixels = args.classes.size(1);
  const SegmentLabels labels = read_labels("segment_mode", args.labels, threads);
  with_class_type(args.classes.dtype, [&]<typename T>(ElementTag<T>) {
    const auto run = [&](int64_t begin, int64_t end, int threads_an_image) {
      for (int64_t i = begin; i < end; ++i) {
        mode_of_image(Image<T>{args.classes.as<T>() + i * pixels, labels.data + i * pixels,
                               args.out.as<T>() + i * pixels, pixels, labels.segments[i]},
                      threads_an_image);
      }
    };
    if (images < threads) return run(0, images, threads);
    parallel_for(images, 1, threads, [&](int64_t begin, int64_t end) { run(begin, end, 1); });
  });
}

}  // namespace wsol::cpu
