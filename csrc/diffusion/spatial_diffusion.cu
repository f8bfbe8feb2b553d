// CUDA: one block an image for the recurrence, and a launch over the whole GPU before it
// (similarities) or after it (gradient of the features) for what touches all the channels.
//
// dots: a warp owns a cell, its lanes split the channels: squared norm, and products with the right
// and the lower cell. Reads the features once, their neighbours from the cache.
//
// series: a block owns an image; thread t owns cells t, t + threads, ... of every array. Arrays lie
// in shared memory where they fit (on an H100 grids to 67 x 67 forward, 50 x 50 backward), else in
// global scratch, each with a row of zeros before and after; a thread that owns a single cell
// (grids to 32 x 32) keeps its row of the matrix in registers. A term reads neighbours of the
// newest term and overwrites the one before in place: one barrier a term, whose latency is the
// limit.
//
// features_gradient: a warp owns a cell: the stencil that the backward left, applied to every
// channel.
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "core/cuda.h"
#include "core/scratch.h"
#include "diffusion/spatial_diffusion.h"

namespace wsol::cuda {
namespace {

constexpr int kWarps = 8;  // of the launches over cells
constexpr int kForwardArrays = 6;
constexpr int kBackwardArrays = 11;
constexpr int64_t kReductionBytes = kWarpSize * sizeof(double);

// Where the arrays lie: known when compiling, so that no access asks in which memory it is.
enum class Place { kSharedOneCell, kShared, kScratch };

// Of a block: as many as leave each the registers that it needs, of which addresses take some.
WSOL_HOST_DEVICE constexpr unsigned max_threads(Place place) {
  return place == Place::kSharedOneCell ? 1024 : place == Place::kShared ? 512 : 256;
}

struct Grid {
  int width, cells;

  __device__ bool has_right(int i) const { return (i + 1) % width != 0; }
  __device__ bool has_down(int i) const { return i + width < cells; }
  __device__ bool has_left(int i) const { return i % width != 0; }
  __device__ bool has_up(int i) const { return i >= width; }
  __device__ double degree(int i) const {
    return has_right(i) + has_down(i) + has_left(i) + has_up(i);
  }
  int padded() const { return cells + 2 * width; }
};

struct Ladder {
  const double* bounds;
  const int64_t* starts;
  const double* coefficients;
  int rungs;

  template <typename Args>
  explicit Ladder(const Args& args)
      : bounds(args.bounds.template as<double>()),
        starts(args.starts.template as<int64_t>()),
        coefficients(args.coefficients.template as<double>()),
        rungs(static_cast<int>(args.bounds.size(0))) {}
};

// A cell's row of the matrix.
struct StencilRow {
  double diagonal, right, left, down, up;

  __device__ double times(const double* v, int i, int width) const {
    return diagonal * v[i] + right * v[i + 1] + left * v[i - 1] + down * v[i + width] +
           up * v[i - width];
  }
};

struct Stencil {
  double *diagonal, *right, *down;
  int width;

  __device__ StencilRow row(int i) const {
    return {diagonal[i], right[i], right[i - 1], down[i], down[i - width]};
  }
};

template <Place kPlace>
__device__ StencilRow kept_row(Stencil matrix, Grid grid) {
  StencilRow row{};
  if (kPlace == Place::kSharedOneCell && threadIdx.x < grid.cells) row = matrix.row(threadIdx.x);
  return row;
}

// Calls visit(i, row i of the matrix) for the thread's cells. `kept` is the row of its only cell.
template <Place kPlace, typename Visit>
__device__ void for_cells(Stencil matrix, const StencilRow& kept, int cells, Visit visit) {
  if constexpr (kPlace == Place::kSharedOneCell) {
    if (threadIdx.x < cells) visit(static_cast<int>(threadIdx.x), kept);
  } else {
    for (int i = threadIdx.x; i < cells; i += blockDim.x) visit(i, matrix.row(i));
  }
}

struct State {
  double *inverse_norm, *right, *down, *last, *before_last;

