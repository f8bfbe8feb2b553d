// Tiles of masked_reattention's products in registers, and how they pass through shared memory.
//
// A tile has rows, each of kLanesPerRow lanes of a warp, and kTile columns, four neighbouring ones
// a lane. A kernel holds one or two operands of the rows, and loads those of the columns:
//
//   const auto query = tile.template hold<0>(head.query, ...);
//   const auto key = tile.template load<0>(head.key, ...);   // anew for each tile of columns
//   tile.arrive();
//   tile.multiply(logits, query, key, ...);
//   tile.accumulate(sum, weights, key, ...);
//
// HeldTile has both in shared memory, and reads each once. SlicedTile, for what finds no room
// there, passes over them in slices of 16 columns or of 16 of the width.
#pragma once

#include <type_traits>

#include "attention/masked_reattention.cuh"
#include "core/mma.cuh"

#if defined(__CUDACC__) || defined(WSOL_EMULATOR)

namespace wsol::cuda::reattention {

constexpr int kTile = 64;   // columns of a tile of logits
constexpr int kSlice = 16;  // of the width, or of the columns
constexpr int kLanesPerRow = 16;

__device__ inline int first_column() { return threadIdx.x % kLanesPerRow * 4; }
__device__ inline int row_groups() { return blockDim.x / kLanesPerRow; }

// Where a column of a tile or a slice lies: the columns of neighbouring lanes beside each
// other, so that they lie in different banks.
__device__ inline int spread(int column, int count) {
  return column % 4 * (count / 4) + column / 4;
}

// Tokens of a tile's rows or columns, -1 past the end, which the block lists in shared memory.
__device__ inline void list(int* to, int count, const Tokens& tokens) {
  for (int i = threadIdx.x; i < count; i += blockDim.x) to[i] = tokens(i);
}

// What grad_key_value knows of a tile's columns, which are queries; in the end, of the head.
template <typename A>
union QueryNumbers {
  struct {
    A log_sum[kTile], delta[kTile], top_grad[kTile];
    int top[kTile];
  } of;
  A mean[kLargestReattentionWidth];
};

// What all tiles have in shared memory, beside their operands.
template <typename A, int kRowsPerThread>
struct TileNumbers {
  static constexpr int kRowsPerWarp = kRowsPerThread * kWarpSize / kLanesPerRow;

  QueryNumbers<A>* queries;
  A *row_numbers, *more_row_numbers;  // of each row, what a kernel has no registers for
  int* rows;                          // token of each row of the tile, -1 past the end
  int* columns;                       // of each column

  static constexpr size_t bytes(int warps) {
    return sizeof(QueryNumbers<A>) + (2 * sizeof(A) + sizeof(int)) * warps * kRowsPerWarp +
           kTile * sizeof(int);
  }
  __device__ explicit TileNumbers(void* memory) {
    queries = static_cast<QueryNumbers<A>*>(memory);
    row_numbers = reinterpret_cast<A*>(queries + 1);
    more_row_numbers = row_numbers + rows_of_block();
    rows = reinterpret_cast<int*>(more_row_numbers + rows_of_block());
    columns = rows + rows_of_block();
  }
  __device__ static int first_row() { return threadIdx.x / kLanesPerRow * kRowsPerThread; }
  __device__ static int rows_of_block() { return row_groups() * kRowsPerThread; }
};

// For floats of widths up to 64. A warp's rows, and its weights, are its own.
struct HeldTile : TileNumbers<float, 8> {
  static constexpr int kRowsPerThread = 8, kColumns = 4, kWidth = 64;

  // For so many operands of the rows, and of the columns at once.
  static constexpr size_t shared_bytes(int warps, int row_operands, int column_operands) {
    return sizeof(float) * (column_operands * kTile * kPitch +
                            warps * (row_operands * kRowsPerWarp * kPitch + kWeights)) +
           bytes(warps);
  }

