// CUDA: what operators on the dot products of a few queries with all keys of a head share.
//
// Dot products are made a chunk of tokens at a time (row_lanes.cuh), the query in registers.
//
// Gradients of query[b, h, q] . key[b, h, j], given the loss's gradient by them, its weight:
//
//   grad_query  a block owns grad_query[b, h, q]: its warps split the tokens, and their sums meet
//   in
//               shared memory. Reads every key once.
//   grad_key    a thread owns 16-byte pieces of grad_key, which it writes once.
//
// Both are limited by that bandwidth. `dot_gradients` is both in one launch, each by blocks of its
// own.
#pragma once

#include "attention/row_lanes.cuh"

#if defined(__CUDACC__) || defined(WSOL_EMULATOR)

namespace wsol::cuda {

constexpr int kDotThreads = 256;
constexpr int kDotWarps = kDotThreads / kWarpSize;
constexpr int kDotRows = 64;  // of grad_key a block

// What a thread reads and will read again: the first `room` pieces wait in shared memory, each
// thread's among its own, so that nobody has to wait for another.
template <typename Piece>
struct KeptPieces {
  Piece* pieces = nullptr;  // (room, blockDim.x)
  int room = 0;

  __device__ Piece read(int turn, const Piece* from) const {
    const Piece piece = *from;
    if (turn < room) pieces[turn * blockDim.x + threadIdx.x] = piece;
    return piece;
  }
  __device__ Piece read_again(int turn, const Piece* from) const {
    return turn < room ? pieces[turn * blockDim.x + threadIdx.x] : *from;
  }
};

// Dot products of a query with the keys of a chunk, of which there are `count`, one for each lane:
// that of the chunk's `token_of_lane`. `read(column, step, from)` reads a piece of a key.
template <typename T, int kVector, typename Read>
__device__ typename Element<T>::Accumulator dots_of_chunk(const T* query, Rows<const T> chunk,
                                                          int count, int pieces,
                                                          const RowLanes& lanes, const Read& read) {
  using A = typename Element<T>::Accumulator;
  using Piece = Vector<T, kVector>;
  A own = 0;
  for (int column = 0; column * lanes.group < pieces; ++column) {
    const int piece = column * lanes.group + lanes.member;
    A weights[kVector] = {};
    if (piece < pieces) {
      const Piece loaded = reinterpret_cast<const Piece*>(query)[piece];
#pragma unroll
      for (int i = 0; i < kVector; ++i) weights[i] = Element<T>::load(loaded.values[i]);
    }
    for (int step = 0; step < lanes.group; step += kLoads) {
      Piece loaded[kLoads] = {};
#pragma unroll
      for (int k = 0; k < kLoads; ++k) {
        const int token = (step + k) * lanes.rows + lanes.row;
        if (step + k < lanes.group && token < count && piece < pieces) {
          loaded[k] = read(column, step + k, reinterpret_cast<const Piece*>(chunk[token]) + piece);
        }
      }
#pragma unroll
      for (int k = 0; k < kLoads; ++k) {
        A sum = 0;
#pragma unroll
        for (int i = 0; i < kVector; ++i) sum += Element<T>::load(loaded[k].values[i]) * weights[i];
        for (int offset = lanes.group / 2; offset > 0; offset /= 2) {
          sum += __shfl_xor_sync(kFullWarp, sum, offset);
        }
        if (lanes.member == step + k) own += sum;
      }
    }
  }
  return own;
}

__device__ inline int token_of_lane(const RowLanes& lanes) {
  return lanes.member * lanes.rows + lanes.row;
}

// grad_key of tokens `begin` to `end` - 1 = sum over queries q of weight(q, token) times the query,
// by a block.
template <typename T, int kVector, typename Weight>
__device__ void write_grad_key(Rows<const T> query, const QueryKeySizes& n, const Weight& weight,
                               int64_t begin, int64_t end, Rows<T> grad_key) {
  using A = typename Element<T>::Accumulator;
  using Piece = Vector<T, kVector>;
  const int pieces = static_cast<int>(n.width / kVector), group = lanes_for(pieces);
  const auto add = [&](A(&sums)[kVector], A factor, const Piece& piece) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) sums[i] += factor * Element<T>::load(piece.values[i]);
  };
  for (int piece = threadIdx.x % group; piece < pieces; piece += group) {
    const Piece first = reinterpret_cast<const Piece*>(query[0])[piece];  // usually the only one
    for (int64_t token = begin + threadIdx.x / group; token < end; token += kDotThreads / group) {
      A sums[kVector] = {};
      add(sums, weight(0, token), first);
      for (int64_t q = 1; q < n.queries; ++q) {
        add(sums, weight(q, token), reinterpret_cast<const Piece*>(query[q])[piece]);
      }
      Piece result;
#pragma unroll
      for (int i = 0; i < kVector; ++i) result.values[i] = Element<T>::store(sums[i]);
      reinterpret_cast<Piece*>(grad_key[token])[piece] = result;
    }
  }
}

