// CUDA: three launches, of similarity_tiles.cuh and eigenvector_block.cuh.
#include <algorithm>

#include "core/cuda.h"
#include "core/scratch.h"
#include "graphs/eigenvector_block.cuh"
#include "graphs/normalized_cut.h"
#include "graphs/similarity_tiles.cuh"
#include "graphs/token_graphs.cuh"

namespace wsol::cuda {
namespace {

using namespace graphs;

int64_t round_up(int64_t count, int64_t multiple) {
  return (count + multiple - 1) / multiple * multiple;
}

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

// As many of Lanczos's vectors as find room in shared memory.
template <typename Graph>
int shared_rows_for(int64_t tokens) {
  const int64_t free =
      shared_bytes_of_device("normalized_cut") - static_cast<int64_t>(sizeof(Shared<Graph>));
  return static_cast<int>(
      std::clamp<int64_t>(free / (tokens * sizeof(double)), 0, kMostSharedRows));
}

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
  const int shared_rows = shared_rows_for<Graph>(graph.tokens);
  launch(kName, second_eigenvector_kernel<Graph>, images, threads_for(graph.tokens),
         sizeof(Shared<Graph>) + shared_rows * graph.tokens * sizeof(double), stream, graph,
         shared_rows, scratch.is_finite, scratch.memory, Vectors::count(graph.tokens),
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
