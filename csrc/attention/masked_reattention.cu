// CUDA: an image's kept tokens are the same for all its rows, so they are gathered through `order`
// and no mask is read again.
//
//   list_tokens       a block owns an image.
//   mean              a block owns a head's mean value, or its gradient.
//   forward           a block owns a tile of queries and passes once over the kept keys, with the
//                     running maximum of flash attention; over the dropped keys only for the
//                     largest logit (not at all where eps = 0); then joins the row's own token and
//                     the uniform part.
//   row_terms         a block owns some rows of a head: what the next kernels need of them. Others
//                     list the rows of a head by the token whose logit is their largest.
//   grad_query        a block owns a tile of queries and passes over the kept keys.
//   grad_key_value    a block owns a tile of kept tokens and passes over all queries.
//   grad_dropped      a warp owns a dropped token, which only its own row and the rows whose
//                     largest logit it is know.
//
// Every result has one owner, which sums in a fixed order: no atomics but those that count. The
// kernels that own tiles lie in masked_reattention_plain.cu, in registers for float and double,
// and, on tensor cores for half types, in masked_reattention_mma.cu. Half inputs that tensor cores
// cannot take come as float.
#include <algorithm>
#include <type_traits>

#include "attention/masked_reattention.cuh"

namespace wsol::cuda {
namespace reattention {
namespace {

constexpr int kListWarps = 8, kMeanWarps = 16;  // a block's loads in flight hide their latency
constexpr int kTermRows = 64;                   // of a block of row_terms
constexpr int kDroppedWarps = 8;                // of grad_dropped, which share a head's mean
constexpr int kTopTokens = 2048;  // whose rows are listed at once: leaves room for many blocks

// A block owns an image: it lists the kept tokens, then the others, each in their order.
__global__ void list_tokens_kernel(const bool* keep, int tokens, int* order) {
  constexpr int kCount = kListWarps * kWarpSize;
  int* const warp_kept = reinterpret_cast<int*>(dynamic_shared());  // (kListWarps,)
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  keep += static_cast<int64_t>(blockIdx.x) * tokens;
  int* const kept = order + static_cast<int64_t>(blockIdx.x) * (tokens + 1);
  order = kept + 1;
  // Whether this thread's tokens are kept: of the first 32 of them, which it reads once.
  unsigned kept_turns = 0;
  int count = 0;
  for (int first = 0, turn = 0; first < tokens; first += kCount, ++turn) {
    const int token = first + static_cast<int>(threadIdx.x);
    const bool is_kept = token < tokens && keep[token];
    if (turn < 32) kept_turns |= static_cast<unsigned>(is_kept) << turn;
    count += __syncthreads_count(is_kept);
  }
  int place = 0;  // of the next kept token
  for (int first = 0, turn = 0; first < tokens; first += kCount, ++turn) {
    const int token = first + static_cast<int>(threadIdx.x);
    const bool is_kept = turn < 32 ? kept_turns >> turn & 1 : token < tokens && keep[token];
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
  if (threadIdx.x == 0) *kept = count;
}

// A block owns the mean of a head's rows, weighted or not.
template <typename T, int kVector>
__global__ void __launch_bounds__(kMeanWarps* kWarpSize)
    mean_kernel(HeadRows<const T> rows, const typename Element<T>::Accumulator* weights, int heads,
                int tokens, int width, typename Element<T>::Accumulator* mean) {
  using A = typename Element<T>::Accumulator;
  const int64_t head = blockIdx.x;
  if (weights) weights += head * tokens;
  sum_rows<T, kVector, kMeanWarps>(
      rows.of(head / heads, head % heads), tokens, width,
      [&](int64_t row) { return weights ? weights[row] : A(1); },
      [](int, const Vector<T, kVector>* from) { return *from; },
      reinterpret_cast<A*>(dynamic_shared()),
      [&](int64_t d, A sum) { mean[head * width + d] = sum / static_cast<A>(tokens); });
}

// Lists a head's rows by their tops, by a block. `places` is shared memory, kTopTokens numbers: of
// so many tokens at a time, how many rows have each, then where the next one goes.
__device__ void list_top_rows(const int* top, int tokens, int* rows, int* ends, int* places) {
  const int lane = threadIdx.x % kWarpSize;
  int begin = 0;  // of these tokens' rows
  for (int first = 0; first < tokens; first += kTopTokens) {
    const int count = min(kTopTokens, tokens - first);
    const auto place_of = [&](int row) {  // -1 where its top is not one of these
      const int token = row < tokens ? top[row] - first : -1;
      return token < count ? max(token, -1) : -1;
    };
#pragma unroll 1
    for (int i = threadIdx.x; i < count; i += kThreads) places[i] = 0;
    __syncthreads();
#pragma unroll 1
    for (int row = threadIdx.x; row < tokens; row += kThreads) {
      const int token = place_of(row);
      if (token >= 0) atomicAdd(places + token, 1);
    }
    __syncthreads();
    if (threadIdx.x < kWarpSize) {  // a row's place is known when those before it have theirs
      for (int i = lane; i - lane < count; i += kWarpSize) {
        const int own = i < count ? places[i] : 0;
        int until = own;  // of the warp's tokens, this one's included
        for (int offset = 1; offset < kWarpSize; offset *= 2) {
          const int before = __shfl_up_sync(kFullWarp, until, offset);
          if (lane >= offset) until += before;
        }
        if (i < count) places[i] = begin + until - own;
        begin += __shfl_sync(kFullWarp, until, kWarpSize - 1);
      }
      for (int row = lane; row - lane < tokens; row += kWarpSize) {
        __syncwarp();
        const int token = place_of(row);
        const unsigned same = __match_any_sync(kFullWarp, token);
        const int place =
            token < 0 ? 0 : places[token] + __popc(same & ((1u << lane) - 1));  // in lanes before
        __syncwarp();
        if (token < 0) continue;
        rows[place] = row;
        if (same >> lane == 1) places[token] = place + 1;  // the last of them
      }
    }
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < count; i += kThreads) ends[first + i] = places[i];
    __syncthreads();
  }
}

template <int kVector, typename T, typename A>
__device__ A dot(const Vector<T, kVector>& a, const Vector<T, kVector>& b) {
  A sum = 0;
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    sum += Element<T>::load(a.values[i]) * Element<T>::load(b.values[i]);
  }
  return sum;
}

// A head's mean in shared memory, as lanes read it that have kVector elements of it each: 16 bytes
// of each lane beside those of the next, (kVector / kQuad, pieces, kQuad).
template <int kVector, typename A>
class SharedMean {
 public:
  __device__ SharedMean(A* memory, int width) : mean_(memory), pieces_(width / kVector) {}

