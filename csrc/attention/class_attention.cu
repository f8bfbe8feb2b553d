// CUDA: one launch a direction where a block's logits fit in shared memory and its keys are no long
// work for one multiprocessor, which is all but long rows of few images.
//
//   forward     a block owns an image, or, of few images, one of its heads: its warps share the
//               tokens, then a warp owns each row's softmax, then a thread sums an out[b, q, j]
//               over the heads. Where it has one head only, `average` does that afterwards.
//   backward    a block owns a head. Keys that it needs twice wait in shared memory, as many as
//               there is room for.
//
// Else these, each with a block for every part of its work:
//
//   logits      a warp owns a chunk of tokens of one (image, head, query).
//   softmax, softmax_gradient     a warp owns a row of logits (B, H, Q).
//   average; dot_gradients of query_key.cuh
//
// Both ways add up in the same order, and are limited by the bandwidth of reading the keys once,
// and of writing their gradient.
#include <algorithm>
#include <cfloat>
#include <type_traits>

#include "attention/class_attention.h"
#include "attention/query_key.cuh"

namespace wsol::cuda {
namespace {

constexpr int kForwardThreads = 512;
constexpr int kThreads = kDotThreads;
constexpr int kWarps = kThreads / kWarpSize;

// What makes probabilities of a row of logits.
template <typename A>
struct RowSoftmax {
  A largest, factor;
  A expected;  // sum_j p_j dL/dp_j, where the gradient was given

  __device__ A operator()(A logit) const { return exp(logit - largest) * factor; }
};

// Reads the row once, by one warp.
template <bool kWithGradient, typename A>
__device__ RowSoftmax<A> softmax_of_row(const A* row, const A* grad, int64_t tokens, int lane) {
  // Finite, so that -inf is below it too, however many there are.
  constexpr A kLowest = std::is_same_v<A, double> ? -DBL_MAX : -FLT_MAX;
  constexpr int kAtOnce = std::is_same_v<A, double> ? 2 : 4;  // registers are few
  A largest = kLowest, sum = 0, expected = 0;
  for (int64_t first = lane; first < tokens; first += kAtOnce * kWarpSize) {
    A values[kAtOnce], grads[kAtOnce] = {};
    A here = largest;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int64_t j = first + i * kWarpSize;
      values[i] = j < tokens ? row[j] : -static_cast<A>(INFINITY);
      if (kWithGradient && j < tokens) grads[i] = grad[j];
      here = max(here, values[i]);
    }
    const A rescale = exp(largest - here);
    sum *= rescale;
    expected *= rescale;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const A weight = exp(values[i] - here);
      sum += weight;
      expected += weight * grads[i];
    }
    largest = here;
  }
  const A of_row = warp_max(largest);
  const A rescale = exp(largest - of_row);
  const A factor = 1 / warp_sum(sum * rescale);
  return {of_row, factor, kWithGradient ? warp_sum(expected * rescale) * factor : A(0)};
}

