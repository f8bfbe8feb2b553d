// CPU: tokens' features, and their products in blocks of 64 x 64 tokens, of which those on and
// above the diagonal are enough.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <type_traits>

#include "core/matrix_product.h"
#include "core/multiversion.h"
#include "core/parallel_for.h"
#include "core/tensor_view.h"
#include "graphs/graph.h"

namespace wsol::cpu {

// An image's features, a row a token.
template <typename T>
struct TokenRows {
  const T* data;
  int64_t stride, tokens, channels;

  TokenRows(const TensorView& features, int64_t image)
      : data(features.as<T>() + image * features.stride(0)),
        stride(features.stride(1)),
        tokens(features.size(1)),
        channels(features.size(2)) {}
  const T* operator[](int64_t token) const { return data + token * stride; }
};

// What makes a row's length 1; 0 of a zero vector, NaN of one that is not finite.
template <typename T>
inline double unit_factor(const T* row, int64_t channels) {
  double square = 0;
#pragma omp simd reduction(+ : square)
  for (int64_t c = 0; c < channels; ++c) {
    const auto value = static_cast<double>(row[c]);
    square += value * value;
  }
  return square == 0 ? 0 : std::isfinite(square) ? 1 / std::sqrt(square) : NAN;
}

// Square matrices of as many registers as one has lanes.
template <typename E, int kBytes>
struct Square {
  using Tile = Tiling<E, kBytes>;
  using Vector = typename Tile::Vector;
  using Index = std::conditional_t<sizeof(E) == 4, int32_t, int64_t>;
  typedef Index Indices __attribute__((vector_size(kBytes)));
  static constexpr int kSide = Tile::kLanes;

  // Rows from (kSide, stride) become columns, the first `columns` of which go to (columns, width).
  static inline void transpose(const E* from, int64_t stride, int64_t columns, E* to,
                               int64_t width) {
    Vector rows[kSide];
#pragma GCC unroll 16
    for (int i = 0; i < kSide; ++i) rows[i] = Tile::at(from + i * stride);
#pragma GCC unroll 4
    for (int half = 1; half < kSide; half *= 2) {  // squares of so many trade their corners
      Indices upper{}, lower{};
#pragma GCC unroll 16
      for (int l = 0; l < kSide; ++l) {
        upper[l] = l & half ? kSide + (l ^ half) : l;
        lower[l] = l & half ? kSide + l : l ^ half;
      }
#pragma GCC unroll 16
      for (int i = 0; i < kSide; ++i) {
        if (i & half) continue;
        const Vector a = rows[i], b = rows[i + half];
        rows[i] = chosen(a, b, upper);
        rows[i + half] = chosen(a, b, lower);
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < kSide; ++i) {
      if (i < columns) Tile::at(to + i * width) = rows[i];
    }
  }

 private:
  static inline Vector chosen(const Vector& a, const Vector& b, const Indices& indices) {
#if defined(__clang__) || !defined(__GNUC__)
    Vector found;
    for (int l = 0; l < kSide; ++l)
      found[l] = indices[l] < kSide ? a[indices[l]] : b[indices[l] - kSide];
    return found;
#else
    return __builtin_shuffle(a, b, indices);
#endif
  }
};

// Rows of `depth` elements in panels of as many tokens as a tile has columns: (panels, depth,
// width), zeros after the last token. E is what a product's tile is made of.
template <typename E>
class TokenPanels {
 public:
  // write(token, row) makes the token's row, and says whether it could.
  template <typename Write>
  TokenPanels(int64_t tokens, int64_t depth, int threads, const Write& write)
      : tokens_(tokens), depth_(depth), panels_(new E[blocks_of(tokens) * kBlock * depth]) {
    std::atomic<bool> is_whole = true;
    parallel_for(blocks_of(tokens), 1, threads, [&](int64_t begin, int64_t end) {
      with_vectors([&]<int kBytes>() {
        using Part = Square<E, kBytes>;
        constexpr int64_t kRows = Part::kSide, kWidth = width<typename Part::Tile>();
        const int64_t stride = (depth + kRows - 1) / kRows * kRows;
        const std::unique_ptr<E[]> rows(new E[kRows * stride]());
        for (int64_t first = begin * kBlock; first < end * kBlock; first += kRows) {
          for (int64_t i = 0; i < kRows; ++i) {
            E* row = rows.get() + i * stride;
            if (first + i >= tokens) {
              std::fill_n(row, depth, E(0));
            } else if (!write(first + i, row)) {
              is_whole = false;
            }
          }
          E* to = panels_.get() + first / kWidth * kWidth * depth + first % kWidth;
          for (int64_t k = 0; k < depth; k += kRows) {
            Part::transpose(rows.get() + k, stride, depth - k, to + k * kWidth, kWidth);
          }
        }
      });
    });
    is_whole_ = is_whole;
  }