  __device__ State(double* memory, Grid grid) {
    inverse_norm = memory + int64_t{blockIdx.x} * 5 * grid.cells;
    right = inverse_norm + grid.cells;
    down = right + grid.cells;
    last = down + grid.cells;
    before_last = last + grid.cells;
  }
};

// The block's arrays of cells, all zeros at first, and room for a reduction.
template <Place kPlace>
struct Planes {
  double* memory;
  int width, padded;
  double* reduction;

  __device__ Planes(int count, Grid grid, int padded, double* scratch) : padded(padded) {
    width = grid.width;
    reduction = reinterpret_cast<double*>(dynamic_shared());
    if constexpr (kPlace == Place::kScratch) {
      memory = scratch + int64_t{blockIdx.x} * count * padded;
    } else {
      memory = reduction + kWarpSize;
    }
    for (int i = threadIdx.x; i < count * padded; i += blockDim.x) memory[i] = 0;
    __syncthreads();
  }
  __device__ double* operator[](int index) const { return memory + index * padded + width; }
};

template <typename T>
struct CellFeatures {
  T* data;
  int64_t image_stride, row_stride, column_stride;
  int width;

  explicit CellFeatures(const TensorView& view)
      : data(view.as<T>()),
        image_stride(view.stride(0)),
        row_stride(view.stride(2)),
        column_stride(view.stride(3)),
        width(static_cast<int>(view.size(3))) {}
  __device__ T* cell(int64_t image, int i) const {
    return data + image * image_stride + i / width * row_stride + i % width * column_stride;
  }
};

template <typename T>
__device__ double load(const T* address) {
  return static_cast<double>(Element<T>::load(*address));
}

// Leaves squared norms and products where the state will have inverse norms and similarities.
template <typename T>
__global__ void dots_kernel(CellFeatures<const T> features, int64_t images, int64_t channels,
                            Grid grid, double* state) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
  if (index >= images * grid.cells) return;  // a whole warp at a time
  const int lane = threadIdx.x % kWarpSize;
  const int64_t image = index / grid.cells;
  const int i = static_cast<int>(index - image * grid.cells);
  const T* cell = features.cell(image, i);
  const T* right = grid.has_right(i) ? features.cell(image, i + 1) : cell;
  const T* down = grid.has_down(i) ? features.cell(image, i + grid.width) : cell;
  double square = 0, with_right = 0, with_down = 0;
  for (int64_t c = lane; c < channels; c += kWarpSize) {
    const double value = load(cell + c);
    square += value * value;
    with_right += value * load(right + c);
    with_down += value * load(down + c);
  }
  square = warp_sum(square);
  with_right = warp_sum(with_right);
  with_down = warp_sum(with_down);
  if (lane == 0) {
    double* first = state + image * 5 * grid.cells + i;
    first[0] = square;
    first[grid.cells] = with_right;
    first[2 * grid.cells] = with_down;
  }
}

// From what dots_kernel left to inverse norms and similarities; `norms` is working memory.
__device__ void finish_similarities(State state, Grid grid, double* norms) {
  for (int i = threadIdx.x; i < grid.cells; i += blockDim.x) {
    const double square = state.inverse_norm[i];
    state.inverse_norm[i] = norms[i] = square == 0 ? 0 : 1 / sqrt(square);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < grid.cells; i += blockDim.x) {
    const double norm = norms[i];
    state.right[i] = grid.has_right(i) ? state.right[i] * norm * norms[i + 1] : 0;
    state.down[i] = grid.has_down(i) ? state.down[i] * norm * norms[i + grid.width] : 0;
  }
  __syncthreads();
}

// Fills `matrix` with M. Returns the bound that holds it; ladder.rungs where none does.
__device__ int make_matrix(State state, Grid grid, double strength, double root, Ladder ladder,
                           Stencil matrix, double* reduction) {
  for (int i = threadIdx.x; i < grid.cells; i += blockDim.x) {
    matrix.diagonal[i] = root * grid.degree(i) * (strength - 1);
    matrix.right[i] = grid.has_right(i) ? root * (1 - strength * state.right[i]) : 0;
    matrix.down[i] = grid.has_down(i) ? root * (1 - strength * state.down[i]) : 0;
  }
  __syncthreads();
  int rung = 0;
  for (int i = threadIdx.x; i < grid.cells; i += blockDim.x) {
    const double row_sum = fabs(matrix.diagonal[i]) + fabs(matrix.right[i]) +
                           fabs(matrix.right[i - 1]) + fabs(matrix.down[i]) +
                           fabs(matrix.down[i - grid.width]);
    while (rung < ladder.rungs && !(row_sum <= ladder.bounds[rung])) ++rung;  // NaN: no bound
  }
  const int lane = threadIdx.x % kWarpSize, warps = blockDim.x / kWarpSize;
  int* largest = reinterpret_cast<int*>(reduction);
  rung = warp_max(rung);
  if (lane == 0) largest[threadIdx.x / kWarpSize] = rung;
  __syncthreads();
  rung = warp_max(lane < warps ? largest[lane] : 0);
  if (rung == ladder.rungs) return rung;
  const double scale = 2 / ladder.bounds[rung];
  for (int i = threadIdx.x; i < grid.cells; i += blockDim.x) {
    matrix.diagonal[i] *= scale;
    matrix.right[i] *= scale;
    matrix.down[i] *= scale;
  }
  __syncthreads();
  return rung;
}

template <typename A, Place kPlace>
__global__ void __launch_bounds__(max_threads(kPlace))
    series_kernel(const A* cam, const double* strength, double alpha, Grid grid, int padded,
                  Ladder ladder, A* out, double* state_memory, double* scratch) {
  const Planes<kPlace> planes(kForwardArrays, grid, padded, scratch);
  const State state(state_memory, grid);
  const Stencil matrix{planes[0], planes[1], planes[2], grid.width};
  double *older = planes[3], *newer = planes[4], *sum = planes[5];
  const double root = sqrt(alpha);
  cam += int64_t{blockIdx.x} * grid.cells;
  out += int64_t{blockIdx.x} * grid.cells;

  finish_similarities(state, grid, sum);
  const int rung = make_matrix(state, grid, *strength, root, ladder, matrix, planes.reduction);
  if (rung == ladder.rungs) {
    for (int i = threadIdx.x; i < grid.cells; i += blockDim.x) out[i] = static_cast<A>(NAN);
    return;
  }
  for (int i = threadIdx.x; i < grid.cells; i += blockDim.x) older[i] = cam[i];
  __syncthreads();
  const double* coefficients = ladder.coefficients + ladder.starts[rung];
  const int64_t count = ladder.starts[rung + 1] - ladder.starts[rung];
  const StencilRow kept = kept_row<kPlace>(matrix, grid);
  for_cells<kPlace>(matrix, kept, grid.cells, [&](int i, const StencilRow& row) {
    newer[i] = row.times(older, i, grid.width) / 2;
    sum[i] = coefficients[0] * newer[i];
  });
  __syncthreads();
  for (int64_t j = 1; j < count; ++j) {
    const double coefficient = coefficients[j];
    for_cells<kPlace>(matrix, kept, grid.cells, [&](int i, const StencilRow& row) {
      older[i] = row.times(newer, i, grid.width) - older[i];
    });
    __syncthreads();
    for_cells<kPlace>(matrix, kept, grid.cells, [&](int i, const StencilRow& row) {
      newer[i] = row.times(older, i, grid.width) - newer[i];
      sum[i] += coefficient * newer[i];
    });
    __syncthreads();
  }
  for (int i = threadIdx.x; i < grid.cells; i += blockDim.x) {
    out[i] = static_cast<A>(root * sum[i]);
    state.last[i] = newer[i];
    state.before_last[i] = older[i];
  }
}

// What sum_k b_{k+1} t_k^T leaves where the matrix is not zero; edges count both of their sides.
struct Outer {
  double *diagonal, *right, *down;
  int width;

