// CPU: graphs of bits, A = eps 1 1^T + (1 - eps) B, and their products.
#pragma once

#include <array>
#include <memory>

#include "graphs/graph.h"

namespace wsol::cpu {

// B: of each block of columns a word a row. A product looks sums up: vector registers hold all that
// some columns' entries can add up to, a shuffle takes the one that a row's bits choose (Arlazarov,
// Dinic, Kronrod and Faradzev, 1970).
class BitGraph final : public Graph {
 public:
  using Words = std::array<uint64_t, kBlock>;

  BitGraph(int64_t tokens, double eps);

  // Word c has the edges between token c of the one block and all of the other.
  void set_block(int64_t row_block, int64_t column_block, Words words);

  void set_vector(const double* from) override;
  void multiply(int64_t block, double* to) const override;

 private:
  template <int kBytes>
  struct Lookup;

  uint64_t* words(int64_t column_block) const {
    return words_.get() + column_block * blocks_ * kBlock;
  }
  template <int kBytes>
  void fill_sums(const double* from);
  template <int kBytes>
  void add_sums(int64_t row_block, double* to) const;

  int64_t blocks_;
  double eps_, all_ = 0;
  std::unique_ptr<uint64_t[]> words_;
  std::unique_ptr<double[]> sums_;  // of each block's tables
};

}  // namespace wsol::cpu