// A block owns heads_a_block heads of an image. Of all heads, their average is written; of one, its
// probabilities are.
template <typename T, int kVector>
__global__ void __launch_bounds__(kForwardThreads, 2)
    forward_kernel(HeadRows<const T> query, HeadRows<const T> key, QueryKeySizes n,
                   int heads_a_block, typename Element<T>::Accumulator scale,
                   typename Element<T>::Accumulator* out) {
  using A = typename Element<T>::Accumulator;
  constexpr int kBlockWarps = kForwardThreads / kWarpSize;
  const int queries = static_cast<int>(n.queries), tokens = static_cast<int>(n.tokens);
  const int rows = heads_a_block * queries;
  auto* const softmax = reinterpret_cast<RowSoftmax<A>*>(dynamic_shared());  // (heads, queries)
  A* const logits = reinterpret_cast<A*>(softmax + rows);                    // and (..., tokens)
  const int64_t first_head = static_cast<int64_t>(blockIdx.x) * heads_a_block;
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;

  const int pieces = static_cast<int>(n.width / kVector);
  const RowLanes lanes(pieces);
  const int chunks = (tokens + kChunk - 1) / kChunk;
  for (int item = warp; item < rows * chunks; item += kBlockWarps) {
    const int q = item % queries, chunk = item / queries % chunks, h = item / queries / chunks;
    const int64_t image = (first_head + h) / n.heads, head = (first_head + h) % n.heads;
    const A dot = dots_of_chunk<T, kVector>(
        query.row(image, head, q), chunk_of(key.of(image, head), chunk), tokens - chunk * kChunk,
        pieces, lanes, [](int, int, const Vector<T, kVector>* from) { return *from; });
    const int token = chunk * kChunk + token_of_lane(lanes);
    if (token < tokens) logits[(h * queries + q) * tokens + token] = scale * dot;
  }
  __syncthreads();
  for (int row = warp; row < rows; row += kBlockWarps) {
    const auto found = softmax_of_row<false, A>(logits + row * tokens, nullptr, tokens, lane);
    if (lane == 0) softmax[row] = found;
  }
  __syncthreads();
  out += blockIdx.x * n.queries * n.tokens;
  for (int i = threadIdx.x; i < queries * tokens; i += kForwardThreads) {
    A sum = 0;
    for (int h = 0; h < heads_a_block; ++h) {
      sum += softmax[h * queries + i / tokens](logits[h * queries * tokens + i]);
    }
    out[i] = sum / static_cast<A>(heads_a_block);
  }
}

// A block owns a head.
template <typename T, int kVector>
__global__ void __launch_bounds__(kThreads, sizeof(T) == sizeof(double) ? 2 : 3)
    backward_kernel(HeadRows<const T> query, HeadRows<const T> key, QueryKeySizes n,
                    const typename Element<T>::Accumulator* grad_out, int room,
                    typename Element<T>::Accumulator scale, HeadRows<T> grad_query,
                    HeadRows<T> grad_key) {
  using A = typename Element<T>::Accumulator;
  using Piece = Vector<T, kVector>;
  const int queries = static_cast<int>(n.queries), tokens = static_cast<int>(n.tokens);
  const KeptPieces<Piece> kept{reinterpret_cast<Piece*>(dynamic_shared()), room};
  auto* const softmax = reinterpret_cast<RowSoftmax<A>*>(kept.pieces + room * kThreads);
  A* const rows = reinterpret_cast<A*>(softmax + queries);  // (queries, tokens)
  A* const partial = rows + queries * tokens;
  const int64_t image = blockIdx.x / n.heads, head = blockIdx.x % n.heads;
  const Rows<const T> head_query = query.of(image, head), head_key = key.of(image, head);
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;

  const int pieces = static_cast<int>(n.width / kVector);
  const RowLanes lanes(pieces);
  const int chunks = (tokens + kChunk - 1) / kChunk;
  const int turns = turns_of(tokens, lanes.group, kWarps);
  for (int chunk = warp; chunk < chunks; chunk += kWarps) {
    for (int q = 0; q < queries; ++q) {
      const A dot = dots_of_chunk<T, kVector>(
          head_query[q], chunk_of(head_key, chunk), tokens - chunk * kChunk, pieces, lanes,
          [&](int column, int step, const Piece* from) {
            const int turn = column * turns + chunk / kWarps * lanes.group + step;
            return q == 0 ? kept.read(turn, from) : kept.read_again(turn, from);
          });
      const int token = chunk * kChunk + token_of_lane(lanes);
      if (token < tokens) rows[q * tokens + token] = scale * dot;
    }
  }
  __syncthreads();
  grad_out += image * n.queries * n.tokens;
  for (int q = warp; q < queries; q += kWarps) {
    const auto found =
        softmax_of_row<true, A>(rows + q * tokens, grad_out + q * tokens, tokens, lane);
    if (lane == 0) softmax[q] = found;
  }
  __syncthreads();
  const A factor = scale / static_cast<A>(n.heads);
  for (int i = threadIdx.x; i < queries * tokens; i += kThreads) {
    const RowSoftmax<A>& of = softmax[i / tokens];
    rows[i] = of(rows[i]) * ((grad_out[i] - of.expected) * factor);
  }
  __syncthreads();
  if (grad_query.data != nullptr) {
    for (int q = 0; q < queries; ++q) {
      T* const to = grad_query.row(image, head, q);
      sum_rows<T, kVector, kWarps>(
          head_key, tokens, n.width, [&](int64_t token) { return rows[q * tokens + token]; },
          [&](int turn, const Piece* from) { return kept.read_again(turn, from); }, partial,
          [&](int64_t d, A sum) { to[d] = Element<T>::store(sum); });
    }
  }
  if (grad_key.data != nullptr) {
    write_grad_key<T, kVector>(
        head_query, n, [&](int64_t q, int64_t token) { return rows[q * tokens + token]; }, 0,
        tokens, grad_key.of(image, head));
  }
}

