// CUDA: a stable radix sort puts each image's pixels in order of their labels once for all
// channels, a byte of the label a step; then a warp, or for a large segment the block, adds up a
// segment's pixels in that order, which only labels and shape fix. (Of atomics in floating point,
// the order shows; sums in integers would take two passes and 8 bytes a segment and channel.) Moves
// 8 bytes a pixel and step, then reads and writes each value once, and the order twice for every
// four channels: limited by that bandwidth.
#include <algorithm>
#include <bit>
#include <utility>

#include "core/cuda.h"
#include "core/scratch.h"
#include "superpixels/segment_mean.h"

namespace wsol::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kByteValues = 256;
constexpr int kParts = 4;  // of an image's tiles, counted side by side
constexpr int kPixelsAWarp = 256;
constexpr int kTile = kWarps * kPixelsAWarp;
constexpr int kLarge = 2048;  // pixels of a segment from which a block shares it
constexpr int kPlanes = 4;    // channels summed side by side, for one reading of the order
constexpr int kBlocksOfMeans = 1 << 13, kPixelsOfMeans = 4 * kThreads;  // about; a block's least

// Sizes of the sort: `tiles` is how many blocks share an image.
struct Sizes {
  int pixels, tiles;
};

struct Order {
  int* labels;  // (B, N), sorted by the steps so far. Pixels outside of all segments have N.
  int* pixels;  // (B, N): whose they are
};

// Where an image's segments end in the order, and in the labels.
struct SegmentsEnd {
  int place, label;
};

// The scratch memory, cut up.
struct Scratch {
  Order orders[2];    // of a step and of the next
  int* starts;        // (B, tiles, 256)
  int2* bounds;       // (B, N), by label: places [x, y) in the order, or nothing
  SegmentsEnd* ends;  // (B)
  int64_t bytes;

  Scratch(const TensorView& memory, int64_t images, Sizes n) {
    ScratchParts parts(memory);
    for (Order& order : orders) {
      parts.take(order.labels, images * n.pixels);
      parts.take(order.pixels, images * n.pixels);
    }
    parts.take(starts, images * n.tiles * kByteValues);
    parts.take(bounds, images * n.pixels);
    parts.take(ends, images);
    bytes = parts.bytes();
  }
};

// Calls visit(place or -1) for the warp's pixels of the tile, 32 at a time.
template <typename Visit>
__device__ void for_pixels_of_warp(Sizes n, Visit visit) {
  const int first = blockIdx.x * kTile + threadIdx.x / kWarpSize * kPixelsAWarp;
  for (int step = 0; step < kPixelsAWarp; step += kWarpSize) {
    if (first + step >= n.pixels) return;  // the whole warp
    const int i = first + step + static_cast<int>(threadIdx.x) % kWarpSize;
    visit(i < n.pixels ? i : -1);
  }
}

template <typename Label>
__global__ void narrow_kernel(const Label* labels, Sizes n, Order order, int2* bounds,
                              SegmentsEnd* ends) {
  const int64_t first = int64_t{blockIdx.y} * n.pixels;
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= n.pixels) return;
  const auto label = static_cast<uint64_t>(static_cast<int64_t>(labels[first + i]));
  const auto outside = static_cast<uint64_t>(n.pixels);
  order.labels[first + i] = static_cast<int>(label < outside ? label : outside);
  order.pixels[first + i] = i;
  bounds[first + i] = make_int2(0, 0);
  if (i == 0) ends[blockIdx.y] = {0, 0};
}

__global__ void count_kernel(const int* labels, Sizes n, int shift, int* starts) {
  int* counts = reinterpret_cast<int*>(dynamic_shared());  // (256,)
  counts[threadIdx.x] = 0;
  __syncthreads();
  labels += int64_t{blockIdx.y} * n.pixels;
  for_pixels_of_warp(n, [&](int i) {
    if (i >= 0) atomicAdd(&counts[labels[i] >> shift & (kByteValues - 1)], 1);
  });
  __syncthreads();
  const int64_t tile = int64_t{blockIdx.y} * n.tiles + blockIdx.x;
  starts[tile * kByteValues + threadIdx.x] = counts[threadIdx.x];
}

