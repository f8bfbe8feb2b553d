// Products of small matrices in cache, for CPU kernels that fuse something around them.
//
// The kernels do not link torch, so its BLAS is out of their reach; and a library call per block of
// attention would leave its fast path anyway, packing operands that are in cache already. One tile
// of the product stays in registers over the whole depth, which is all that is needed at these
// sizes.
#pragma once

#include <cstdint>

namespace wsol::cpu {

// Registers of a product's tile: kRows x kVectors sums, a row of the right matrix, and a broadcast
// element of the left one have to fit. AVX-512 has 32 registers, of 64 bytes; what else there is
// has at least 16.
template <typename A, int kBytes>
struct Tiling {
  using Element = A;
  static constexpr int64_t kRows = kBytes == 64 ? 8 : 4;
  static constexpr int64_t kVectors = 2;
  static constexpr int64_t kLanes = kBytes / sizeof(A);

  typedef A Vector __attribute__((vector_size(kBytes), aligned(sizeof(A)), may_alias));

  static const Vector& at(const A* data) { return *reinterpret_cast<const Vector*>(data); }
  static Vector& at(A* data) { return *reinterpret_cast<Vector*>(data); }
  static inline void add_product(Vector& sum, A factor, const Vector& row) { sum += factor * row; }
};

// Element (i, k) is data[i * row_stride + k * depth_stride]: a matrix or its transpose.
template <typename A>
struct LeftMatrix {
  const A* data;
  int64_t row_stride, depth_stride;
};

template <typename Tile, bool kAccumulate, int64_t kVectors>
inline void multiply_tile(LeftMatrix<typename Tile::Element> left,
                          const typename Tile::Element* right, int64_t right_stride, int64_t depth,
                          typename Tile::Element* out, int64_t out_stride) {
  using Vector = typename Tile::Vector;
  Vector sums[Tile::kRows][kVectors] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Vector row[kVectors];
    for (int64_t c = 0; c < kVectors; ++c) {
      row[c] = Tile::at(right + k * right_stride + c * Tile::kLanes);
    }
    for (int64_t r = 0; r < Tile::kRows; ++r) {
      const auto factor = left.data[r * left.row_stride + k * left.depth_stride];
      for (int64_t c = 0; c < kVectors; ++c) Tile::add_product(sums[r][c], factor, row[c]);
    }
  }
  for (int64_t r = 0; r < Tile::kRows; ++r) {
    for (int64_t c = 0; c < kVectors; ++c) {
      Vector& place = Tile::at(out + r * out_stride + c * Tile::kLanes);
      place = kAccumulate ? place + sums[r][c] : sums[r][c];
    }
  }
}

// out (rows, columns) = left (rows, depth) right (depth, columns), or += where kAccumulate.
// `rows` is a multiple of Tile::kRows and `columns` of Tile::kLanes: pad the matrices.
template <typename Tile, bool kAccumulate = false>
inline void multiply(int64_t rows, int64_t columns, int64_t depth,
                     LeftMatrix<typename Tile::Element> left, const typename Tile::Element* right,
                     int64_t right_stride, typename Tile::Element* out, int64_t out_stride) {
  int64_t c = 0;
  const auto column_of_tiles = [&]<int64_t kVectors>() {
    for (int64_t r = 0; r < rows; r += Tile::kRows) {
      multiply_tile<Tile, kAccumulate, kVectors>(
          {left.data + r * left.row_stride, left.row_stride, left.depth_stride}, right + c,
          right_stride, depth, out + r * out_stride + c, out_stride);
    }
    c += kVectors * Tile::kLanes;
  };
  while (c + Tile::kVectors * Tile::kLanes <= columns) {
    column_of_tiles.template operator()<Tile::kVectors>();
  }
  while (c < columns) column_of_tiles.template operator()<1>();
}

}  // namespace wsol::cpu
