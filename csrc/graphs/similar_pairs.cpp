// CPU: which pairs of tokens are similar. Features of unit length are rounded to 16-bit integers,
// whose products machines make twice as fast as those of float32; how far a similarity can then be
// from its true value is known, and the few pairs that lie so near the threshold are looked at once
// more, in float64. Limited by the integers' products.
#include <array>
#include <bit>
#include <limits>
#include <vector>

#include "core/element_types.h"
#include "core/pair_products.h"
#include "graphs/bit_graph.h"
#include "graphs/token_panels.h"

namespace wsol::cpu {
namespace {

constexpr double kScale = 32767;      // of an entry 1
constexpr double kFloatError = 1e-6;  // of a unit row's length: what float32 leaves of it

// The row times `factor`, rounded; gives the square of what that takes off its length, or adds
// beside it.
template <typename A, typename T>
WSOL_MULTIVERSION double round_row(const T* from, int64_t channels, A factor, int16_t* to) {
  A square = 0;
#pragma omp simd reduction(+ : square)
  for (int64_t c = 0; c < channels; ++c) {
    const A value = static_cast<A>(from[c]) * factor;
    const auto rounded = static_cast<int32_t>(value + (value < 0 ? A(-0.5) : A(0.5)));
    to[c] = static_cast<int16_t>(rounded);
    const A error = value - static_cast<A>(rounded);
    square += error * error;
  }
  return square;
}

template <typename T>
WSOL_MULTIVERSION double dot(const T* a, const T* b, int64_t channels) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < channels; ++c) {
    sum += static_cast<double>(a[c]) * static_cast<double>(b[c]);
  }
  return sum;
}

// Sums of the integers' products: above `least_open` a pair may be similar, above `most_open` it
// is.
struct OpenRange {
  int32_t least_open, most_open;

  // Rounding moved a row by its length's part `moved`, at most (Cauchy and Schwarz).
  OpenRange(double threshold, double moved) {
    const double open = moved * (2 + moved);
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
      words[first + l] = static_cast<uint32_t>(lower[l]) | uint64_t{static_cast<uint32_t>(upper[l])}
                                                               << kBlock / 2;
    }
  }
}

template <typename T>
std::unique_ptr<Graph> graph_of(const TokenRows<T>& rows, double threshold, double eps,
                                int threads) {
  const int64_t tokens = rows.tokens, channels = rows.channels;
  std::vector<double> factors(tokens), errors(tokens);
  const TokenPanels<int32_t> panels(
      tokens, (channels + 1) / 2, threads, [&](int64_t token, int32_t* row) {
        const double factor = unit_factor(rows[token], channels);
        factors[token] = factor;
        if (!std::isfinite(factor)) return false;
        auto* to = reinterpret_cast<int16_t*>(row);
        const auto narrow = static_cast<Accumulator<T>>(kScale * factor);
        errors[token] = std::isnormal(narrow)
                            ? round_row(rows[token], channels, narrow, to)
                            : round_row(rows[token], channels, kScale * factor, to);  // unusual
        return true;
      });
  if (!panels.is_whole()) return nullptr;

  const double error = *std::max_element(errors.begin(), errors.end());
  const OpenRange range(threshold, 1.01 * std::sqrt(error) / kScale + kFloatError);
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
    const uint64_t present =
        tokens - row < kBlock ? (uint64_t{1} << (tokens - row)) - 1 : ~uint64_t{0};
    for (int64_t c = 0; c < kBlock; ++c) {
      if (column + c >= tokens) {
        similar[c] = 0;
        continue;
      }
      similar[c] &= present;
      for (uint64_t left = open[c] & ~similar[c] & present; left != 0; left &= left - 1) {
        const int64_t r = std::countr_zero(left);
        const double similarity =
            dot(rows[row + r], rows[column + c], channels) * factors[row + r] * factors[column + c];
        if (similarity > threshold) similar[c] |= uint64_t{1} << r;
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