  // By all threads of a block, which then pass a barrier.
  __device__ void copy(const A* from) {
    for (int d = threadIdx.x; d < pieces_ * kVector; d += blockDim.x) {
      mean_[(d % kVector / kQuad * pieces_ + d / kVector) * kQuad + d % kQuad] = from[d];
    }
  }
  // Calls `each(i, value)` for the elements of a piece.
  template <typename Each>
  __device__ void for_piece(int piece, const Each& each) const {
#pragma unroll
    for (int i = 0; i < kVector; i += kQuad) {
      A values[kQuad];
      load_values(values, mean_ + (i / kQuad * pieces_ + piece) * kQuad);
#pragma unroll
      for (int k = 0; k < kQuad; ++k) each(i + k, values[k]);
    }
  }

 private:
  static constexpr int kMost = 16 / sizeof(A), kQuad = kVector < kMost ? kVector : kMost;

  A* mean_;
  int pieces_;
};

// The first `list_blocks` blocks list the top rows of a head each, the others own kTermRows rows of
// a head.
template <typename T, int kVector>
__global__ void __launch_bounds__(kThreads)
    row_terms_kernel(Inputs<T> in, HeadRows<const T> grad_out_rows, HeadRows<const T> out_rows,
                     const typename Element<T>::Accumulator* log_sum, const int* top,
                     RowTerms<typename Element<T>::Accumulator> terms, TopRows top_rows,
                     unsigned list_blocks) {
  using A = typename Element<T>::Accumulator;
  using Piece = Vector<T, kVector>;
  if (blockIdx.x < list_blocks) {
    const int64_t first_row = static_cast<int64_t>(blockIdx.x) * in.tokens;
    return list_top_rows(top + first_row, in.tokens, top_rows.rows + first_row,
                         top_rows.ends + first_row, reinterpret_cast<int*>(dynamic_shared()));
  }
  const Place place(in.tokens, kTermRows, blockIdx.x - list_blocks);
  const Head<T> head(in, place.head);
  const int pieces = in.width / kVector;
  SharedMean<kVector, A> mean_value(reinterpret_cast<A*>(dynamic_shared()), in.width);
  mean_value.copy(head.mean_value);
  __syncthreads();

  const auto piece_of = [](const Rows<const T>& rows, int token, int piece) {
    return reinterpret_cast<const Piece*>(rows[token])[piece];
  };
  const RowLanes lanes(pieces);
  const int end = min(place.first + kTermRows, in.tokens);
  for (int step = 0; step < kTermRows; step += kWarps * lanes.rows) {
    const int own = place.first + step + static_cast<int>(threadIdx.x) / lanes.group;
    const bool present = own < end;
    const int token = present ? own : end - 1;
    const int64_t row = head.row_index(token);
    const int top_token = top[row];
    const bool is_kept = head.keep[token], has_top = top_token >= 0;
    A delta = 0, own_logit = 0, own_grad = 0, top_logit = 0, mean_grad = 0;
#pragma unroll 1  // there is one, but in wide rows
    for (int piece = lanes.member; piece < pieces; piece += lanes.group) {
      const Piece grad_out = piece_of(head.rows(grad_out_rows), token, piece);
      const Piece query = piece_of(head.query, token, piece);
      delta += dot<kVector, T, A>(grad_out, piece_of(head.rows(out_rows), token, piece));
      if (!is_kept) {
        own_logit += dot<kVector, T, A>(query, piece_of(head.key, token, piece));
        own_grad += dot<kVector, T, A>(grad_out, piece_of(head.value, token, piece));
      }
      if (has_top) {
        top_logit += dot<kVector, T, A>(query, piece_of(head.key, top_token, piece));
        mean_value.for_piece(piece, [&](int i, A mean) {
          mean_grad += Element<T>::load(grad_out.values[i]) * mean;
        });
      }
    }
#pragma unroll 1
    for (int offset = lanes.group / 2; offset > 0; offset /= 2) {
      for (A* sum : {&delta, &own_logit, &own_grad, &top_logit, &mean_grad}) {
        *sum += __shfl_xor_sync(kFullWarp, *sum, offset);
      }
    }
    if (!present || lanes.member != 0) continue;
    const A uniform = has_top ? exp((in.scale * top_logit - log_sum[row]) + in.log_eps) : A(0);
    const A self_weight = is_kept ? A(0) : exp(in.scale * own_logit - log_sum[row]);
    terms.delta[row] = delta;
    terms.uniform[row] = uniform;
    terms.top_grad[row] = has_top ? uniform * (mean_grad - delta) : A(0);
    terms.self_weight[row] = self_weight;
    terms.self_grad[row] = is_kept ? A(0) : self_weight * (own_grad - delta);
  }
}

// A warp's groups of lanes share the rows that know its token.
template <typename T, int kVector>
__global__ void __launch_bounds__(kDroppedWarps* kWarpSize)
    grad_dropped_kernel(Inputs<T> in, HeadRows<const T> grad_out_rows,
                        RowTerms<typename Element<T>::Accumulator> terms, TopRows top_rows,
                        const typename Element<T>::Accumulator* grad_mean,
                        HeadRows<T> grad_key_rows, HeadRows<T> grad_value_rows) {
  using A = typename Element<T>::Accumulator;
  using Piece = Vector<T, kVector>;
  const Place place(in.tokens, kDroppedWarps);
  const Head<T> head(in, place.head);
  int* const shared_kept = reinterpret_cast<int*>(dynamic_shared());
  SharedMean<kVector, A> mean(reinterpret_cast<A*>(shared_kept + 4), in.width);
  if (threadIdx.x == 0) *shared_kept = head.kept();
  __syncthreads();
  const int kept = *shared_kept;
  if (place.first + kDroppedWarps <= kept) return;
  mean.copy(grad_mean + static_cast<int64_t>(place.head) * in.width);
  __syncthreads();
  const int position = place.first + static_cast<int>(threadIdx.x) / kWarpSize;
  if (position < kept || position >= in.tokens) return;  // a whole warp at a time
  const int token = head.order[position];
  const int64_t own_row = head.row_index(token);
  const bool with_eps = in.log_eps > -INFINITY;  // else no row has a top
  // Where its rows begin, and where they end: the first two lanes' reads are one.
  const int lane = threadIdx.x % kWarpSize;
  const int bound =
      with_eps && lane < 2 && token + lane > 0 ? top_rows.ends[own_row - 1 + lane] : 0;
  const int begin = __shfl_sync(kFullWarp, bound, 0), end = __shfl_sync(kFullWarp, bound, 1);

  const int pieces = in.width / kVector;
  const RowLanes lanes(pieces);
#pragma unroll 1
  for (int first = 0; first < pieces; first += lanes.group) {
    const int piece = first + lanes.member;
    A sums[kVector] = {};
    const auto add_query = [&](A weight, int row) {
      const Piece query = reinterpret_cast<const Piece*>(head.query[row])[piece];
#pragma unroll
      for (int i = 0; i < kVector; ++i) sums[i] += weight * Element<T>::load(query.values[i]);
    };
    if (piece < pieces) {
      if (lanes.row == 0) add_query(terms.self_grad[own_row], token);
#pragma unroll 2
      for (int i = begin + lanes.row; i < end; i += lanes.rows) {
        const int row = top_rows.rows[head.row_index(i)];
        add_query(terms.top_grad[head.row_index(row)], row);
      }
    }
    for (int offset = kWarpSize / 2; offset >= lanes.group; offset /= 2) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) sums[i] += __shfl_xor_sync(kFullWarp, sums[i], offset);
    }
    if (piece >= pieces || lanes.row != 0) continue;
    const A self_weight = terms.self_weight[own_row];
    const T* grad_out_row = head.rows(grad_out_rows)[token];
    const Piece grad_out = reinterpret_cast<const Piece*>(grad_out_row)[piece];
    Piece grad_key, grad_value;
    mean.for_piece(piece, [&](int i, A of_all) {
      grad_key.values[i] = Element<T>::store(in.scale * sums[i]);
      grad_value.values[i] =
          Element<T>::store(self_weight * Element<T>::load(grad_out.values[i]) + of_all);
    });
    reinterpret_cast<Piece*>(head.rows(grad_key_rows)[token])[piece] = grad_key;
    reinterpret_cast<Piece*>(head.rows(grad_value_rows)[token])[piece] = grad_value;
  }
}