// From counts to where the first of them goes: a block an image, whose thread owns a value of the
// byte in one of kParts runs of tiles.
__global__ void start_kernel(int tiles, int* starts) {
  int* totals = reinterpret_cast<int*>(dynamic_shared());  // (kParts, 256)
  int* of_warps = totals + kParts * kByteValues;           // (8,)
  const int value = threadIdx.x % kByteValues, part = threadIdx.x / kByteValues;
  const int a_part = (tiles + kParts - 1) / kParts;
  const int first = min(part * a_part, tiles), end = min(first + a_part, tiles);
  starts += int64_t{blockIdx.x} * tiles * kByteValues + value;
  int total = 0;
#pragma unroll 8
  for (int tile = first; tile < end; ++tile) total += starts[tile * kByteValues];
  totals[threadIdx.x] = total;
  __syncthreads();
  int before = 0, all = 0;  // of this value, in earlier parts and in all of them
  for (int other = 0; other < kParts; ++other) {
    const int count = totals[other * kByteValues + value];
    before += other < part ? count : 0;
    all += count;
  }
  int up_to = all;  // over the warp's values
  const int lane = threadIdx.x % kWarpSize;
  for (int offset = 1; offset < kWarpSize; offset *= 2) {
    const int other = __shfl_up_sync(kFullWarp, up_to, offset);
    up_to += lane >= offset ? other : 0;
  }
  if (part == 0 && lane == kWarpSize - 1) of_warps[value / kWarpSize] = up_to;
  __syncthreads();
  int start = up_to - all + before;
  for (int warp = 0; warp < value / kWarpSize; ++warp) start += of_warps[warp];
#pragma unroll 8
  for (int tile = first; tile < end; ++tile) {
    const int count = starts[tile * kByteValues];
    starts[tile * kByteValues] = start;
    start += count;
  }
}

__global__ void move_kernel(Order from, Order to, Sizes n, int shift, const int* starts) {
  int* next = reinterpret_cast<int*>(dynamic_shared());  // (warps, 256): where the next one goes
  const int64_t first = int64_t{blockIdx.y} * n.pixels;
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const int *labels = from.labels + first, *pixels = from.pixels + first;
  for (int w = 0; w < kWarps; ++w) next[w * kByteValues + threadIdx.x] = 0;
  __syncthreads();
  for_pixels_of_warp(n, [&](int i) {
    if (i >= 0) {
      atomicAdd(&next[warp * kByteValues + (labels[i] >> shift & (kByteValues - 1))], 1);
    }
  });
  __syncthreads();
  const int64_t tile = int64_t{blockIdx.y} * n.tiles + blockIdx.x;
  int start = starts[tile * kByteValues + threadIdx.x];
  for (int w = 0; w < kWarps; ++w) {
    int& place = next[w * kByteValues + threadIdx.x];
    const int count = place;
    place = start;
    start += count;
  }
  __syncthreads();
  for_pixels_of_warp(n, [&](int i) {
    const int label = i >= 0 ? labels[i] : 0;
    const int value = label >> shift & (kByteValues - 1);
    unsigned same = __ballot_sync(kFullWarp, i >= 0);  // lanes with this value
    for (int bit = 1; bit < kByteValues; bit *= 2) {
      const unsigned set = __ballot_sync(kFullWarp, (value & bit) != 0);
      same &= (value & bit) != 0 ? set : ~set;
    }
    const int before = __popc(same & ((1u << lane) - 1));
    int* const place = &next[warp * kByteValues + value];
    const int at = *place + before;
    __syncwarp();
    if (i >= 0) {
      if (before == 0) *place += __popc(same);
      to.labels[first + at] = label;
      to.pixels[first + at] = pixels[i];
    }
    __syncwarp();
  });
}

