// CUDA: what is known of each component, from the labels of pieces that label_components left.
//
//   start    empty measures
//   largest  the exponent of an image's largest finite value
//   measure  a block owns a chunk: adds its pieces up by their roots in the chunk, in shared
//            memory as many as find a place there, and adds these to components in global memory
//   finish   sums become floating
//
// Results may not depend on the order of atomics, so values are summed as integers: parts of
// 2^-kSumBits of a power of two above the image's largest value, with so many bits that no sum can
// overflow, and the rest of each double as parts of those. Values that are not finite leave a flag.
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "components/component_work.cuh"

namespace wsol::cuda {
namespace components {
namespace {

using Word = unsigned long long;  // an integer in two's complement

constexpr int kLowBits = 32;  // of the rest of a value, in double
enum Infinite : unsigned { kPositive = 1, kNegative = 2, kNan = 4 };

struct NoValues {};
template <typename T>
constexpr bool kHasValues = !std::is_same_v<T, NoValues>;

template <typename T>
struct Values {
  const T* data;
  int64_t image_stride, row_stride;
};

// Measures of components in global memory, or of a chunk's roots in shared memory. Ends of boxes
// are kStep numbers apart.
template <int kStep>
struct Measures {
  int* areas;
  int *x0, *y0, *x1, *y1;
  Word* high;
  Word* low;
};

struct Sums {
  unsigned* exponents = nullptr;  // (B,): biased as in a double
  unsigned* infinite = nullptr;   // (M,)
  Word* high = nullptr;           // (M,)
  Word* low = nullptr;            // (M,)
  int64_t bytes = 0;

