// CPU: a task owns a few channels of an image, so that a label is read once for all of them; if
// there are fewer of these than threads, threads share a task's pixels. Limited by the additions,
// in cache.
#include "superpixels/segment_mean.h"

#include <algorithm>
#include <vector>

#include "core/element_types.h"
#include "core/multiversion.h"
#include "core/parallel_for.h"
#include "superpixels/segment_labels.h"

namespace wsol::cpu {
namespace {

constexpr int64_t kGrain = 32768;  // pixels a part of an image
constexpr int64_t kMaxParts = 16;

// A few channels of an image.
template <typename T>
struct Planes {
  const T* values;        // (channels, pixels)
  const int32_t* labels;  // (pixels,)
  T* out;                 // (channels, pixels)
  int64_t pixels;
  int64_t segments;
};

// The pixels [begin, end). `sums` is (segments, kChannels + 1): values, and how many.
template <typename T, int kChannels>
WSOL_MULTIVERSION void add_up(const Planes<T>& planes, int64_t begin, int64_t end,
                              double* __restrict sums) {
  const auto add = [&](int64_t p) {
    double* __restrict sum = sums + planes.labels[p] * int64_t{kChannels + 1};
    for (int c = 0; c < kChannels; ++c) {
      sum[c] += static_cast<Accumulator<T>>(planes.values[c * planes.pixels + p]);
    }
    sum[kChannels] += 1;
  };
  in_turns(begin, end, add);
}

// `means` is (channels, segments).
template <typename T>
WSOL_MULTIVERSION void spread(const Planes<T>& planes, int channels, int64_t begin, int64_t end,
                              const T* __restrict means) {
  const int32_t* __restrict labels = planes.labels;
  for (int c = 0; c < channels; ++c) {
    T* __restrict out = planes.out + c * planes.pixels;
    for (int64_t p = begin; p < end; ++p) out[p] = means[c * planes.segments + labels[p]];
  }
}

template <typename T, int kChannels>
void mean_of_channels(const Planes<T>& planes, int threads) {
  using A = Accumulator<T>;
  constexpr int64_t kColumns = kChannels + 1;
  const int64_t pixels = planes.pixels, segments = planes.segments;
  // More parts where their sums stay few beside the pixels: a matter of sizes, not of threads.
  const int64_t parts =
      std::clamp<int64_t>(std::min(pixels / kGrain, pixels / segments / 4), 1, kMaxParts);
  const auto bound = [&](int64_t part) { return part * pixels / parts; };

  std::vector<double> sums(parts * segments * kColumns);
  std::vector<T> means(kChannels * segments);
  parallel_for(parts, 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      add_up<T, kChannels>(planes, bound(part), bound(part + 1), &sums[part * segments * kColumns]);
    }
  });
  for (int64_t segment = 0; segment < segments; ++segment) {
    double* total = &sums[segment * kColumns];
    for (int64_t part = 1; part < parts; ++part) {
      for (int64_t c = 0; c < kColumns; ++c) total[c] += total[part * segments * kColumns + c];
    }
    for (int64_t c = 0; c < kChannels; ++c) {
      means[c * segments + segment] = static_cast<T>(static_cast<A>(total[c] / total[kChannels]));
    }
  }
  parallel_for(pixels, kGrain, threads, [&](int64_t begin, int64_t end) {
    spread<T>(planes, kChannels, begin, end, means.data());
  });
}

}  // namespace

void segment_mean(const SegmentMean& args, int threads) {
  constexpr const char* kName = "segment_mean";
  const int64_t images = args.values.size(0), channels = args.values.size(1);
  const int64_t pixels = args.values.size(2);
  const SegmentLabels labels = read_labels(kName, args.labels, threads);
  // With the number of pixels, 8, 4 or 2 columns of sums: whole vectors.
  const int64_t sevens = channels / 7, threes = channels % 7 / 3, ones = channels % 7 % 3;
  const int64_t tasks = sevens + threes + ones;
  with_floating_type(kName, args.values.dtype, [&]<typename T>(ElementTag<T>) {
    const auto run = [&](int64_t begin, int64_t end, int threads_a_task) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t image = i / tasks, task = i % tasks;
        const int64_t first = task < sevens            ? 7 * task
                              : task < sevens + threes ? 7 * sevens + 3 * (task - sevens)
                                                       : channels - (tasks - task);
        const int64_t at = (image * channels + first) * pixels;
        const Planes<T> planes{args.values.as<T>() + at, labels.data + image * pixels,
                               args.out.as<T>() + at, pixels, labels.segments[image]};
        if (task < sevens) {
          mean_of_channels<T, 7>(planes, threads_a_task);
        } else if (task < sevens + threes) {
          mean_of_channels<T, 3>(planes, threads_a_task);
        } else {
          mean_of_channels<T, 1>(planes, threads_a_task);
        }
      }
    };
    if (images * tasks < threads) return run(0, images * tasks, threads);
    parallel_for(images * tasks, 1, threads,
                 [&](int64_t begin, int64_t end) { run(begin, end, 1); });
  });
}

}  // namespace wsol::cpu