  __device__ HeldTile(int row_operands, int column_operands)
      : TileNumbers(reinterpret_cast<float*>(dynamic_shared()) + column_operands * kTile * kPitch +
                    blockDim.x / kWarpSize * (row_operands * kRowsPerWarp * kPitch + kWeights)) {
    const int warp = threadIdx.x / kWarpSize;
    column_values_ = reinterpret_cast<float*>(dynamic_shared());
    weights_ = column_values_ + column_operands * kTile * kPitch +
               warp * (row_operands * kRowsPerWarp * kPitch + kWeights);
    row_values_ = weights_ + kWeights;
  }

  __device__ static int place(int) { return first_column(); }

  // Begins to copy the rows, which are listed.
  template <int kOperand>
  __device__ const float* hold(const Rows<const float>& from, int width, bool in_pieces) const {
    float* const to = row_values_ + kOperand * kRowsPerWarp * kPitch;
    const int* const tokens = rows + threadIdx.x / kWarpSize * kRowsPerWarp;
    copy<kRowsPerWarp>(from, width, in_pieces, threadIdx.x % kWarpSize, kWarpSize,
                       [&](int row) { return Copied{tokens[row], to + row * kPitch}; });
    return to + first_row() % kRowsPerWarp * kPitch;
  }

  // Begins to copy the first `present` columns, which are listed; zeros for the others.
  template <int kOperand>
  __device__ const float* load(const Rows<const float>& from, int width, bool in_pieces,
                               int present) const {
    float* const to = column_values_ + kOperand * kTile * kPitch;
    copy<kTile>(from, width, in_pieces, threadIdx.x, blockDim.x, [&](int column) {
      const int token = column < present ? columns[column] : -1;
      return Copied{token, to + spread(column, kTile) * kPitch};
    });
    return to;
  }

  // Before anything is loaded where something was.
  __device__ static void release() { __syncthreads(); }
  // After it.
  __device__ static void arrive() {
    wait_for_copies();
    __syncthreads();
  }

  // Row `r` of this thread, a token's, of an operand.
  __device__ static const float* row(const float* held, int r, int) { return held + r * kPitch; }

  // out[r][c] = row r of `a` . column c of `b`.
  __device__ static void multiply(float (&out)[kRowsPerThread][4], const float* a, const float* b,
                                  int width) {
#pragma unroll
    for (auto& row : out) {
      for (float& value : row) value = 0;
    }
    const float* const columns = b + first_column() / 4 * kPitch;
#pragma unroll 1
    for (int d = 0; d < width; d += 4) {
      float y[4][4];
#pragma unroll
      for (int c = 0; c < 4; ++c) load_values(y[c], columns + c * (kTile / 4) * kPitch + d);
#pragma unroll
      for (int r = 0; r < kRowsPerThread; ++r) {
        float x[4];
        load_values(x, a + r * kPitch + d);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
#pragma unroll
          for (int c = 0; c < 4; ++c) out[r][c] += x[k] * y[c][k];
        }
      }
    }
  }

  // sum[r][:] += sum over columns c of weights[r][c] * row of `x` for column c. The weights of
  // columns from `present` on are zero. They pass through shared memory, a slice at a time.
  __device__ void accumulate(float (&sum)[kRowsPerThread][kColumns],
                             const float (&weights)[kRowsPerThread][4], const float* x, int,
                             int present) const {
    float* const own_weights = weights_ + first_row() % kRowsPerWarp;
    for (int j0 = 0; j0 < kTile && j0 < present; j0 += kSlice) {
      __syncwarp();
      if (first_column() / kSlice * kSlice == j0) {
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          float of_rows[kRowsPerThread];
#pragma unroll
          for (int r = 0; r < kRowsPerThread; ++r) of_rows[r] = weights[r][c];
          store_values(own_weights + spread(first_column() % kSlice + c, kSlice) * kWeightsPitch,
                       of_rows);
        }
      }
      __syncwarp();
#pragma unroll 2
      for (int j = 0; j < kSlice; ++j) {
        float w[kRowsPerThread], y[4];
        load_values(w, own_weights + spread(j, kSlice) * kWeightsPitch);
        load_values(y, x + spread(j0 + j, kTile) * kPitch + first_column());
#pragma unroll
        for (int r = 0; r < kRowsPerThread; ++r) {
#pragma unroll
          for (int k = 0; k < 4; ++k) sum[r][k] += w[r] * y[k];
        }
      }
    }
  }

 private:
  static constexpr int kPitch = kWidth + 4;  // so that rows lie in different banks
  static constexpr int kWeightsPitch = kRowsPerWarp + 4, kWeights = kSlice * kWeightsPitch;

  struct Copied {
    int token;
    float* to;
  };

  // Begins to copy kCount rows to where `copied(row)` says, zeros for those of no token and past
  // the width.
  template <int kCount, typename Which>
  __device__ static void copy(const Rows<const float>& from, int width, bool in_pieces, int index,
                              int threads, const Which& copied) {
    const auto copy_pieces = [&]<int kPiece>(std::integral_constant<int, kPiece>) {
      constexpr int kPieces = kWidth / kPiece;
#pragma unroll 1
      for (int i = index; i < kCount * kPieces; i += threads) {
        const Copied row = copied(i / kPieces);
        const int d = i % kPieces * kPiece;
        copy_async<kPiece * sizeof(float)>(row.to + d, from[max(row.token, 0)] + d,
                                           row.token >= 0 && d < width);
      }
    };
    if (in_pieces) {
      copy_pieces(std::integral_constant<int, 4>{});
    } else {
      copy_pieces(std::integral_constant<int, 1>{});
    }
  }

  float *row_values_, *column_values_, *weights_;
};

