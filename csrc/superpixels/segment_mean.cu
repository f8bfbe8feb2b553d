// CUDA: a stable radix sort puts each image's pixels in order of their labels once for all
// channels, a byte of the label a step; then a warp, or for a large segment the block, adds up a
// segment's pixels in that order, which only labels and shape fix. (Of atomics in floating point,
// the order shows; sums in integers would take two passes and 8 bytes a segment and channel.) Moves
// 8 bytes a pixel and step, then reads and writes each value once: limited by that bandwidth.
#include <algorithm>
#include <bit>

#include "core/cuda.h"
#include "core/scratch.h"
#include "superpixels/segment_mean.h"

namespace wsol::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kByteValues = 256;
constexpr int kPixelsAWarp = 256;
constexpr int kTile = kWarps * kPixelsAWarp;
constexpr int kLarge = 2048;             // pixels of a segment from which a block shares it
constexpr int kBlocksOfMeans = 1 << 13;  // about

// The scratch memory, cut up. Pixels outside of all segments have the label N.
struct Order {
  int* labels[2];  // (B, N), sorted by the steps so far
  int* pixels[2];  // (B, N): whose they are
  int* starts;     // (B, 256, tiles)
  int2* bounds;    // (B, N), by label: places [x, y) in the order, or nothing
  int pixel_count, tiles;
  int64_t bytes;

  Order(const TensorView& memory, int64_t images, int64_t pixels_an_image)
      : pixel_count(static_cast<int>(pixels_an_image)), tiles(blocks_for(pixels_an_image, kTile)) {
    ScratchParts parts(memory);
    for (int*& part : labels) parts.take(part, images * pixels_an_image);
    for (int*& part : pixels) parts.take(part, images * pixels_an_image);
    parts.take(starts, images * kByteValues * tiles);
    parts.take(bounds, images * pixels_an_image);
    bytes = parts.bytes();
  }
};

// Calls visit(place or -1) for the warp's pixels of the tile, 32 at a time.
template <typename Visit>
__device__ void for_pixels_of_warp(const Order& order, Visit visit) {
  const int first = blockIdx.x * kTile + threadIdx.x / kWarpSize * kPixelsAWarp;
  for (int step = 0; step < kPixelsAWarp; step += kWarpSize) {
    if (first + step >= order.pixel_count) return;  // the whole warp
    const int i = first + step + static_cast<int>(threadIdx.x) % kWarpSize;
    visit(i < order.pixel_count ? i : -1);
  }
}

template <typename Label>
__global__ void narrow_kernel(const Label* labels, Order order) {
  const int64_t first = int64_t{blockIdx.y} * order.pixel_count;
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= order.pixel_count) return;
  const auto label = static_cast<uint64_t>(static_cast<int64_t>(labels[first + i]));
  const auto outside = static_cast<uint64_t>(order.pixel_count);
  order.labels[0][first + i] = static_cast<int>(label < outside ? label : outside);
  order.pixels[0][first + i] = i;
  order.bounds[first + i] = make_int2(0, 0);
}

__global__ void count_kernel(Order order, int from, int shift) {
  int* counts = reinterpret_cast<int*>(dynamic_shared());  // (256,)
  const int64_t image = blockIdx.y;
  counts[threadIdx.x] = 0;
  __syncthreads();
  const int* labels = order.labels[from] + image * order.pixel_count;
  for_pixels_of_warp(order, [&](int i) {
    if (i >= 0) atomicAdd(&counts[labels[i] >> shift & (kByteValues - 1)], 1);
  });
  __syncthreads();
  order.starts[(image * kByteValues + threadIdx.x) * order.tiles + blockIdx.x] =
      counts[threadIdx.x];
}

// A thread owns a value of the byte.
__global__ void start_kernel(Order order) {
  int* totals = reinterpret_cast<int*>(dynamic_shared());  // (256,)
  int* starts = order.starts + (int64_t{blockIdx.x} * kByteValues + threadIdx.x) * order.tiles;
  int total = 0;
  for (int tile = 0; tile < order.tiles; ++tile) total += starts[tile];
  totals[threadIdx.x] = total;
  __syncthreads();
  int start = 0;
  for (int value = 0; value < static_cast<int>(threadIdx.x); ++value) start += totals[value];
  for (int tile = 0; tile < order.tiles; ++tile) {
    const int count = starts[tile];
    starts[tile] = start;
    start += count;
  }
}

__global__ void move_kernel(Order order, int from, int shift) {
  int* next = reinterpret_cast<int*>(dynamic_shared());  // (warps, 256): where the next one goes
  const int64_t image = blockIdx.y, first = image * order.pixel_count;
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const int* labels = order.labels[from] + first;
  for (int w = 0; w < kWarps; ++w) next[w * kByteValues + threadIdx.x] = 0;
  __syncthreads();
  for_pixels_of_warp(order, [&](int i) {
    if (i >= 0) {
      atomicAdd(&next[warp * kByteValues + (labels[i] >> shift & (kByteValues - 1))], 1);
    }
  });
  __syncthreads();
  int start = order.starts[(image * kByteValues + threadIdx.x) * order.tiles + blockIdx.x];
  for (int w = 0; w < kWarps; ++w) {
    int& place = next[w * kByteValues + threadIdx.x];
    const int count = place;
    place = start;
    start += count;
  }
  __syncthreads();
  for_pixels_of_warp(order, [&](int i) {
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
      order.labels[1 - from][first + at] = label;
      order.pixels[1 - from][first + at] = order.pixels[from][first + i];
    }
    __syncwarp();
  });
}

