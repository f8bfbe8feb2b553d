// CUDA: three launches.
//
// normalize: a warp owns a token: its length, and its features at length 1, in float32 (float64 of
// float64), padded with zeros to whole slabs.
//
// similarity: a block owns a pair of tiles of 64 tokens on or above the diagonal, its threads 4 x 4
// similarities each; slabs of channels pass through shared memory. The tile of similarities then
// lies in shared memory, from where warps read it by rows and by columns, and their votes are the
// words of both. Not torch's matmul: that would make twice the products, write N^2 floats to be
// read once, and, where TF32 is allowed, put pairs on the wrong side of the threshold. Limited by
// the products.
//
// second_eigenvector: a block owns an image and goes on until its own vector has converged, so
// nothing waits for an answer. A thread owns a row of the graph for 256 columns; its warp's words
// of bits are one line, the vector's entries come from shared memory, the same for all lanes. The
// bits stay in global memory: an image's are in the second cache (234 KB at N = 1,369, read in a
// tenth of the time that their additions take). Limited by these additions, in float64.
#include <algorithm>
#include <cmath>

#include "core/cuda.h"
#include "core/scratch.h"
#include "graphs/normalized_cut.h"
#include "graphs/second_eigenvector.h"
#include "graphs/tridiagonal.h"

namespace wsol::cuda {
namespace {

constexpr int kTile = 64;  // tokens
constexpr int kSlab = 16;  // channels
constexpr int kQuad = 4;   // a thread's similarities: kQuad x kQuad
constexpr int kTileThreads = (kTile / kQuad) * (kTile / kQuad);
constexpr int kTileWarps = kTileThreads / kWarpSize;
constexpr int kSlabStride = kTile + 4;  // a multiple of 16 bytes; no two of a warp's rows in a bank
constexpr int kTileStride = kTile + 1;  // columns are read as well as rows

constexpr int kNormalizeWarps = 8;

constexpr int kMostThreads = 512;  // of a block that owns an image: each has registers enough
constexpr int kColumns = 256;      // that a thread adds at a time: a part of its row's sum
constexpr int kStaged = 512;       // entries of the vector in shared memory at a time

int64_t round_up(int64_t count, int64_t multiple) {
  return (count + multiple - 1) / multiple * multiple;
}

// --- unit features

template <typename T>
struct TokenFeatures {
  const T* data;
  int64_t image_stride, token_stride;
  int tokens, channels;

  explicit TokenFeatures(const TensorView& view)
      : data(view.as<T>()),
        image_stride(view.stride(0)),
        token_stride(view.stride(1)),
        tokens(static_cast<int>(view.size(1))),
        channels(static_cast<int>(view.size(2))) {}
};

template <typename T>
__global__ void normalize_kernel(TokenFeatures<T> features, int64_t count, int depth,
                                 typename Element<T>::Accumulator* unit, bool* is_finite) {
  using A = typename Element<T>::Accumulator;
  const int64_t index =
      static_cast<int64_t>(blockIdx.x) * kNormalizeWarps + threadIdx.x / kWarpSize;
  if (index >= count) return;
  const int lane = threadIdx.x % kWarpSize;
  const T* from = features.data + index / features.tokens * features.image_stride +
                  index % features.tokens * features.token_stride;
  double square = 0;
  for (int c = lane; c < features.channels; c += kWarpSize) {
    const auto value = static_cast<double>(Element<T>::load(from[c]));
    square += value * value;
  }
  square = warp_sum(square);
  const double factor = square == 0 ? 0 : 1 / sqrt(square);
  A* to = unit + index * depth;
  for (int c = lane; c < depth; c += kWarpSize) {
    to[c] = c < features.channels
                ? static_cast<A>(static_cast<double>(Element<T>::load(from[c])) * factor)
                : A(0);
  }
  if (lane == 0) is_finite[index] = isfinite(square);
}

// --- similarities

template <typename A>
struct alignas(16) Quad {
  A of[kQuad];
};

// The graph in bits: word (w, i) has those of row i and columns 32 w to 32 w + 31.
struct BitGraph {
  unsigned* words;
  int tokens;
  double threshold, eps;