// For widths up to 256.
template <typename T>
struct SlicedTile : TileNumbers<typename Element<T>::Accumulator,
                                4 * sizeof(float) / sizeof(typename Element<T>::Accumulator)> {
  using A = typename Element<T>::Accumulator;
  using Numbers = TileNumbers<A, 4 * sizeof(float) / sizeof(A)>;
  using Numbers::columns, Numbers::first_row, Numbers::rows;
  static constexpr int kRowsPerThread = 4 * sizeof(float) / sizeof(A);
  static constexpr int kRows = kThreads / kLanesPerRow * kRowsPerThread;
  static constexpr int kWide = 4, kColumns = 4 * kWide, kWidth = 64 * kWide;
  static_assert(kWidth == kLargestReattentionWidth);

  static constexpr size_t shared_bytes(int warps, int, int) {
    return (kTile * kWeightsPitch + kSliceSize) * sizeof(A) + Numbers::bytes(warps);
  }

  __device__ SlicedTile(int, int)
      : Numbers(reinterpret_cast<A*>(dynamic_shared()) + kTile * kWeightsPitch + kSliceSize) {
    weights_ = reinterpret_cast<A*>(dynamic_shared());
    slice_ = weights_ + kTile * kWeightsPitch;
  }

  // The place in the width of the thread's column `c`: pieces of 4, kLanesPerRow pieces apart.
  __device__ static int place(int c) { return c / 4 * 64 + first_column() + c % 4; }

  template <int kOperand>
  __device__ Rows<const T> hold(const Rows<const T>& from, int, bool) const {
    return from;
  }
  template <int kOperand>
  __device__ Rows<const T> load(const Rows<const T>& from, int, bool, int) const {
    return from;
  }
  __device__ static void release() {}
  __device__ static void arrive() {}
  __device__ static const T* row(const Rows<const T>& rows, int, int token) { return rows[token]; }

  __device__ void multiply(A (&out)[kRowsPerThread][4], const Rows<const T>& a,
                           const Rows<const T>& b, int width) const {
    A* const row_slice = slice_;
    A* const column_slice = slice_ + kSlice * kPitch;
#pragma unroll
    for (auto& row : out) {
      for (A& value : row) value = 0;
    }
    for (int d0 = 0; d0 < width; d0 += kSlice) {
      __syncthreads();
      stage_transposed<kRows, kPitch>(row_slice, a, rows, d0, width);
      stage_transposed<kTile, kTilePitch>(column_slice, b, columns, d0, width);
      __syncthreads();
#pragma unroll 2
      for (int d = 0; d < kSlice; ++d) {
        A x[kRowsPerThread], y[4];
        load_values(x, row_slice + d * kPitch + first_row());
        load_values(y, column_slice + d * kTilePitch + first_column());
#pragma unroll
        for (int r = 0; r < kRowsPerThread; ++r) {
#pragma unroll
          for (int c = 0; c < 4; ++c) out[r][c] += x[r] * y[c];
        }
      }
    }
  }

  __device__ void accumulate(A (&sum)[kRowsPerThread][kColumns],
                             const A (&weights)[kRowsPerThread][4], const Rows<const T>& x,
                             int width, int present) const {
    __syncthreads();  // nobody reads the weights before any more
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      A of_rows[kRowsPerThread];
#pragma unroll
      for (int r = 0; r < kRowsPerThread; ++r) of_rows[r] = weights[r][c];
      store_values(weights_of(first_column() + c), of_rows);
    }
    for (int j0 = 0; j0 < kTile && j0 < present; j0 += kSlice) {
      __syncthreads();
#pragma unroll 8
      for (int step = 0; step < kSlice * kWidth / kThreads; ++step) {
        const int i = step * kThreads + threadIdx.x, j = i / kWidth, d = i % kWidth;
        const bool inside = j0 + j < present && d < width;
        slice_[j * kWidthPitch + d] = inside ? Element<T>::load(x[columns[j0 + j]][d]) : A{0};
      }
      __syncthreads();
#pragma unroll 2
      for (int j = 0; j < kSlice; ++j) {
        A w[kRowsPerThread];
        load_values(w, weights_of(j0 + j));
#pragma unroll
        for (int c = 0; c < kColumns; c += 4) {
          A y[4];
          load_values(y, slice_ + j * kWidthPitch + place(c));
#pragma unroll
          for (int r = 0; r < kRowsPerThread; ++r) {
#pragma unroll
            for (int k = 0; k < 4; ++k) sum[r][c + k] += w[r] * y[k];
          }
        }
      }
    }
  }

 private:
  // Of rows in shared memory; keeps 16-byte pieces aligned and spreads over the banks what a warp
  // writes: pieces of neighbouring rows of weights, elements of neighbouring rows of the others.
  static constexpr int kWeightsPitch = kRows + 16 / sizeof(A);
  static constexpr int kPitch = kRows + 4, kTilePitch = kTile + 4, kWidthPitch = kWidth + 4;
  static constexpr int kSliceSize =
      kSlice * (kPitch + kTilePitch > kWidthPitch ? kPitch + kTilePitch : kWidthPitch);

  // The weights of a column and the thread's rows.
  __device__ A* weights_of(int column) const {
    return weights_ + spread(column, kTile) * kWeightsPitch + first_row();
  }

  // A warp reads whole sectors of a few rows.
  template <int kCount, int kPitchOfCount>
  __device__ static void stage_transposed(A* to, const Rows<const T>& from, const int* tokens,
                                          int d0, int width) {
    constexpr int kRun = 32 / sizeof(T), kRowsAtOnce = kThreads / kRun;
    const int first_row = threadIdx.x / kRun, first_d = threadIdx.x % kRun;
#pragma unroll 1
    for (int d = first_d; d < kSlice; d += kRun) {
#pragma unroll
      for (int i = 0; i < (kCount + kRowsAtOnce - 1) / kRowsAtOnce; ++i) {
        const int r = first_row + i * kRowsAtOnce;
        if (kCount % kRowsAtOnce != 0 && r >= kCount) continue;
        const bool inside = tokens[r] >= 0 && d0 + d < width;
        to[d * kPitchOfCount + r] = inside ? Element<T>::load(from[tokens[r]][d0 + d]) : A{0};
      }
    }
  }

  A *weights_, *slice_;
};

// Four elements of a row from `d` on, as far as its width goes, at once if `in_pieces`.
template <typename A>
__device__ void load_four(A (&to)[4], const A* row, int d, int width, bool in_pieces) {
  if (in_pieces) return load_values(to, row + d);
#pragma unroll
  for (int k = 0; k < 4; ++k) to[k] = d + k < width ? row[d + k] : A{0};
}

template <typename A>
__device__ void store_four(A* row, const A (&from)[4], int d, int width, bool in_pieces) {
  if (in_pieces) return store_values(row + d, from);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    if (d + k < width) row[d + k] = from[k];
  }
}

}  // namespace wsol::cuda::reattention

#endif  // __CUDACC__ || WSOL_EMULATOR