__global__ void bound_kernel(const int* labels, int pixel_count, int2* bounds, SegmentsEnd* ends) {
  const int64_t first = int64_t{blockIdx.y} * pixel_count;
  const int i = blockIdx.x * kThreads + threadIdx.x, last = pixel_count - 1;
  const int lane = threadIdx.x % kWarpSize;
  labels += first;
  // Neighbours are in the warp, but for those of its first and its last pixel.
  const int label = labels[min(i, last)];
  int before = __shfl_up_sync(kFullWarp, label, 1);
  int after = __shfl_down_sync(kFullWarp, label, 1);
  if (i > last || label > last) return;
  if (lane == 0 && i > 0) before = labels[i - 1];
  if (lane == kWarpSize - 1 && i < last) after = labels[i + 1];
  if (i == 0 || before != label) bounds[first + label].x = i;
  if (i == last || after != label) {
    bounds[first + label].y = i + 1;
    if (i == last || after > last) ends[blockIdx.y] = {i + 1, label + 1};
  }
}

// A block owns some labels of up to kPlanes channels of an image.
template <typename T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 3 : 4)
    mean_kernel(const T* all_values, T* all_out, const int* all_pixels, const int2* all_bounds,
                const SegmentsEnd* ends, int pixel_count, int64_t channels, int64_t first_group) {
  using A = typename Element<T>::Accumulator;
  auto* of_warps = reinterpret_cast<double*>(dynamic_shared());  // (warps, planes)
  const int64_t group = first_group + blockIdx.y, groups = (channels + kPlanes - 1) / kPlanes;
  const int64_t image = group / groups, channel = (group - image * groups) * kPlanes;
  const int planes = static_cast<int>(min(channels - channel, int64_t{kPlanes}));
  const T* values = all_values + (image * channels + channel) * pixel_count;
  T* out = all_out + (image * channels + channel) * pixel_count;
  const int* pixels = all_pixels + image * pixel_count;
  const int2* bounds = all_bounds + image * pixel_count;
  const SegmentsEnd end = ends[image];
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;

  const auto sum = [&](int from, int to, int step, double (&sums)[kPlanes]) {
#pragma unroll 2
    for (int i = from; i < to; i += step) {
      const int pixel = pixels[i];
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane) {
        if (plane < planes) {
          sums[plane] += Element<T>::load(values[int64_t{plane} * pixel_count + pixel]);
        }
      }
    }
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) sums[plane] = warp_sum(sums[plane]);
  };
  const auto spread = [&](int from, int to, int step, const T(&of_planes)[kPlanes]) {
#pragma unroll 2
    for (int i = from; i < to; i += step) {
      const int pixel = pixels[i];
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane) {
        if (plane < planes) out[int64_t{plane} * pixel_count + pixel] = of_planes[plane];
      }
    }
  };
  const auto spread_mean = [&](int from, int to, int step, const double (&sums)[kPlanes],
                               int count) {
    T means[kPlanes];
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      means[plane] = Element<T>::store(static_cast<A>(sums[plane] / count));
    }
    spread(from, to, step, means);
  };

  for (int base = blockIdx.x * kWarps; base < end.label; base += gridDim.x * kWarps) {
    // Each warp looks at the labels of all.
    const bool is_label = lane < kWarps && base + lane < end.label;
    const int2 bound_of_lane = is_label ? bounds[base + lane] : make_int2(0, 0);
    const auto bound_of = [&](int w) {
      return make_int2(__shfl_sync(kFullWarp, bound_of_lane.x, w),
                       __shfl_sync(kFullWarp, bound_of_lane.y, w));
    };
    const int2 own = bound_of(warp);
    const int count = own.y - own.x;
    if (count > 0 && count < kLarge) {
      double sums[kPlanes] = {};
      sum(own.x + lane, own.y, kWarpSize, sums);
      spread_mean(own.x + lane, own.y, kWarpSize, sums, count);
    }
    unsigned large = __ballot_sync(kFullWarp, bound_of_lane.y - bound_of_lane.x >= kLarge);
    for (; large != 0; large &= large - 1) {
      const int2 bound = bound_of(__ffs(static_cast<int>(large)) - 1);
      double sums[kPlanes] = {};
      sum(bound.x + threadIdx.x, bound.y, kThreads, sums);
      if (lane == 0) {
        for (int plane = 0; plane < kPlanes; ++plane)
          of_warps[warp * kPlanes + plane] = sums[plane];
      }
      __syncthreads();
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane) {
        sums[plane] = 0;
        for (int w = 0; w < kWarps; ++w) sums[plane] += of_warps[w * kPlanes + plane];
      }
      __syncthreads();  // before the next sums
      spread_mean(bound.x + threadIdx.x, bound.y, kThreads, sums, bound.y - bound.x);
    }
  }
  T nans[kPlanes];
  for (T& nan : nans) nan = Element<T>::store(static_cast<A>(__int_as_float(0x7fc00000)));
  spread(end.place + blockIdx.x * kThreads + threadIdx.x, pixel_count, gridDim.x * kThreads, nans);
}

