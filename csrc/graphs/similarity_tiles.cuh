// CUDA: which tokens are similar.
//
// normalize: a warp owns a token: its length, and its features at length 1, in float32 (float64 of
// float64), padded with zeros to whole slabs.
//
// similarity: a block owns a pair of tiles of 64 tokens on or above the diagonal, its threads 4 x 4
// similarities each; slabs of channels pass through shared memory. The tile of similarities then
// lies in shared memory, from where warps read it by rows and by columns, and their votes are the
// words of both. Not torch's matmul: that would make twice the products, write N^2 floats to be
// read once, and, where TF32 is allowed, put pairs on the wrong side of the threshold. Limited by
// the products.
#pragma once

#include <cmath>

#include "core/cuda.h"
#include "graphs/token_graphs.cuh"

namespace wsol::cuda::graphs {

constexpr int kTile = 64;                                        // tokens
constexpr int kSlab = 16;                                        // channels
constexpr int kTileThreads = (kTile / kQuad) * (kTile / kQuad);  // of kQuad x kQuad similarities
constexpr int kTileWarps = kTileThreads / kWarpSize;
constexpr int kSlabStride = kTile + 4;  // a multiple of 16 bytes; no two of a warp's rows in a bank
constexpr int kTileStride = kTile + 1;  // columns are read as well as rows

constexpr int kNormalizeWarps = 8;

static_assert(kSlab == 4 * kQuad && kTileThreads == 4 * kTile);

#if defined(__CUDACC__) || defined(WSOL_EMULATOR)

template <typename T>
struct TokenFeatures {
  const T* data;
  int64_t image_stride, token_stride;
  int tokens, channels;

  explicit TokenFeatures(const TensorView& view)
      : data(view.as<T>()),
        image_stride(view.stride(0)),
        token_stride(view.stride(1)),
        tokens(static_cast<int>(view.size(1))),
        channels(static_cast<int>(view.size(2))) {}
};

template <typename T>
__global__ void normalize_kernel(TokenFeatures<T> features, int64_t count, int depth,
                                 typename Element<T>::Accumulator* unit, bool* is_finite) {
  using A = typename Element<T>::Accumulator;
  const int64_t index =
      static_cast<int64_t>(blockIdx.x) * kNormalizeWarps + threadIdx.x / kWarpSize;
  if (index >= count) return;
  const int lane = threadIdx.x % kWarpSize;
  const T* from = features.data + index / features.tokens * features.image_stride +
                  index % features.tokens * features.token_stride;
  double square = 0;
  for (int c = lane; c < features.channels; c += kWarpSize) {
    const auto value = static_cast<double>(Element<T>::load(from[c]));
    square += value * value;
  }
  square = warp_sum(square);
  const double factor = square == 0 ? 0 : 1 / sqrt(square);
  A* to = unit + index * depth;
  for (int c = lane; c < depth; c += kWarpSize) {
    to[c] = c < features.channels
                ? static_cast<A>(static_cast<double>(Element<T>::load(from[c])) * factor)
                : A(0);
  }
  if (lane == 0) is_finite[index] = isfinite(square);
}

template <typename A>
struct alignas(16) Quad {
  A of[kQuad];
};

// The tiles of the n-th pair (row, column), row <= column, counted by columns.
struct TilePair {
  int row, column;

  __device__ explicit TilePair(int n) {
    column = static_cast<int>((sqrt(8.0 * n + 1) - 1) / 2);
    while (column * (column + 1) / 2 > n) --column;  // whatever the root's rounding
    while ((column + 1) * (column + 2) / 2 <= n) ++column;
    row = n - column * (column + 1) / 2;
  }
};

template <typename A, typename Graph>
__global__ void __launch_bounds__(kTileThreads, sizeof(A) == sizeof(float) ? 5 : 0)
    similarity_kernel(const A* all_units, int depth, Graph graphs) {
  auto* left = reinterpret_cast<A*>(dynamic_shared());  // (kSlab, kSlabStride)
  A* right = left + kSlab * kSlabStride;                // likewise
  A* tile = left;                                       // (kTile, kTileStride), when both are done
  const Graph graph = graphs.of_image(blockIdx.y);
  const TilePair pair(static_cast<int>(blockIdx.x));
  const int tokens = graph.tokens, first_row = pair.row * kTile, first_column = pair.column * kTile;
  const A* units = all_units + int64_t{blockIdx.y} * tokens * depth;
  const int x = threadIdx.x % (kTile / kQuad) * kQuad, y = threadIdx.x / (kTile / kQuad) * kQuad;

  // A thread brings four channels of a token of either tile, its neighbour the four beside them: 32
  // bytes; so of a token's 16 a warp has half, and stores them without a wait for a bank.
  const int token = threadIdx.x / 2 % kTile;
  const int part = (threadIdx.x % 2 + threadIdx.x / (2 * kTile) * 2) * kQuad;
  const auto bring = [&](int first_token, int channel, A* to) {
    Quad<A> values{};
    if (first_token + token < tokens) {
      values = *reinterpret_cast<const Quad<A>*>(units + int64_t{first_token + token} * depth +
                                                 channel + part);
    }
#pragma unroll
    for (int i = 0; i < kQuad; ++i) to[(part + i) * kSlabStride + token] = values.of[i];
  };

  A sums[kQuad][kQuad] = {};
  for (int channel = 0; channel < depth; channel += kSlab) {
    __syncthreads();
    bring(first_row, channel, left);
    bring(first_column, channel, right);
    __syncthreads();
#pragma unroll
    for (int c = 0; c < kSlab; ++c) {
      const auto a = *reinterpret_cast<const Quad<A>*>(left + c * kSlabStride + y);
      const auto b = *reinterpret_cast<const Quad<A>*>(right + c * kSlabStride + x);
#pragma unroll
      for (int i = 0; i < kQuad; ++i) {
#pragma unroll
        for (int j = 0; j < kQuad; ++j) sums[i][j] += a.of[i] * b.of[j];
      }
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kQuad; ++i) {
#pragma unroll
    for (int j = 0; j < kQuad; ++j) tile[(y + i) * kTileStride + x + j] = sums[i][j];
  }
  __syncthreads();
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  for (int row = warp; row < kTile; row += kTileWarps) {
    for (int column = 0; column < kTile; column += kWarpSize) {
      graph.take(first_row + row, first_column + column, tile[row * kTileStride + column + lane]);
      if (pair.row != pair.column) {
        graph.take(first_column + row, first_row + column,
                   tile[(column + lane) * kTileStride + row]);
      }
    }
  }
}

#endif  // __CUDACC__ || WSOL_EMULATOR

}  // namespace wsol::cuda::graphs
