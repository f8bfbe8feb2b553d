// CPU: an image's graph is made by the products of its features, which is what costs (bit_graph.h,
// weighted_graph.cpp); its eigenvector then takes some products with it, each a read of some
// hundred kilobytes from the cache.
//
// Of few images, threads share a block's row or a product's; else each takes images of its own.
#include "graphs/normalized_cut.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>

#include "core/multiversion.h"
#include "core/parallel_for.h"
#include "graphs/graph.h"
#include "graphs/second_eigenvector.h"
#include "graphs/tridiagonal.h"

namespace wsol::cpu {
namespace {

constexpr int64_t kWorkOfATask = 1 << 18;  // additions, some ten microseconds

WSOL_MULTIVERSION double dot(const double* a, const double* b, int64_t count) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

WSOL_MULTIVERSION void add_scaled(double factor, const double* x, double* y, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) y[i] += factor * x[i];
}

// What second_eigenvector.h asks for.
class Machine {
 public:
  Machine(Graph& graph, int64_t tokens, int threads)
      : graph_(graph),
        tokens_(tokens),
        padded_(blocks_of(tokens) * kBlock),
        threads_(threads),
        rows_(new double[kLanczosRows * tokens]),
        work_(new double[padded_]),
        scaled_(new double[padded_]()),
        inverse_root_(new double[tokens]) {
    // Degrees are A 1, and M's largest eigenvector their roots.
    std::fill_n(scaled_.get(), tokens, 1.0);
    multiply_graph();
    const double length = std::sqrt(std::accumulate(work_.get(), work_.get() + tokens, 0.0));
    for (int64_t i = 0; i < tokens; ++i) {
      const double root = std::sqrt(work_[i]);
      inverse_root_[i] = 1 / root;
      row(0)[i] = root / length;
    }
  }

  double* row(int64_t k) { return rows_.get() + k * tokens_; }
  double inverse_root(int64_t i) const { return inverse_root_[i]; }

  int count() const { return static_cast<int>(tokens_); }
  void noise(int seed) {
    for (int64_t i = 0; i < tokens_; ++i) work_[i] = wsol::noise(seed, static_cast<uint32_t>(i));
  }
  void multiply(int k) {
    const double* from = row(k);
    for (int64_t i = 0; i < tokens_; ++i) scaled_[i] = inverse_root_[i] * from[i];
    multiply_graph();
    for (int64_t i = 0; i < tokens_; ++i) work_[i] *= inverse_root_[i];
  }
  double dot(int k) { return cpu::dot(work_.get(), row(k), tokens_); }
  double project_out(int rows) {
    for (int pass = 0; pass < 2; ++pass) {  // what rounding leaves of the first, the second takes
      for (int k = 0; k < rows; ++k) coefficients_[k] = dot(k);
      for (int k = 0; k < rows; ++k) add_scaled(-coefficients_[k], row(k), work_.get(), tokens_);
    }
    return std::sqrt(cpu::dot(work_.get(), work_.get(), tokens_));
  }
  void keep(int k, double factor) {
    double* to = row(k);
    for (int64_t i = 0; i < tokens_; ++i) to[i] = factor * work_[i];
  }
  void combine(int first, int rows) {
    std::fill_n(work_.get(), tokens_, 0.0);
    for (int k = 0; k < rows; ++k) {
      add_scaled(coefficients_[k], row(first + k), work_.get(), tokens_);
    }
  }
  void rotate(int k, double x, double y) {
    double* to = row(k);
    const double* other = row(k + 1);
    for (int64_t i = 0; i < tokens_; ++i) to[i] = x * to[i] + y * other[i];
  }
  double distance(int k, double factor) {
    add_scaled(-factor, row(k), work_.get(), tokens_);
    return std::sqrt(cpu::dot(work_.get(), work_.get(), tokens_));
  }

  void extend(int step, double diagonal, double beside) {
    diagonal_[step] = diagonal;
    beside_[step] = beside;
  }
  double ritz_value(int size, int rank) const {
    const Tridiagonal t{diagonal_.data(), beside_.data(), size};
    double low = kLowestRitz, high = kHighestRitz;
    for (int bit = 0; bit < 54; ++bit) {
      const double middle = (low + high) / 2;
      (eigenvalues_above(t, middle) >= rank ? low : high) = middle;
    }
    return low;
  }
  double ritz_vector(int size, double value) {
    eigenvector({diagonal_.data(), beside_.data(), size}, value, above_.data(), below_.data(),
                coefficients_.data());
    return coefficients_[size - 1];
  }

 private:
  // work = A scaled.
  void multiply_graph() {
    graph_.set_vector(scaled_.get());
    const int64_t grain = std::max<int64_t>(1, kWorkOfATask / (kBlock * tokens_));
    parallel_for(padded_ / kBlock, grain, threads_, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        graph_.multiply(block, work_.get() + block * kBlock);
      }
    });
  }

  Graph& graph_;
  int64_t tokens_, padded_;
  int threads_;
  std::unique_ptr<double[]> rows_, work_, scaled_, inverse_root_;
  std::array<double, kMostSteps> diagonal_, beside_, above_, below_;
  std::array<double, kLanczosRows> coefficients_;
};

struct Result {
  double *vector, *eigenvalue, *residual;
  bool* determined;
};

void write_unknown(int64_t tokens, Result to) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  std::fill_n(to.vector, tokens, nan);
  *to.eigenvalue = *to.residual = nan;
  *to.determined = false;
}

void solve(Graph& graph, int64_t tokens, int threads, Result to) {
  Machine machine(graph, tokens, threads);
  const SecondEigenvector second = second_eigenvector(machine);
  *to.eigenvalue = 1 - second.value;
  *to.residual = second.residual;
  *to.determined = second.is_determined;
  if (!second.is_simple) {
    std::fill_n(to.vector, tokens, std::numeric_limits<double>::quiet_NaN());
    return;
  }
  double largest = 0;
  for (int64_t i = 0; i < tokens; ++i) {
    to.vector[i] = machine.inverse_root(i) * machine.row(1)[i];
    largest = std::max(largest, std::abs(to.vector[i]));
  }
  const double* first = std::find_if(to.vector, to.vector + tokens,
                                     [&](double value) { return is_as_large(value, largest); });
  if (*first > 0) return;
  for (int64_t i = 0; i < tokens; ++i) to.vector[i] = -to.vector[i];
}

void cut(const NormalizedCut& args, int64_t image, int threads) {
  const int64_t tokens = args.features.size(1);
  const Result to{args.vector.as<double>() + image * tokens, args.eigenvalue.as<double>() + image,
                  args.residual.as<double>() + image, args.determined.as<bool>() + image};
  const auto graph = (args.weighted ? weighted_graph : bit_graph)(args, image, threads);
  if (graph == nullptr) return write_unknown(tokens, to);
  solve(*graph, tokens, threads, to);
}

}  // namespace

void normalized_cut(const NormalizedCut& args, int threads) {
  const int64_t images = args.features.size(0);
  const auto cut_images = [&](int64_t begin, int64_t end) {
    for (int64_t image = begin; image < end; ++image) cut(args, image, threads);
  };
  if (images < threads) return cut_images(0, images);
  parallel_for(images, 1, threads, cut_images);  // each alone on its thread
}

}  // namespace wsol::cpu