template <typename T, int kVector>
__global__ void logits_kernel(HeadRows<const T> query, HeadRows<const T> key, QueryKeySizes n,
                              typename Element<T>::Accumulator scale,
                              typename Element<T>::Accumulator* logits) {
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
  const int64_t chunks = (n.tokens + kChunk - 1) / kChunk;
  if (item >= n.images * n.heads * n.queries * chunks) return;  // a whole warp at a time
  const int64_t q = item % n.queries, chunk = item / n.queries % chunks, first = chunk * kChunk;
  const int64_t index = item / n.queries / chunks, image = index / n.heads, head = index % n.heads;
  const int pieces = static_cast<int>(n.width / kVector);
  const RowLanes lanes(pieces);
  const int count = static_cast<int>(min(n.tokens - first, static_cast<int64_t>(kChunk)));
  const auto dot = dots_of_chunk<T, kVector>(
      query.row(image, head, q), chunk_of(key.of(image, head), chunk), count, pieces, lanes,
      [](int, int, const Vector<T, kVector>* from) { return *from; });
  const int64_t token = first + token_of_lane(lanes);
  if (token < n.tokens) logits[(index * n.queries + q) * n.tokens + token] = scale * dot;
}

template <typename A>
__global__ void softmax_kernel(A* logits, int64_t rows, int64_t tokens) {
  const int lane = threadIdx.x % kWarpSize;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
  if (index >= rows) return;  // a whole warp at a time
  A* row = logits + index * tokens;
  const auto softmax = softmax_of_row<false, A>(row, nullptr, tokens, lane);
  for (int64_t j = lane; j < tokens; j += kWarpSize) row[j] = softmax(row[j]);
}

template <typename A>
__global__ void average_kernel(const A* probabilities, QueryKeySizes n, int64_t total, A* out) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= total) return;
  const int64_t rows = n.queries * n.tokens;
  const A* first = probabilities + index / rows * n.heads * rows + index % rows;
  A sum = 0;
  for (int64_t head = 0; head < n.heads; ++head) sum += first[head * rows];
  out[index] = sum / static_cast<A>(n.heads);
}

// Turns a row of logits into the gradient of the loss with respect to query . key.
template <typename A>
__global__ void softmax_gradient_kernel(A* logits, const A* grad_out, QueryKeySizes n, int64_t rows,
                                        A scale) {
  const int lane = threadIdx.x % kWarpSize;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
  if (index >= rows) return;  // a whole warp at a time
  const int64_t image = index / n.queries / n.heads, q = index % n.queries;
  A* row = logits + index * n.tokens;
  const A* grad = grad_out + (image * n.queries + q) * n.tokens;
  const auto softmax = softmax_of_row<true, A>(row, grad, n.tokens, lane);
  const A factor = scale / static_cast<A>(n.heads);
  for (int64_t j = lane; j < n.tokens; j += kWarpSize) {
    row[j] = softmax(row[j]) * ((grad[j] - softmax.expected) * factor);
  }
}

