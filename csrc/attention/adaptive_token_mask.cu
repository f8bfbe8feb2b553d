// CUDA: a block owns a row, which it reads once for each bit of the crossing value: from shared
// memory, or, if the row is too long for that, from the caches. Limited by the latency of these
// steps. Nothing waits for the result: a row that is not valid keeps nothing.
#include "attention/adaptive_token_mask.h"
#include "core/cuda.h"

namespace wsol::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;

struct Sum {
  __device__ int64_t operator()(int64_t a, int64_t b) const { return a + b; }
};
struct Max {
  __device__ int64_t operator()(int64_t a, int64_t b) const { return a > b ? a : b; }
};
struct Min {
  __device__ int64_t operator()(int64_t a, int64_t b) const { return a < b ? a : b; }
};

// `kStaged`: the row's bits lie in shared memory, behind the warps' sums.
template <typename T, bool kStaged>
__global__ void mask_kernel(const T* all_attention, int64_t row_stride, int64_t count, double mass,
                            int unit_bits, bool* all_keep) {
  using Value = ValueBits<typename Element<T>::Accumulator>;
  auto* of_warps = reinterpret_cast<int64_t*>(dynamic_shared());
  const T* attention = all_attention + blockIdx.x * row_stride;
  bool* keep = all_keep + blockIdx.x * count;
  auto* staged = reinterpret_cast<typename Value::Word*>(of_warps + kWarps);
  if constexpr (kStaged) {  // each thread reads what it wrote
    for (int64_t j = threadIdx.x; j < count; j += kThreads) {
      staged[j] = static_cast<typename Value::Word>(Value::of(Element<T>::load(attention[j])));
    }
  }
  const auto bits_of = [&](int64_t j) -> int64_t {
    if constexpr (kStaged) {
      return staged[j];
    } else {
      return Value::of(Element<T>::load(attention[j]));
    }
  };
  // Combines visit(j, bits of the value) over the row.
  const auto reduce = [&](int64_t start, auto combine, auto visit) {
    for (int64_t j = threadIdx.x; j < count; j += kThreads) {
      start = combine(start, visit(j, bits_of(j)));
    }
    return block_reduce(start, of_warps, kWarps, combine);
  };

  const auto identity = [](int64_t, int64_t bits) { return bits; };
  const int64_t largest = reduce(0, Max{}, identity);
  const int64_t smallest = reduce(largest, Min{}, identity);
  if (!Value::are_valid(smallest, largest)) {
    for (int64_t j = threadIdx.x; j < count; j += kThreads) keep[j] = false;
    return;
  }

  // The sum of the values no smaller than that of the bits `cut`.
  const auto sum_from = [&](int64_t cut) {
    return reduce(0, Sum{}, [&](int64_t, int64_t bits) {
      return bits >= cut ? Value::units(bits, largest, unit_bits) : 0;
    });
  };
  const int64_t limit = limit_of(sum_from(0), mass);
  int64_t crossing = 0, sum_above = 0;
  for (int bit = Value::kHighest; bit >= 0; --bit) {
    const int64_t higher = crossing | int64_t{1} << bit;
    const int64_t sum = sum_from(higher);
    if (sum >= limit) {
      crossing = higher;
    } else {
      sum_above = sum;  // the last of these cuts is crossing + 1
    }
  }
  // How many tokens of the crossing value stay below; a limit of 0 crosses before any token.
  const int64_t more =
      limit == 0 ? 0 : (limit - 1 - sum_above) / Value::units(crossing, largest, unit_bits);
  int64_t until = 0;  // they lie among the first `until` tokens
  for (int64_t step = more > 0 ? int64_t{1} << (61 - unit_bits) : 0; step > 0; step /= 2) {
    const int64_t further = until + step;
    const int64_t equal = reduce(0, Sum{}, [&](int64_t j, int64_t bits) {
      return int64_t{j < further && bits == crossing};
    });
    if (equal <= more) until = further;
  }
  for (int64_t j = threadIdx.x; j < count; j += kThreads) {
    const int64_t bits = bits_of(j);
    keep[j] = bits > crossing || (bits == crossing && j < until);
  }
}

}  // namespace

void adaptive_token_mask(const AdaptiveTokenMask& args, Stream stream) {
  constexpr const char* kName = "adaptive_token_mask";
  const int64_t rows = args.attention.size(0), count = args.attention.size(1);
  with_floating_type(kName, args.attention.dtype, [&]<typename T>(ElementTag<T>) {
    using Value = ValueBits<typename Element<T>::Accumulator>;
    const size_t sums = kWarps * sizeof(int64_t);
    const size_t bytes = sums + static_cast<size_t>(count) * sizeof(typename Value::Word);
    const bool staged = bytes <= kSharedBytesOfAnyKernel;
    launch(kName, staged ? mask_kernel<T, true> : mask_kernel<T, false>,
           static_cast<unsigned>(rows), kThreads, staged ? bytes : sums, stream,
           args.attention.as<T>(), args.attention.stride(0), count, args.mass, unit_bits_for(count),
           args.keep.as<bool>());
  });
}

}  // namespace wsol::cuda
