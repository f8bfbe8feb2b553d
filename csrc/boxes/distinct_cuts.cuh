// The score maps of extract_boxes as bit planes, and each one's distinct cuts.
#pragma once

#include "boxes/box_scratch.cuh"
#include "boxes/extract_boxes.h"

#if defined(__CUDACC__) || defined(WSOL_EMULATOR)

namespace wsol::cuda {

constexpr int kReadThreads = 1024;

template <typename T>
struct ScoreMaps {
  const T* data;
  int64_t image_stride, row_stride;
  MapSize size;
};

template <typename T>
__global__ void __launch_bounds__(kReadThreads)
    read_kernel(ScoreMaps<T> maps, const double* thresholds, int count, const float* gt_boxes,
                int gt_values, BoxScratch scratch, int* status) {
  int* partial = reinterpret_cast<int*>(dynamic_shared());  // a value a warp
  int* first_of_cut = partial + kReadThreads / kWarpSize;   // (256,), then the cut's index
  const int64_t image = blockIdx.x;
  const int words = maps.size.words(), row_words = maps.size.row_words();
  const int lane = threadIdx.x % kWarpSize, warps = blockDim.x / kWarpSize;
  unsigned* planes = reinterpret_cast<unsigned*>(scratch.quantized + image * 2 * words);
  int largest = 0, wrong = 0;
  constexpr int kWordsAtOnce = 4;  // loads that are on their way together
  for (int first = threadIdx.x / kWarpSize; first < words; first += warps * kWordsAtOnce) {
    T stored[kWordsAtOnce];
    bool inside[kWordsAtOnce];
#pragma unroll
    for (int i = 0; i < kWordsAtOnce; ++i) {
      const int word = first + i * warps, y = word / row_words;
      const int x = (word - y * row_words) * kWarpSize + lane;
      inside[i] = word < words && x < maps.size.width;
      if (inside[i]) stored[i] = maps.data[image * maps.image_stride + y * maps.row_stride + x];
    }
#pragma unroll
    for (int i = 0; i < kWordsAtOnce; ++i) {
      const int word = first + i * warps;
      if (word >= words) break;
      int u = 0;
      if (inside[i]) {
        const auto score = static_cast<double>(Element<T>::load(stored[i]));
        const bool good = score >= 0.0 && score <= 1.0;
        if (!good) wrong |= kBadScore;
        u = good ? static_cast<int>(255.0 * score) : (score > 1.0 ? 255 : 0);
      }
      largest = max(largest, u);
      unsigned plane = 0;
      for (int bit = 0; bit < 8; ++bit) {
        const unsigned all = __ballot_sync(kFullWarp, u >> bit & 1);
        if (lane == bit) plane = all;
      }
      if (lane < 4) planes[4 * word + lane] = plane;
      if (lane >= 4 && lane < 8) planes[4 * (words + word) + lane - 4] = plane;
    }
  }
  for (int i = threadIdx.x; i < 256; i += blockDim.x) first_of_cut[i] = count;
  largest = block_max(largest, partial);  // also a barrier

  const auto cut_at = [&](int t) {
    const double threshold = thresholds[t];
    const int cut = threshold >= 0.0 && threshold < 1.0 ? static_cast<int>(threshold * largest) : 0;
    return cut < largest ? cut : kNoForeground;
  };
  for (int t = threadIdx.x; t < count; t += blockDim.x) {
    if (!(thresholds[t] >= 0.0 && thresholds[t] < 1.0)) wrong |= kBadThreshold;
    if (cut_at(t) != kNoForeground) atomicMin(&first_of_cut[cut_at(t)], t);
  }
  for (int i = threadIdx.x; i < gt_values; i += blockDim.x) {
    if (!isfinite(gt_boxes[image * gt_values + i])) wrong |= kBadGtBox;
  }
  if (wrong != 0) atomicOr(status, wrong);
  __syncthreads();

  int found = 0;
  for (int begin = 0; begin < 256; begin += blockDim.x) {
    const int cut = begin + static_cast<int>(threadIdx.x);
    const bool wanted = cut < 256 && first_of_cut[cut] != count;
    const ExclusiveSum sum = block_exclusive_sum(wanted ? 1 : 0, partial);
    if (wanted) {
      const int64_t pair = image * scratch.slots + found + sum.before;
      scratch.cut_values[pair] = cut;
      scratch.first_thresholds[pair] = first_of_cut[cut];
      first_of_cut[cut] = found + sum.before;
    }
    found += sum.total;
  }
  if (threadIdx.x == 0) scratch.cuts[image] = found;
  __syncthreads();
  for (int t = threadIdx.x; t < count; t += blockDim.x) {
    const int cut = cut_at(t);
    scratch.cut_of_threshold[image * count + t] = cut == kNoForeground ? cut : first_of_cut[cut];
  }
}

}  // namespace wsol::cuda

#endif  // __CUDACC__ || WSOL_EMULATOR
