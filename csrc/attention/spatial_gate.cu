// CUDA: forward, lanes of a warp share kTokens tokens in groups just wide enough for one head's
// row, in 16-byte pieces, and add up all its heads before they meet; nothing in shared memory, for
// the query's rows stay in the L1 cache. Backward, one launch of query_key.cuh, to which a gradient
// by dot products is a few multiplications. Reads every key once, forward and backward, and writes
// their gradient once: limited by that bandwidth.
#include "attention/query_key.cuh"
#include "attention/spatial_gate.h"

namespace wsol::cuda {
namespace {

constexpr int kThreads = 256;

constexpr int kTokens = 2;  // of a group of lanes, which reads the query once for them

template <typename T, int kVector>
__global__ void gate_kernel(HeadRows<const T> query, HeadRows<const T> key, QueryKeySizes n,
                            int group, typename Element<T>::Accumulator factor,
                            typename Element<T>::Accumulator* gate) {
  using A = typename Element<T>::Accumulator;
  using Piece = Vector<T, kVector>;
  const int64_t groups = (n.tokens + kTokens - 1) / kTokens;  // of an image
  const int64_t index = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / group;
  const int64_t image = index / groups, first = index % groups * kTokens;
  const int member = threadIdx.x % group;
  const int present =
      image < n.images ? static_cast<int>(min(n.tokens - first, static_cast<int64_t>(kTokens))) : 0;
  A sums[kTokens] = {};
  if (present > 0) {
#pragma unroll 2
    for (int64_t head = 0; head < n.heads; ++head) {
      const auto* weights = reinterpret_cast<const Piece*>(query.row(image, head, 0));
      const Rows<const T> rows = key.of(image, head);
      for (int64_t piece = member; piece < n.width / kVector; piece += group) {
        const Piece a = weights[piece];
#pragma unroll
        for (int t = 0; t < kTokens; ++t) {
          const T* row = rows[first + min(t, present - 1)];  // the last one again where it is alone
          const Piece b = reinterpret_cast<const Piece*>(row)[piece];
#pragma unroll
          for (int i = 0; i < kVector; ++i) {
            sums[t] += Element<T>::load(a.values[i]) * Element<T>::load(b.values[i]);
          }
        }
      }
    }
  }
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    for (int offset = group / 2; offset > 0; offset /= 2) {
      sums[t] += __shfl_xor_sync(kFullWarp, sums[t], offset);
    }
    if (t < present && member == 0) {
      gate[image * n.tokens + first + t] = 1 / (1 + exp(-factor * sums[t]));
    }
  }
}

// The gradient by the dot products, the same for all heads, as `dot_gradients` asks for it.
template <typename A>
struct GateWeights {
  const A *gate, *grad_gate;  // (B, N)
  int64_t tokens;
  A factor;

  __device__ A operator()(int64_t image, int64_t, int64_t, int64_t token) const {
    const int64_t i = image * tokens + token;
    return grad_gate[i] * gate[i] * (1 - gate[i]) * factor;
  }
};

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
           blocks_for(n.images * blocks_for(n.tokens, kTokens), kThreads / group), kThreads, 0,
           stream, HeadRows<const T>(args.query), HeadRows<const T>(args.key), n, group,
           static_cast<A>(args.scale / static_cast<double>(n.heads)), args.gate.as<A>());
  });
}

void spatial_gate_backward(const SpatialGateBackward& args, Stream stream) {
  constexpr const char* kName = "spatial_gate_backward";
  with_floating_type(kName, args.query.dtype, [&]<typename T>(ElementTag<T>) {
    using A = typename Element<T>::Accumulator;
    const QueryKeySizes n(args.query, args.key);
    dot_gradients<T>(kName, args.query, args.key,
                     GateWeights<A>{args.gate.as<A>(), args.grad_gate.as<A>(), n.tokens,
                                    static_cast<A>(args.scale / static_cast<double>(n.heads))},
                     args.grad_query, args.grad_key, stream);
  });
}

}  // namespace wsol::cuda
