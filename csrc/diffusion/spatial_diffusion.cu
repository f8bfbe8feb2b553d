// CUDA: one block an image for the recurrence, and a launch over the whole GPU before it
// (similarities) or after it (gradient of the features) for what touches all the channels.
//
// dots, features_gradient: a block owns a tile of cells, a warp four of them, its lanes split the
// channels. The features, some channels at a time, lie in shared memory with those of the cells
// beside the tile: each is read once, or once more where tiles meet. Limited by bandwidth.
//
// series: a block owns an image; thread t owns cells t, t + threads, ... of every array. Arrays lie
// in shared memory where they fit (on an H100 grids to 67 x 67 forward, 50 x 50 backward), else in
// global scratch, each with a row of zeros before and after; a thread that owns a single cell
// (grids to 32 x 32) keeps its row of the matrix in registers. A term reads neighbours of the
// newest term and overwrites the one before in place: one barrier a term, whose latency is the
// limit.
#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "core/cuda.h"
#include "core/scratch.h"
#include "diffusion/chebyshev_series.cuh"
#include "diffusion/feature_tiles.cuh"
#include "diffusion/spatial_diffusion.h"

namespace wsol::cuda {
namespace {

using namespace diffusion;

Grid grid_of(int64_t height, int64_t width) {
  constexpr int64_t kMaxCells = std::numeric_limits<int>::max() / (3 * kBackwardArrays);
  if (height * width > kMaxCells) {
    throw std::invalid_argument("spatial_diffusion: a grid of " + std::to_string(height) + " x " +
                                std::to_string(width) + " cells is too large for a GPU");
  }
  return {static_cast<int>(width), static_cast<int>(height * width)};
}

int64_t plane_bytes(Grid grid, int arrays) {
  return int64_t{arrays} * grid.padded() * sizeof(double);
}

bool fits_shared(Grid grid, int arrays) {
  return plane_bytes(grid, arrays) + kReductionBytes <= shared_bytes_of_device("spatial_diffusion");
}

// Calls run(std::integral_constant<Place, ...>) with where a grid's arrays lie.
template <typename Run>
void with_place(Grid grid, int arrays, Run&& run) {
  if (!fits_shared(grid, arrays)) {
    run(std::integral_constant<Place, Place::kScratch>{});
  } else if (static_cast<unsigned>(grid.cells) > max_threads(Place::kSharedOneCell)) {
    run(std::integral_constant<Place, Place::kShared>{});
  } else {
    run(std::integral_constant<Place, Place::kSharedOneCell>{});
  }
}

// The scratch memory, cut up.
struct Scratch {
  double* planes = nullptr;   // (B, arrays, padded grid); null: they lie in shared memory
  double* weights = nullptr;  // (B, 3, h, w): the stencil that turns features to their gradient
  int64_t bytes;

  Scratch(const TensorView& memory, int64_t images, Grid grid, bool backward) {
    ScratchParts parts(memory);
    const int arrays = backward ? kBackwardArrays : kForwardArrays;
    if (!fits_shared(grid, arrays)) parts.take(planes, images * arrays * grid.padded());
    if (backward) parts.take(weights, images * 3 * grid.cells);
    bytes = parts.bytes();
  }
};

unsigned threads_for(Grid grid, Place place) {
  return std::min(blocks_for(grid.cells, kWarpSize) * kWarpSize, max_threads(place));
}

size_t shared_bytes_for(Grid grid, int arrays) {
  return kReductionBytes + (fits_shared(grid, arrays) ? plane_bytes(grid, arrays) : 0);
}

}  // namespace

int64_t spatial_diffusion_forward_scratch_bytes(int64_t images, int64_t height, int64_t width) {
  return Scratch({}, images, grid_of(height, width), false).bytes;
}

int64_t spatial_diffusion_backward_scratch_bytes(int64_t images, int64_t height, int64_t width) {
  return Scratch({}, images, grid_of(height, width), true).bytes;
}

void spatial_diffusion_forward(const SpatialDiffusionForward& args, Stream stream) {
  constexpr const char* kName = "spatial_diffusion";
  const Grid grid = grid_of(args.features.size(2), args.features.size(3));
  const int64_t images = args.features.size(0);
  const Scratch scratch(args.scratch, images, grid, false);
  double* state = args.state.as<double>();
  with_floating_type(kName, args.features.dtype, [&]<typename T>(ElementTag<T>) {
    launch(kName, dots_kernel<T>, static_cast<unsigned>(images * tiles_of(grid)), kTileThreads,
           FeatureChunk<T, 0>::bytes(), stream, CellFeatures<const T>(args.features),
           static_cast<int>(args.features.size(1)), grid, state);
  });
  with_float_or_double(kName, args.cam.dtype, [&]<typename A>(ElementTag<A>) {
    with_place(grid, kForwardArrays, [&](auto place) {
      launch(kName, series_kernel<A, place>, static_cast<unsigned>(images),
             threads_for(grid, place), shared_bytes_for(grid, kForwardArrays), stream,
             args.cam.as<A>(), args.strength.as<double>(), args.alpha, grid, grid.padded(),
             Ladder(args), args.out.as<A>(), state, scratch.planes);
    });
  });
}

void spatial_diffusion_backward(const SpatialDiffusionBackward& args, Stream stream) {
  constexpr const char* kName = "spatial_diffusion_backward";
  const Grid grid = grid_of(args.features.size(2), args.features.size(3));
  const int64_t images = args.features.size(0);
  const Scratch scratch(args.scratch, images, grid, true);
  with_float_or_double(kName, args.grad_out.dtype, [&]<typename A>(ElementTag<A>) {
    with_place(grid, kBackwardArrays, [&](auto place) {
      const auto kernel = args.detach_start ? series_backward_kernel<A, place, true>
                                            : series_backward_kernel<A, place, false>;
      launch(kName, kernel, static_cast<unsigned>(images), threads_for(grid, place),
             shared_bytes_for(grid, kBackwardArrays), stream, args.grad_out.as<A>(),
             args.strength.as<double>(), args.alpha, grid, grid.padded(), Ladder(args),
             args.state.as<double>(), args.grad_cam.as<A>(), args.grad_strength.as<double>(),
             scratch.weights, scratch.planes);
    });
  });
  with_floating_type(kName, args.features.dtype, [&]<typename T>(ElementTag<T>) {
    launch(kName, features_gradient_kernel<T>, static_cast<unsigned>(images * tiles_of(grid)),
           kTileThreads, kStencilBytes + FeatureChunk<T, 1>::bytes(), stream,
           CellFeatures<const T>(args.features), static_cast<int>(args.features.size(1)), grid,
           scratch.weights, CellFeatures<T>(args.grad_features));
  });
}

}  // namespace wsol::cuda