  Sums(const TensorView& memory, int64_t images, int64_t components, bool has_values) {
    if (!has_values) return;
    ScratchParts parts(memory);
    parts.take(exponents, images);
    parts.take(infinite, components);
    parts.take(high, components);
    parts.take(low, components);
    bytes = parts.bytes();
  }
};

constexpr int kExponentMask = 0x7ff, kExponentBias = 1023, kMantissaBits = 52;

__device__ inline unsigned exponent_of(double value) {
  return static_cast<unsigned>(__double_as_longlong(value) >> kMantissaBits) & kExponentMask;
}

// A sum's unit is 2^-shift: with `bits` that all of an image's pixels leave.
__device__ inline int shift_of(unsigned exponent, int bits) {
  return bits - (static_cast<int>(exponent > 0 ? exponent : 1) - kExponentBias + 1);
}

using Outputs = Measures<4>;

__global__ void start_kernel(int64_t components, int64_t images, Outputs out, Sums sums) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const bool has_values = sums.exponents != nullptr;
  if (i < images && has_values) sums.exponents[i] = 0;
  if (i >= components) return;
  out.areas[i] = 0;
  reinterpret_cast<int4*>(out.x0)[i] = make_int4(INT32_MAX, INT32_MAX, 0, 0);
  if (!has_values) return;
  sums.infinite[i] = 0;
  out.high[i] = out.low[i] = 0;
}

template <int kRows, typename T>
__global__ void __launch_bounds__(kThreads)
    largest_kernel(Work work, Values<T> values, unsigned* exponents) {
  auto* memory = reinterpret_cast<unsigned*>(dynamic_shared());
  const Chunk<kRows> chunk(work, memory);
  chunk.load(work);
  const T* data = values.data + chunk.image * values.image_stride;
  unsigned largest = 0;
  chunk.for_each_word_of_warp(work, [&](int word, int y, int x) {
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      if ((chunk.row(row, word) >> x % kWarpSize & 1u) == 0) continue;
      const unsigned exponent = exponent_of(
          static_cast<double>(Element<T>::load(data[(y + row) * values.row_stride + x])));
      if (exponent != kExponentMask) largest = max(largest, exponent);
    }
  });
  largest =
      static_cast<unsigned>(block_max(static_cast<int>(largest), reinterpret_cast<int*>(memory)));
  if (threadIdx.x == 0) atomicMax(&exponents[chunk.image], largest);
}

// Adds to the measures of one.
template <typename T, int kStep>
__device__ void add(const Measures<kStep>& to, int64_t i, int area, int4 box, Word high, Word low) {
  atomicAdd(&to.areas[i], area);
  atomicMin(&to.x0[kStep * i], box.x);
  atomicMin(&to.y0[kStep * i], box.y);
  atomicMax(&to.x1[kStep * i], box.z);
  atomicMax(&to.y1[kStep * i], box.w);
  if constexpr (kHasValues<T>) atomicAdd(&to.high[i], high);
  if constexpr (std::is_same_v<T, double>) atomicAdd(&to.low[i], low);
}

// The sum of the lanes up to this one.
__device__ inline Word warp_inclusive_sum(Word value) {
  for (int offset = 1; offset < kWarpSize; offset *= 2) {
    const Word other = __shfl_up_sync(kFullWarp, value, offset);
    if (static_cast<int>(threadIdx.x % kWarpSize) >= offset) value += other;
  }
  return value;
}

constexpr int kPlaces = 2 * kChunk;  // for a chunk's roots, in the order of their numbers
constexpr int64_t bytes_of_place(bool has_values, bool in_double) {
  return 5 * sizeof(int) + (has_values + in_double) * sizeof(Word);
}

template <int kRows, typename T>
__global__ void __launch_bounds__(kThreads)
    measure_kernel(Work work, Values<T> values, const int64_t* offsets, Outputs out, Sums sums) {
  constexpr bool kInDouble = std::is_same_v<T, double>;
  auto* high = reinterpret_cast<Word*>(dynamic_shared());
  Word* low = high + kHasValues<T> * kPlaces;
  auto* areas = reinterpret_cast<int*>(low + kInDouble * kPlaces);
  const Measures<1> places{
      areas, areas + kPlaces, areas + 2 * kPlaces, areas + 3 * kPlaces, areas + 4 * kPlaces, high,
      low};
  auto* roots = reinterpret_cast<unsigned*>(areas + 5 * kPlaces);  // (kThreads,)
  auto* earlier = reinterpret_cast<int*>(roots + kThreads);        // (kThreads,): roots
  const Chunk<kRows> chunk(work, roots + 2 * kThreads);
  for (int i = threadIdx.x; i < kPlaces; i += kThreads) {
    places.areas[i] = places.x1[i] = places.y1[i] = 0;
    places.x0[i] = places.y0[i] = INT32_MAX;
    if constexpr (kHasValues<T>) places.high[i] = 0;
    if constexpr (kInDouble) places.low[i] = 0;
  }
  const unsigned own_roots = work.chunk_roots[int64_t{blockIdx.x} * kThreads + threadIdx.x];
  roots[threadIdx.x] = own_roots;
  // The sums' memory is that of bits, which are not there yet.
  const int own_earlier =
      block_exclusive_sum(__popc(own_roots), reinterpret_cast<int*>(chunk.bits)).before;
  earlier[threadIdx.x] = own_earlier;
  __syncthreads();
  chunk.load(work);

  const int first = chunk.first * kSlots;
  const int* parents = work.parents + chunk.image * work.words * kSlots + first;
  const int64_t base = offsets[chunk.image] - 1;
  const auto component_of = [&](int chunk_root) {
    return base + label_of(work, chunk.image, parents[chunk_root]);
  };
  const int bits = 62 - (32 - __clz(work.height * work.width));
  int shift = 0;
  const T* data = nullptr;
  if constexpr (kHasValues<T>) {
    shift = shift_of(sums.exponents[chunk.image], bits);
    data = values.data + chunk.image * values.image_stride;
  }
  chunk.for_each_word_of_warp(work, [&](int word, int y, int x) {
    const int lane = x % kWarpSize;
    const unsigned columns = chunk.columns(word), starts = starts_of(columns);
    if (columns == 0) return;
    const auto chunk_root = [&] {
      const int slot = (word - chunk.first) * kSlots + __popc(starts & up_to(lane)) - 1;
      const bool is_root = (roots[slot / kWarpSize] >> slot % kWarpSize & 1u) != 0;
      return is_root ? slot : parents[slot] - first;
    };
    Word high = 0, low = 0;
    if constexpr (kHasValues<T>) {
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        if ((chunk.row(row, word) >> lane & 1u) == 0) continue;
        const auto value =
            static_cast<double>(Element<T>::load(data[(y + row) * values.row_stride + x]));
        if (exponent_of(value) == kExponentMask) {
          const unsigned kind = value > 0 ? kPositive : value < 0 ? kNegative : kNan;
          atomicOr(&sums.infinite[component_of(chunk_root())], kind);
          continue;
        }
        const double scaled = ldexp(value, shift), whole = rint(scaled);
        high += static_cast<Word>(static_cast<long long>(whole));
        if constexpr (kInDouble) {
          low += static_cast<Word>(static_cast<long long>(rint(ldexp(scaled - whole, kLowBits))));
        }
      }
      // The lane where a piece ends has the sum up to there; take off that up to its start.
      const unsigned own_start = starts & up_to(lane);
      const int start = own_start == 0 ? 0 : kWarpSize - 1 - __clz(static_cast<int>(own_start));
      const auto of_piece = [&](Word value) {
        const Word sum = warp_inclusive_sum(value);
        const Word before = __shfl_sync(kFullWarp, sum, start > 0 ? start - 1 : 0);
        return start > 0 ? sum - before : sum;
      };
      high = of_piece(high);
      if constexpr (kInDouble) low = of_piece(low);
    }
    const bool is_end = (columns & ~(columns >> 1) & 1u << lane) != 0;
    if (!is_end) return;
    const int start = kWarpSize - 1 - __clz(static_cast<int>(starts & up_to(lane)));
    const unsigned piece = up_to(lane) & ~below(start);
    int area = 0, y0 = INT32_MAX, y1 = 0;
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      const int pixels = __popc(chunk.row(row, word) & piece);
      if (pixels == 0) continue;
      area += pixels;
      y0 = min(y0, y + row), y1 = y + row + 1;
    }
    const int4 box = make_int4(x - lane + start, y0, x + 1, y1);
    const int root = chunk_root(), of_word = root / kWarpSize;
    const int place = earlier[of_word] + __popc(roots[of_word] & below(root % kWarpSize));
    if (place < kPlaces) {
      add<T>(places, place, area, box, high, low);
    } else {
      add<T>(out, component_of(root), area, box, high, low);
    }
  });
  __syncthreads();
  for_each_slot(own_roots, [&](int slot, bool is_root, int lane) {
    const int before = __shfl_sync(kFullWarp, own_earlier, lane);
    const unsigned others = __shfl_sync(kFullWarp, own_roots, lane);
    const int place = before + __popc(others & below(slot % kWarpSize));
    if (!is_root || place >= kPlaces) return;
    const int4 box =
        make_int4(places.x0[place], places.y0[place], places.x1[place], places.y1[place]);
    Word sum = 0, rest = 0;
    if constexpr (kHasValues<T>) sum = places.high[place];
    if constexpr (kInDouble) rest = places.low[place];
    add<T>(out, component_of(slot), places.areas[place], box, sum, rest);
  });
}

