// CPU: an image's unit features are multiplied with themselves in blocks of 64 x 64 tokens, of
// which those on and above the diagonal are enough, and a block leaves as words of 64 bits, or
// weights, before the next begins. Limited by these products; those with the graph read some
// hundred kilobytes each, from the cache.
//
// Of few images, threads share a block's row or a product's; else each takes images of its own.
#include "graphs/normalized_cut.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <type_traits>
#include <vector>

#include "core/element_types.h"
#include "core/matrix_product.h"
#include "core/multiversion.h"
#include "core/parallel_for.h"
#include "graphs/second_eigenvector.h"
#include "graphs/tridiagonal.h"

#if defined(__GNUC__)
// How vectors are passed matters to no one: with_vectors inlines every call.
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

namespace wsol::cpu {
namespace {

constexpr int64_t kBlock =
    64;  // tokens; a word's bits, and a multiple of every Tiling's rows and lanes
constexpr int64_t kDepth = 128;  // channels at a time: a panel's then stay in the L1 cache
constexpr int64_t kWorkOfATask = 1 << 18;  // additions, some ten microseconds

int64_t blocks_of(int64_t count) { return (count + kBlock - 1) / kBlock; }

template <typename T>
std::unique_ptr<T[]> uninitialized(int64_t count) {
  return std::unique_ptr<T[]>(new T[count]);
}

// --- similarities

// Features at length 1, in panels of as many tokens as a tile has columns: (panels, channels,
// width), zeros after the last token.
template <typename A>
struct UnitFeatures {
  int64_t tokens, channels, blocks;
  std::unique_ptr<A[]> panels;
  bool are_finite;

  int64_t tokens_of(int64_t block) const { return std::min(kBlock, tokens - block * kBlock); }
  A* block(int64_t index) const { return panels.get() + index * kBlock * channels; }
};

template <typename T, typename A>
WSOL_MULTIVERSION bool normalize(const T* from, int64_t channels, A* to) {
  double square = 0;
#pragma omp simd reduction(+ : square)
  for (int64_t c = 0; c < channels; ++c) {
    const auto value = static_cast<double>(from[c]);
    square += value * value;
  }
  const double factor = square == 0 ? 0 : 1 / std::sqrt(square);
  const auto narrow = static_cast<A>(factor);
  if (std::isnormal(narrow)) {
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) to[c] = static_cast<A>(from[c]) * narrow;
  } else {  // features of no usual length
    for (int64_t c = 0; c < channels; ++c) {
      to[c] = static_cast<A>(static_cast<double>(from[c]) * factor);
    }
  }
  return std::isfinite(square);
}

// Square matrices of as many registers as one has lanes.
template <typename A, int kBytes>
struct Square {
  using Tile = Tiling<A, kBytes>;
  using Vector = typename Tile::Vector;
  using Index = std::conditional_t<sizeof(A) == 4, int32_t, int64_t>;
  typedef Index Indices __attribute__((vector_size(kBytes)));
  static constexpr int kSide = Tile::kLanes;

