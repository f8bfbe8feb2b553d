// CUDA: an image's eigenvector. A block owns the image and goes on until its own vector has
// converged, so nothing waits for an answer.
//
// A thread owns a row of the graph for 256 columns; its warp's words of bits are one line, and stay
// in global memory: an image's are in the second cache (234 KB at N = 1,369). Vectors of Lanczos
// are read again and again, so that the first of them, as many as there is room for, lie in shared
// memory too. Limited by wavefronts: two for four columns of 32 rows; with weights, and of many
// steps, by operations in float64.
#pragma once

#include <cmath>

#include "core/cuda.h"
#include "graphs/second_eigenvector.h"
#include "graphs/token_graphs.cuh"
#include "graphs/tridiagonal.h"

namespace wsol::cuda::graphs {

constexpr int kMostThreads = 512;    // of a block that owns an image: each has registers enough
constexpr int kMostSharedRows = 32;  // vectors that Lanczos hardly ever has more of

// In global memory.
struct Vectors {
  double *rows, *work, *inverse_root;  // (kLanczosRows, N), (N), (N)
  double* parts;                       // (ceil(N / kColumns), N)

  // Memory for them, of one image or more.
  static int64_t count(int64_t tokens) {
    return (kLanczosRows + 2 + (tokens + kColumns - 1) / kColumns) * tokens;
  }
  WSOL_HOST_DEVICE Vectors(double* memory, int64_t tokens)
      : rows(memory),
        work(rows + kLanczosRows * tokens),
        inverse_root(work + tokens),
        parts(inverse_root + tokens) {}
};

// Shared memory of a block, before the vectors.
template <typename Graph>
struct alignas(16) Shared {
  typename Graph::Number staged[Graph::kStagedNumbers];
  double diagonal[kMostSteps], beside[kMostSteps], above[kMostSteps], below[kMostSteps];
  double coefficients[kLanczosRows];
  double of_warps[kMostThreads / kWarpSize];
  double answer;
  double units;  // see token_graphs.cuh
};

#if defined(__CUDACC__) || defined(WSOL_EMULATOR)

// What second_eigenvector.h asks for, by a block. Every method ends with the block's threads
// agreeing on what is in memory.
template <typename Graph>
class Machine {
 public:
  __device__ Machine(const Graph& graph, const Vectors& vectors, int shared_rows,
                     Shared<Graph>& shared)
      : graph_(graph),
        tokens_(graph.tokens),
        v_(vectors),
        shared_rows_(shared_rows),
        shared_(shared) {
    // Degrees are A 1, and M's largest eigenvector their roots.
    each([&](int i) { v_.inverse_root[i] = v_.work[i] = 1; });
    if (threadIdx.x == 0) shared_.units = Graph::units(tokens_);
    __syncthreads();
    multiply_graph();
    double own = 0, own_inverse = 0;
    each([&](int i) {
      own += v_.work[i];
      own_inverse += 1 / v_.work[i];
    });
    const double length = sqrt(block_sum(own, shared_.of_warps));
    // Of a row of length 1, by Cauchy and Schwarz.
    const double largest_sum = sqrt(block_sum(own_inverse, shared_.of_warps));
    if (threadIdx.x == 0) shared_.units = Graph::units(largest_sum);
    each([&](int i) { v_.inverse_root[i] = 1 / sqrt(v_.work[i]); });
    each([&](int i) { v_.work[i] = sqrt(v_.work[i]); });
    keep(0, 1 / length);
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
    each([&](int i) { v_.work[i] = v_.inverse_root[i] * row(k)[i]; });
    multiply_graph();
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
      each_row(warp, rows, warps, [&](int k, const double* entries) {
        double sum = 0;
        for (int i = threadIdx.x % kWarpSize; i < tokens_; i += kWarpSize) {
          sum += v_.work[i] * entries[i];
        }
        sum = warp_sum(sum);
        if (threadIdx.x % kWarpSize == 0) shared_.coefficients[k] = sum;
      });
      __syncthreads();
      length = 0;
      each([&](int i) {
        double left = v_.work[i];
        each_row(0, rows, 1, [&](int k, const double* entries) {
          left -= shared_.coefficients[k] * entries[i];
        });
        v_.work[i] = left;
        length += left * left;
      });
      __syncthreads();
    }
    return sqrt(block_sum(length, shared_.of_warps));
  }
  __device__ void keep(int k, double factor) {
    each([&](int i) { row(k)[i] = factor * v_.work[i]; });
    if (k < shared_rows_) each([&](int i) { in_shared(k)[i] = factor * v_.work[i]; });
    __syncthreads();
  }
  __device__ void combine(int first, int rows) {
    each([&](int i) {
      double sum = 0;
      each_row(first, first + rows, 1, [&](int k, const double* entries) {
        sum += shared_.coefficients[k - first] * entries[i];
      });
      v_.work[i] = sum;
    });
    __syncthreads();
  }
  __device__ void rotate(int k, double x, double y) {
    each([&](int i) { row(k)[i] = x * row(k)[i] + y * row(k + 1)[i]; });
    if (k < shared_rows_) each([&](int i) { in_shared(k)[i] = row(k)[i]; });
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
  __device__ double* in_shared(int k) const {
    return reinterpret_cast<double*>(dynamic_shared() + sizeof(Shared<Graph>)) + k * tokens_;
  }
  // visit(k, entries) of every step-th row from `begin` to before `end`, from where it is nearest.
  template <typename Visit>
  __device__ void each_row(int begin, int end, int step, const Visit& visit) const {
    int k = begin;
    for (; k < min(end, shared_rows_); k += step) visit(k, in_shared(k));
    for (; k < end; k += step) visit(k, row(k));
  }

  __device__ double agreed_answer() const {
    __syncthreads();
    const double answer = shared_.answer;
    __syncthreads();
    return answer;
  }

  // work = D^-1/2 A work. Threads stage the entries that they have written.
  __device__ void multiply_graph() {
    auto* all_parts = reinterpret_cast<typename Graph::Number*>(v_.parts);
    const int warp = threadIdx.x / kWarpSize, warps = blockDim.x / kWarpSize;
    const int groups = (tokens_ + kWarpSize - 1) / kWarpSize;
    double own = 0;
    for (int base = 0; base < tokens_; base += kStaged) {
      const int staged = min(kStaged, tokens_ - base);
      const int whole = (staged + kWarpSize - 1) / kWarpSize * kWarpSize;  // words' last bits are 0
      for (int i = threadIdx.x; i < whole; i += blockDim.x) {
        const double value = i < staged ? v_.work[base + i] : 0;
        Graph::stage(i, value, shared_.units, shared_.staged);
        own += value;
      }
      __syncthreads();
      const int parts = (staged + kColumns - 1) / kColumns;
      for (int task = warp; task < parts * groups; task += warps) {
        const int part = task / groups, first = part * kColumns;
        const int i = task % groups * kWarpSize + threadIdx.x % kWarpSize;
        if (i < tokens_) {
          all_parts[int64_t{base / kColumns + part} * tokens_ + i] =
              graph_.sum(i, base + first, base + min(first + kColumns, staged),
                         Graph::staged_from(shared_.staged, first));
        }
      }
      __syncthreads();
    }
    const double all = block_sum(own, shared_.of_warps);
    const int parts = (tokens_ + kColumns - 1) / kColumns;
    each([&](int i) {
      typename Graph::Number sum = 0;
      for (int part = 0; part < parts; ++part) sum += all_parts[int64_t{part} * tokens_ + i];
      v_.work[i] = v_.inverse_root[i] * graph_.product(sum, all, shared_.units);
    });
    __syncthreads();
  }

  const Graph& graph_;
  int tokens_;
  Vectors v_;
  int shared_rows_;
  Shared<Graph>& shared_;
};

template <typename Graph>
__global__ void __launch_bounds__(kMostThreads, 1)
    second_eigenvector_kernel(Graph graphs, int shared_rows, const bool* is_finite, double* memory,
                              int64_t memory_of_image, double* vectors, double* eigenvalue,
                              double* residual, bool* determined) {
  auto& shared = *reinterpret_cast<Shared<Graph>*>(dynamic_shared());
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
  Machine<Graph> machine(graph, Vectors(memory + blockIdx.x * memory_of_image, tokens), shared_rows,
                         shared);
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

#endif  // __CUDACC__ || WSOL_EMULATOR

}  // namespace wsol::cuda::graphs