  WSOL_HOST_DEVICE int64_t words_of_image() const {
    return int64_t{(tokens + kWarpSize - 1) / kWarpSize} * tokens;
  }
  __device__ BitGraph of_image(unsigned image) const {
    return {words + image * words_of_image(), tokens, threshold, eps};
  }

  // The lanes' similarities of a row with 32 columns from `column` on, a multiple of 32.
  template <typename A>
  __device__ void take(int row, int column, A similarity) const {
    const int lane = threadIdx.x % kWarpSize;
    const bool is_edge = similarity > static_cast<A>(threshold) && column + lane < tokens;
    const unsigned word = __ballot_sync(kFullWarp, is_edge);
    if (lane == 0 && row < tokens && column < tokens) {
      words[int64_t{column / kWarpSize} * tokens + row] = word;
    }
  }

  // The part of a row's sum that columns from `first` on have, of kColumns; staged: their entries.
  __device__ double sum(int row, int first, int end, const double* staged) const {
    double sum = 0;
    for (int column = first; column < end; column += kWarpSize) {
      const unsigned word = words[int64_t{column / kWarpSize} * tokens + row];
      const double* entries = staged + (column - first);
#pragma unroll
      for (int bit = 0; bit < kWarpSize; ++bit) {
        if (word >> bit & 1) sum += entries[bit];
      }
    }
    return sum;
  }
  __device__ double product(double sum_of_edges, double sum_of_all) const {
    return eps * sum_of_all + (1 - eps) * sum_of_edges;
  }
};

// Weight (j, i) of edge i, j: the matrix is symmetric.
template <typename A>
struct WeightedGraph {
  A* weights;
  int tokens;
  double threshold, eps;

  __device__ WeightedGraph of_image(unsigned image) const {
    return {weights + image * (int64_t{tokens} * tokens), tokens, threshold, eps};
  }

  __device__ void take(int row, int column, A similarity) const {
    column += threadIdx.x % kWarpSize;
    if (row >= tokens || column >= tokens) return;
    weights[int64_t{row} * tokens + column] =
        similarity > static_cast<A>(threshold) ? similarity : static_cast<A>(eps);
  }

  __device__ double sum(int row, int first, int end, const double* staged) const {
    double sum = 0;
    for (int column = first; column < end; ++column) {
      sum += static_cast<double>(weights[int64_t{column} * tokens + row]) * staged[column - first];
    }
    return sum;
  }
  __device__ double product(double sum_of_edges, double) const { return sum_of_edges; }
};

// The tiles of the n-th pair (row, column), row <= column, counted by columns.
struct TilePair {
  int row, column;