  // Rows from (kSide, stride) become columns, the first `columns` of which go to (columns, width).
  static inline void transpose(const A* from, int64_t stride, int64_t columns, A* to,
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
  static inline Vector chosen(Vector a, Vector b, Indices indices) {
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

template <typename Tile>
constexpr int64_t panel_width() {
  return Tile::kVectors * Tile::kLanes;
}

template <typename T, typename A>
UnitFeatures<A> unit_features(const TensorView& features, int64_t image, int threads) {
  const int64_t tokens = features.size(1), channels = features.size(2), blocks = blocks_of(tokens);
  UnitFeatures<A> unit{tokens, channels, blocks, uninitialized<A>(blocks * kBlock * channels),
                       true};
  std::vector<char> are_finite(blocks, true);
  parallel_for(blocks, 1, threads, [&](int64_t begin, int64_t end) {
    with_vectors([&]<int kBytes>() {
      using Part = Square<A, kBytes>;
      constexpr int64_t kRows = Part::kSide, kWidth = panel_width<typename Part::Tile>();
      const int64_t stride = (channels + kRows - 1) / kRows * kRows;
      const std::unique_ptr<A[]> rows(new A[kRows * stride]());
      for (int64_t first = begin * kBlock; first < end * kBlock; first += kRows) {
        for (int64_t i = 0; i < kRows; ++i) {
          A* row = rows.get() + i * stride;
          if (first + i < tokens) {
            const T* from =
                features.as<T>() + image * features.stride(0) + (first + i) * features.stride(1);
            are_finite[first / kBlock] &= normalize(from, channels, row);
          } else {
            std::fill_n(row, channels, A(0));
          }
        }
        A* to = unit.panels.get() + first / kWidth * kWidth * channels + first % kWidth;
        for (int64_t c = 0; c < channels; c += kRows) {
          Part::transpose(rows.get() + c, stride, channels - c, to + c * kWidth, kWidth);
        }
      }
    });
  });
  unit.are_finite = std::all_of(are_finite.begin(), are_finite.end(), [](char is) { return is; });
  return unit;
}

// Of the blocks' tokens; where there are none, `out` stays what it was. A block on the diagonal
// takes what lies below it, but for a panel's own square, from above.
template <typename Tile, typename A = typename Tile::Element>
inline void similarities(const UnitFeatures<A>& unit, int64_t row_block, int64_t column_block,
                         A* out) {
  constexpr int64_t kWidth = panel_width<Tile>();
  const int64_t channels = unit.channels;
  for (int64_t c = 0; c < channels; c += kDepth) {
    const int64_t depth = std::min(kDepth, channels - c);
    for (int64_t row = 0; row < unit.tokens_of(row_block); row += kWidth) {
      const LeftMatrix<A> left{unit.block(row_block) + row * channels + c * kWidth, 1, kWidth};
      const int64_t begin = row_block == column_block ? row : 0;
      for (int64_t column = begin; column < unit.tokens_of(column_block); column += kWidth) {
        const A* right = unit.block(column_block) + column * channels + c * kWidth;
        A* to = out + row * kBlock + column;
        if (c == 0) {
          multiply<Tile>(kWidth, kWidth, depth, left, right, kWidth, to, kBlock);
        } else {
          multiply<Tile, true>(kWidth, kWidth, depth, left, right, kWidth, to, kBlock);
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

// --- the graph

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

// B: of each block of columns a word a row. A product looks sums up: a vector register holds all
// that some columns' entries can add up to, a shuffle takes the one that a row's bits choose
// (Arlazarov, Dinic, Kronrod and Faradzev, 1970).
class BitGraph {
 public:
  BitGraph(int64_t tokens, double threshold, double eps)
      : blocks_(blocks_of(tokens)),
        threshold_(threshold),
        eps_(eps),
        words_(uninitialized<uint64_t>(blocks_ * blocks_ * kBlock)),
        sums_(uninitialized<double>(blocks_ * kMostSums)) {}

  // The block's similarities; below the diagonal they are those above it.
  template <typename A>
  WSOL_MULTIVERSION void take_block(int64_t row_block, int64_t column_block, const A* block) {
    const auto threshold = static_cast<A>(threshold_);
    std::array<uint64_t, kBlock> below{};
    uint64_t* above = words(column_block) + row_block * kBlock;
    for (int64_t r = 0; r < kBlock; ++r) {
      const A* row = block + r * kBlock;
      uint64_t bits = 0;
#pragma omp simd reduction(| : bits)
      for (int64_t c = 0; c < kBlock; ++c) {
        const uint64_t bit = row[c] > threshold;
        below[c] |= bit << r;
        bits |= bit << c;
      }
      above[r] = bits;
    }
    std::copy_n(below.data(), kBlock, words(row_block) + column_block * kBlock);
  }

  // Makes `from`, of whole blocks with zeros at the end, what `multiply` multiplies.
  void set_vector(const double* from) {
    all_ = std::accumulate(from, from + blocks_ * kBlock, 0.0);
    with_vectors([&]<int kBytes>() { fill_sums<kBytes>(from); });
  }

  // to = A from, for a block's rows.
  void multiply(int64_t row_block, double* to) const {
    with_vectors([&]<int kBytes>() { add_sums<kBytes>(row_block, to); });
    for (int64_t r = 0; r < kBlock; ++r) to[r] = eps_ * all_ + (1 - eps_) * to[r];
  }

 private:
  // Of a register of so many bytes.
  template <int kBytes>
  struct Lookup {
    using Doubles = typename WordLanes<kBytes>::Doubles;
    using Words = typename WordLanes<kBytes>::Words;
    static constexpr int64_t kLanes = kBytes / 8;
    static constexpr int64_t kColumns = kBytes == 64 ? 3 : kBytes == 32 ? 2 : 1;  // log2(kLanes)
    static constexpr int64_t kTables = (kBlock + kColumns - 1) / kColumns;        // of a block

    static Doubles look_up(Doubles table, Words index) {  // by the index's last kColumns bits
#if defined(__clang__) || !defined(__GNUC__)
      Doubles found;
      for (int64_t l = 0; l < kLanes; ++l) found[l] = table[index[l] % kLanes];
      return found;
#else
      return __builtin_shuffle(table, index);
#endif
    }
  };
  static constexpr int64_t kMostSums =
      std::max({Lookup<64>::kTables * 8, Lookup<32>::kTables * 4, Lookup<16>::kTables * 2});

  uint64_t* words(int64_t column_block) const {
    return words_.get() + column_block * blocks_ * kBlock;
  }

  template <int kBytes>
  inline void fill_sums(const double* from) {
    using L = Lookup<kBytes>;
    double* sums = sums_.get();
    for (int64_t block = 0; block < blocks_; ++block, from += kBlock) {
      for (int64_t first = 0; first < kBlock; first += L::kColumns, sums += L::kLanes) {
        for (int64_t chosen = 0; chosen < L::kLanes; ++chosen) {
          double sum = 0;
          for (int64_t c = 0; c < L::kColumns && first + c < kBlock; ++c) {
            sum += chosen >> c & 1 ? from[first + c] : 0;
          }
          sums[chosen] = sum;
        }
      }
    }
  }

  template <int kBytes>
  inline void add_sums(int64_t row_block, double* to) const {
    using L = Lookup<kBytes>;
    using Doubles = typename L::Doubles;
    using Words = typename L::Words;
    constexpr int64_t kVectors = kBytes == 64 ? 8 : 4;  // of rows, which share a table's load
    for (int64_t first = 0; first < kBlock; first += kVectors * L::kLanes) {
      Doubles sums[kVectors] = {};
      for (int64_t block = 0; block < blocks_; ++block) {
        const uint64_t* rows = words(block) + row_block * kBlock + first;
        const double* tables = sums_.get() + block * L::kTables * L::kLanes;
        Words word[kVectors] = {};
        for (int64_t v = 0; v < kVectors; ++v) {
          word[v] = *reinterpret_cast<const Words*>(rows + v * L::kLanes);
        }
        for (int64_t t = 0; t < L::kTables; ++t) {
          const Doubles table = *reinterpret_cast<const Doubles*>(tables + t * L::kLanes);
          for (int64_t v = 0; v < kVectors; ++v) {
            sums[v] += L::look_up(table, word[v]);
            word[v] >>= L::kColumns;
          }
        }
      }
      for (int64_t v = 0; v < kVectors; ++v) {
        *reinterpret_cast<Doubles*>(to + first + v * L::kLanes) = sums[v];
      }
    }
  }

  int64_t blocks_;
  double threshold_, eps_, all_ = 0;
  std::unique_ptr<uint64_t[]> words_;
  std::unique_ptr<double[]> sums_;  // of each block's tables
};

// A, as rows of whole blocks.
template <typename A>
class WeightedGraph {
 public:
  WeightedGraph(int64_t tokens, double threshold, double eps)
      : tokens_(tokens),
        stride_(blocks_of(tokens) * kBlock),
        threshold_(threshold),
        eps_(eps),
        weights_(uninitialized<A>(stride_ * stride_)) {}

  WSOL_MULTIVERSION void take_block(int64_t row_block, int64_t column_block, const A* block) {
    const auto threshold = static_cast<A>(threshold_), eps = static_cast<A>(eps_);
    A* upper = weights_.get() + row_block * kBlock * stride_ + column_block * kBlock;
    A* lower = weights_.get() + column_block * kBlock * stride_ + row_block * kBlock;
    for (int64_t r = 0; r < kBlock; ++r) {
      for (int64_t c = 0; c < kBlock; ++c) {
        const A similarity = block[r * kBlock + c];
        upper[r * stride_ + c] = similarity > threshold ? similarity : eps;
      }
    }
    if (row_block == column_block) return;
    for (int64_t c = 0; c < kBlock; ++c) {
      for (int64_t r = 0; r < kBlock; ++r) lower[c * stride_ + r] = upper[r * stride_ + c];
    }
  }

  void set_vector(const double* from) { from_ = from; }

  WSOL_MULTIVERSION void multiply(int64_t block, double* to) const {
    const double* from = from_;
    for (int64_t r = 0; r < kBlock; ++r) {
      const A* row = weights_.get() + (block * kBlock + r) * stride_;
      double sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < tokens_; ++j) sum += static_cast<double>(row[j]) * from[j];
      to[r] = sum;
    }
  }

 private:
  int64_t tokens_, stride_;
  double threshold_, eps_;
  const double* from_ = nullptr;
  std::unique_ptr<A[]> weights_;
};

template <typename A, typename Graph>
void connect(const UnitFeatures<A>& unit, int threads, Graph& graph) {
  parallel_for(unit.blocks, 1, threads, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<A[]> block(new A[kBlock * kBlock]());  // zeros where there are no tokens
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t column = row; column < unit.blocks; ++column) {
        with_vectors(
            [&]<int kBytes>() { similarities<Tiling<A, kBytes>>(unit, row, column, block.get()); });
        graph.take_block(row, column, block.get());
      }
    }
  });
}

// --- Lanczos

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
template <typename Graph>
class Machine {
 public:
  Machine(Graph& graph, int64_t tokens, int threads)
      : graph_(graph),
        tokens_(tokens),
        padded_(blocks_of(tokens) * kBlock),
        threads_(threads),
        rows_(uninitialized<double>(kLanczosRows * tokens)),
        work_(uninitialized<double>(padded_)),
        scaled_(new double[padded_]()),
        inverse_root_(uninitialized<double>(tokens)) {
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

// --- an image

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

template <typename Graph>
void solve(Graph& graph, int64_t tokens, int threads, Result to) {
  Machine<Graph> machine(graph, tokens, threads);
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

template <typename T>
void cut(const NormalizedCut& args, int64_t image, int threads) {
  using A = Accumulator<T>;
  const int64_t tokens = args.features.size(1);
  const Result to{args.vector.as<double>() + image * tokens, args.eigenvalue.as<double>() + image,
                  args.residual.as<double>() + image, args.determined.as<bool>() + image};
  const UnitFeatures<A> unit = unit_features<T, A>(args.features, image, threads);
  if (!unit.are_finite) return write_unknown(tokens, to);
  const auto solve_as = [&](auto graph) {
    connect(unit, threads, graph);
    solve(graph, tokens, threads, to);
  };
  if (args.weighted) {
    solve_as(WeightedGraph<A>(tokens, args.threshold, args.eps));
  } else {
    solve_as(BitGraph(tokens, args.threshold, args.eps));
  }
}

}  // namespace

void normalized_cut(const NormalizedCut& args, int threads) {
  const int64_t images = args.features.size(0);
  with_floating_type("normalized_cut", args.features.dtype, [&]<typename T>(ElementTag<T>) {
    const auto cut_images = [&](int64_t begin, int64_t end) {
      for (int64_t image = begin; image < end; ++image) cut<T>(args, image, threads);
    };
    if (images < threads) return cut_images(0, images);
    parallel_for(images, 1, threads, cut_images);  // each alone on its thread
  });
}

}  // namespace wsol::cpu
