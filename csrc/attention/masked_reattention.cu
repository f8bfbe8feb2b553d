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
// Every result has one owner, which sums in a fixed order: no atomics. The kernels that own tiles
// lie in masked_reattention_plain.cu, in registers for float and double, and, on tensor cores for
// half types, in masked_reattention_mma.cu. Half inputs that tensor cores cannot take come as
// float.
#include "attention/masked_reattention.cuh"

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
__global__ void __launch_bounds__(kMeanWarps* kWarpSize)
    mean_kernel(HeadRows<const T> rows, const typename Element<T>::Accumulator* weights, int heads,
                int tokens, int width, typename Element<T>::Accumulator* mean) {
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

// mean[b, h] = mean of the rows, weighted or not; zeros where eps = 0, which asks for none.
template <typename T>
void launch_mean(const char* name, double eps, const TensorView& rows,
                 const typename Element<T>::Accumulator* weights,
                 typename Element<T>::Accumulator* mean, Stream stream) {
  const auto heads = static_cast<int>(rows.size(1)), tokens = static_cast<int>(rows.size(2)),
             width = static_cast<int>(rows.size(3));
  const int64_t count = rows.size(0) * heads;
  if (eps == 0) {
    return check(name, cudaMemsetAsync(mean, 0, count * width * sizeof(*mean),
                                       reinterpret_cast<cudaStream_t>(stream)));
  }
  launch(name, mean_kernel<T>, dim3(static_cast<unsigned>(count), blocks_for(width, kWarpSize)),
         kMeanWarps * kWarpSize, kMeanWarps * kWarpSize * sizeof(*mean), stream,
         HeadRows<const T>(rows), weights, heads, tokens, width, mean);
}

// Fills the scratch of the inputs.
template <typename T, typename Args>
void prepare(const char* name, const Args& args,
             const Scratch<typename Element<T>::Accumulator>& scratch, Stream stream) {
  launch(name, list_tokens_kernel, static_cast<unsigned>(args.keep.size(0)), kListWarps * kWarpSize,
         kListWarps * sizeof(int), stream, args.keep.template as<const bool>(),
         static_cast<int>(args.keep.size(1)), scratch.order, scratch.kept);
  launch_mean<T>(name, args.eps, args.value, nullptr, scratch.mean_value, stream);
}

template <typename A>
Scratch<A> scratch_of(const TensorView& query, const TensorView& memory, bool backward) {
  return {memory, query.size(0), query.size(1), query.size(2), query.size(3), backward};
}

int64_t scratch_bytes(int64_t images, int64_t heads, int64_t tokens, int64_t width, bool doubles,
                      bool backward) {
  return doubles ? Scratch<double>({}, images, heads, tokens, width, backward).bytes
                 : Scratch<float>({}, images, heads, tokens, width, backward).bytes;
}

}  // namespace
}  // namespace reattention

int64_t masked_reattention_forward_scratch_bytes(int64_t images, int64_t heads, int64_t tokens,
                                                 int64_t width, bool doubles) {
  return reattention::scratch_bytes(images, heads, tokens, width, doubles, false);
}

int64_t masked_reattention_backward_scratch_bytes(int64_t images, int64_t heads, int64_t tokens,
                                                  int64_t width, bool doubles) {
  return reattention::scratch_bytes(images, heads, tokens, width, doubles, true);
}

void masked_reattention_forward(const MaskedReattentionForward& args, Stream stream) {
  using namespace reattention;
  constexpr const char* kName = "masked_reattention";
  with_floating_type(kName, args.query.dtype, [&]<typename T>(ElementTag<T>) {
    const auto scratch =
        scratch_of<typename Element<T>::Accumulator>(args.query, args.scratch, false);
    prepare<T>(kName, args, scratch, stream);
    launch_forward<T>(kName, Inputs<T>(args, scratch), args, stream);
  });
}

void masked_reattention_backward(const MaskedReattentionBackward& args, Stream stream) {
  using namespace reattention;
  constexpr const char* kName = "masked_reattention_backward";
  with_floating_type(kName, args.query.dtype, [&]<typename T>(ElementTag<T>) {
    using A = typename Element<T>::Accumulator;
    const Scratch<A> scratch = scratch_of<A>(args.query, args.scratch, true);
    const Inputs<T> in(args, scratch);
    const int64_t rows = args.query.size(0) * in.heads * in.tokens;
    const HeadRows<const T> grad_out(args.grad_out);
    const int* top = args.top.as<int>();
    prepare<T>(kName, args, scratch, stream);
    launch(kName, row_terms_kernel<T>, blocks_for(rows, kWarps), kThreads, 0, stream, in, grad_out,
           HeadRows<const T>(args.out), args.log_sum.as<A>(), top, scratch.terms, rows);
    launch_mean<T>(kName, args.eps, args.grad_out, scratch.terms.uniform, scratch.grad_mean,
                   stream);
    launch_backward<T>(kName, in, args, scratch, stream);
    launch(kName, grad_dropped_kernel<T>, blocks_for(rows, kWarps), kThreads, 0, stream, in,
           grad_out, top, scratch.terms, scratch.grad_mean, HeadRows<T>(args.grad_key),
           HeadRows<T>(args.grad_value), rows);
  });
}

}  // namespace wsol::cuda
