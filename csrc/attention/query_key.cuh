// CUDA: what operators on the dot products of a few queries with all keys of a head share.
//
// Gradients of query[b, h, q] . key[b, h, j], given the loss's gradient by them, are two launches:
//
//   grad_query  a block owns grad_query[b, h, q]: its warps split the tokens, its lanes the width,
//               32 columns at a time; the warps' sums meet in shared memory. Reads every key once.
//   grad_key    a thread owns 16-byte pieces of grad_key, which it writes once.
//
// Both are limited by that bandwidth.
#pragma once

#include "attention/head_rows.h"
#include "core/cuda.h"

#if defined(__CUDACC__) || defined(WSOL_EMULATOR)

namespace wsol::cuda {

constexpr int kDotThreads = 256;
constexpr int kDotWarps = kDotThreads / kWarpSize;
constexpr int kDotRows = 64;  // of grad_key a block

template <typename T>
__global__ void grad_query_kernel(HeadRows<const T> key, QueryKeySizes n,
                                  HeadRows<const typename Element<T>::Accumulator> grad_dots,
                                  HeadRows<T> grad_query) {
  using A = typename Element<T>::Accumulator;
  A* partial = reinterpret_cast<A*>(dynamic_shared());  // (kDotWarps, 32)
  const int64_t q = blockIdx.y, image = blockIdx.x / n.heads, head = blockIdx.x % n.heads;
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const A* weights = grad_dots.row(image, head, q);
  for (int64_t column = 0; column < n.width; column += kWarpSize) {
    const int64_t d = column + lane;
    A sum = 0;
    if (d < n.width) {
      for (int64_t j = warp; j < n.tokens; j += kDotWarps) {
        sum += weights[j] * Element<T>::load(key.row(image, head, j)[d]);
      }
    }
    partial[warp * kWarpSize + lane] = sum;
    __syncthreads();
    if (warp == 0 && d < n.width) {
      A total = 0;
      for (int w = 0; w < kDotWarps; ++w) total += partial[w * kWarpSize + lane];
      grad_query.row(image, head, q)[d] = Element<T>::store(total);
    }
    __syncthreads();
  }
}

template <typename T, int kVector>
__global__ void grad_key_kernel(HeadRows<const T> query, QueryKeySizes n,
                                HeadRows<const typename Element<T>::Accumulator> grad_dots,
                                HeadRows<T> grad_key) {
  using A = typename Element<T>::Accumulator;
  using Piece = Vector<T, kVector>;
  const int64_t image = blockIdx.x / n.heads, head = blockIdx.x % n.heads;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kDotRows;
  const int rows = static_cast<int>(min(static_cast<int64_t>(kDotRows), n.tokens - first));
  const int pieces = static_cast<int>(n.width / kVector), group = lanes_for(pieces);
  for (int piece = threadIdx.x % group; piece < pieces; piece += group) {
    for (int row = threadIdx.x / group; row < rows; row += kDotThreads / group) {
      A sums[kVector] = {};
      // The block's threads share these rows in the L1 cache.
      for (int64_t q = 0; q < n.queries; ++q) {
        const A weight = grad_dots.row(image, head, q)[first + row];
        const auto values = reinterpret_cast<const Piece*>(query.row(image, head, q))[piece];
#pragma unroll
        for (int i = 0; i < kVector; ++i) sums[i] += weight * Element<T>::load(values.values[i]);
      }
      Piece result;
#pragma unroll
      for (int i = 0; i < kVector; ++i) result.values[i] = Element<T>::store(sums[i]);
      reinterpret_cast<Piece*>(grad_key.row(image, head, first + row))[piece] = result;
    }
  }
}

// grad_dots (B, H, Q, N), any strides but the last, which is 1. A gradient without memory is not
// wanted.
template <typename T>
void dot_gradients(const char* name, const TensorView& query, const TensorView& key,
                   const TensorView& grad_dots, const TensorView& grad_query,
                   const TensorView& grad_key, Stream stream) {
  using A = typename Element<T>::Accumulator;
  const QueryKeySizes n(query, key);
  const auto heads = static_cast<unsigned>(n.images * n.heads);
  if (grad_query.data != nullptr) {
    launch(name, grad_query_kernel<T>, dim3(heads, static_cast<unsigned>(n.queries)), kDotThreads,
           kDotThreads * sizeof(A), stream, HeadRows<const T>(key), n, HeadRows<const A>(grad_dots),
           HeadRows<T>(grad_query));
  }
  if (grad_key.data != nullptr) {
    constexpr int kVector = 16 / sizeof(T);
    const bool aligned = rows_are_aligned<T>(query) && rows_are_aligned<T>(grad_key);
    launch(name, aligned ? grad_key_kernel<T, kVector> : grad_key_kernel<T, 1>,
           dim3(heads, blocks_for(n.tokens, kDotRows)), kDotThreads, 0, stream,
           HeadRows<const T>(query), n, HeadRows<const A>(grad_dots), HeadRows<T>(grad_key));
  }
}

}  // namespace wsol::cuda

#endif  // __CUDACC__ || WSOL_EMULATOR