// A dot product's weight, as `dot_gradients` asks for it.
template <typename A>
struct RowWeights {
  const A* rows;  // (B, H, Q, N)
  int64_t heads, queries, tokens;

  __device__ A operator()(int64_t image, int64_t head, int64_t q, int64_t token) const {
    return rows[((image * heads + head) * queries + q) * tokens + token];
  }
};

struct Sizes {
  int64_t images, heads, queries, tokens, width, element_bytes;

  int64_t accumulator_bytes() const { return std::max<int64_t>(element_bytes, sizeof(float)); }
  int64_t logits_bytes() const { return images * heads * queries * tokens * accumulator_bytes(); }
  // Whether blocks of so many heads do it all: their rows fit, and there are either many blocks, or
  // each has no more keys than it reads in about the time that two more launches take.
  bool fit_blocks(int64_t block_heads) const {
    constexpr int64_t kManyBlocks = 64, kFewBytes = 512 * 1024;
    constexpr int64_t kRowBytes = 40 * 1024;  // leaves room for what the backward has beside them
    const int64_t numbers = tokens + 3;       // of a row: its logits and its RowSoftmax
    return block_heads * queries * numbers * accumulator_bytes() <= kRowBytes &&
           (images * heads / block_heads >= kManyBlocks ||
            block_heads * tokens * width * element_bytes <= kFewBytes);
  }
  // How many heads a block of the forward has; 0 where blocks do not do it all.
  int64_t heads_a_block() const { return fit_blocks(heads) ? heads : fit_blocks(1) ? 1 : 0; }
};

Sizes sizes_of(const QueryKeySizes& n, int64_t element_bytes) {
  return {n.images, n.heads, n.queries, n.tokens, n.width, element_bytes};
}

template <typename T>
void logits(const char* name, const TensorView& query, const TensorView& key, double scale,
            typename Element<T>::Accumulator* out, Stream stream) {
  using A = typename Element<T>::Accumulator;
  const QueryKeySizes n(query, key);
  const int64_t chunks = blocks_for(n.tokens, kChunk);
  launch(name,
         are_aligned<T>(query, key, {}) ? logits_kernel<T, 16 / sizeof(T)> : logits_kernel<T, 1>,
         blocks_for(n.images * n.heads * n.queries * chunks, kWarps), kThreads, 0, stream,
         HeadRows<const T>(query), HeadRows<const T>(key), n, static_cast<A>(scale), out);
}

template <typename T>
void forward_in_blocks(const char* name, const ClassAttentionForward& args, int64_t heads,
                       typename Element<T>::Accumulator* out, Stream stream) {
  using A = typename Element<T>::Accumulator;
  const QueryKeySizes n(args.query, args.key);
  const int64_t rows = heads * n.queries;
  launch(name,
         are_aligned<T>(args.query, args.key, {}) ? forward_kernel<T, 16 / sizeof(T)>
                                                  : forward_kernel<T, 1>,
         static_cast<unsigned>(n.images * n.heads / heads), kForwardThreads,
         rows * (sizeof(RowSoftmax<A>) + n.tokens * sizeof(A)), stream,
         HeadRows<const T>(args.query), HeadRows<const T>(args.key), n, static_cast<int>(heads),
         static_cast<A>(args.scale), out);
}