template <typename T>
__global__ void finish_kernel(int64_t components, int64_t images, int pixels,
                              const int64_t* offsets, Sums sums, T* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= components) return;
  int64_t image = 0;  // the last that begins at or before i
  for (int64_t end = images; end - image > 1;) {
    const int64_t middle = (image + end) / 2;
    (offsets[middle] <= i ? image : end) = middle;
  }
  const int shift = shift_of(sums.exponents[image], 62 - (32 - __clz(pixels)));
  const unsigned infinite = sums.infinite[i];
  double sum = ldexp(static_cast<double>(static_cast<long long>(sums.high[i])), -shift) +
               ldexp(static_cast<double>(static_cast<long long>(sums.low[i])), -shift - kLowBits);
  const double infinity =
      __longlong_as_double(static_cast<long long>(kExponentMask) << kMantissaBits);
  if ((infinite & kPositive) != 0) sum = infinity;
  if ((infinite & kNegative) != 0) sum = -infinity;
  if ((infinite & kNan) != 0 || infinite == (kPositive | kNegative)) sum = infinity - infinity;
  out[i] = static_cast<T>(sum);
}

}  // namespace
}  // namespace components

int64_t measure_components_scratch_bytes(int64_t images, int64_t components, bool has_values) {
  return components::Sums({}, images, components, has_values).bytes;
}

void measure_components(const MeasureComponents& args, Stream stream) {
  using namespace components;
  const int64_t images = args.labels.size(0), count = args.areas.size(0);
  const Work work(args.scratch, images, args.labels.size(1), args.labels.size(2),
                  args.corners_touch);
  const bool has_values = args.values.data != nullptr;
  const Sums sums(args.sum_scratch, images, count, has_values);
  int* boxes = args.boxes.as<int>();
  const Outputs out{
      args.areas.as<int>(), boxes, boxes + 1, boxes + 2, boxes + 3, sums.high, sums.low};
  const auto* offsets = args.offsets.as<int64_t>();
  launch(kName, start_kernel, blocks_for(std::max(count, images), kThreads), kThreads, 0, stream,
         count, images, out, sums);
  const auto measure = [&]<int kRows, typename T>(const Values<T>& values) {
    constexpr int kBits = Chunk<kRows>::kBytes;
    if constexpr (kHasValues<T>) {
      launch(kName, largest_kernel<kRows, T>, work.blocks(), kThreads, kBits, stream, work, values,
             sums.exponents);
    }
    constexpr int64_t kTable = kPlaces * bytes_of_place(kHasValues<T>, std::is_same_v<T, double>) +
                               2 * kThreads * sizeof(int);
    launch(kName, measure_kernel<kRows, T>, work.blocks(), kThreads, kBits + kTable, stream, work,
           values, offsets, out, sums);
  };
  with_rows(work, [&]<int kRows>() {
    if (!has_values) return measure.template operator()<kRows>(Values<NoValues>{});
    with_floating_type(kName, args.values.dtype, [&]<typename T>(ElementTag<T>) {
      measure.template operator()<kRows>(
          Values<T>{args.values.as<T>(), args.values.stride(0), args.values.stride(1)});
    });
  });
  if (!has_values) return;
  with_float_or_double(kName, args.sums.dtype, [&]<typename T>(ElementTag<T>) {
    launch(kName, finish_kernel<T>, blocks_for(count, kThreads), kThreads, 0, stream, count, images,
           work.height * work.width, offsets, sums, args.sums.as<T>());
  });
}

}  // namespace wsol::cuda