  __device__ explicit TilePair(int n) {
    column = static_cast<int>((sqrt(8.0 * n + 1) - 1) / 2);
    while (column * (column + 1) / 2 > n) --column;  // whatever the root's rounding
    while ((column + 1) * (column + 2) / 2 <= n) ++column;
    row = n - column * (column + 1) / 2;
  }
};

template <typename A, typename Graph>
__global__ void __launch_bounds__(kTileThreads)
    similarity_kernel(const A* all_units, int depth, Graph graphs) {
  auto* left = reinterpret_cast<A*>(dynamic_shared());  // (kSlab, kSlabStride)
  A* right = left + kSlab * kSlabStride;                // likewise
  A* tile = left;                                       // (kTile, kTileStride), when both are done
  const Graph graph = graphs.of_image(blockIdx.y);
  const TilePair pair(static_cast<int>(blockIdx.x));
  const int tokens = graph.tokens, first_row = pair.row * kTile, first_column = pair.column * kTile;
  const A* units = all_units + int64_t{blockIdx.y} * tokens * depth;
  const int x = threadIdx.x % (kTile / kQuad) * kQuad, y = threadIdx.x / (kTile / kQuad) * kQuad;

  // A thread brings four channels of a token of either tile.
  const int token = threadIdx.x / (kSlab / kQuad), part = threadIdx.x % (kSlab / kQuad) * kQuad;
  const auto bring = [&](int first_token, int channel, A* to) {
    Quad<A> values{};
    if (first_token + token < tokens) {
      values = *reinterpret_cast<const Quad<A>*>(units + int64_t{first_token + token} * depth +
                                                 channel + part);
    }
#pragma unroll
    for (int i = 0; i < kQuad; ++i) to[(part + i) * kSlabStride + token] = values.of[i];
  };

  A sums[kQuad][kQuad] = {};
  for (int channel = 0; channel < depth; channel += kSlab) {
    __syncthreads();
    bring(first_row, channel, left);
    bring(first_column, channel, right);
    __syncthreads();
#pragma unroll
    for (int c = 0; c < kSlab; ++c) {
      const auto a = *reinterpret_cast<const Quad<A>*>(left + c * kSlabStride + y);
      const auto b = *reinterpret_cast<const Quad<A>*>(right + c * kSlabStride + x);
#pragma unroll
      for (int i = 0; i < kQuad; ++i) {
#pragma unroll
        for (int j = 0; j < kQuad; ++j) sums[i][j] += a.of[i] * b.of[j];
      }
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kQuad; ++i) {
#pragma unroll
    for (int j = 0; j < kQuad; ++j) tile[(y + i) * kTileStride + x + j] = sums[i][j];
  }
  __syncthreads();
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  for (int row = warp; row < kTile; row += kTileWarps) {
    for (int column = 0; column < kTile; column += kWarpSize) {
      graph.take(first_row + row, first_column + column, tile[row * kTileStride + column + lane]);
      if (pair.row != pair.column) {
        graph.take(first_column + row, first_row + column,
                   tile[(column + lane) * kTileStride + row]);
      }
    }
  }
}

// --- Lanczos

struct Vectors {
  double *rows, *work, *inverse_root;  // (kLanczosRows, N), (N), (N)
  double* parts;                       // (ceil(N / kColumns), N)

  // Memory for them, of one image or more.
  static int64_t count(int64_t tokens) {
    return (kLanczosRows + 2 + (tokens + kColumns - 1) / kColumns) * tokens;
  }
  __device__ Vectors(double* memory, int64_t tokens)
      : rows(memory),
        work(rows + kLanczosRows * tokens),
        inverse_root(work + tokens),
        parts(inverse_root + tokens) {}
};

// Shared memory of a block.
struct Shared {
  double staged[kStaged];
  double diagonal[kMostSteps], beside[kMostSteps], above[kMostSteps], below[kMostSteps];
  double coefficients[kLanczosRows];
  double of_warps[kMostThreads / kWarpSize];
  double answer;
};

// What second_eigenvector.h asks for, by a block. Every method ends with the block's threads
// agreeing on what is in memory.
template <typename Graph>
class Machine {
 public:
  __device__ Machine(const Graph& graph, const Vectors& vectors, Shared& shared)
      : graph_(graph), tokens_(graph.tokens), v_(vectors), shared_(shared) {
    // Degrees are A 1, and M's largest eigenvector their roots.
    each([&](int i) { v_.inverse_root[i] = 1; });
    multiply_graph([&](int) { return 1.0; });
    double own = 0;
    each([&](int i) { own += v_.work[i]; });
    const double length = sqrt(block_sum(own, shared_.of_warps));
    each([&](int i) {
      const double root = sqrt(v_.work[i]);
      v_.inverse_root[i] = 1 / root;
      row(0)[i] = root / length;
    });
    __syncthreads();
  }

  __device__ double* row(int k) const { return v_.rows + int64_t{k} * tokens_; }
  __device__ double inverse_root(int i) const { return v_.inverse_root[i]; }
  // visit(i) for the thread's rows.
  template <typename Visit>
  __device__ void each(const Visit& visit) const {
    for (int i = threadIdx.x; i < tokens_; i += blockDim.x) visit(i);
  }

  __device__ int count() const { return tokens_; }
  __device__ void noise(int seed) {
    each([&](int i) { v_.work[i] = wsol::noise(seed, i); });
    __syncthreads();
  }
  __device__ void multiply(int k) {
    const double* from = row(k);
    multiply_graph([&](int i) { return v_.inverse_root[i] * from[i]; });
  }
  __device__ double dot(int k) const {
    double own = 0;
    each([&](int i) { own += v_.work[i] * row(k)[i]; });
    return block_sum(own, shared_.of_warps);
  }
  __device__ double project_out(int rows) {
    const int warp = threadIdx.x / kWarpSize, warps = blockDim.x / kWarpSize;
    double length = 0;
    for (int pass = 0; pass < 2; ++pass) {  // what rounding leaves of the first, the second takes
      for (int k = warp; k < rows; k += warps) {
        double sum = 0;
        for (int i = threadIdx.x % kWarpSize; i < tokens_; i += kWarpSize) {
          sum += v_.work[i] * row(k)[i];
        }
        sum = warp_sum(sum);
        if (threadIdx.x % kWarpSize == 0) shared_.coefficients[k] = sum;
      }
      __syncthreads();
      length = 0;
      each([&](int i) {
        double left = v_.work[i];
        for (int k = 0; k < rows; ++k) left -= shared_.coefficients[k] * row(k)[i];
        v_.work[i] = left;
        length += left * left;
      });
      __syncthreads();
    }
    return sqrt(block_sum(length, shared_.of_warps));
  }
  __device__ void keep(int k, double factor) {
    each([&](int i) { row(k)[i] = factor * v_.work[i]; });
    __syncthreads();
  }
  __device__ void combine(int first, int rows) {
    each([&](int i) {
      double sum = 0;
      for (int k = 0; k < rows; ++k) sum += shared_.coefficients[k] * row(first + k)[i];
      v_.work[i] = sum;
    });
    __syncthreads();
  }
  __device__ void rotate(int k, double x, double y) {
    each([&](int i) { row(k)[i] = x * row(k)[i] + y * row(k + 1)[i]; });
    __syncthreads();
  }
  __device__ double distance(int k, double factor) const {
    double own = 0;
    each([&](int i) {
      const double difference = v_.work[i] - factor * row(k)[i];
      own += difference * difference;
    });
    return sqrt(block_sum(own, shared_.of_warps));
  }

  __device__ void extend(int step, double diagonal, double beside) {
    if (threadIdx.x == 0) {
      shared_.diagonal[step] = diagonal;
      shared_.beside[step] = beside;
    }
    __syncthreads();
  }
  // By the first warp: its lanes cut the interval at 32 places at once.
  __device__ double ritz_value(int size, int rank) {
    if (threadIdx.x < kWarpSize) {
      const Tridiagonal t{shared_.diagonal, shared_.beside, size};
      double low = kLowestRitz, width = kHighestRitz - kLowestRitz;
      for (int round = 0; round < 11; ++round) {  // 33^11 > 2^54
        width /= kWarpSize + 1;
        const double place = low + (threadIdx.x + 1) * width;
        low += __popc(__ballot_sync(kFullWarp, eigenvalues_above(t, place) >= rank)) * width;
      }
      if (threadIdx.x == 0) shared_.answer = low;
    }
    return agreed_answer();
  }
  __device__ double ritz_vector(int size, double value) {
    if (threadIdx.x == 0) {
      eigenvector({shared_.diagonal, shared_.beside, size}, value, shared_.above, shared_.below,
                  shared_.coefficients);
      shared_.answer = shared_.coefficients[size - 1];
    }
    return agreed_answer();
  }
  __device__ double largest(double own) { return block_max(own, shared_.of_warps); }

 private:
  __device__ double agreed_answer() const {
    __syncthreads();
    const double answer = shared_.answer;
    __syncthreads();
    return answer;
  }

  // work = D^-1/2 A x, where x(i) are the entries.
  template <typename Entry>
  __device__ void multiply_graph(const Entry& entry) {
    const int warp = threadIdx.x / kWarpSize, warps = blockDim.x / kWarpSize;
    const int groups = (tokens_ + kWarpSize - 1) / kWarpSize;
    double own = 0;
    for (int base = 0; base < tokens_; base += kStaged) {
      const int staged = min(kStaged, tokens_ - base);
      const int whole = (staged + kWarpSize - 1) / kWarpSize * kWarpSize;  // words' last bits are 0
      for (int i = threadIdx.x; i < whole; i += blockDim.x) {
        const double value = i < staged ? entry(base + i) : 0;
        shared_.staged[i] = value;
        own += value;
      }
      __syncthreads();
      const int parts = (staged + kColumns - 1) / kColumns;
      for (int task = warp; task < parts * groups; task += warps) {
        const int part = task / groups, first = part * kColumns;
        const int i = task % groups * kWarpSize + threadIdx.x % kWarpSize;
        if (i < tokens_) {
          v_.parts[int64_t{base / kColumns + part} * tokens_ + i] = graph_.sum(
              i, base + first, base + min(first + kColumns, staged), shared_.staged + first);
        }
      }
      __syncthreads();
    }
    const double all = block_sum(own, shared_.of_warps);
    const int parts = (tokens_ + kColumns - 1) / kColumns;
    each([&](int i) {
      double sum = 0;
      for (int part = 0; part < parts; ++part) sum += v_.parts[int64_t{part} * tokens_ + i];
      v_.work[i] = v_.inverse_root[i] * graph_.product(sum, all);
    });
    __syncthreads();
  }

  const Graph& graph_;
  int tokens_;
  Vectors v_;
  Shared& shared_;
};

template <typename Graph>
__global__ void __launch_bounds__(kMostThreads, 1)
    second_eigenvector_kernel(Graph graphs, const bool* is_finite, double* memory,
                              int64_t memory_of_image, double* vectors, double* eigenvalue,
                              double* residual, bool* determined) {
  auto& shared = *reinterpret_cast<Shared*>(dynamic_shared());
  const int tokens = graphs.tokens;
  double* vector = vectors + int64_t{blockIdx.x} * tokens;
  bool all_finite = true;
  for (int i = threadIdx.x; i < tokens; i += blockDim.x) {
    all_finite &= is_finite[int64_t{blockIdx.x} * tokens + i];
  }
  if (!__syncthreads_and(all_finite)) {
    for (int i = threadIdx.x; i < tokens; i += blockDim.x) vector[i] = NAN;
    if (threadIdx.x == 0) {
      eigenvalue[blockIdx.x] = residual[blockIdx.x] = NAN;
      determined[blockIdx.x] = false;
    }
    return;
  }
  const Graph graph = graphs.of_image(blockIdx.x);
  Machine<Graph> machine(graph, Vectors(memory + blockIdx.x * memory_of_image, tokens), shared);
  const SecondEigenvector second = second_eigenvector(machine);
  if (threadIdx.x == 0) {
    eigenvalue[blockIdx.x] = 1 - second.value;
    residual[blockIdx.x] = second.residual;
    determined[blockIdx.x] = second.is_determined;
  }
  double largest = 0;
  machine.each([&](int i) {
    vector[i] = second.is_simple ? machine.inverse_root(i) * machine.row(1)[i] : NAN;
    largest = fmax(largest, fabs(vector[i]));
  });
  if (!second.is_simple) return;
  // The first entry of largest magnitude is positive.
  largest = machine.largest(largest);
  double first = tokens;
  machine.each([&](int i) {
    if (is_as_large(vector[i], largest)) first = fmin(first, static_cast<double>(i));
  });
  if (vector[static_cast<int>(-machine.largest(-first))] > 0) return;
  __syncthreads();  // all have read it
  machine.each([&](int i) { vector[i] = -vector[i]; });
}

// --- the host's side

// The scratch memory, cut up.
struct Scratch {
  void* unit = nullptr;   // (B, N, depth)
  void* graph = nullptr;  // bits or weights
  double* memory = nullptr;
  bool* is_finite = nullptr;
  int64_t depth, bytes;

  Scratch(const TensorView& scratch, int64_t images, int64_t tokens, int64_t channels,
          bool in_double, bool weighted)
      : depth(round_up(channels, kSlab)) {
    const int64_t number = in_double ? sizeof(double) : sizeof(float);
    const int64_t words = (tokens + kWarpSize - 1) / kWarpSize;
    ScratchParts parts(scratch);
    const auto take_bytes = [&](void*& part, int64_t count) {
      unsigned char* first = nullptr;
      parts.take(first, count);
      part = first;
    };
    take_bytes(unit, images * tokens * depth * number);
    take_bytes(graph, images * tokens * (weighted ? tokens * number : words * sizeof(unsigned)));
    parts.take(memory, images * Vectors::count(tokens));
    parts.take(is_finite, images * tokens);
    bytes = parts.bytes();
  }
};

unsigned threads_for(int64_t tokens) {
  return static_cast<unsigned>(std::min<int64_t>(round_up(tokens, kWarpSize), kMostThreads));
}

template <typename A, typename Graph>
void cut(const NormalizedCut& args, const Scratch& scratch, const Graph& graph, Stream stream) {
  constexpr const char* kName = "normalized_cut";
  const auto images = static_cast<unsigned>(args.features.size(0));
  const int64_t tiles = (graph.tokens + kTile - 1) / kTile;
  constexpr size_t kSharedBytes =
      sizeof(A) * std::max(2 * kSlab * kSlabStride, kTile * kTileStride);
  launch(kName, similarity_kernel<A, Graph>,
         dim3(static_cast<unsigned>(tiles * (tiles + 1) / 2), images), kTileThreads, kSharedBytes,
         stream, static_cast<const A*>(scratch.unit), static_cast<int>(scratch.depth), graph);
  launch(kName, second_eigenvector_kernel<Graph>, images, threads_for(graph.tokens), sizeof(Shared),
         stream, graph, scratch.is_finite, scratch.memory, Vectors::count(graph.tokens),
         args.vector.as<double>(), args.eigenvalue.as<double>(), args.residual.as<double>(),
         args.determined.as<bool>());
}

}  // namespace

int64_t normalized_cut_scratch_bytes(int64_t images, int64_t tokens, int64_t channels,
                                     bool in_double, bool weighted) {
  return Scratch({}, images, tokens, channels, in_double, weighted).bytes;
}

void normalized_cut(const NormalizedCut& args, Stream stream) {
  constexpr const char* kName = "normalized_cut";
  const int64_t images = args.features.size(0), tokens = args.features.size(1);
  with_floating_type(kName, args.features.dtype, [&]<typename T>(ElementTag<T>) {
    using A = typename Element<T>::Accumulator;
    const Scratch scratch(args.scratch, images, tokens, args.features.size(2),
                          sizeof(A) == sizeof(double), args.weighted);
    launch(kName, normalize_kernel<T>, blocks_for(images * tokens, kNormalizeWarps),
           kNormalizeWarps * kWarpSize, 0, stream, TokenFeatures<T>(args.features), images * tokens,
           static_cast<int>(scratch.depth), static_cast<A*>(scratch.unit), scratch.is_finite);
    const int count = static_cast<int>(tokens);
    if (args.weighted) {
      cut<A>(args, scratch,
             WeightedGraph<A>{static_cast<A*>(scratch.graph), count, args.threshold, args.eps},
             stream);
    } else {
      cut<A>(args, scratch,
             BitGraph{static_cast<unsigned*>(scratch.graph), count, args.threshold, args.eps},
             stream);
    }
  });
}

}  // namespace wsol::cuda