// A block owns a query's gradient, or, after `query_blocks` of those, kDotRows tokens' keys'.
template <typename T, int kVector, typename Weights>
__global__ void dot_gradients_kernel(HeadRows<const T> query, HeadRows<const T> key,
                                     QueryKeySizes n, Weights weights, HeadRows<T> grad_query,
                                     HeadRows<T> grad_key, int64_t query_blocks,
                                     int64_t blocks_a_head) {
  using A = typename Element<T>::Accumulator;
  using Piece = Vector<T, kVector>;
  const int64_t image = blockIdx.x / blocks_a_head / n.heads;
  const int64_t head = blockIdx.x / blocks_a_head % n.heads, part = blockIdx.x % blocks_a_head;
  const auto weight = [&](int64_t q, int64_t token) { return weights(image, head, q, token); };
  if (part < query_blocks) {
    T* const to = grad_query.row(image, head, part);
    sum_rows<T, kVector, kDotWarps>(
        key.of(image, head), n.tokens, n.width, [&](int64_t token) { return weight(part, token); },
        [](int, const Piece* from) { return *from; }, reinterpret_cast<A*>(dynamic_shared()),
        [&](int64_t d, A sum) { to[d] = Element<T>::store(sum); });
  } else {
    const int64_t first = (part - query_blocks) * kDotRows;
    write_grad_key<T, kVector>(query.of(image, head), n, weight, first,
                               min(first + kDotRows, n.tokens), grad_key.of(image, head));
  }
}

// Whether all rows can be read and written in 16-byte pieces; of a gradient that is not wanted
// there is nothing to read.
template <typename T>
bool are_aligned(const TensorView& query, const TensorView& key, const TensorView& grad_key) {
  return rows_are_aligned<T>(query) && rows_are_aligned<T>(key) &&
         (grad_key.data == nullptr || rows_are_aligned<T>(grad_key));
}

// weights(image, head, q, token) is the loss's gradient by a dot product. A gradient without memory
// is not wanted.
template <typename T, typename Weights>
void dot_gradients(const char* name, const TensorView& query, const TensorView& key,
                   const Weights& weights, const TensorView& grad_query, const TensorView& grad_key,
                   Stream stream) {
  constexpr int kVector = 16 / sizeof(T);
  const QueryKeySizes n(query, key);
  const int64_t query_blocks = grad_query.data == nullptr ? 0 : n.queries;
  const int64_t key_blocks = grad_key.data == nullptr ? 0 : blocks_for(n.tokens, kDotRows);
  const int64_t blocks_a_head = query_blocks + key_blocks;
  const bool aligned = are_aligned<T>(query, key, grad_key);
  launch(name,
         aligned ? dot_gradients_kernel<T, kVector, Weights> : dot_gradients_kernel<T, 1, Weights>,
         static_cast<unsigned>(n.images * n.heads * blocks_a_head), kDotThreads,
         aligned ? sum_rows_bytes<T, kVector, kDotWarps>(n.width)
                 : sum_rows_bytes<T, 1, kDotWarps>(n.width),
         stream, HeadRows<const T>(query), HeadRows<const T>(key), n, weights,
         HeadRows<T>(grad_query), HeadRows<T>(grad_key), query_blocks, blocks_a_head);
}

}  // namespace wsol::cuda

#endif  // __CUDACC__ || WSOL_EMULATOR
