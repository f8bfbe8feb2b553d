// CUDA: an image's kept tokens are the same for all its rows, so they are gathered through `order`
// and no mask is read again.
//
//   list_tokens       a block owns an image.
//   mean              a block owns columns of the mean value, or of its gradient.
//   forward           a block owns a tile of queries and passes once over the kept keys, with the
//                     running maximum of flash attention; over the dropped keys only for the
//                     largest logit (not at all where eps = 0); then joins the row's own token and
//                     the uniform part.
//   row_terms         a warp owns a row: what the next kernels need of it.
//   grad_query        a block owns a tile of queries and passes over the kept keys.
//   grad_key_value    a block owns a tile of kept tokens and passes over all queries.
//   grad_dropped      a warp owns a dropped token, which only its own row and the rows whose
//                     largest logit it is know.
//
// Every result has one owner, which sums in a fixed order: no atomics. The tiled kernels exist
// twice: in registers for float and double, and on tensor cores for half types. Half inputs that
// tensor cores cannot take come here as float.
#define WSOL_WITH_CUDA
#include <cmath>
#include <type_traits>

#include "attention/masked_reattention_mma.cuh"
#include "attention/masked_reattention_plain.cuh"

namespace wsol::cuda {
namespace reattention {
namespace {

constexpr int kListWarps = 8, kMeanWarps = 32;  // a block's loads in flight hide their latency

// A block owns an image: it lists the kept tokens, then the others, each in their order.
__global__ void list_tokens_kernel(const bool* keep, int tokens, int* order, int* kept) {
  constexpr int kCount = kListWarps * kWarpSize;
  int* const warp_kept = reinterpret_cast<int*>(dynamic_shared());  // (kListWarps,)
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  keep += static_cast<int64_t>(blockIdx.x) * tokens;
  order += static_cast<int64_t>(blockIdx.x) * tokens;
  int count = 0;
  for (int first = 0; first < tokens; first += kCount) {
    const int token = first + static_cast<int>(threadIdx.x);
    count += __syncthreads_count(token < tokens && keep[token]);
  }
  int place = 0;  // of the next kept token
  for (int first = 0; first < tokens; first += kCount) {
    const int token = first + static_cast<int>(threadIdx.x);
    const bool is_kept = token < tokens && keep[token];
    const unsigned kept_lanes = __ballot_sync(kFullWarp, is_kept);
    if (lane == 0) warp_kept[warp] = __popc(kept_lanes);
    __syncthreads();
    int own_place = place + __popc(kept_lanes & ((1u << lane) - 1));
    for (int w = 0; w < kListWarps; ++w) {
      if (w < warp) own_place += warp_kept[w];
      place += warp_kept[w];
    }
    if (is_kept) {
      order[own_place] = token;
    } else if (token < tokens) {
      order[count + token - own_place] = token;
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) kept[blockIdx.x] = count;
}

// A block owns 32 columns of the mean of a head's rows, weighted or not: its warps split the
// tokens.
template <typename T>
__global__ void mean_kernel(HeadRows<const T> rows, const typename Element<T>::Accumulator* weights,
                            int heads, int tokens, int width,
                            typename Element<T>::Accumulator* mean) {
  using A = typename Element<T>::Accumulator;
  A* partial = reinterpret_cast<A*>(dynamic_shared());  // (kMeanWarps, 32)
  const int64_t head = blockIdx.x;
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const int d = static_cast<int>(blockIdx.y) * kWarpSize + lane;
  A sum = 0;
  if (d < width) {
    for (int i = warp; i < tokens; i += kMeanWarps) {
      const A value = Element<T>::load(rows.row(head / heads, head % heads, i)[d]);
      sum += weights ? weights[head * tokens + i] * value : value;
    }
  }
  partial[warp * kWarpSize + lane] = sum;
  __syncthreads();
  if (warp == 0 && d < width) {
    for (int w = 1; w < kMeanWarps; ++w) sum += partial[w * kWarpSize + lane];
    mean[head * width + d] = sum / static_cast<A>(tokens);
  }
}

template <typename T>
__global__ void row_terms_kernel(Inputs<T> in, HeadRows<const T> grad_out_rows,
                                 HeadRows<const T> out_rows,
                                 const typename Element<T>::Accumulator* log_sum, const int* top,
                                 RowTerms<typename Element<T>::Accumulator> terms, int64_t rows) {
  using A = typename Element<T>::Accumulator;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
  if (row >= rows) return;  // a whole warp at a time
  const int lane = threadIdx.x % kWarpSize;
  const Head<T> head(in, row / in.tokens);
  const int64_t token = row - head.first_row;
  const T* grad_out = head.rows(grad_out_rows)[token];
  const auto dot = [&](const T* a, const T* b) {
    return warp_sum(partial_dot<1>(a, b, in.width, lane, kWarpSize));
  };
  const A delta = dot(grad_out, head.rows(out_rows)[token]);
  A self_weight = 0, self_grad = 0;
  if (!head.keep[token]) {
    const A logit = in.scale * dot(head.query[token], head.key[token]);
    self_weight = exp(logit - log_sum[row]);
    self_grad = self_weight * (dot(grad_out, head.value[token]) - delta);
  }
  A uniform = 0, top_grad = 0;
  if (top[row] >= 0) {
    const A logit = in.scale * dot(head.query[token], head.key[top[row]]);
    A mean_grad = 0;
    for (int d = lane; d < in.width; d += kWarpSize) {
      mean_grad += Element<T>::load(grad_out[d]) * head.mean_value[d];
    }
    uniform = exp((logit - log_sum[row]) + in.log_eps);
    top_grad = uniform * (warp_sum(mean_grad) - delta);
  }
  if (lane == 0) {
    terms.delta[row] = delta;
    terms.uniform[row] = uniform;
    terms.top_grad[row] = top_grad;
    terms.self_weight[row] = self_weight;
    terms.self_grad[row] = self_grad;
  }
}

template <typename T>
__global__ void grad_dropped_kernel(Inputs<T> in, HeadRows<const T> grad_out_rows, const int* top,
                                    RowTerms<typename Element<T>::Accumulator> terms,
                                    const typename Element<T>::Accumulator* grad_mean,
                                    HeadRows<T> grad_key_rows, HeadRows<T> grad_value_rows,
                                    int64_t rows) {
  using A = typename Element<T>::Accumulator;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
  if (index >= rows) return;  // a whole warp at a time, here and below
  const int lane = threadIdx.x % kWarpSize;
  const Head<T> head(in, index / in.tokens);
  const int position = static_cast<int>(index - head.first_row);
  if (position < head.kept) return;
  const int token = head.order[position];

  constexpr int kColumns = kLargestReattentionWidth / kWarpSize;
  A sum[kColumns] = {};
  const auto add_query = [&](A weight, int row) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int d = lane + c * kWarpSize;
      if (d < in.width) sum[c] += weight * Element<T>::load(head.query[row][d]);
    }
  };
  add_query(terms.self_grad[head.first_row + token], token);
  for (int first = 0; first < in.tokens; first += kWarpSize) {
    const bool is_top = first + lane < in.tokens && top[head.first_row + first + lane] == token;
    unsigned found = __ballot_sync(kFullWarp, is_top);
    for (; found != 0; found &= found - 1) {
      const int row = first + __ffs(static_cast<int>(found)) - 1;
      add_query(terms.top_grad[head.first_row + row], row);
    }
  }
  const T* grad_out = head.rows(grad_out_rows)[token];
  const A self_weight = terms.self_weight[head.first_row + token];
  T* grad_key = head.rows(grad_key_rows)[token];
  T* grad_value = head.rows(grad_value_rows)[token];
  const A* mean = grad_mean + index / in.tokens * in.width;
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    const int d = lane + c * kWarpSize;
    if (d < in.width) {
      grad_key[d] = Element<T>::store(in.scale * sum[c]);
      grad_value[d] = Element<T>::store(self_weight * Element<T>::load(grad_out[d]) + mean[d]);
    }
  }
}

template <typename A>
RowTerms<A> row_terms_of(const TensorView& scratch) {
  const int64_t rows = scratch.stride(0);
  A* first = scratch.as<A>();
  return {first, first + rows, first + 2 * rows, first + 3 * rows, first + 4 * rows};
}

// Calls `run(std::integral_constant<int, kWide>{})` with a tile for the width. Each costs seconds to
// compile, so there is one for the width that transformers have, and one for all others.
template <typename T, typename Run>
void with_plain_width(int width, Run&& run) {
  if constexpr (std::is_same_v<T, float>) {
    if (width <= 64) return run(std::integral_constant<int, 1>{});
  }
  static_assert(kLargestReattentionWidth == 256);
  return run(std::integral_constant<int, 4>{});
}

// The same with kWidth, for tensor cores.
template <typename Run>
void with_tensor_core_width(int width, Run&& run) {
  if (width <= 64) return run(std::integral_constant<int, 64>{});
  return run(std::integral_constant<int, tensor_core::kLargestWidth>{});
}

template <typename T>
constexpr bool kIsHalf = std::is_same_v<T, __half> || std::is_same_v<T, __nv_bfloat16>;

// mean[b, h] = mean of the rows, weighted or not.
template <typename T>
void launch_mean(const char* name, const TensorView& rows,
                 const typename Element<T>::Accumulator* weights,
                 typename Element<T>::Accumulator* mean, Stream stream) {
  const auto heads = static_cast<int>(rows.size(1)), tokens = static_cast<int>(rows.size(2)),
             width = static_cast<int>(rows.size(3));
  launch(name, mean_kernel<T>,
         dim3(static_cast<unsigned>(rows.size(0) * heads), blocks_for(width, kWarpSize)),
         kMeanWarps * kWarpSize, kMeanWarps * kWarpSize * sizeof(*mean), stream,
         HeadRows<const T>(rows), weights, heads, tokens, width, mean);
}

// Fills the scratch of the inputs.
template <typename T>
void prepare(const char* name, const MaskedReattentionInputs& args, Stream stream) {
  using A = typename Element<T>::Accumulator;
  launch(name, list_tokens_kernel, static_cast<unsigned>(args.keep.size(0)), kListWarps * kWarpSize,
         kListWarps * sizeof(int), stream, args.keep.as<const bool>(),
         static_cast<int>(args.keep.size(1)), args.order.as<int>(), args.kept.as<int>());
  if (args.eps > 0) launch_mean<T>(name, args.value, nullptr, args.mean_value.as<A>(), stream);
}

template <typename T>
void launch_forward(const char* name, const Inputs<T>& in, const MaskedReattentionForward& args,
                    unsigned heads, Stream stream) {
  using A = typename Element<T>::Accumulator;
  const auto launch_tiles = [&](auto kernel, int rows, size_t shared_bytes) {
    launch(name, kernel, heads * blocks_for(in.tokens, rows), kThreads, shared_bytes, stream, in,
           HeadRows<T>(args.out), args.log_sum.as<A>(), args.top.as<int>());
  };
  if constexpr (kIsHalf<T>) {
    with_tensor_core_width(in.width, [&]<int kWidth>(std::integral_constant<int, kWidth>) {
      launch_tiles(tensor_core::forward_kernel<T, kWidth>, tensor_core::kRows,
                   tensor_core::forward_shared_bytes<T, kWidth>());
    });
  } else {
    with_plain_width<T>(in.width, [&]<int kWide>(std::integral_constant<int, kWide>) {
      using Tile = plain::Tile<T, kWide>;
      launch_tiles(plain::forward_kernel<T, kWide>, Tile::kRows, Tile::kSharedBytes);
    });
  }
}

// grad_query, and grad_key and grad_value of kept tokens.
template <typename T>
void launch_backward(const char* name, const Inputs<T>& in, const MaskedReattentionBackward& args,
                     const RowTerms<typename Element<T>::Accumulator>& terms, unsigned heads,
                     Stream stream) {
  using A = typename Element<T>::Accumulator;
  const HeadRows<const T> grad_out(args.grad_out);
  const auto launch_tiles = [&](auto query_kernel, auto key_value_kernel, int rows,
                                size_t shared_bytes) {
    const unsigned tiles = heads * blocks_for(in.tokens, rows);
    const A* log_sum = args.log_sum.as<A>();
    const int* top = args.top.as<int>();
    launch(name, query_kernel, tiles, kThreads, shared_bytes, stream, in, grad_out, log_sum, top,
           terms, HeadRows<T>(args.grad_query));
    launch(name, key_value_kernel, tiles, kThreads, shared_bytes, stream, in, grad_out, log_sum,
           top, terms, args.grad_mean.as<A>(), HeadRows<T>(args.grad_key),
           HeadRows<T>(args.grad_value));
  };
  if constexpr (kIsHalf<T>) {
    with_tensor_core_width(in.width, [&]<int kWidth>(std::integral_constant<int, kWidth>) {
      launch_tiles(tensor_core::grad_query_kernel<T, kWidth>,
                   tensor_core::grad_key_value_kernel<T, kWidth>, tensor_core::kRows,
                   tensor_core::backward_shared_bytes<T, kWidth>());
    });
  } else {
    with_plain_width<T>(in.width, [&]<int kWide>(std::integral_constant<int, kWide>) {
      using Tile = plain::Tile<T, kWide>;
      launch_tiles(plain::grad_query_kernel<T, kWide>, plain::grad_key_value_kernel<T, kWide>,
                   Tile::kRows, Tile::kSharedBytes);
    });
  }
}

}  // namespace
}  // namespace reattention

