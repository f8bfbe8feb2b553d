// CPU: forward, one task a (image, range of tokens), which reads those keys of every head once.
// Backward, one a (image, head), as for class_attention. Limited by the bandwidth of reading the
// keys and writing their gradient.
#include "attention/spatial_gate.h"

#include <algorithm>
#include <memory>

#include "attention/query_key.h"
#include "core/element_types.h"
#include "core/exp.h"
#include "core/multiversion.h"
#include "core/parallel_for.h"

namespace wsol::cpu {
namespace {

constexpr int64_t kTokens = 64;  // a task: some 100 KB of keys, and their sums stay in the L1 cache

template <typename T, typename A>
WSOL_MULTIVERSION void add_head(Rows<const T> query, Rows<const T> key, const QueryKeySizes& n,
                                int64_t begin, int64_t end, A* sums) {
  add_dots<T, A>(query[0], key, begin, end, n.width, sums);
}

// Sums over heads become sigmoid(factor * sum): by the exponential of what is not positive.
template <typename A>
WSOL_MULTIVERSION void gates_of(A* gate, int64_t count, A factor) {
#pragma omp simd
  for (int64_t j = 0; j < count; ++j) {
    const A logit = factor * gate[j];
    const A small = exp_of_nonpositive(logit > 0 ? -logit : logit);
    const A above = 1 / (1 + small);
    gate[j] = logit > 0 ? above : small * above;
  }
}

template <typename T, typename A>
WSOL_MULTIVERSION void head_gradients(Rows<const T> query, Rows<const T> key,
                                      const QueryKeySizes& n, Rows<const A> grad_dots,
                                      Rows<T> grad_query, Rows<T> grad_key, A* sums) {
  dot_gradients<T, A>(query, key, n, grad_dots, grad_query, grad_key, sums);
}

}  // namespace

void spatial_gate_forward(const SpatialGateForward& args, int threads) {
  with_floating_type("spatial_gate", args.query.dtype, [&]<typename T>(ElementTag<T>) {
    using A = Accumulator<T>;
    QueryKeySizes n(args.query, args.key);
    const A factor = static_cast<A>(args.scale / static_cast<double>(n.heads));
    // Heads beside each other, as in a fused qkv tensor, are one long row.
    if (args.query.stride(1) == n.width && args.key.stride(1) == n.width) {
      n.width *= n.heads;
      n.heads = 1;
    }
    const int64_t ranges = (n.tokens + kTokens - 1) / kTokens;
    const int64_t grain = tasks_a_thread(std::min(kTokens, n.tokens) * n.heads * n.width);
    parallel_for(n.images * ranges, grain, threads, [&](int64_t first, int64_t last) {
      for (int64_t task = first; task < last; ++task) {
        const int64_t image = task / ranges, begin = task % ranges * kTokens;
        const int64_t end = std::min(begin + kTokens, n.tokens);
        A* gate = args.gate.as<A>() + image * n.tokens;
        std::fill(gate + begin, gate + end, A(0));
        for (int64_t head = 0; head < n.heads; ++head) {
          add_head<T, A>({args.query, image, head}, {args.key, image, head}, n, begin, end, gate);
        }
        gates_of<A>(gate + begin, end - begin, factor);
      }
    });
  });
}

void spatial_gate_backward(const SpatialGateBackward& args, int threads) {
  with_floating_type("spatial_gate", args.query.dtype, [&]<typename T>(ElementTag<T>) {
    using A = Accumulator<T>;
    const QueryKeySizes n(args.query, args.key);
    const A factor = static_cast<A>(args.scale / static_cast<double>(n.heads));
    const A* gate = args.gate.as<A>();
    const A* grad_gate = args.grad_gate.as<A>();
    A* grad_dots = args.grad_dots.as<A>();
    for (int64_t i = 0; i < n.images * n.tokens; ++i) {
      grad_dots[i] = grad_gate[i] * gate[i] * (1 - gate[i]) * factor;
    }
    const int64_t grain = tasks_a_thread(2 * n.tokens * n.width);
    parallel_for(n.images * n.heads, grain, threads, [&](int64_t begin, int64_t end) {
      const std::unique_ptr<A[]> sums(new A[n.width]);
      for (int64_t task = begin; task < end; ++task) {
        const int64_t image = task / n.heads, head = task % n.heads;
        head_gradients<T, A>({args.query, image, head}, {args.key, image, head}, n,
                             {args.grad_dots, image, head}, {args.grad_query, image, head},
                             {args.grad_key, image, head}, sums.get());
      }
    });
  });
}

}  // namespace wsol::cpu
