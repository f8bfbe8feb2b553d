// What spatial_diffusion does over channels: products of a cell's features with those of cells
// beside it, and a stencil applied to them.
#pragma once

#include "core/cuda.h"
#include "diffusion/cell_grid.h"

namespace wsol::cuda::diffusion {

// A block owns a tile of so many cells, a warp a run of them in a row.
constexpr int kTileHeight = 4, kTileWidth = 8, kRun = 4;
constexpr int kTileWarps = kTileHeight * kTileWidth / kRun, kTileThreads = kTileWarps * kWarpSize;
constexpr int kPieces = 2;  // channels of a lane that lie in shared memory at once
constexpr int kChunk = kPieces * kWarpSize;

inline unsigned tiles_of(Grid grid) {
  return blocks_for(grid.height(), kTileHeight) * blocks_for(grid.width, kTileWidth);
}

// Cells of a tile with those beside it: to the right and below, and, with kBefore = 1, before.
template <int kBefore>
constexpr int kTileCells = (kTileHeight + 1 + kBefore) * (kTileWidth + 1 + kBefore);

template <typename T>
struct CellFeatures {
  T* data;
  int64_t image_stride, row_stride, column_stride;

  explicit CellFeatures(const TensorView& view)
      : data(view.as<T>()),
        image_stride(view.stride(0)),
        row_stride(view.stride(2)),
        column_stride(view.stride(3)) {}
  WSOL_HOST_DEVICE int64_t offset(int64_t image, int y, int x) const {
    return image * image_stride + y * row_stride + x * column_stride;
  }
};

}  // namespace wsol::cuda::diffusion

#if defined(__CUDACC__) || defined(WSOL_EMULATOR)

namespace wsol::cuda::diffusion {

// A block's tile: places in it count from -kBefore, to one beyond its last row and column. What
// lies beyond the grid is 0.
template <int kBefore>
struct Tile {
  static constexpr int kPitch = kTileWidth + 1 + kBefore;
  static constexpr int kCells = kTileCells<kBefore>;

  int64_t image;
  int height, width, y0, x0;
  int row, column;  // where the warp's run begins in the tile

  __device__ explicit Tile(Grid grid) : height(grid.height()), width(grid.width) {
    const unsigned across = (width - 1) / kTileWidth + 1;
    const unsigned tiles = across * ((height - 1) / kTileHeight + 1);
    const unsigned tile = blockIdx.x % tiles;
    image = blockIdx.x / tiles;
    y0 = static_cast<int>(tile / across) * kTileHeight;
    x0 = static_cast<int>(tile % across) * kTileWidth;
    const int first = static_cast<int>(threadIdx.x) / kWarpSize * kRun;
    row = first / kTileWidth;
    column = first % kTileWidth;
  }

  __device__ static int index(int y, int x) { return (y + kBefore) * kPitch + x + kBefore; }

  // Calls visit(y, x in the grid) where the grid has the tile's cell of this index, unless that
  // lies beside a corner.
  template <typename Visit>
  __device__ void visit_cell(int index, const Visit& visit) const {
    const int y = index / kPitch - kBefore, x = index % kPitch - kBefore;
    const bool is_corner = (y < 0 || y == kTileHeight) && (x < 0 || x == kTileWidth);
    const int in_grid_y = y0 + y, in_grid_x = x0 + x;
    const bool is_in_grid =
        in_grid_y >= 0 && in_grid_y < height && in_grid_x >= 0 && in_grid_x < width;
    if (is_in_grid && !is_corner) visit(in_grid_y, in_grid_x);
  }
};

// Some channels of a tile's features, in shared memory.
template <typename T, int kBefore>
struct FeatureChunk {
  int64_t* offsets;  // (kTileCells,): of each cell's features, or -1 where they are taken as 0
  T* memory;         // (kTileCells, kChunk)

  __device__ explicit FeatureChunk(unsigned char* shared)
      : offsets(reinterpret_cast<int64_t*>(shared)),
        memory(reinterpret_cast<T*>(offsets + kTileCells<kBefore>)) {}
  static constexpr size_t bytes() {
    return kTileCells<kBefore> * (sizeof(int64_t) + kChunk * sizeof(T));
  }

  // Before the first load, with a barrier between.
  __device__ void locate(const CellFeatures<const T>& features, const Tile<kBefore>& tile) const {
    for (int i = threadIdx.x; i < tile.kCells; i += kTileThreads) {
      offsets[i] = -1;
      tile.visit_cell(i, [&](int y, int x) { offsets[i] = features.offset(tile.image, y, x); });
    }
  }