void masked_reattention_forward(const MaskedReattentionForward& args, Stream stream) {
  using namespace reattention;
  constexpr const char* kName = "masked_reattention";
  with_floating_type(kName, args.inputs.query.dtype, [&]<typename T>(ElementTag<T>) {
    const Inputs<T> in(args.inputs);
    const auto heads = static_cast<unsigned>(args.inputs.query.size(0) * in.heads);
    prepare<T>(kName, args.inputs, stream);
    launch_forward<T>(kName, in, args, heads, stream);
  });
}

void masked_reattention_backward(const MaskedReattentionBackward& args, Stream stream) {
  using namespace reattention;
  constexpr const char* kName = "masked_reattention_backward";
  with_floating_type(kName, args.inputs.query.dtype, [&]<typename T>(ElementTag<T>) {
    using A = typename Element<T>::Accumulator;
    const Inputs<T> in(args.inputs);
    const auto heads = static_cast<unsigned>(args.inputs.query.size(0) * in.heads);
    const int64_t rows = static_cast<int64_t>(heads) * in.tokens;
    const HeadRows<const T> grad_out(args.grad_out);
    const int* top = args.top.as<int>();
    const RowTerms<A> terms = row_terms_of<A>(args.row_terms);
    A* grad_mean = args.grad_mean.as<A>();
    prepare<T>(kName, args.inputs, stream);
    launch(kName, row_terms_kernel<T>, blocks_for(rows, kWarps), kThreads, 0, stream, in, grad_out,
           HeadRows<const T>(args.out), args.log_sum.as<A>(), top, terms, rows);
    if (args.inputs.eps > 0) {
      launch_mean<T>(kName, args.grad_out, terms.uniform, grad_mean, stream);
    }
    launch_backward<T>(kName, in, args, terms, heads, stream);
    launch(kName, grad_dropped_kernel<T>, blocks_for(rows, kWarps), kThreads, 0, stream, in,
           grad_out, top, terms, grad_mean, HeadRows<T>(args.grad_key),
           HeadRows<T>(args.grad_value), rows);
  });
}

}  // namespace wsol::cuda
