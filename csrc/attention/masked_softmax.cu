// CUDA: a warp owns a row, lanes stride along it; nothing in shared memory, for a row read again
// comes from the L1 cache. Must read logits and mask and write the result once, backward the same
// of gradients: limited by that bandwidth.
#include "attention/masked_softmax.h"
#include "core/cuda.h"

namespace wsol::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;

__device__ inline int64_t row_of_warp() {
  return static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
}

template <typename T>
__global__ void forward_kernel(const T* all_logits, int64_t logits_stride, const bool* all_keep,
                               int64_t keep_stride, int64_t rows, int64_t count,
                               typename Element<T>::Accumulator log_eps,
                               typename Element<T>::Accumulator* all_out) {
  using A = typename Element<T>::Accumulator;
  const int64_t row = row_of_warp();
  if (row >= rows) return;  // a whole warp at a time
  const int lane = threadIdx.x % kWarpSize;
  const T* logits = all_logits + row * logits_stride;
  const bool* keep = all_keep + row * keep_stride;
  A* out = all_out + row * count;
  A largest = log_eps;
  for (int64_t j = lane; j < count; j += kWarpSize) {
    if (keep[j]) largest = max(largest, Element<T>::load(logits[j]));
  }
  largest = warp_max(largest);
  A sum = 0;
  for (int64_t j = lane; j < count; j += kWarpSize) {
    out[j] = keep[j] ? exp(Element<T>::load(logits[j]) - largest) : A(0);
    sum += out[j];
  }
  const A factor = 1 / (warp_sum(sum) + exp(log_eps - largest));
  // Not kept is 0 also where the sum is NaN.
  for (int64_t j = lane; j < count; j += kWarpSize) out[j] = keep[j] ? out[j] * factor : A(0);
}

template <typename T>
__global__ void backward_kernel(const typename Element<T>::Accumulator* all_grad_out,
                                const typename Element<T>::Accumulator* all_out, int64_t rows,
                                int64_t count, T* all_grad_logits) {
  using A = typename Element<T>::Accumulator;
  const int64_t row = row_of_warp();
  if (row >= rows) return;
  const int lane = threadIdx.x % kWarpSize;
  const A* grad_out = all_grad_out + row * count;
  const A* out = all_out + row * count;
  A expected = 0;  // sum_j out_j dL/dout_j
  for (int64_t j = lane; j < count; j += kWarpSize) expected += out[j] * grad_out[j];
  expected = warp_sum(expected);
  for (int64_t j = lane; j < count; j += kWarpSize) {
    all_grad_logits[row * count + j] = Element<T>::store(out[j] * (grad_out[j] - expected));
  }
}

}  // namespace

void masked_softmax_forward(const MaskedSoftmaxForward& args, Stream stream) {
  constexpr const char* kName = "masked_softmax";
  const int64_t rows = args.logits.size(0), count = args.logits.size(1);
  with_floating_type(kName, args.logits.dtype, [&]<typename T>(ElementTag<T>) {
    using A = typename Element<T>::Accumulator;
    launch(kName, forward_kernel<T>, blocks_for(rows, kWarps), kThreads, 0, stream,
           args.logits.as<T>(), args.logits.stride(0), args.keep.as<bool>(), args.keep.stride(0),
           rows, count, static_cast<A>(args.log_eps), args.out.as<A>());
  });
}

void masked_softmax_backward(const MaskedSoftmaxBackward& args, Stream stream) {
  constexpr const char* kName = "masked_softmax_backward";
  const int64_t rows = args.out.size(0), count = args.out.size(1);
  with_floating_type(kName, args.grad_logits.dtype, [&]<typename T>(ElementTag<T>) {
    using A = typename Element<T>::Accumulator;
    launch(kName, backward_kernel<T>, blocks_for(rows, kWarps), kThreads, 0, stream,
           args.grad_out.as<A>(), args.out.as<A>(), rows, count, args.grad_logits.as<T>());
  });
}

}  // namespace wsol::cuda
