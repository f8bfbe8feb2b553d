// CUDA: an image's (segment, class) pairs are counted in a hash table of its own, by atomics on
// integers: which pair gets which slot depends on the schedule, its count does not. A slot holds
// the first pixel that came, which stands for its pair, so classes may be of any value.
//
//   count   a thread owns a pixel: of neighbours with the same pair, one finds its slot and adds.
//   most    a thread owns a slot: the largest count of each segment.
//   choose  a thread owns a slot: the smallest class that has this count.
//   spread  a thread owns a pixel, and reads its segment's class.
//
// Scratch an image: 2 to 4 slots a pixel of 8 bytes, and 12 bytes a segment there could be. Limited
// by the latency of atomics.
#include <bit>
#include <limits>

#include "core/cuda.h"
#include "core/scratch.h"
#include "superpixels/segment_mode.h"

namespace wsol::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kFree = -1;
constexpr long long kLargestClass = std::numeric_limits<long long>::max();

// The scratch memory, cut up.
struct Tables {
  long long* modes;   // (B, N), by label
  int* most;          // (B, N), by label: pixels of the commonest class
  int* pixel_of;      // (B, slots): a pixel of the pair, or kFree
  int* counts;        // (B, slots)
  int pixels, slots;  // an image; slots are a power of 2, at least twice the pixels
  int64_t bytes;

  Tables(const TensorView& memory, int64_t images, int64_t pixels_an_image)
      : pixels(static_cast<int>(pixels_an_image)),
        slots(static_cast<int>(std::bit_ceil(2 * static_cast<uint64_t>(pixels_an_image)))) {
    ScratchParts parts(memory);
    parts.take(modes, images * pixels);
    parts.take(most, images * pixels);
    parts.take(pixel_of, images * slots);
    parts.take(counts, images * slots);
    bytes = parts.bytes();
  }
};

template <typename Class, typename Label>
struct Pairs {
  const Class* classes;  // (B, N)
  const Label* labels;   // (B, N)

  __device__ bool are(int64_t pixel, Label label, Class class_) const {
    return labels[pixel] == label && classes[pixel] == class_;
  }
};

// Mixes all bits of a pair into the upper ones, by multiplication with odd numbers.
__device__ uint32_t hash_of(uint64_t label, uint64_t class_) {
  uint64_t mixed = (class_ + 1) * 0x9e3779b97f4a7c15ull;
  mixed ^= mixed >> 32;
  mixed = (mixed + label) * 0xd6e8feb86659fd93ull;
  mixed ^= mixed >> 32;
  return static_cast<uint32_t>((mixed * 0xd6e8feb86659fd93ull) >> 32);
}

template <typename Label>
__device__ bool is_pixel_number(Label label, int pixels) {
  return static_cast<uint64_t>(static_cast<int64_t>(label)) < static_cast<uint64_t>(pixels);
}

__global__ void clear_kernel(Tables tables) {
  const int64_t image = blockIdx.y;
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i < tables.slots) {
    tables.pixel_of[image * tables.slots + i] = kFree;
    tables.counts[image * tables.slots + i] = 0;
  }
  if (i < tables.pixels) {
    tables.modes[image * tables.pixels + i] = kLargestClass;
    tables.most[image * tables.pixels + i] = 0;
  }
}

template <typename Class, typename Label>
__global__ void count_kernel(Pairs<Class, Label> pairs, Tables tables) {
  const int64_t image = blockIdx.y, first = image * tables.pixels;
  const int pixel = blockIdx.x * kThreads + threadIdx.x, lane = threadIdx.x % kWarpSize;
  const bool is_inside = pixel < tables.pixels;
  const Label label = is_inside ? pairs.labels[first + pixel] : Label(-1);
  const Class class_ = is_inside ? pairs.classes[first + pixel] : Class(0);
  const Label label_before = __shfl_up_sync(kFullWarp, label, 1);
  const auto class_before = __shfl_up_sync(kFullWarp, static_cast<int64_t>(class_), 1);
  const bool is_head =
      lane == 0 || label != label_before || static_cast<int64_t>(class_) != class_before;
  const unsigned later = __ballot_sync(kFullWarp, is_head) & ~((2u << lane) - 1u);
  if (!is_head || !is_pixel_number(label, tables.pixels)) return;

  int* pixel_of = tables.pixel_of + image * tables.slots;
  const auto last_slot = static_cast<uint32_t>(tables.slots - 1);
  auto slot = static_cast<int>(hash_of(label, static_cast<uint64_t>(class_)) & last_slot);
  for (;; slot = (slot + 1) & (tables.slots - 1)) {  // half of the slots stay free
    int owner = pixel_of[slot];
    if (owner == kFree) owner = atomicCAS(&pixel_of[slot], kFree, pixel);
    if (owner == kFree || pairs.are(first + owner, label, class_)) break;
  }
  const int run = (later == 0 ? kWarpSize : __ffs(later) - 1) - lane;
  atomicAdd(&tables.counts[image * tables.slots + slot], run);
}

