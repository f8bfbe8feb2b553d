// CUDA: a warp owns a row, lanes stride along it; what is read again waits in shared memory, or, of
// rows too long for that, in the caches. Must read logits and mask and write the result once,
// backward the same of gradients: limited by that bandwidth.
#include "attention/masked_softmax.h"
#include "core/cuda.h"

namespace wsol::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;

__device__ inline int64_t row_of_warp() {
  return static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
}

// Calls `each(j)` for this lane's columns of a row, the warp's together. Its requests begin where
// sectors do, which the row need not.
template <typename A, typename Each>
__device__ void for_columns(const A* row, int64_t count, const Each& each) {
  constexpr uintptr_t kSectorBytes = 32;
  const auto before = static_cast<int>(reinterpret_cast<uintptr_t>(row) % kSectorBytes / sizeof(A));
  for (int64_t first = -before; first < count; first += kWarpSize) {
    const int64_t j = first + threadIdx.x % kWarpSize;
    if (j >= 0 && j < count) each(j);
    __syncwarp();
  }
}

// Bytes of shared memory for a row of each warp, 0 where that is more than all kernels have.
template <typename A>
size_t staged_bytes(int64_t count) {
  const size_t bytes = kWarps * count * sizeof(A);
  return bytes <= kSharedBytesOfAnyKernel ? bytes : 0;
}

// This warp's staged row.
template <typename A>
__device__ A* staged_row(int64_t count) {
  return reinterpret_cast<A*>(dynamic_shared()) + threadIdx.x / kWarpSize * count;
}

template <typename T, bool kStaged>
__global__ void forward_kernel(const T* all_logits, int64_t logits_stride, const bool* all_keep,
                               int64_t keep_stride, int64_t rows, int64_t count,
                               typename Element<T>::Accumulator log_eps,
                               typename Element<T>::Accumulator* all_out) {
  using A = typename Element<T>::Accumulator;
  const int64_t row = row_of_warp();
  if (row >= rows) return;  // a whole warp at a time
  const T* logits = all_logits + row * logits_stride;
  const bool* keep = all_keep + row * keep_stride;
  A* out = all_out + row * count;
  A* staged = out;
  if constexpr (kStaged) staged = staged_row<A>(count);
  A largest = log_eps;
  for_columns(out, count, [&](int64_t j) {
    const A logit = Element<T>::load(logits[j]);
    largest = max(largest, keep[j] ? logit : log_eps);
    staged[j] = logit;
  });
  largest = warp_max(largest);
  A sum = 0;
  for_columns(out, count, [&](int64_t j) {
    A weight = -1;
    if (keep[j]) {
      weight = exp(staged[j] - largest);
      sum += weight;
    }
    staged[j] = weight;
  });
  const A factor = 1 / (warp_sum(sum) + exp(log_eps - largest));
  // Not kept is 0 also where the sum is NaN.
  for_columns(out, count, [&](int64_t j) { out[j] = staged[j] < 0 ? A(0) : staged[j] * factor; });
}

template <typename T, bool kStaged>
__global__ void backward_kernel(const typename Element<T>::Accumulator* all_grad_out,
                                const typename Element<T>::Accumulator* all_out, int64_t rows,
                                int64_t count, T* all_grad_logits) {
  using A = typename Element<T>::Accumulator;
  const int64_t row = row_of_warp();
  if (row >= rows) return;
  const A* grad_out = all_grad_out + row * count;
  const A* out = all_out + row * count;
  A expected = 0;  // sum_j out_j dL/dout_j
  for_columns(out, count, [&](int64_t j) {
    const A grad = grad_out[j];
    expected += out[j] * grad;
    if constexpr (kStaged) staged_row<A>(count)[j] = grad;
  });
  expected = warp_sum(expected);
  if constexpr (kStaged) grad_out = staged_row<A>(count);
  for_columns(out, count, [&](int64_t j) {
    all_grad_logits[row * count + j] = Element<T>::store(out[j] * (grad_out[j] - expected));
  });
}

}  // namespace

void masked_softmax_forward(const MaskedSoftmaxForward& args, Stream stream) {
  constexpr const char* kName = "masked_softmax";
  const int64_t rows = args.logits.size(0), count = args.logits.size(1);
  with_floating_type(kName, args.logits.dtype, [&]<typename T>(ElementTag<T>) {
    using A = typename Element<T>::Accumulator;
    const size_t bytes = staged_bytes<A>(count);
    launch(kName, bytes > 0 ? forward_kernel<T, true> : forward_kernel<T, false>,
           blocks_for(rows, kWarps), kThreads, bytes, stream, args.logits.as<T>(),
           args.logits.stride(0), args.keep.as<bool>(), args.keep.stride(0), rows, count,
           static_cast<A>(args.log_eps), args.out.as<A>());
  });
}

void masked_softmax_backward(const MaskedSoftmaxBackward& args, Stream stream) {
  constexpr const char* kName = "masked_softmax_backward";
  const int64_t rows = args.out.size(0), count = args.out.size(1);
  with_floating_type(kName, args.grad_logits.dtype, [&]<typename T>(ElementTag<T>) {
    using A = typename Element<T>::Accumulator;
    const size_t bytes = staged_bytes<A>(count);
    launch(kName, bytes > 0 ? backward_kernel<T, true> : backward_kernel<T, false>,
           blocks_for(rows, kWarps), kThreads, bytes, stream, args.grad_out.as<A>(),
           args.out.as<A>(), rows, count, args.grad_logits.as<T>());
  });
}

}  // namespace wsol::cuda
