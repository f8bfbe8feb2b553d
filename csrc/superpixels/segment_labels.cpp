#include "superpixels/segment_labels.h"

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>

#include "core/multiversion.h"
#include "core/parallel_for.h"

namespace wsol::cpu {
namespace {

constexpr int64_t kGrain = 32768;  // pixels a task

// Each returns the largest label; one that is negative counts as a very large one.
WSOL_MULTIVERSION uint64_t largest(const int32_t* labels, int64_t count) {
  uint32_t result = 0;
  for (int64_t p = 0; p < count; ++p) result = std::max(result, static_cast<uint32_t>(labels[p]));
  return result;
}

WSOL_MULTIVERSION uint64_t narrow(const int64_t* labels, int64_t count, int32_t* out) {
  uint64_t result = 0;
  for (int64_t p = 0; p < count; ++p) {
    result = std::max(result, static_cast<uint64_t>(labels[p]));
    out[p] = static_cast<int32_t>(labels[p]);
  }
  return result;
}

}  // namespace

SegmentLabels read_labels(const char* operator_name, const TensorView& labels, int threads) {
  const int64_t images = labels.size(0), pixels = labels.size(1);
  SegmentLabels result;
  result.segments.resize(images);
  result.data = labels.as<int32_t>();
  if (labels.dtype == DType::kInt64) {
    result.narrowed.resize(images * pixels);
    result.data = result.narrowed.data();
  }
  std::vector<std::atomic<uint64_t>> tops(images);
  const int64_t parts = (pixels + kGrain - 1) / kGrain;
  parallel_for(images * parts, 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / parts, first = task % parts * kGrain;
      const int64_t at = image * pixels + first, count = std::min(kGrain, pixels - first);
      const uint64_t top = labels.dtype == DType::kInt64
                               ? narrow(labels.as<int64_t>() + at, count, &result.narrowed[at])
                               : largest(labels.as<int32_t>() + at, count);
      uint64_t before = tops[image].load();
      while (before < top && !tops[image].compare_exchange_weak(before, top)) {
      }
    }
  });
  for (int64_t image = 0; image < images; ++image) {
    const uint64_t top = tops[image].load();
    if (top >= static_cast<uint64_t>(pixels)) {
      throw std::invalid_argument(std::string(operator_name) + ": labels of image " +
                                  std::to_string(image) +
                                  " has a value outside of what it should be, 0 to " +
                                  std::to_string(pixels - 1) + ", one less than there are pixels");
    }
    result.segments[image] = static_cast<int32_t>(top) + 1;
  }
  return result;
}

}  // namespace wsol::cpu