// Calls visit(segment, pixel, count), of the whole batch, for the pair in the thread's slot.
template <typename Class, typename Label, typename Visit>
__device__ void with_pair(const Pairs<Class, Label>& pairs, const Tables& tables,
                          const Visit& visit) {
  const int64_t image = blockIdx.y, slot = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (slot >= tables.slots) return;
  const int pixel = tables.pixel_of[image * tables.slots + slot];
  if (pixel == kFree) return;
  const int64_t first = image * tables.pixels;
  visit(first + pairs.labels[first + pixel], first + pixel,
        tables.counts[image * tables.slots + slot]);
}

template <typename Class, typename Label>
__global__ void most_kernel(Pairs<Class, Label> pairs, Tables tables) {
  with_pair(pairs, tables,
            [&](int64_t segment, int64_t, int count) { atomicMax(&tables.most[segment], count); });
}

template <typename Class, typename Label>
__global__ void choose_kernel(Pairs<Class, Label> pairs, Tables tables) {
  with_pair(pairs, tables, [&](int64_t segment, int64_t pixel, int count) {
    if (count != tables.most[segment]) return;
    atomicMin(&tables.modes[segment], static_cast<long long>(pairs.classes[pixel]));
  });
}

template <typename Class, typename Label>
__global__ void spread_kernel(Pairs<Class, Label> pairs, Tables tables, Class* out) {
  const int64_t first = int64_t{blockIdx.y} * tables.pixels;
  const int pixel = blockIdx.x * kThreads + threadIdx.x;
  if (pixel >= tables.pixels) return;
  const Label label = pairs.labels[first + pixel];
  out[first + pixel] = is_pixel_number(label, tables.pixels)
                           ? static_cast<Class>(tables.modes[first + label])
                           : static_cast<Class>(-1);
}

template <typename Class, typename Label>
void run(const SegmentMode& args, Stream stream) {
  constexpr const char* kName = "segment_mode";
  const int64_t images = args.classes.size(0), pixels = args.classes.size(1);
  constexpr int64_t kMaxImages = 65535;  // of a grid
  for (int64_t from = 0; from < images; from += kMaxImages) {
    const int64_t count = std::min(kMaxImages, images - from), at = from * pixels;
    const Tables tables(args.scratch, count, pixels);
    const Pairs<Class, Label> pairs{args.classes.as<Class>() + at, args.labels.as<Label>() + at};
    const auto y = static_cast<unsigned>(count);
    const dim3 a_pixel(blocks_for(pixels, kThreads), y);
    const dim3 a_slot(blocks_for(tables.slots, kThreads), y);
    launch(kName, clear_kernel, a_slot, kThreads, 0, stream, tables);
    launch(kName, count_kernel<Class, Label>, a_pixel, kThreads, 0, stream, pairs, tables);
    launch(kName, most_kernel<Class, Label>, a_slot, kThreads, 0, stream, pairs, tables);
    launch(kName, choose_kernel<Class, Label>, a_slot, kThreads, 0, stream, pairs, tables);
    launch(kName, spread_kernel<Class, Label>, a_pixel, kThreads, 0, stream, pairs, tables,
           args.out.as<Class>() + at);
  }
}

}  // namespace

int64_t segment_mode_scratch_bytes(int64_t images, int64_t pixels) {
  return Tables({}, images, pixels).bytes;
}

void segment_mode(const SegmentMode& args, Stream stream) {
  with_class_type(args.classes.dtype, [&]<typename Class>(ElementTag<Class>) {
    if (args.labels.dtype == DType::kInt64) return run<Class, int64_t>(args, stream);
    run<Class, int32_t>(args, stream);
  });
}

}  // namespace wsol::cuda
