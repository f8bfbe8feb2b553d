// CUDA: the graph of an image's tokens: how it is made of similarities, and the sums of its
// products.
//
// A product with bits looks sums up, as the CPU's does: of four entries there are 16 sums, a line
// of shared memory, so that whatever lanes ask for, no two wait for a bank. Entries are integers,
// in units so small that nothing is lost: their sums are exact, in any order, and on cards that
// have few float64 units an addition costs no more than elsewhere. Weights take multiply-adds in
// float64.
#pragma once

#include <cmath>

#include "core/cuda.h"

namespace wsol::cuda::graphs {

constexpr int kColumns = 256;  // that a thread adds at a time: a part of its row's sum
constexpr int kStaged = 512;   // entries of the vector in shared memory at a time

#if defined(__CUDACC__) || defined(WSOL_EMULATOR)

constexpr int kQuad = 4;

// The graph in bits: word (w, i) has those of row i and columns 32 w to 32 w + 31.
struct BitGraph {
  using Number = int64_t;  // what is summed
  static constexpr int kSums = 1 << kQuad;
  static constexpr int kSumStride = kSums + kQuad;  // four lines of it are written without a wait
  static constexpr int kStagedNumbers = kStaged / kQuad * kSumStride;

  unsigned* words;
  int tokens;
  double threshold, eps;

  WSOL_HOST_DEVICE int64_t words_of_image() const {
    return int64_t{(tokens + kWarpSize - 1) / kWarpSize} * tokens;
  }
  __device__ BitGraph of_image(unsigned image) const {
    return {words + image * words_of_image(), tokens, threshold, eps};
  }

  // The lanes' similarities of a row with 32 columns from `column` on, a multiple of 32.
  template <typename A>
  __device__ void take(int row, int column, A similarity) const {
    const int lane = threadIdx.x % kWarpSize;
    const bool is_edge = similarity > static_cast<A>(threshold) && column + lane < tokens;
    const unsigned word = __ballot_sync(kFullWarp, is_edge);
    if (lane == 0 && row < tokens && column < tokens) {
      words[int64_t{column / kWarpSize} * tokens + row] = word;
    }
  }

  // How many units there are in 1, if magnitudes add up to `size` at most: then no sum overflows.
  __device__ static double units(double size) { return 0x1p61 / size; }

  // Stages entry i: a whole warp's, together.
  __device__ static void stage(int i, double entry, double units, Number* staged) {
    const auto own = static_cast<Number>(rint(entry * units));
    Number of[kQuad];
#pragma unroll
    for (int q = 0; q < kQuad; ++q) of[q] = __shfl_sync(kFullWarp, own, q, kQuad);
    const int own_place = i % kQuad;
    const Number first = (own_place & 1 ? of[0] : 0) + (own_place & 2 ? of[1] : 0);
    Number* sums = staged + i / kQuad * kSumStride + own_place;
    sums[0] = first;
    sums[kQuad] = first + of[2];
    sums[2 * kQuad] = first + of[3];
    sums[3 * kQuad] = first + of[2] + of[3];
  }

  // The part of a row's sum that columns from `first` on have, of kColumns; staged: their sums.
  __device__ Number sum(int row, int first, int end, const Number* staged) const {
    constexpr int kWords = 4;  // on their way at a time
    Number sum = 0;
#pragma unroll 1
    for (int column = first; column < end; column += kWords * kWarpSize) {
      unsigned word[kWords];
#pragma unroll
      for (int w = 0; w < kWords; ++w) {
        const int own = column + w * kWarpSize;
        word[w] = own < end ? words[int64_t{own / kWarpSize} * tokens + row] : 0;
      }
      const Number* sums = staged_from(staged, column - first);
#pragma unroll
      for (int w = 0; w < kWords; ++w) {
        if (column + w * kWarpSize >= end) break;
#pragma unroll
        for (int q = 0; q < kWarpSize / kQuad; ++q, sums += kSumStride) {
          sum += sums[(word[w] >> q * kQuad) % kSums];
        }
      }
    }
    return sum;
  }
  __device__ double product(Number sum_of_edges, double sum_of_all, double units) const {
    return eps * sum_of_all + (1 - eps) * (static_cast<double>(sum_of_edges) / units);
  }
  // Where the entries from `first` on are, a multiple of kQuad.
  __device__ static const Number* staged_from(const Number* staged, int first) {
    return staged + first / kQuad * kSumStride;
  }
};

// Weight (j, i) of edge i, j: the matrix is symmetric.
template <typename A>
struct WeightedGraph {
  using Number = double;
  static constexpr int kStagedNumbers = kStaged;

  A* weights;
  int tokens;
  double threshold, eps;

  __device__ WeightedGraph of_image(unsigned image) const {
    return {weights + image * (int64_t{tokens} * tokens), tokens, threshold, eps};
  }

  __device__ void take(int row, int column, A similarity) const {
    column += threadIdx.x % kWarpSize;
    if (row >= tokens || column >= tokens) return;
    weights[int64_t{row} * tokens + column] =
        similarity > static_cast<A>(threshold) ? similarity : static_cast<A>(eps);
  }

  __device__ static double units(double) { return 1; }

  __device__ static void stage(int i, double entry, double, double* staged) { staged[i] = entry; }

  __device__ double sum(int row, int first, int end, const double* staged) const {
    double sum = 0;
    for (int column = first; column < end; ++column) {
      sum += static_cast<double>(weights[int64_t{column} * tokens + row]) * staged[column - first];
    }
    return sum;
  }
  __device__ double product(double sum_of_edges, double, double) const { return sum_of_edges; }
  __device__ static const double* staged_from(const double* staged, int first) {
    return staged + first;
  }
};

#endif  // __CUDACC__ || WSOL_EMULATOR

}  // namespace wsol::cuda::graphs
