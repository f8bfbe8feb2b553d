// What the kernels of masked_reattention on tensor cores are made of: tiles in shared memory, their
// products, and how a warp reads and writes its rows.
//
// Operands lie in shared memory, rows 16 bytes longer than they are wide, so that the eight rows of
// a matrix that ldmatrix reads lie in different banks; past the width they are zero. A warp owns 16
// rows, which it copies there by itself, and where it makes its results later: whole rows go to and
// from global memory, 16 bytes a lane. Logits, weights and sums stay in registers: a product's
// result is the next one's operand as it lies.
#pragma once

#include <type_traits>

#include "attention/masked_reattention.cuh"
#include "core/mma.cuh"

#if defined(__CUDACC__) || defined(WSOL_EMULATOR)

namespace wsol::cuda::reattention {

constexpr int kRowsPerWarp = 16;

template <int kWidth>
constexpr int kPitch = kWidth + 8;
// Elements of a warp's rows.
template <int kWidth>
constexpr int kWarpSpan = kRowsPerWarp * kPitch<kWidth>;

// Logits are in base 2 until they leave a tile: a weight is one power of two. Rounded by itself, so
// that equal logits stay equal.
__device__ inline float natural(float base_2) { return __fmul_rn(base_2, kLog2); }

// A warp's (16, kColumns) part of a product: [n][i] is at row_of(i), column_of(n, i).
template <int kColumns>
using Sums = float[kColumns / 8][4];

__device__ inline int warp_of_block() { return threadIdx.x / kWarpSize; }
__device__ inline int rows_of_block() { return blockDim.x / kWarpSize * kRowsPerWarp; }
__device__ inline int lane_of_warp() { return threadIdx.x % kWarpSize; }
// Of a head's rows, of which the block's begin at `first`.
__device__ inline int first_row_of_warp(int first) {
  return first + warp_of_block() * kRowsPerWarp;
}
__device__ inline int row_of(int i) { return lane_of_warp() / 4 + i / 2 * 8; }
__device__ inline int column_of(int n, int i) { return n * 8 + lane_of_warp() % 4 * 2 + i % 2; }

// What the lanes know of the warp's rows, each of its rows row_of(0) and row_of(2), asked for by
// row, each lane another.
__device__ inline int of_row(const int (&of_own_rows)[2], int row) {
  const int upper = __shfl_sync(kFullWarp, of_own_rows[0], row % 8 * 4);
  const int lower = __shfl_sync(kFullWarp, of_own_rows[1], row % 8 * 4);
  return row < 8 ? upper : lower;
}

// Calls `each(row, d)` for this lane's pieces of the warp's rows, with where they begin.
template <int kWidth, typename Each>
__device__ void for_pieces_of_rows(const Each& each) {
  constexpr int kPiece = 8, kPieces = kWidth / kPiece, kRowsAtOnce = kWarpSize / kPieces;
  const int lane = lane_of_warp();
#pragma unroll
  for (int first = 0; first < kRowsPerWarp; first += kRowsAtOnce) {
    each(first + lane / kPieces, lane % kPieces * kPiece);
  }
}

// Begins to copy the rows of the tokens that `token_of(row)` names to the warp's rows, zeros for
// those that are negative, as `copy_async` does.
template <int kWidth, typename T, typename TokenOf>
__device__ void copy_rows(T* to, Rows<const T> from, int width, const TokenOf& token_of) {
  for_pieces_of_rows<kWidth>([&](int row, int d) {
    const int token = token_of(row);
    copy_async<16>(to + row * kPitch<kWidth> + d, from[max(token, 0)] + d, token >= 0 && d < width);
  });
}

// Writes the warp's rows as those tokens' rows, not those that are negative.
template <int kWidth, typename T, typename TokenOf>
__device__ void store_rows(Rows<T> to, const T* from, int width, const TokenOf& token_of) {
  using Piece = Vector<T, 8>;
  for_pieces_of_rows<kWidth>([&](int row, int d) {
    const int token = token_of(row);
    if (token >= 0 && d < width) {
      *reinterpret_cast<Piece*>(to[token] + d) =
          *reinterpret_cast<const Piece*>(from + row * kPitch<kWidth> + d);
    }
  });
}

// The place of two neighbouring sums of this lane in the warp's rows.
template <int kWidth, typename T>
__device__ T* pair_at(T* rows, int half, int n) {
  return rows + row_of(2 * half) * kPitch<kWidth> + column_of(n, 0);
}

template <typename T>
__device__ float2 load_pair(const T* from) {
  const auto pair = *reinterpret_cast<const Vector<T, 2>*>(from);
  return make_float2(Element<T>::load(pair.values[0]), Element<T>::load(pair.values[1]));
}

template <typename T>
__device__ void store_pair(T* to, float first, float second) {
  *reinterpret_cast<uint32_t*>(to) = pack<T>(first, second);
}

// Begins to copy a head's mean value to shared memory.
__device__ inline void copy_mean(float* to, const float* mean, int width) {
  const int d = static_cast<int>(threadIdx.x) * 4;
  if (d < width) copy_async<16>(to + d, mean + d, true);
}

// Of larger blocks too, so many threads copy tiles: a warp for each quarter of a multiprocessor.
constexpr int kCopyThreads = kLeastWarps * kWarpSize;

__device__ inline bool copies_tiles() { return threadIdx.x < kCopyThreads; }

// A thread's pieces of a tile of kCount tokens' rows: of the same columns of every
// kRowsAtOnce-th row. The tokens are looked up long before their rows are copied.
template <int kWidth, int kCount, typename T>
class Pieces {
 public:
  __device__ explicit Pieces(const Tokens& tokens) {
    if (!copies_tiles()) return;
#pragma unroll
    for (int i = 0; i < kSteps; ++i) tokens_[i] = tokens(row() + i * kRowsAtOnce);
  }