  __device__ void add(double factor, const double* b, const double* t, int i) const {
    diagonal[i] += factor * b[i] * t[i];
    right[i] += factor * (b[i] * t[i + 1] + b[i + 1] * t[i]);
    down[i] += factor * (b[i] * t[i + width] + b[i + width] * t[i]);
  }
};

// t and b one term down each, and, if asked for, the part of the matrix's gradient between them.
template <Place kPlace, bool kOuter>
__device__ void descend(Stencil matrix, const StencilRow& kept, double coefficient,
                        const double* grad_out, const double* t, double* t_older, const double* b,
                        double* b_older, Outer outer, int cells) {
  for_cells<kPlace>(matrix, kept, cells, [&](int i, const StencilRow& row) {
    if constexpr (kOuter) outer.add(1, b, t, i);
    t_older[i] = row.times(t, i, matrix.width) - t_older[i];
    b_older[i] = coefficient * grad_out[i] + row.times(b, i, matrix.width) - b_older[i];
  });
  __syncthreads();
}

// From `outer` to the stencil that turns the features to their gradient, in `weights` (3, h, w),
// and to strength's gradient: see the CPU's `chain_rule`.
__device__ void chain_rule(State state, Grid grid, double strength, double scale, Outer outer,
                           double* reduction, double* weights, double* grad_strength) {
  double sum = 0;
  for (int i = threadIdx.x; i < grid.cells; i += blockDim.x) {
    if (!grid.has_right(i)) outer.right[i] = 0;
    if (!grid.has_down(i)) outer.down[i] = 0;
    sum += grid.degree(i) * outer.diagonal[i] - state.right[i] * outer.right[i] -
           state.down[i] * outer.down[i];
  }
  sum = warp_sum(sum);
  if (threadIdx.x % kWarpSize == 0) reduction[threadIdx.x / kWarpSize] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (unsigned warp = 1; warp < blockDim.x / kWarpSize; ++warp) sum += reduction[warp];
    *grad_strength = scale * sum;
  }
  const double factor = -strength * scale;
  for (int i = threadIdx.x; i < grid.cells; i += blockDim.x) {
    const double norm = state.inverse_norm[i];
    double along = outer.right[i] * state.right[i] + outer.down[i] * state.down[i];
    if (grid.has_left(i)) along += outer.right[i - 1] * state.right[i - 1];
    if (grid.has_up(i)) along += outer.down[i - grid.width] * state.down[i - grid.width];
    weights[i] = -factor * along * norm * norm;
    weights[grid.cells + i] =
        grid.has_right(i) ? outer.right[i] * factor * norm * state.inverse_norm[i + 1] : 0;
    weights[2 * grid.cells + i] =
        grid.has_down(i) ? outer.down[i] * factor * norm * state.inverse_norm[i + grid.width] : 0;
  }
}

