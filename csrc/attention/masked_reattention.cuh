// What the kernels of masked_reattention share: what they read, and how a row's parts are joined.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "attention/masked_reattention.h"
#include "attention/row_lanes.cuh"
#include "core/cuda.h"
#include "core/scratch.h"

namespace wsol::cuda::reattention {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kLeastWarps = 4;  // of a block that owns a tile of rows

constexpr float kLog2E = 1.44269504f, kLog2 = 0.693147181f;

// What the backward needs of each row beside its log_sum and top: (B, H, N) each. Row i is one of
// the softmax's; `self` is its own token where that is dropped.
template <typename A>
struct RowTerms {
  A* delta;        // grad_out_i . out_i
  A* uniform;      // weight of the mean value
  A* top_grad;     // gradient of the largest logit, through m_i
  A* self_weight;  // weight of the row's own value
  A* self_grad;    // gradient of the row's own logit
};

// The rows of each head, in the order of the token whose logit is their largest: so those of one
// token lie together, in their own order.
struct TopRows {
  int* rows;  // (B, H, N)
  int* ends;  // (B, H, N): where each token's end
};

// The backward's scratch memory, cut up.
template <typename A>
struct Scratch {
  A* grad_mean;  // (B, H, D); zeros where eps = 0
  RowTerms<A> terms;
  TopRows top_rows;
  int64_t bytes;

  Scratch(const TensorView& memory, int64_t images, int64_t heads, int64_t tokens, int64_t width) {
    ScratchParts parts(memory);
    parts.take(grad_mean, images * heads * width);
    for (A** part :
         {&terms.delta, &terms.uniform, &terms.top_grad, &terms.self_weight, &terms.self_grad}) {
      parts.take(*part, images * heads * tokens);
    }
    parts.take(top_rows.rows, images * heads * tokens);
    parts.take(top_rows.ends, images * heads * tokens);
    bytes = parts.bytes();
  }
};

// The operator's inputs, as every kernel takes them.
template <typename T>
struct Inputs {
  using A = typename Element<T>::Accumulator;

  HeadRows<const T> query, key, value;
  const bool* keep;
  const int* order;
  const A* mean_value;
  int heads, tokens, width;
  bool in_pieces;    // whether all rows can be read and written 16 bytes at a time
  A scale, log_eps;  // log_eps is -infinity where eps = 0
  A base_2_scale;    // what makes a product a logit in base 2

  template <typename Args>
  explicit Inputs(const Args& args)
      : query(args.query),
        key(args.key),
        value(args.value),
        keep(args.keep.template as<const bool>()),
        order(args.order.template as<const int>()),
        mean_value(args.mean_value.template as<const A>()),
        heads(static_cast<int>(args.query.size(1))),
        tokens(static_cast<int>(args.query.size(2))),
        width(static_cast<int>(args.query.size(3))),
        in_pieces(are_aligned(args.query, args.key, args.value, args.out)),
        scale(static_cast<A>(args.scale)),
        log_eps(static_cast<A>(std::log(args.eps))),
        base_2_scale(static_cast<A>(kLog2E) * scale) {}

  template <typename... Views>
  static bool are_aligned(const Views&... rows) {
    return (rows_are_aligned<T>(rows) && ...);
  }
};

// One (image, head) of the inputs.
template <typename T>
struct Head {
  using A = typename Element<T>::Accumulator;

  int image, head;
  int heads, tokens;  // of all images
  Rows<const T> query, key, value;
  const bool* keep;
  const int* order;
  const A* mean_value;

  __device__ Head(const Inputs<T>& in, int index)
      : image(index / in.heads),
        head(index % in.heads),
        heads(in.heads),
        tokens(in.tokens),
        query(in.query.of(image, head)),
        key(in.key.of(image, head)),
        value(in.value.of(image, head)),
        keep(in.keep + static_cast<int64_t>(image) * in.tokens),
        order(in.order + static_cast<int64_t>(image) * (in.tokens + 1) + 1),
        mean_value(in.mean_value + static_cast<int64_t>(index) * in.width) {}

  // How many tokens are.
  __device__ int kept() const { return order[-1]; }

  // Of a row in a (B, H, N) tensor. Computed where it is asked for: registers are few.
  __device__ int64_t row_index(int row) const {
    return (static_cast<int64_t>(image) * heads + head) * tokens + row;
  }

  template <typename U>
  __device__ Rows<U> rows(const HeadRows<U>& tensor) const {
    return tensor.of(image, head);
  }
};

template <int kLanes, typename A>
__device__ A group_sum(A value) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kFullWarp, value, offset);
  }
  return value;
}

template <int kLanes, typename A>
__device__ A group_max(A value) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    value = max(value, __shfl_xor_sync(kFullWarp, value, offset));
  }
  return value;
}

// Which (image, head) and which tile of its rows a block owns: that of its index.
struct Place {
  int head, first;

  __device__ Place(int tokens, int rows) : Place(tokens, rows, blockIdx.x) {}
  __device__ Place(int tokens, int rows, unsigned index) {
    const int tiles = (tokens + rows - 1) / rows;
    head = static_cast<int>(index / tiles);
    first = static_cast<int>(index % tiles) * rows;
  }
};

// The tokens of a tile that begins at `first` of `end`, through `order` where there is one; -1 past
// the end.
struct Tokens {
  const int* order;
  int first, end;

  __device__ int operator()(int i) const {
    const int position = first + i;
    return position >= end ? -1 : order ? __ldg(order + position) : position;
  }
};