__global__ void bound_kernel(Order order, int from) {
  const int64_t first = int64_t{blockIdx.y} * order.pixel_count;
  const int i = blockIdx.x * kThreads + threadIdx.x, last = order.pixel_count - 1;
  if (i > last) return;
  const int* labels = order.labels[from] + first;
  const int label = labels[i];
  if (label > last) return;
  if (i == 0 || labels[i - 1] != label) order.bounds[first + label].x = i;
  if (i == last || labels[i + 1] != label) order.bounds[first + label].y = i + 1;
}

// The segments' labels end with this; what follows belongs to none.
__device__ int labels_end(const Order& order, const int* labels) {
  int low = 0, high = order.pixel_count;  // the pixels before `low` have a segment
  while (low < high) {
    const int middle = low + (high - low) / 2;
    if (labels[middle] < order.pixel_count) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

template <typename T>
__global__ void mean_kernel(const T* all_values, T* all_out, Order order, int from,
                            int64_t channels, int64_t first_plane) {
  using A = typename Element<T>::Accumulator;
  auto* of_warps = reinterpret_cast<double*>(dynamic_shared());
  const int64_t plane = first_plane + blockIdx.y, first = plane / channels * order.pixel_count;
  const T* values = all_values + plane * order.pixel_count;
  T* out = all_out + plane * order.pixel_count;
  const int* pixels = order.pixels[from] + first;
  const int* labels = order.labels[from] + first;
  const int2* bounds = order.bounds + first;
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;

  const auto sum = [&](int2 bound, int start, int step) {
    double result = 0;
    for (int i = bound.x + start; i < bound.y; i += step) {
      result += Element<T>::load(values[pixels[i]]);
    }
    return warp_sum(result);
  };
  const auto spread = [&](int2 bound, double total, int start, int step) {
    const T mean = Element<T>::store(static_cast<A>(total / (bound.y - bound.x)));
    for (int i = bound.x + start; i < bound.y; i += step) out[pixels[i]] = mean;
  };

  const int inside = labels_end(order, labels);
  const int segments = inside == 0 ? 0 : labels[inside - 1] + 1;
  for (int base = blockIdx.x * kWarps; base < segments; base += gridDim.x * kWarps) {
    if (base + warp < segments) {
      const int2 bound = bounds[base + warp];
      const int count = bound.y - bound.x;
      if (count > 0 && count < kLarge) spread(bound, sum(bound, lane, kWarpSize), lane, kWarpSize);
    }
    for (int w = 0; w < kWarps && base + w < segments; ++w) {
      const int2 bound = bounds[base + w];
      if (bound.y - bound.x < kLarge) continue;  // the same in all threads
      const double part = sum(bound, threadIdx.x, kThreads);
      if (lane == 0) of_warps[warp] = part;
      __syncthreads();
      double total = 0;
      for (int other = 0; other < kWarps; ++other) total += of_warps[other];
      __syncthreads();  // before the next sums
      spread(bound, total, threadIdx.x, kThreads);
    }
  }
  const A nan = __int_as_float(0x7fc00000);
  for (int i = inside + blockIdx.x * kThreads + threadIdx.x; i < order.pixel_count;
       i += gridDim.x * kThreads) {
    out[pixels[i]] = Element<T>::store(nan);
  }
}

// Returns which of the two arrays the order is in.
int sort_pixels(const char* name, const Order& order, unsigned images, Stream stream) {
  constexpr size_t kShared = kByteValues * sizeof(int);
  const int bits = std::bit_width(static_cast<unsigned>(order.pixel_count));
  const dim3 tiles(order.tiles, images);
  int from = 0;
  for (int shift = 0; shift < bits; shift += 8, from = 1 - from) {
    launch(name, count_kernel, tiles, kThreads, kShared, stream, order, from, shift);
    launch(name, start_kernel, images, kThreads, kShared, stream, order);
    launch(name, move_kernel, tiles, kThreads, kWarps * kShared, stream, order, from, shift);
  }
  return from;
}

}  // namespace

int64_t segment_mean_scratch_bytes(int64_t images, int64_t pixels) {
  return Order({}, images, pixels).bytes;
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
    const Order order(args.scratch, count, pixels);
    if (args.labels.dtype == DType::kInt64) {
      launch(kName, narrow_kernel<int64_t>, a_pixel, kThreads, 0, stream,
             args.labels.as<int64_t>() + image * pixels, order);
    } else {
      launch(kName, narrow_kernel<int32_t>, a_pixel, kThreads, 0, stream,
             args.labels.as<int32_t>() + image * pixels, order);
    }
    const int from = sort_pixels(kName, order, rows, stream);
    launch(kName, bound_kernel, a_pixel, kThreads, 0, stream, order, from);
    with_floating_type(kName, args.values.dtype, [&]<typename T>(ElementTag<T>) {
      const int64_t at = image * channels * pixels, planes = count * channels;
      for (int64_t plane = 0; plane < planes; plane += kMaxRows) {
        const int64_t now = std::min(kMaxRows, planes - plane);
        const int64_t blocks =
            std::clamp<int64_t>(kBlocksOfMeans / now, 1, blocks_for(pixels, kWarps));
        launch(kName, mean_kernel<T>,
               dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(now)), kThreads,
               kWarps * sizeof(double), stream, args.values.as<T>() + at, args.out.as<T>() + at,
               order, from, channels, plane);
      }
    });
  }
}

}  // namespace wsol::cuda