template <typename A, Place kPlace, bool kDetachStart>
__global__ void __launch_bounds__(max_threads(kPlace))
    series_backward_kernel(const A* grad_out, const double* strength, double alpha, Grid grid,
                           int padded, Ladder ladder, double* state_memory, A* grad_cam,
                           double* grad_strength, double* weights, double* scratch) {
  const Planes<kPlace> planes(kBackwardArrays, grid, padded, scratch);
  const State state(state_memory, grid);
  const Stencil matrix{planes[0], planes[1], planes[2], grid.width};
  const Outer outer{planes[3], planes[4], planes[5], grid.width};
  double *t_newer = planes[6], *t = planes[7], *b = planes[8], *b_newer = planes[9];
  double* grad = planes[10];
  const double root = sqrt(alpha);
  grad_out += int64_t{blockIdx.x} * grid.cells;
  grad_cam += int64_t{blockIdx.x} * grid.cells;
  weights += int64_t{blockIdx.x} * 3 * grid.cells;

  const int rung = make_matrix(state, grid, *strength, root, ladder, matrix, planes.reduction);
  if (rung == ladder.rungs) {
    for (int i = threadIdx.x; i < grid.cells; i += blockDim.x) {
      grad_cam[i] = static_cast<A>(NAN);
      weights[i] = weights[grid.cells + i] = weights[2 * grid.cells + i] = NAN;
    }
    if (threadIdx.x == 0) grad_strength[blockIdx.x] = NAN;
    return;
  }
  const double* coefficients = ladder.coefficients + ladder.starts[rung];
  const int64_t count = ladder.starts[rung + 1] - ladder.starts[rung];
  for (int i = threadIdx.x; i < grid.cells; i += blockDim.x) {
    grad[i] = root * grad_out[i];
    b[i] = coefficients[count - 1] * grad[i];
    t_newer[i] = state.last[i];
    t[i] = state.before_last[i];
  }
  __syncthreads();
  const StencilRow kept = kept_row<kPlace>(matrix, grid);
  for (int64_t j = count - 1; j > 0; --j) {  // even terms have no coefficient of their own
    descend<kPlace, !kDetachStart>(matrix, kept, 0, grad, t, t_newer, b, b_newer, outer,
                                   grid.cells);
    descend<kPlace, true>(matrix, kept, coefficients[j - 1], grad, t_newer, t, b_newer, b, outer,
                          grid.cells);
  }
  for_cells<kPlace>(matrix, kept, grid.cells, [&](int i, const StencilRow& row) {
    if constexpr (!kDetachStart) outer.add(0.5, b, t, i);  // t_1 = M t_0 / 2
    grad_cam[i] = static_cast<A>(row.times(b, i, grid.width) / 2 - b_newer[i]);
  });
  __syncthreads();
  chain_rule(state, grid, *strength, 2 * root / ladder.bounds[rung], outer, planes.reduction,
             weights, grad_strength + blockIdx.x);
}