// Calls `run(std::integral_constant<int, kVector>{})` with how many elements of rows are read at
// once, 16 bytes or one; half types always come in whole pieces.
template <typename T, typename Run>
void with_vector(bool in_pieces, Run&& run) {
  if constexpr (sizeof(T) >= sizeof(float)) {
    if (!in_pieces) return run(std::integral_constant<int, 1>{});
  }
  run(std::integral_constant<int, 16 / sizeof(T)>{});
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
  with_vector<T>(rows_are_aligned<T>(rows), [&]<int kVector>(std::integral_constant<int, kVector>) {
    launch(name, mean_kernel<T, kVector>, static_cast<unsigned>(count), kMeanWarps * kWarpSize,
           sum_rows_bytes<T, kVector, kMeanWarps>(width), stream, HeadRows<const T>(rows), weights,
           heads, tokens, width, mean);
  });
}

template <typename A>
Scratch<A> scratch_of(const TensorView& query, const TensorView& memory) {
  return {memory, query.size(0), query.size(1), query.size(2), query.size(3)};
}

}  // namespace
}  // namespace reattention

int64_t masked_reattention_backward_scratch_bytes(int64_t images, int64_t heads, int64_t tokens,
                                                  int64_t width, bool doubles) {
  using reattention::Scratch;
  return doubles ? Scratch<double>({}, images, heads, tokens, width).bytes
                 : Scratch<float>({}, images, heads, tokens, width).bytes;
}