// Returns the order by whole labels.
Order sort_pixels(const char* name, const Scratch& scratch, Sizes n, unsigned images,
                  Stream stream) {
  constexpr size_t kShared = kByteValues * sizeof(int);
  const int bits = std::bit_width(static_cast<unsigned>(n.pixels));
  const dim3 tiles(n.tiles, images);
  Order from = scratch.orders[0], to = scratch.orders[1];
  for (int shift = 0; shift < bits; shift += 8) {
    launch(name, count_kernel, tiles, kThreads, kShared, stream, from.labels, n, shift,
           scratch.starts);
    launch(name, start_kernel, images, kParts * kByteValues, kParts * kShared + kShared / kWarpSize,
           stream, n.tiles, scratch.starts);
    launch(name, move_kernel, tiles, kThreads, kWarps * kShared, stream, from, to, n, shift,
           scratch.starts);
    std::swap(from, to);
  }
  return from;
}

Sizes sizes_of(int64_t pixels) {
  return {static_cast<int>(pixels), static_cast<int>(blocks_for(pixels, kTile))};
}

}  // namespace

int64_t segment_mean_scratch_bytes(int64_t images, int64_t pixels) {
  return Scratch({}, images, sizes_of(pixels)).bytes;
}

void segment_mean(const SegmentMean& args, Stream stream) {
  constexpr const char* kName = "segment_mean";
  constexpr int64_t kMaxRows = 65535;  // of a grid
  const int64_t images = args.values.size(0), channels = args.values.size(1);
  const int64_t pixels = args.values.size(2);
  for (int64_t image = 0; image < images; image += kMaxRows) {
    const int64_t count = std::min(kMaxRows, images - image);
    const auto rows = static_cast<unsigned>(count);
    const dim3 a_pixel(blocks_for(pixels, kThreads), rows);
    const Sizes n = sizes_of(pixels);
    const Scratch scratch(args.scratch, count, n);
    if (args.labels.dtype == DType::kInt64) {
      launch(kName, narrow_kernel<int64_t>, a_pixel, kThreads, 0, stream,
             args.labels.as<int64_t>() + image * pixels, n, scratch.orders[0], scratch.bounds,
             scratch.ends);
    } else {
      launch(kName, narrow_kernel<int32_t>, a_pixel, kThreads, 0, stream,
             args.labels.as<int32_t>() + image * pixels, n, scratch.orders[0], scratch.bounds,
             scratch.ends);
    }
    const Order order = sort_pixels(kName, scratch, n, rows, stream);
    launch(kName, bound_kernel, a_pixel, kThreads, 0, stream, order.labels, n.pixels,
           scratch.bounds, scratch.ends);
    with_floating_type(kName, args.values.dtype, [&]<typename T>(ElementTag<T>) {
      const int64_t at = image * channels * pixels;
      const int64_t groups = count * ((channels + kPlanes - 1) / kPlanes);
      for (int64_t group = 0; group < groups; group += kMaxRows) {
        const int64_t now = std::min(kMaxRows, groups - group);
        const int64_t blocks =
            std::clamp<int64_t>(kBlocksOfMeans / now, 1, blocks_for(pixels, kPixelsOfMeans));
        launch(kName, mean_kernel<T>,
               dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(now)), kThreads,
               kWarps * kPlanes * sizeof(double), stream, args.values.as<T>() + at,
               args.out.as<T>() + at, order.pixels, scratch.bounds, scratch.ends, n.pixels,
               channels, group);
      }
    });
  }
}

}  // namespace wsol::cuda