  // Begins to copy them, zeros for those past the end, as `copy_async` does.
  __device__ void copy(T* to, Rows<const T> from, int width) const {
    if (!copies_tiles()) return;
    const int d = static_cast<int>(threadIdx.x % kPieces) * kPiece;
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      copy_async<16>(to + (row() + i * kRowsAtOnce) * kPitch<kWidth> + d,
                     from[max(tokens_[i], 0)] + d, tokens_[i] >= 0 && d < width);
    }
  }

 private:
  static constexpr int kPiece = 16 / sizeof(T), kPieces = kWidth / kPiece;
  static constexpr int kRowsAtOnce = kCopyThreads / kPieces, kSteps = kCount / kRowsAtOnce;
  static_assert(kSteps * kRowsAtOnce == kCount);

  __device__ static int row() { return threadIdx.x / kPieces; }

  int tokens_[kSteps];
};

// Where this lane's row begins of the four 8 x 8 matrices at (row, column) of a tile. Matrices are
// counted down the rows first, or along the columns.
template <int kWidth, bool kDownFirst, typename T>
__device__ const T* matrix_row(const T* tile, int row, int column) {
  const int lane = lane_of_warp(), second = lane / 8 % 2, last = lane / 16;
  const int down = kDownFirst ? second : last, along = kDownFirst ? last : second;
  return tile + (row + down * 8 + lane % 8) * kPitch<kWidth> + column + along * 8;
}

// The warp's rows as `multiply` takes them: held in registers, or loaded each time.
template <int kWidth, bool kHeld, typename T>
class RowsOperand {
 public:
  __device__ explicit RowsOperand(const T* rows) : rows_(rows) {
    if constexpr (kHeld) {
      __syncwarp();  // ldmatrix and mma want the warp together
#pragma unroll
      for (int step = 0; step < kWidth / 16; ++step) load(held_[step], step);
    }
  }
  // Columns 16 step to 16 step + 15.
  __device__ void get(uint32_t (&rows)[4], int step) const {
    if constexpr (kHeld) {
#pragma unroll
      for (int i = 0; i < 4; ++i) rows[i] = held_[step][i];
    } else {
      load(rows, step);
    }
  }

 private:
  __device__ void load(uint32_t (&rows)[4], int step) const {
    load_matrices<false>(rows, matrix_row<kWidth, true>(rows_, 0, 16 * step));
  }

  const T* rows_;
  uint32_t held_[kHeld ? kWidth / 16 : 1][4];
};

// out = the warp's rows `a` times all rows of tile `b`, transposed.
template <int kWidth, int kTile, bool kHeld, typename T>
__device__ void multiply(Sums<kTile>& out, const RowsOperand<kWidth, kHeld, T>& a, const T* b) {
  __syncwarp();  // ldmatrix and mma want the warp together
#pragma unroll
  for (auto& sum : out) {
    for (float& value : sum) value = 0;
  }
#pragma unroll
  for (int d = 0; d < kWidth; d += 16) {
    uint32_t rows[4];
    a.get(rows, d / 16);
#pragma unroll
    for (int n = 0; n < kTile / 8; n += 2) {
      uint32_t columns[4];
      load_matrices<false>(columns, matrix_row<kWidth, false>(b, n * 8, d));
      mma<T>(out[n], rows, columns[0], columns[1]);
      mma<T>(out[n + 1], rows, columns[2], columns[3]);
    }
  }
}

// sum += weights, one column for each row of tile `x`, times `x`.
template <int kWidth, int kTile, typename T>
__device__ void accumulate(Sums<kWidth>& sum, const Sums<kTile>& weights, const T* x) {
  __syncwarp();
#pragma unroll
  for (int n = 0; n < kTile / 8; n += 2) {
    const uint32_t rows[4] = {pack<T>(weights[n][0], weights[n][1]),
                              pack<T>(weights[n][2], weights[n][3]),
                              pack<T>(weights[n + 1][0], weights[n + 1][1]),
                              pack<T>(weights[n + 1][2], weights[n + 1][3])};
#pragma unroll
    for (int d = 0; d < kWidth / 8; d += 2) {
      uint32_t columns[4];
      load_matrices<true>(columns, matrix_row<kWidth, true>(x, n * 8, d * 8));
      mma<T>(sum[d], rows, columns[0], columns[1]);
      mma<T>(sum[d + 1], rows, columns[2], columns[3]);
    }
  }
}

// Sets a tile's columns from `present` on.
template <int kTile>
__device__ void set_absent(Sums<kTile>& tile, int present, float value) {
  if (present >= kTile) return;
#pragma unroll
  for (int n = 0; n < kTile / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) tile[n][i] = column_of(n, i) < present ? tile[n][i] : value;
  }
}

// Makes a product of rows and columns logits, those of columns from `present` on -infinity.
template <int kTile>
__device__ void finish_logits(Sums<kTile>& logits, float scale, int present) {
#pragma unroll
  for (auto& part : logits) {
#pragma unroll
    for (float& logit : part) logit *= scale;
  }
  set_absent<kTile>(logits, present, -INFINITY);
}

}  // namespace wsol::cuda::reattention

#endif  // __CUDACC__ || WSOL_EMULATOR