void masked_reattention_forward(const MaskedReattentionForward& args, Stream stream) {
  using namespace reattention;
  constexpr const char* kName = "masked_reattention";
  with_floating_type(kName, args.query.dtype, [&]<typename T>(ElementTag<T>) {
    launch(kName, list_tokens_kernel, static_cast<unsigned>(args.keep.size(0)),
           kListWarps * kWarpSize, kListWarps * sizeof(int), stream, args.keep.as<const bool>(),
           static_cast<int>(args.keep.size(1)), args.order.as<int>());
    launch_mean<T>(kName, args.eps, args.value, nullptr,
                   args.mean_value.as<typename Element<T>::Accumulator>(), stream);
    launch_forward<T>(kName, Inputs<T>(args), args, stream);
  });
}

void masked_reattention_backward(const MaskedReattentionBackward& args, Stream stream) {
  using namespace reattention;
  constexpr const char* kName = "masked_reattention_backward";
  with_floating_type(kName, args.query.dtype, [&]<typename T>(ElementTag<T>) {
    using A = typename Element<T>::Accumulator;
    const Scratch<A> scratch = scratch_of<A>(args.query, args.scratch);
    Inputs<T> in(args);
    in.in_pieces = in.in_pieces && Inputs<T>::are_aligned(args.grad_out, args.grad_query,
                                                          args.grad_key, args.grad_value);
    const auto heads = static_cast<unsigned>(args.query.size(0) * in.heads);
    const HeadRows<const T> grad_out(args.grad_out);
    const unsigned list_blocks = args.eps > 0 ? heads : 0;
    const size_t shared_bytes =
        std::max(std::min(in.tokens, kTopTokens) * sizeof(int), in.width * sizeof(A));
    with_vector<T>(in.in_pieces, [&]<int kVector>(std::integral_constant<int, kVector>) {
      launch(kName, row_terms_kernel<T, kVector>, list_blocks + tiles_of(args.query, kTermRows),
             kThreads, shared_bytes, stream, in, grad_out, HeadRows<const T>(args.out),
             args.log_sum.as<A>(), args.top.as<int>(), scratch.terms, scratch.top_rows,
             list_blocks);
    });
    launch_mean<T>(kName, args.eps, args.grad_out, scratch.terms.uniform, scratch.grad_mean,
                   stream);
    launch_backward<T>(kName, in, args, scratch, stream);
    with_vector<T>(in.in_pieces, [&]<int kVector>(std::integral_constant<int, kVector>) {
      launch(kName, grad_dropped_kernel<T, kVector>, tiles_of(args.query, kDroppedWarps),
             kDroppedWarps * kWarpSize, 4 * sizeof(int) + in.width * sizeof(A), stream, in,
             grad_out, scratch.terms, scratch.top_rows, scratch.grad_mean,
             HeadRows<T>(args.grad_key), HeadRows<T>(args.grad_value));
    });
  });
}

}  // namespace wsol::cuda