template <typename T, int kVector>
void backward_in_blocks(const char* name, const ClassAttentionBackward& args, Stream stream) {
  using A = typename Element<T>::Accumulator;
  const QueryKeySizes n(args.query, args.key);
  const int64_t bytes = n.queries * (sizeof(RowSoftmax<A>) + n.tokens * sizeof(A)) +
                        sum_rows_bytes<T, kVector, kWarps>(n.width);
  // As many of the keys as all kernels have room for without asking, if they are needed again.
  constexpr int64_t kTurnBytes = kThreads * sizeof(Vector<T, kVector>);
  const int64_t pieces = n.width / kVector;
  const int group = lanes_for(pieces);
  const int64_t turns = (pieces + group - 1) / group * turns_of(n.tokens, group, kWarps);
  const int64_t room =
      args.grad_query.data == nullptr && n.queries == 1
          ? 0
          : std::clamp<int64_t>(
                (static_cast<int64_t>(kSharedBytesOfAnyKernel) - bytes) / kTurnBytes, 0, turns);
  launch(name, backward_kernel<T, kVector>, static_cast<unsigned>(n.images * n.heads), kThreads,
         room * kTurnBytes + bytes, stream, HeadRows<const T>(args.query),
         HeadRows<const T>(args.key), n, args.grad_out.as<const A>(), static_cast<int>(room),
         static_cast<A>(args.scale), HeadRows<T>(args.grad_query), HeadRows<T>(args.grad_key));
}

}  // namespace

int64_t class_attention_forward_scratch_bytes(int64_t images, int64_t heads, int64_t queries,
                                              int64_t tokens, int64_t width,
                                              int64_t element_bytes) {
  const Sizes n{images, heads, queries, tokens, width, element_bytes};
  return n.heads_a_block() == heads ? 0 : n.logits_bytes();
}

int64_t class_attention_backward_scratch_bytes(int64_t images, int64_t heads, int64_t queries,
                                               int64_t tokens, int64_t width,
                                               int64_t element_bytes) {
  const Sizes n{images, heads, queries, tokens, width, element_bytes};
  return n.fit_blocks(1) ? 0 : n.logits_bytes();
}

void class_attention_forward(const ClassAttentionForward& args, Stream stream) {
  constexpr const char* kName = "class_attention";
  with_floating_type(kName, args.query.dtype, [&]<typename T>(ElementTag<T>) {
    using A = typename Element<T>::Accumulator;
    const QueryKeySizes n(args.query, args.key);
    const int64_t heads = sizes_of(n, sizeof(T)).heads_a_block();
    if (heads == n.heads) {
      return forward_in_blocks<T>(kName, args, heads, args.out.as<A>(), stream);
    }
    A* const probabilities = args.scratch.as<A>();  // (B, H, Q, N)
    if (heads == 1) {
      forward_in_blocks<T>(kName, args, heads, probabilities, stream);
    } else {
      const int64_t rows = n.images * n.heads * n.queries;
      logits<T>(kName, args.query, args.key, args.scale, probabilities, stream);
      launch(kName, softmax_kernel<A>, blocks_for(rows, kWarps), kThreads, 0, stream, probabilities,
             rows, n.tokens);
    }
    const int64_t total = n.images * n.queries * n.tokens;
    launch(kName, average_kernel<A>, blocks_for(total, kThreads), kThreads, 0, stream,
           probabilities, n, total, args.out.as<A>());
  });
}

void class_attention_backward(const ClassAttentionBackward& args, Stream stream) {
  constexpr const char* kName = "class_attention_backward";
  with_floating_type(kName, args.query.dtype, [&]<typename T>(ElementTag<T>) {
    using A = typename Element<T>::Accumulator;
    const QueryKeySizes n(args.query, args.key);
    if (sizes_of(n, sizeof(T)).fit_blocks(1)) {
      return are_aligned<T>(args.query, args.key, args.grad_key)
                 ? backward_in_blocks<T, 16 / sizeof(T)>(kName, args, stream)
                 : backward_in_blocks<T, 1>(kName, args, stream);
    }
    A* const rows = args.scratch.as<A>();  // (B, H, Q, N)
    const int64_t count = n.images * n.heads * n.queries;
    logits<T>(kName, args.query, args.key, args.scale, rows, stream);
    launch(kName, softmax_gradient_kernel<A>, blocks_for(count, kWarps), kThreads, 0, stream, rows,
           args.grad_out.as<A>(), n, count, static_cast<A>(args.scale));
    dot_gradients<T>(kName, args.query, args.key, RowWeights<A>{rows, n.heads, n.queries, n.tokens},
                     args.grad_query, args.grad_key, stream);
  });
}

}  // namespace wsol::cuda