  // Loads the next channels of `features`, which has so many more; beyond those come zeros. The
  // whole block.
  __device__ void load(const T* features, int channels) const {
    constexpr int kCells = kTileCells<kBefore>, kSteps = (kCells + kTileWarps - 1) / kTileWarps;
    const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
    T values[kSteps][kPieces];  // on their way together
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int64_t offset = offsets[min(warp + step * kTileWarps, kCells - 1)];
#pragma unroll
      for (int piece = 0; piece < kPieces; ++piece) {
        const int own = piece * kWarpSize + lane;
        values[step][piece] = Element<T>::store(0);
        if (offset >= 0 && own < channels) values[step][piece] = features[offset + own];
      }
    }
    __syncthreads();  // those before these have been read
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int cell = warp + step * kTileWarps;
      if (cell >= kCells) break;
#pragma unroll
      for (int piece = 0; piece < kPieces; ++piece) {
        memory[cell * kChunk + piece * kWarpSize + lane] = values[step][piece];
      }
    }
    __syncthreads();
  }

  // A lane's channel at a place of the tile.
  __device__ double at(int y, int x, int piece) const {
    const int channel = piece * kWarpSize + static_cast<int>(threadIdx.x) % kWarpSize;
    return static_cast<double>(
        Element<T>::load(memory[Tile<kBefore>::index(y, x) * kChunk + channel]));
  }
};

// Leaves squared norms and products where the state will have inverse norms and similarities.
template <typename T>
__global__ void __launch_bounds__(kTileThreads, sizeof(T) == 8 ? 3 : 4)
    dots_kernel(CellFeatures<const T> features, int channels, Grid grid, double* state) {
  const FeatureChunk<T, 0> chunk(dynamic_shared());
  const Tile<0> tile(grid);
  chunk.locate(features, tile);
  __syncthreads();
  const int row = tile.row, column = tile.column;
  double square[kRun] = {}, with_right[kRun] = {}, with_down[kRun] = {};
  for (int first = 0; first < channels; first += kChunk) {
    chunk.load(features.data + first, channels - first);
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        const double value = chunk.at(row, column + i, piece);
        square[i] += value * value;
        with_right[i] += value * chunk.at(row, column + i + 1, piece);
        with_down[i] += value * chunk.at(row + 1, column + i, piece);
      }
    }
  }
  // A lane writes what is of one cell.
  const int lane = threadIdx.x % kWarpSize;
  double sums[3] = {};
#pragma unroll
  for (int i = 0; i < kRun; ++i) {
    const double of_cell[] = {warp_sum(square[i]), warp_sum(with_right[i]), warp_sum(with_down[i])};
#pragma unroll
    for (int sum = 0; sum < 3; ++sum) sums[sum] = lane == i ? of_cell[sum] : sums[sum];
  }
  const int y = tile.y0 + row, x = tile.x0 + column + lane;
  if (lane >= kRun || y >= tile.height || x >= tile.width) return;
  double* target = state + tile.image * 5 * grid.cells + y * grid.width + x;
#pragma unroll
  for (int sum = 0; sum < 3; ++sum) target[sum * grid.cells] = sums[sum];
}

constexpr size_t kStencilBytes = 3 * kTileCells<1> * sizeof(double);

// The stencil that the backward left in `weights` (B, 3, h, w), of a cell itself and of the edges
// to its right and below it, applied to every channel.
template <typename T>
__global__ void __launch_bounds__(kTileThreads, 3)
    features_gradient_kernel(CellFeatures<const T> features, int channels, Grid grid,
                             const double* weights, CellFeatures<T> out) {
  const Tile<1> tile(grid);
  auto* stencil = reinterpret_cast<double*>(dynamic_shared());  // (3, kTileCells)
  const FeatureChunk<T, 1> chunk(dynamic_shared() + kStencilBytes);
  chunk.locate(features, tile);
  for (int i = threadIdx.x; i < 3 * tile.kCells; i += kTileThreads) {
    const int plane = i / tile.kCells;
    stencil[i] = 0;
    tile.visit_cell(i - plane * tile.kCells, [&](int y, int x) {
      stencil[i] = weights[(tile.image * 3 + plane) * grid.cells + y * grid.width + x];
    });
  }
  __syncthreads();
  const int row = tile.row, column = tile.column, y = tile.y0 + row, x = tile.x0 + column;
  T* target = out.data + out.offset(tile.image, y, x);
  for (int first = 0; first < channels; first += kChunk) {
    chunk.load(features.data + first, channels - first);
    if (y >= tile.height) continue;
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      const int channel = first + piece * kWarpSize + static_cast<int>(threadIdx.x) % kWarpSize;
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        const double* here = stencil + tile.index(row, column + i);
        const double *right = here + tile.kCells, *down = right + tile.kCells;
        const double sum = here[0] * chunk.at(row, column + i, piece) +
                           right[0] * chunk.at(row, column + i + 1, piece) +
                           right[-1] * chunk.at(row, column + i - 1, piece) +
                           down[0] * chunk.at(row + 1, column + i, piece) +
                           down[-tile.kPitch] * chunk.at(row - 1, column + i, piece);
        if (x + i >= tile.width || channel >= channels) continue;
        target[i * out.column_stride + channel] =
            Element<T>::store(static_cast<typename Element<T>::Accumulator>(sum));
      }
    }
  }
}

}  // namespace wsol::cuda::diffusion

#endif  // __CUDACC__ || WSOL_EMULATOR