template <typename T>
__global__ void features_gradient_kernel(CellFeatures<const T> features, int64_t images,
                                         int64_t channels, Grid grid, const double* weights,
                                         CellFeatures<T> out) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
  if (index >= images * grid.cells) return;
  const int64_t image = index / grid.cells;
  const int i = static_cast<int>(index - image * grid.cells), width = grid.width;
  const double* diagonal = weights + image * 3 * grid.cells;
  const double* to_right = diagonal + grid.cells;
  const double* to_down = to_right + grid.cells;
  // Where the grid ends the weight is 0 and the neighbour the cell itself.
  const int right = grid.has_right(i) ? i + 1 : i, left = grid.has_left(i) ? i - 1 : i;
  const int down = grid.has_down(i) ? i + width : i, up = grid.has_up(i) ? i - width : i;
  const double at_cell = diagonal[i], at_right = to_right[i], at_down = to_down[i];
  const double at_left = left == i ? 0 : to_right[left], at_up = up == i ? 0 : to_down[up];
  const T* cell = features.cell(image, i);
  const T* right_cell = features.cell(image, right);
  const T* left_cell = features.cell(image, left);
  const T* down_cell = features.cell(image, down);
  const T* up_cell = features.cell(image, up);
  T* target = out.cell(image, i);
  for (int64_t c = threadIdx.x % kWarpSize; c < channels; c += kWarpSize) {
    const double sum = at_cell * load(cell + c) + at_right * load(right_cell + c) +
                       at_left * load(left_cell + c) + at_down * load(down_cell + c) +
                       at_up * load(up_cell + c);
    target[c] = Element<T>::store(static_cast<typename Element<T>::Accumulator>(sum));
  }
}

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
    launch(kName, dots_kernel<T>, blocks_for(images * grid.cells, kWarps), kWarps * kWarpSize, 0,
           stream, CellFeatures<const T>(args.features), images, args.features.size(1), grid,
           state);
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
    launch(kName, features_gradient_kernel<T>, blocks_for(images * grid.cells, kWarps),
           kWarps * kWarpSize, 0, stream, CellFeatures<const T>(args.features), images,
           args.features.size(1), grid, scratch.weights, CellFeatures<T>(args.grad_features));
  });
}

}  // namespace wsol::cuda
