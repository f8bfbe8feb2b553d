// The recurrence of spatial_diffusion, forwards and backwards: a block an image.
#pragma once

#include <cmath>

#include "core/cuda.h"
#include "diffusion/cell_grid.h"
#include "diffusion/spatial_diffusion.h"

namespace wsol::cuda::diffusion {

constexpr int kForwardArrays = 6;
constexpr int kBackwardArrays = 11;
constexpr int64_t kReductionBytes = kWarpSize * sizeof(double);

// Where the arrays lie: known when compiling, so that no access asks in which memory it is.
enum class Place { kSharedOneCell, kShared, kScratch };

// Of a block: as many as leave each the registers that it needs, of which addresses take some.
WSOL_HOST_DEVICE constexpr unsigned max_threads(Place place) {
  return place == Place::kSharedOneCell ? 1024 : place == Place::kShared ? 512 : 256;
}

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

}  // namespace wsol::cuda::diffusion

#if defined(__CUDACC__) || defined(WSOL_EMULATOR)

namespace wsol::cuda::diffusion {

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
  const int i = threadIdx.x;
  return kPlace == Place::kSharedOneCell && i < grid.cells ? matrix.row(i) : StencilRow{};
}

// Calls visit(i, row i of the matrix) for the thread's cells. `kept` is the row of its only cell.
template <Place kPlace, typename Visit>
__device__ void for_cells(Stencil matrix, const StencilRow& kept, int cells, Visit visit) {
  if constexpr (kPlace == Place::kSharedOneCell) {
    if (const int i = threadIdx.x; i < cells) visit(i, kept);
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

// What a cell has of the state, where its neighbours are asked for it.
struct Cells {
  double *inverse_norm, *right, *down;
};

// From `outer` to the stencil that turns the features to their gradient, in `weights` (3, h, w),
// and to strength's gradient: see the CPU's `chain_rule`. `cells` is working memory.
__device__ void chain_rule(State state, Cells cells, Grid grid, double strength, double scale,
                           Outer outer, double* reduction, double* weights, double* grad_strength) {
  double sum = 0;
  for (int i = threadIdx.x; i < grid.cells; i += blockDim.x) {
    cells.inverse_norm[i] = state.inverse_norm[i];
    const double right = cells.right[i] = state.right[i];
    const double down = cells.down[i] = state.down[i];
    if (!grid.has_right(i)) outer.right[i] = 0;
    if (!grid.has_down(i)) outer.down[i] = 0;
    sum += grid.degree(i) * outer.diagonal[i] - right * outer.right[i] - down * outer.down[i];
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
    const double norm = cells.inverse_norm[i];
    double along = outer.right[i] * cells.right[i] + outer.down[i] * cells.down[i];
    if (grid.has_left(i)) along += outer.right[i - 1] * cells.right[i - 1];
    if (grid.has_up(i)) along += outer.down[i - grid.width] * cells.down[i - grid.width];
    weights[i] = -factor * along * norm * norm;
    weights[grid.cells + i] =
        grid.has_right(i) ? outer.right[i] * factor * norm * cells.inverse_norm[i + 1] : 0;
    weights[2 * grid.cells + i] =
        grid.has_down(i) ? outer.down[i] * factor * norm * cells.inverse_norm[i + grid.width] : 0;
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
  chain_rule(state, {t_newer, t, b}, grid, *strength, 2 * root / ladder.bounds[rung], outer,
             planes.reduction, weights, grad_strength + blockIdx.x);
}

}  // namespace wsol::cuda::diffusion

#endif  // __CUDACC__ || WSOL_EMULATOR
