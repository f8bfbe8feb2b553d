// CPU: which pairs of tokens are similar. Features of unit length are rounded to 16-bit integers,
// whose products machines make twice as fast as those of float32; how far a similarity can then be
// from its true value is known, and the few pairs that lie so near the threshold are looked at once
// more, in float64. Limited by the integers' products.
#include <array>
#include <bit>
#include <limits>

#include "core/element_types.h"
#include "core/pair_products.h"
#include "graphs/bit_graph.h"
#include "graphs/token_panels.h"

namespace wsol::cpu {
namespace {

constexpr double kScale = 32767;  // of an entry 1

// The row at unit length, times kScale, rounded.
template <typename T>
WSOL_MULTIVERSION void round_row(const T* from, int64_t channels, double factor, int16_t* to) {
  using A = Accumulator<T>;
  const double scaled = factor * kScale;
  const auto narrow = static_cast<A>(scaled);
  const auto rounded = [](auto value) {
    return static_cast<int16_t>(static_cast<int32_t>(value + (value < 0 ? -0.5f : 0.5f)));
  };
  if (std::isnormal(narrow)) {
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) to[c] = rounded(static_cast<A>(from[c]) * narrow);
  } else {  // features of no usual length
    for (int64_t c = 0; c < channels; ++c) to[c] = rounded(static_cast<double>(from[c]) * scaled);
  }
}

template <typename T>
WSOL_MULTIVERSION double similarity(const T* a, double factor_a, const T* b, double factor_b,
                                    int64_t channels) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < channels; ++c) {
    sum += static_cast<double>(a[c]) * factor_a * static_cast<double>(b[c]);
  }
  return sum * factor_b;
}

// Sums of the integers' products: above `least_open` a pair may be similar, above `most_open` it
// is.
struct OpenRange {
  int32_t least_open, most_open;

  OpenRange(double threshold, int64_t channels) {
    // A rounded row is by so much longer, at most, or points elsewhere: entries are off by one half,
    // and what float32 makes of them.
    const double error = 0.501 / kScale * std::sqrt(static_cast<double>(channels)) + 1e-6;
    const double open = error * (2 + error);
    const auto scaled = [](double value) {
      constexpr double kMost = std::numeric_limits<int32_t>::max();
      return static_cast<int32_t>(std::clamp(value * kScale * kScale, -kMost, kMost));
    };
    least_open = scaled(threshold - open);
    most_open = scaled(threshold + open);
  }
};

// Word c's bit r: whether the sum at row r and column c is above `bound`.
template <int kBytes>
inline void compare(const int32_t* sums, int32_t bound, BitGraph::Words& words) {
  using Tile = Tiling<int32_t, kBytes>;
  for (int64_t first = 0; first < kBlock; first += Tile::kLanes) {
    typename Tile::Vector lower{}, upper{};
    for (int r = 0; r < kBlock / 2; ++r) {
      const int32_t bit = static_cast<int32_t>(uint32_t{1} << r);
      lower |= (Tile::at(sums + r * kBlock + first) > bound) & bit;
      upper |= (Tile::at(sums + (r + kBlock / 2) * kBlock + first) > bound) & bit;
    }
    for (int64_t l = 0; l < Tile::kLanes; ++l) {
      words[first + l] = static_cast<uint32_t>(lower[l]) |
                         uint64_t{static_cast<uint32_t>(upper[l])} << kBlock / 2;
    }
  }
}

template <typename T>
std::unique_ptr<Graph> graph_of(const TokenRows<T>& rows, double threshold, double eps,
                                int threads) {
  const int64_t tokens = rows.tokens, channels = rows.channels;
  const std::unique_ptr<double[]> factors(new double[tokens]);
  const TokenPanels<int32_t> panels(
      tokens, (channels + 1) / 2, threads, [&](int64_t token, int32_t* row) {
        const double factor = unit_factor(rows[token], channels);
        factors[token] = factor;
        if (!std::isfinite(factor)) return false;
        round_row(rows[token], channels, factor, reinterpret_cast<int16_t*>(row));
        return true;
      });
  if (!panels.is_whole()) return nullptr;

  const OpenRange range(threshold, channels);
  auto graph = std::make_unique<BitGraph>(tokens, eps);
  for_each_block_pair(panels.blocks(), threads, [&](int64_t row_block, int64_t column_block) {
    std::array<int32_t, kBlock * kBlock> sums;
    BitGraph::Words similar, open;
    with_pair_tiling([&]<typename Tile>() {
      panels.template multiply<Tile>(row_block, column_block, sums.data());
      constexpr int kBytes = sizeof(typename Tile::Vector);
      compare<kBytes>(sums.data(), range.most_open, similar);
      compare<kBytes>(sums.data(), range.least_open, open);
    });
    const int64_t row = row_block * kBlock, column = column_block * kBlock;
    const uint64_t present = tokens - row < kBlock ? (uint64_t{1} << (tokens - row)) - 1 : ~uint64_t{0};
    for (int64_t c = 0; c < kBlock; ++c) {
      if (column + c >= tokens) {
        similar[c] = 0;
        continue;
      }
      similar[c] &= present;
      for (uint64_t left = open[c] & ~similar[c] & present; left != 0; left &= left - 1) {
        const int64_t r = std::countr_zero(left);
        if (similarity(rows[row + r], factors[row + r], rows[column + c], factors[column + c],
                       channels) > threshold) {
          similar[c] |= uint64_t{1} << r;
        }
      }
    }
    graph->set_block(row_block, column_block, similar);
  });
  return graph;
}

}  // namespace

std::unique_ptr<Graph> bit_graph(const NormalizedCut& args, int64_t image, int threads) {
  std::unique_ptr<Graph> graph;
  with_floating_type("normalized_cut", args.features.dtype, [&]<typename T>(ElementTag<T>) {
    graph = graph_of(TokenRows<T>(args.features, image), args.threshold, args.eps, threads);
  });
  return graph;
}

}  // namespace wsol::cpu