  bool is_whole() const { return is_whole_; }  // every row could be made
  int64_t blocks() const { return blocks_of(tokens_); }

  // out (kBlock, kBlock) = the products of two blocks' tokens; where there are none, `out` stays
  // what it was. A block on the diagonal takes what lies below it, but for a panel's own square,
  // from above.
  template <typename Tile>
  inline void multiply(int64_t row_block, int64_t column_block, E* out) const {
    constexpr int64_t kWidth = width<Tile>();
    for (int64_t k = 0; k < depth_; k += kDepth) {
      const int64_t depth = std::min(kDepth, depth_ - k);
      for (int64_t row = 0; row < tokens_of(row_block); row += kWidth) {
        const LeftMatrix<E> left{block(row_block) + row * depth_ + k * kWidth, 1, kWidth};
        const int64_t begin = row_block == column_block ? row : 0;
        for (int64_t column = begin; column < tokens_of(column_block); column += kWidth) {
          const E* right = block(column_block) + column * depth_ + k * kWidth;
          E* to = out + row * kBlock + column;
          if (k == 0) {
            cpu::multiply<Tile>(kWidth, kWidth, depth, left, right, kWidth, to, kBlock);
          } else {
            cpu::multiply<Tile, true>(kWidth, kWidth, depth, left, right, kWidth, to, kBlock);
          }
        }
      }
    }
    if (row_block != column_block) return;
    for (int64_t row = kWidth; row < kBlock; ++row) {
      for (int64_t column = 0; column < row / kWidth * kWidth; ++column) {
        out[row * kBlock + column] = out[column * kBlock + row];
      }
    }
  }

 private:
  static constexpr int64_t kDepth = 128;  // at a time: a panel's then stay in the L1 cache

  template <typename Tile>
  static constexpr int64_t width() {
    static_assert(kBlock % (Tile::kVectors * Tile::kLanes) == 0);
    return Tile::kVectors * Tile::kLanes;
  }
  int64_t tokens_of(int64_t block) const { return std::min(kBlock, tokens_ - block * kBlock); }
  const E* block(int64_t index) const { return panels_.get() + index * kBlock * depth_; }

  int64_t tokens_, depth_;
  std::unique_ptr<E[]> panels_;
  bool is_whole_;
};

// visit(row_block, column_block) for those on and above the diagonal. Some rows of blocks share a
// thread, which then finds a column's panels in its cache.
template <typename Visit>
void for_each_block_pair(int64_t blocks, int threads, const Visit& visit) {
  const int64_t rows = std::clamp<int64_t>(blocks / (4 * threads), 1, 4);
  parallel_for((blocks + rows - 1) / rows, 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin * rows; first < std::min(end * rows, blocks); first += rows) {
      for (int64_t column = first; column < blocks; ++column) {
        for (int64_t row = first; row <= std::min(column, first + rows - 1); ++row) {
          visit(row, column);
        }
      }
    }
  });
}

}  // namespace wsol::cpu