// This lane's share of a dot product that `lanes` lanes split in pieces of kVector elements.
template <int kVector, typename T>
__device__ typename Element<T>::Accumulator partial_dot(const T* a, const T* b, int width, int lane,
                                                        int lanes) {
  typename Element<T>::Accumulator sum = 0;
  for (int d = lane * kVector; d < width; d += lanes * kVector) {
    const auto x = *reinterpret_cast<const Vector<T, kVector>*>(a + d);
    const auto y = *reinterpret_cast<const Vector<T, kVector>*>(b + d);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      sum += Element<T>::load(x.values[i]) * Element<T>::load(y.values[i]);
    }
  }
  return sum;
}

// The largest logit so far; among equals the one of the first token, and a NaN for good.
template <typename A>
struct Top {
  A logit = -INFINITY;
  int token = -1;

  // Selects, no branches: there is one for every logit.
  __device__ void take(A other, int other_token) {
    const bool is_first = (other == logit) & (other_token < token);
    take_if((other > logit) | is_first | (other != other), other, other_token);
  }
  // Where tokens come in order.
  __device__ void take_later(A other, int other_token) {
    take_if((other > logit) | (other != other), other, other_token);
  }
  template <int kLanes>
  __device__ void take_from_group() {
#pragma unroll
    for (int offset = kLanes / 2; offset > 0; offset /= 2) {
      const A other = __shfl_xor_sync(kFullWarp, logit, offset);
      const int other_token = __shfl_xor_sync(kFullWarp, token, offset);
      take(other, other_token);
    }
  }

 private:
  __device__ void take_if(bool is_better, A other, int other_token) {
    logit = is_better ? other : logit;
    token = is_better ? other_token : token;
  }
};

// A row's output is sum * kept + value_i * self + mean_value * uniform, where `sum` is its sum over
// kept tokens as shifted by their largest logit.
template <typename A>
struct Parts {
  A kept, self, uniform, log_sum;
};

// Every term is taken relative to the largest, so none overflows and the largest is exact. A row
// has kept tokens, or it is dropped and has itself: so `base` is finite.
template <typename A>
__device__ Parts<A> join(A largest_kept, A kept_sum, A self_logit, A top_logit, A log_eps) {
  const A base = max(largest_kept, self_logit);
  const A uniform_logit = (top_logit - base) + log_eps;  // relative to base, like the others
  const A shift = uniform_logit > 0 ? uniform_logit : 0;
  const A kept = exp((largest_kept - base) - shift);
  const A self = exp((self_logit - base) - shift);
  const A uniform = exp(uniform_logit - shift);
  const A sum = kept * kept_sum + self + uniform;
  return {kept / sum, self / sum, uniform / sum, base + shift + log(sum)};
}

// Blocks of tiles of `rows` rows.
inline unsigned tiles_of(const TensorView& query, int rows) {
  return static_cast<unsigned>(query.size(0) * query.size(1)) * blocks_for(query.size(2), rows);
}

// The grid of a kernel whose blocks own tiles of a head's rows, `rows_per_warp` of them a warp, and
// read all of the head's other side. So the larger they are, the less is read. But no
// multiprocessor, which has four warps compute at once, is to be busier for that: of a few heads,
// the rows lie in as many blocks as keep all of them busy.
struct Tiling {
  int warps = 0;  // a block, kLeastWarps or more
  unsigned blocks = 0;

  Tiling(const char* name, const TensorView& query, int rows_per_warp, int most_warps) {
    const int64_t heads = query.size(0) * query.size(1);
    const int64_t row_groups = blocks_for(query.size(2), rows_per_warp);
    if (row_groups == 0) return;
    const int64_t multiprocessors = multiprocessors_of_device(name);
    const auto ceil_divide = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
    int64_t least = std::numeric_limits<int64_t>::max();
    for (int most = most_warps; most >= kLeastWarps; --most) {
      const int64_t tiles = ceil_divide(row_groups, most);
      const int64_t each = std::max<int64_t>(ceil_divide(row_groups, tiles), kLeastWarps);
      const int64_t turns = ceil_divide(ceil_divide(heads * tiles, multiprocessors) * each, 4);
      if (turns >= least) continue;
      least = turns;
      warps = static_cast<int>(each);
      blocks = static_cast<unsigned>(heads * tiles);
    }
  }
  unsigned threads() const { return warps * kWarpSize; }
};

template <typename QueryKernel, typename KeyValueKernel, typename T, typename A>
void launch_gradients(const char* name, QueryKernel query_kernel, const Tiling& queries,
                      size_t query_bytes, KeyValueKernel key_value_kernel, const Tiling& keys,
                      size_t key_value_bytes, const Inputs<T>& in,
                      const MaskedReattentionBackward& args, const Scratch<A>& scratch,
                      Stream stream) {
  const HeadRows<const T> grad_out(args.grad_out);
  const A* log_sum = args.log_sum.as<A>();
  const int* top = args.top.as<int>();
  launch(name, query_kernel, queries.blocks, queries.threads(), query_bytes, stream, in, grad_out,
         log_sum, top, scratch.terms, HeadRows<T>(args.grad_query));
  launch(name, key_value_kernel, keys.blocks, keys.threads(), key_value_bytes, stream, in, grad_out,
         log_sum, top, scratch.terms, scratch.grad_mean, HeadRows<T>(args.grad_key),
         HeadRows<T>(args.grad_value));
}

// The launches over tiles: the forward, and of the backward grad_query, and grad_key and grad_value
// of kept tokens. For float and double in masked_reattention_plain.cu, for half types in
// masked_reattention_mma.cu.
template <typename T>
void launch_forward(const char* name, const Inputs<T>& in, const MaskedReattentionForward& args,
                    Stream stream);
template <typename T>
void launch_backward(const char* name, const Inputs<T>& in, const MaskedReattentionBackward& args,
                     const Scratch<typename Element<T>::Accumulator>& scratch, Stream stream);

}  // namespace wsol::cuda::reattention
