// CUDA: how a warp reads rows of a head in 16-byte pieces, and sums of them.
//
// Its lanes are in groups just wide enough for one row, a piece a lane. So each lane meets the same
// piece of the width in every row, and keeps in registers what goes with it.
#pragma once

#include "attention/head_rows.h"
#include "core/cuda.h"

#if defined(__CUDACC__) || defined(WSOL_EMULATOR)

namespace wsol::cuda {

constexpr int kChunk = kWarpSize;  // rows that a warp takes at a time
constexpr int kLoads = 4;          // that a lane has in flight

template <typename T>
__device__ Rows<T> chunk_of(const Rows<T>& rows, int64_t chunk) {
  return {rows[chunk * kChunk], rows.stride};
}

// Where a lane is in its warp's rows of so many pieces.
struct RowLanes {
  int group;   // lanes of a row, a power of two
  int member;  // this lane's place in it
  int row;     // of those that the warp reads at once
  int rows;    // how many those are; `group` times as many are a chunk

  __device__ explicit RowLanes(int pieces) : group(lanes_for(pieces)) {
    const int lane = threadIdx.x % kWarpSize;
    member = lane % group;
    row = lane / group;
    rows = kWarpSize / group;
  }
};

// Read and write kCount values in 16-byte pieces, on a boundary of as many.
template <int kCount, typename A>
__device__ void load_values(A (&to)[kCount], const A* from) {
  constexpr int kMost = 16 / sizeof(A), kPiece = kCount < kMost ? kCount : kMost;
#pragma unroll
  for (int i = 0; i < kCount; i += kPiece) {
    const auto piece = *reinterpret_cast<const Vector<A, kPiece>*>(from + i);
#pragma unroll
    for (int k = 0; k < kPiece; ++k) to[i + k] = piece.values[k];
  }
}

template <int kCount, typename A>
__device__ void store_values(A* to, const A (&from)[kCount]) {
  constexpr int kMost = 16 / sizeof(A), kPiece = kCount < kMost ? kCount : kMost;
#pragma unroll
  for (int i = 0; i < kCount; i += kPiece) {
    Vector<A, kPiece> piece;
#pragma unroll
    for (int k = 0; k < kPiece; ++k) piece.values[k] = from[i + k];
    *reinterpret_cast<Vector<A, kPiece>*>(to + i) = piece;
  }
}

// Bytes of shared memory that `sum_rows` needs.
template <typename T, int kVector, int kWarps>
int64_t sum_rows_bytes(int64_t width) {
  return kWarps * lanes_for(width / kVector) * kVector * sizeof(typename Element<T>::Accumulator);
}

// How many pieces a lane reads of `count` rows, where a block's warps take their chunks in turn: of
// each chunk `group`, in the order of rows.
WSOL_HOST_DEVICE inline int turns_of(int64_t count, int group, int warps) {
  const int64_t rows_at_once = static_cast<int64_t>(warps) * kChunk;
  return static_cast<int>((count + rows_at_once - 1) / rows_at_once) * group;
}

// The sum of weight(row) times the row, by a block of kWarps warps, which share the rows and meet
// in shared memory, `partial`. `read(turn, from)` reads a piece, in turns of `turns_of` for each
// group of pieces; `store(d, value)` takes an element of the sum.
template <typename T, int kVector, int kWarps, typename Weight, typename Read, typename Store>
__device__ void sum_rows(Rows<const T> rows, int64_t count, int64_t width, const Weight& weight,
                         const Read& read, typename Element<T>::Accumulator* partial,
                         const Store& store) {
  using A = typename Element<T>::Accumulator;
  using Piece = Vector<T, kVector>;
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const int pieces = static_cast<int>(width / kVector);
  const RowLanes lanes(pieces);
  const int turns = turns_of(count, lanes.group, kWarps);
  for (int column = 0; column * lanes.group < pieces; ++column) {
    const int piece = column * lanes.group + lanes.member;
    A sums[kVector] = {};
#pragma unroll kLoads
    for (int turn = 0; turn < turns; ++turn) {
      const int chunk = turn / lanes.group * kWarps + warp;
      const int64_t row = static_cast<int64_t>(chunk) * kChunk +
                          (turn & (lanes.group - 1)) * lanes.rows + lanes.row;
      if (row < count && piece < pieces) {
        const auto* from = reinterpret_cast<const Piece*>(rows[row]) + piece;
        const Piece loaded = read(column * turns + turn, from);
        const A factor = weight(row);
#pragma unroll
        for (int i = 0; i < kVector; ++i) sums[i] += factor * Element<T>::load(loaded.values[i]);
      }
    }
    for (int offset = kWarpSize / 2; offset >= lanes.group; offset /= 2) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) sums[i] += __shfl_xor_sync(kFullWarp, sums[i], offset);
    }
    const int values = kVector * lanes.group;  // of a warp: (kVector, group)
    if (lane < lanes.group) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) partial[warp * values + i * lanes.group + lane] = sums[i];
    }
    __syncthreads();
    for (int v = threadIdx.x; v < values; v += kWarps * kWarpSize) {
      const int64_t d = (column * lanes.group + v % lanes.group) * kVector + v / lanes.group;
      if (d < width) {
        A total = 0;
        for (int w = 0; w < kWarps; ++w) total += partial[w * values + v];
        store(d, total);
      }
    }
    __syncthreads();
  }
}

}  // namespace wsol::cuda

#endif  // __CUDACC__ || WSOL_EMULATOR
