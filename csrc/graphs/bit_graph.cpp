#include "graphs/bit_graph.h"

#include <algorithm>
#include <numeric>

#include "core/multiversion.h"

namespace wsol::cpu {
namespace {

// GCC loses a vector_size that depends on a template's argument, so each size is written out.
template <int kBytes>
struct WordLanes;
template <>
struct WordLanes<16> {
  typedef double Doubles __attribute__((vector_size(16), aligned(8), may_alias));
  typedef uint64_t Words __attribute__((vector_size(16), aligned(8), may_alias));
};
template <>
struct WordLanes<32> {
  typedef double Doubles __attribute__((vector_size(32), aligned(8), may_alias));
  typedef uint64_t Words __attribute__((vector_size(32), aligned(8), may_alias));
};
template <>
struct WordLanes<64> {
  typedef double Doubles __attribute__((vector_size(64), aligned(8), may_alias));
  typedef uint64_t Words __attribute__((vector_size(64), aligned(8), may_alias));
};

// Bit c of word r becomes bit r of word c: squares of so many bits trade their corners.
void transpose_bits(BitGraph::Words& words) {
  uint64_t mask = 0xffffffff;
  for (int64_t half = kBlock / 2; half > 0; half /= 2, mask ^= mask << half) {
    for (int64_t r = 0; r < kBlock; ++r) {
      if (r & half) continue;
      const uint64_t traded = (words[r] >> half ^ words[r + half]) & mask;
      words[r] ^= traded << half;
      words[r + half] ^= traded;
    }
  }
}

}  // namespace

// By registers of so many bytes.
template <int kBytes>
struct BitGraph::Lookup {
  using Doubles = typename WordLanes<kBytes>::Doubles;
  using Words = typename WordLanes<kBytes>::Words;
  static constexpr int64_t kLanes = kBytes / 8;
  static constexpr int64_t kColumns = kBytes == 64 ? 4 : kBytes == 32 ? 2 : 1;
  static constexpr int64_t kSums = int64_t{1} << kColumns;   // in one register or two
  static constexpr int64_t kTables = kBlock / kColumns;      // of a block
  static constexpr int64_t kVectors = kBytes == 64 ? 8 : 4;  // of rows, which share a table's load

  struct Table {
    Doubles low, high;
    explicit Table(const double* sums) {
      if constexpr (kSums == 2) {
        low = Doubles{}, high = Doubles{} + sums[1];
      } else {
        low = *reinterpret_cast<const Doubles*>(sums);
        if constexpr (kSums > kLanes) high = *reinterpret_cast<const Doubles*>(sums + kLanes);
      }
    }
    Doubles operator[](const Words& index) const {  // by the index's last kColumns bits
#if defined(__GNUC__) && !defined(__clang__)
      if constexpr (kSums > kLanes) return __builtin_shuffle(low, high, index);
      if constexpr (kSums > 2) return __builtin_shuffle(low, index);
#endif
      return (Doubles)((Words)high & -(index & 1));
    }
  };
};

BitGraph::BitGraph(int64_t tokens, double eps)
    : blocks_(blocks_of(tokens)),
      eps_(eps),
      words_(new uint64_t[blocks_ * blocks_ * kBlock]),
      sums_(new double[blocks_ * std::max({Lookup<64>::kTables * Lookup<64>::kSums,
                                           Lookup<32>::kTables * Lookup<32>::kSums,
                                           Lookup<16>::kTables * Lookup<16>::kSums})]) {}

void BitGraph::set_block(int64_t row_block, int64_t column_block, Words edges) {
  std::copy_n(edges.data(), kBlock, words(row_block) + column_block * kBlock);
  if (row_block == column_block) return;
  transpose_bits(edges);
  std::copy_n(edges.data(), kBlock, words(column_block) + row_block * kBlock);
}

void BitGraph::set_vector(const double* from) {
  all_ = std::accumulate(from, from + blocks_ * kBlock, 0.0);
  with_vectors([&]<int kBytes>() { fill_sums<kBytes>(from); });
}

void BitGraph::multiply(int64_t block, double* to) const {
  with_vectors([&]<int kBytes>() { add_sums<kBytes>(block, to); });
  for (int64_t r = 0; r < kBlock; ++r) to[r] = eps_ * all_ + (1 - eps_) * to[r];
}

template <int kBytes>
inline void BitGraph::fill_sums(const double* from) {
  using L = Lookup<kBytes>;
  double* sums = sums_.get();
  for (int64_t first = 0; first < blocks_ * kBlock; first += L::kColumns, sums += L::kSums) {
    sums[0] = 0;
    for (int64_t c = 0; c < L::kColumns; ++c) {
      const int64_t chosen = int64_t{1} << c;
      for (int64_t others = 0; others < chosen; ++others) {
        sums[chosen + others] = sums[others] + from[first + c];
      }
    }
  }
}

template <int kBytes>
inline void BitGraph::add_sums(int64_t row_block, double* to) const {
  using L = Lookup<kBytes>;
  using Doubles = typename L::Doubles;
  using Indices = typename L::Words;
  for (int64_t first = 0; first < kBlock; first += L::kVectors * L::kLanes) {
    Doubles sums[L::kVectors] = {};
    for (int64_t block = 0; block < blocks_; ++block) {
      const uint64_t* rows = words(block) + row_block * kBlock + first;
      const double* tables = sums_.get() + block * L::kTables * L::kSums;
      Indices bits[L::kVectors] = {};
      for (int64_t v = 0; v < L::kVectors; ++v) {
        bits[v] = *reinterpret_cast<const Indices*>(rows + v * L::kLanes);
      }
      for (int64_t t = 0; t < L::kTables; ++t) {
        const typename L::Table table(tables + t * L::kSums);
        for (int64_t v = 0; v < L::kVectors; ++v) {
          sums[v] += table[bits[v]];
          bits[v] >>= L::kColumns;
        }
      }
    }
    for (int64_t v = 0; v < L::kVectors; ++v) {
      *reinterpret_cast<Doubles*>(to + first + v * L::kLanes) = sums[v];
    }
  }
}

}  // namespace wsol::cpu
