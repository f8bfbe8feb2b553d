// CPU: graphs whose edges have weights, similarities in the features' precision.
#include <array>

#include "core/element_types.h"
#include "graphs/token_panels.h"

namespace wsol::cpu {
namespace {

template <typename T, typename A>
WSOL_MULTIVERSION bool normalize(const T* from, int64_t channels, A* to) {
  const double factor = unit_factor(from, channels);
  const auto narrow = static_cast<A>(factor);
  if (std::isnormal(narrow)) {
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) to[c] = static_cast<A>(from[c]) * narrow;
  } else {  // features of no usual length
    for (int64_t c = 0; c < channels; ++c) {
      to[c] = static_cast<A>(static_cast<double>(from[c]) * factor);
    }
  }
  return std::isfinite(factor);
}

// A, as rows of whole blocks.
template <typename A>
class WeightedGraph final : public Graph {
 public:
  WeightedGraph(int64_t tokens, double threshold, double eps)
      : tokens_(tokens),
        stride_(blocks_of(tokens) * kBlock),
        threshold_(static_cast<A>(threshold)),
        eps_(static_cast<A>(eps)),
        weights_(new A[stride_ * stride_]) {}

  // The similarities of two blocks; below the diagonal they are those above it.
  WSOL_MULTIVERSION void take_block(int64_t row_block, int64_t column_block, const A* block) {
    A* upper = weights_.get() + row_block * kBlock * stride_ + column_block * kBlock;
    A* lower = weights_.get() + column_block * kBlock * stride_ + row_block * kBlock;
    for (int64_t r = 0; r < kBlock; ++r) {
      for (int64_t c = 0; c < kBlock; ++c) {
        const A similarity = block[r * kBlock + c];
        upper[r * stride_ + c] = similarity > threshold_ ? similarity : eps_;
      }
    }
    if (row_block == column_block) return;
    for (int64_t c = 0; c < kBlock; ++c) {
      for (int64_t r = 0; r < kBlock; ++r) lower[c * stride_ + r] = upper[r * stride_ + c];
    }
  }

  void set_vector(const double* from) override { from_ = from; }

  void multiply(int64_t block, double* to) const override { multiply_rows(block, to); }

 private:
  WSOL_MULTIVERSION void multiply_rows(int64_t block, double* to) const {
    const double* from = from_;
    for (int64_t r = 0; r < kBlock; ++r) {
      const A* row = weights_.get() + (block * kBlock + r) * stride_;
      double sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < tokens_; ++j) sum += static_cast<double>(row[j]) * from[j];
      to[r] = sum;
    }
  }

  int64_t tokens_, stride_;
  A threshold_, eps_;
  const double* from_ = nullptr;
  std::unique_ptr<A[]> weights_;
};

template <typename T>
std::unique_ptr<Graph> graph_of(const TokenRows<T>& rows, double threshold, double eps,
                                int threads) {
  using A = Accumulator<T>;
  const TokenPanels<A> panels(rows.tokens, rows.channels, threads, [&](int64_t token, A* to) {
    return normalize(rows[token], rows.channels, to);
  });
  if (!panels.is_whole()) return nullptr;
  auto graph = std::make_unique<WeightedGraph<A>>(rows.tokens, threshold, eps);
  for_each_block_pair(panels.blocks(), threads, [&](int64_t row, int64_t column) {
    std::array<A, kBlock * kBlock> block{};  // zeros where there are no tokens
    with_vectors([&]<int kBytes>() {
      panels.template multiply<Tiling<A, kBytes>>(row, column, block.data());
    });
    graph->take_block(row, column, block.data());
  });
  return graph;
}

}  // namespace

std::unique_ptr<Graph> weighted_graph(const NormalizedCut& args, int64_t image, int threads) {
  std::unique_ptr<Graph> graph;
  with_floating_type("normalized_cut", args.features.dtype, [&]<typename T>(ElementTag<T>) {
    graph = graph_of(TokenRows<T>(args.features, image), args.threshold, args.eps, threads);
  });
  return graph;
}

}  // namespace wsol::cpu
