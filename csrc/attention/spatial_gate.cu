// CUDA: forward, lanes of a warp share a token in groups just wide enough for one head's row, in
// 16-byte pieces, and add up all its heads before they meet; nothing in shared memory, for the
// query's rows stay in the L1 cache. Backward, a thread owns one gradient by a token's dot
// products; the rest is that of query_key.cuh. Reads every key once, forward and backward, and
// writes their gradient once: limited by that bandwidth.
#include "attention/query_key.cuh"
#include "attention/spatial_gate.h"

namespace wsol::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T, int kVector>
__global__ void gate_kernel(HeadRows<const T> query, HeadRows<const T> key, QueryKeySizes n,
                            int group, typename Element<T>::Accumulator factor,
                            typename Element<T>::Accumulator* gate) {
  using A = typename Element<T>::Accumulator;
  const int64_t index = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / group;
  const int member = threadIdx.x % group;
  const bool present = index < n.images * n.tokens;
  A sum = 0;
  if (present) {
    const int64_t image = index / n.tokens, j = index % n.tokens;
#pragma unroll 4
    for (int64_t head = 0; head < n.heads; ++head) {
      const auto* weights = reinterpret_cast<const Vector<T, kVector>*>(query.row(image, head, 0));
      const auto* row = reinterpret_cast<const Vector<T, kVector>*>(key.row(image, head, j));
      for (int64_t piece = member; piece < n.width / kVector; piece += group) {
        const Vector<T, kVector> a = weights[piece], b = row[piece];
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
          sum += Element<T>::load(a.values[i]) * Element<T>::load(b.values[i]);
        }
      }
    }
  }
  for (int offset = group / 2; offset > 0; offset /= 2) {
    sum += __shfl_xor_sync(kFullWarp, sum, offset);
  }
  if (present && member == 0) gate[index] = 1 / (1 + exp(-factor * sum));
}

template <typename A>
__global__ void grad_dots_kernel(const A* gate, const A* grad_gate, int64_t total, A factor,
                                 A* grad_dots) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < total) grad_dots[i] = grad_gate[i] * gate[i] * (1 - gate[i]) * factor;
}

}  // namespace

void spatial_gate_forward(const SpatialGateForward& args, Stream stream) {
  constexpr const char* kName = "spatial_gate";
  with_floating_type(kName, args.query.dtype, [&]<typename T>(ElementTag<T>) {
    using A = typename Element<T>::Accumulator;
    const QueryKeySizes n(args.query, args.key);
    constexpr int kVector = 16 / sizeof(T);
    const bool aligned = rows_are_aligned<T>(args.query) && rows_are_aligned<T>(args.key);
    const int group = lanes_for(aligned ? n.width / kVector : n.width);
    launch(kName, aligned ? gate_kernel<T, kVector> : gate_kernel<T, 1>,
           blocks_for(n.images * n.tokens, kThreads / group), kThreads, 0, stream,
           HeadRows<const T>(args.query), HeadRows<const T>(args.key), n, group,
           static_cast<A>(args.scale / static_cast<double>(n.heads)), args.gate.as<A>());
  });
}

void spatial_gate_backward(const SpatialGateBackward& args, Stream stream) {
  constexpr const char* kName = "spatial_gate_backward";
  with_floating_type(kName, args.query.dtype, [&]<typename T>(ElementTag<T>) {
    using A = typename Element<T>::Accumulator;
    const QueryKeySizes n(args.query, args.key);
    const int64_t total = n.images * n.tokens;
    launch(kName, grad_dots_kernel<A>, blocks_for(total, kThreads), kThreads, 0, stream,
           args.gate.as<A>(), args.grad_gate.as<A>(), total,
           static_cast<A>(args.scale / static_cast<double>(n.heads)), args.grad_dots.as<A>());
    dot_gradients<T>(kName, args.query, args.key, args.grad_dots, args.grad_query, args.grad_key,
                     stream);
  });
}

}  // namespace wsol::cuda
