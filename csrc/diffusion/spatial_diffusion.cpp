// CPU: one task an image. A grid is flat, with a row of zeros before and after, and edges are 0
// where it ends, so that a stencil product is one vectorized loop without cases. Limited by the
// loads of that loop, from the L1 cache: 11 a cell and term forward, 21 backward, 18 of them where
// a term leaves no outer product.
#include "diffusion/spatial_diffusion.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/element_types.h"
#include "core/multiversion.h"
#include "core/parallel_for.h"

namespace wsol::cpu {
namespace {

struct Grid {
  int64_t height, width, cells;

  bool has_right(int64_t i) const { return (i + 1) % width != 0; }
  bool has_down(int64_t i) const { return i + width < cells; }
  double degree(int64_t i) const {
    return has_right(i) + has_down(i) + (i % width != 0) + (i >= width);
  }
};

// Arrays of an image's cells, each with `width` zeros before and after. Zeros stay zeros.
class Planes {
 public:
  Planes(int count, Grid grid)
      : width_(grid.width), padded_(grid.cells + 2 * grid.width), memory_(count * padded_) {}
  double* operator[](int index) { return memory_.data() + index * padded_ + width_; }

 private:
  int64_t width_, padded_;
  std::vector<double> memory_;
};

struct Stencil {
  double *diagonal, *right, *down;
  int64_t width;

  double times(const double* v, int64_t i) const {
    return diagonal[i] * v[i] + right[i] * v[i + 1] + right[i - 1] * v[i - 1] +
           down[i] * v[i + width] + down[i - width] * v[i - width];
  }
};

struct Series {
  double bound = 0;
  const double* coefficients = nullptr;
  int64_t count = 0;  // 0: no bound holds the matrix
};

struct State {
  double *inverse_norm, *right, *down, *last, *before_last;

  State(const TensorView& view, int64_t image, int64_t cells) {
    inverse_norm = view.as<double>() + image * 5 * cells;
    right = inverse_norm + cells;
    down = right + cells;
    last = down + cells;
    before_last = last + cells;
  }
};

template <typename T>
struct CellFeatures {
  T* data;
  int64_t row_stride, column_stride, width;

  CellFeatures(const TensorView& view, int64_t image)
      : data(view.as<T>() + image * view.stride(0)),
        row_stride(view.stride(2)),
        column_stride(view.stride(3)),
        width(view.size(3)) {}
  T* operator[](int64_t i) const {
    return data + i / width * row_stride + i % width * column_stride;
  }
};

template <typename T>
double dot(const T* a, const T* b, int64_t channels) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < channels; ++c)
    sum += static_cast<double>(a[c]) * static_cast<double>(b[c]);
  return sum;
}

template <typename T>
WSOL_MULTIVERSION void similarities(CellFeatures<const T> features, int64_t channels, Grid grid,
                                    State state) {
  for (int64_t i = 0; i < grid.cells; ++i) {
    const T* cell = features[i];
    const double square = dot(cell, cell, channels);
    state.inverse_norm[i] = square == 0 ? 0 : 1 / std::sqrt(square);
    state.right[i] = grid.has_right(i) ? dot(cell, features[i + 1], channels) : 0;
    state.down[i] = grid.has_down(i) ? dot(cell, features[i + grid.width], channels) : 0;
  }
  for (int64_t i = 0; i < grid.cells; ++i) {
    const double* norm = state.inverse_norm + i;
    if (grid.has_right(i)) state.right[i] = state.right[i] * norm[0] * norm[1];
    if (grid.has_down(i)) state.down[i] = state.down[i] * norm[0] * norm[grid.width];
  }
}

// Fills `matrix` with M and says which series goes with it.
template <typename Args>
Series make_matrix(State state, Grid grid, double strength, const Args& args, Stencil matrix) {
  const double root = std::sqrt(args.alpha);
  for (int64_t i = 0; i < grid.cells; ++i) {
    matrix.diagonal[i] = root * grid.degree(i) * (strength - 1);
    matrix.right[i] = grid.has_right(i) ? root * (1 - strength * state.right[i]) : 0;
    matrix.down[i] = grid.has_down(i) ? root * (1 - strength * state.down[i]) : 0;
  }
  const double* bounds = args.bounds.template as<double>();
  const int64_t rungs = args.bounds.size(0);
  int64_t rung = 0;
  for (int64_t i = 0; i < grid.cells; ++i) {
    const double row_sum = std::abs(matrix.diagonal[i]) + std::abs(matrix.right[i]) +
                           std::abs(matrix.right[i - 1]) + std::abs(matrix.down[i]) +
                           std::abs(matrix.down[i - grid.width]);
    while (rung < rungs && !(row_sum <= bounds[rung])) ++rung;  // a NaN fits nowhere
  }
  if (rung == rungs) return {};
  const double scale = 2 / bounds[rung];
  for (int64_t i = 0; i < grid.cells; ++i) {
    matrix.diagonal[i] *= scale;
    matrix.right[i] *= scale;
    matrix.down[i] *= scale;
  }
  const int64_t* starts = args.starts.template as<int64_t>() + rung;
  const double* coefficients = args.coefficients.template as<double>();
  return {bounds[rung], coefficients + starts[0], starts[1] - starts[0]};
}

// One term up or down: `older` becomes matrix * newer - older.
inline void advance(Stencil matrix, const double* newer, double* older, int64_t cells) {
#pragma omp simd
  for (int64_t i = 0; i < cells; ++i) older[i] = matrix.times(newer, i) - older[i];
}

// Leaves the last term in `newer` and the one before in `older`, which begins as the vector.
WSOL_MULTIVERSION void sum_series(Stencil matrix, Series series, int64_t cells, double* older,
                                  double* newer, double* sum) {
  for (int64_t i = 0; i < cells; ++i) {
    newer[i] = matrix.times(older, i) / 2;
    sum[i] = series.coefficients[0] * newer[i];
  }
  for (int64_t j = 1; j < series.count; ++j) {
    const double coefficient = series.coefficients[j];
    advance(matrix, newer, older, cells);
#pragma omp simd
    for (int64_t i = 0; i < cells; ++i) {
      newer[i] = matrix.times(older, i) - newer[i];
      sum[i] += coefficient * newer[i];
    }
  }
}

// What sum_k b_{k+1} t_k^T leaves where the matrix is not zero; edges count both of its sides.
struct Outer {
  double *diagonal, *right, *down;
};

// t and b one term down each, and, if asked for, the part of the matrix's gradient between them.
template <bool kOuter>
inline void descend(Stencil matrix, double coefficient, const double* grad_out, const double* t,
                    double* t_older, const double* b, double* b_older, Outer outer, int64_t cells) {
  const int64_t width = matrix.width;
#pragma omp simd
  for (int64_t i = 0; i < cells; ++i) {
    // All loads before the stores, which might alias them for all the compiler knows.
    const double next_t = matrix.times(t, i) - t_older[i],
                 next_b = coefficient * grad_out[i] + matrix.times(b, i) - b_older[i];
    if constexpr (kOuter) {
      const double diagonal = b[i] * t[i], right = b[i] * t[i + 1] + b[i + 1] * t[i],
                   down = b[i] * t[i + width] + b[i + width] * t[i];
      outer.diagonal[i] += diagonal;
      outer.right[i] += right;
      outer.down[i] += down;
    }
    t_older[i] = next_t;
    b_older[i] = next_b;
  }
}

// t_newer, t: the series' last two terms. On return b_newer is the gradient of the vector.
template <bool kDetachStart>
WSOL_MULTIVERSION void differentiate_series(Stencil matrix, Series series, int64_t cells,
                                            const double* grad_out, double* t_newer, double* t,
                                            double* b, double* b_newer, Outer outer) {
  for (int64_t i = 0; i < cells; ++i) {
    b[i] = series.coefficients[series.count - 1] * grad_out[i];
    b_newer[i] = 0;
    outer.diagonal[i] = outer.right[i] = outer.down[i] = 0;
  }
  // Even terms have no coefficient of their own.
  for (int64_t j = series.count - 1; j > 0; --j) {
    descend<!kDetachStart>(matrix, 0, grad_out, t, t_newer, b, b_newer, outer, cells);
    descend<true>(matrix, series.coefficients[j - 1], grad_out, t_newer, t, b_newer, b, outer,
                  cells);
  }
  const int64_t width = matrix.width;
  for (int64_t i = 0; i < cells; ++i) {  // t_1 = M t_0 / 2
    if constexpr (!kDetachStart) {
      outer.diagonal[i] += b[i] * t[i] / 2;
      outer.right[i] += (b[i] * t[i + 1] + b[i + 1] * t[i]) / 2;
      outer.down[i] += (b[i] * t[i + width] + b[i + width] * t[i]) / 2;
    }
    b_newer[i] = matrix.times(b, i) / 2 - b_newer[i];
  }
}

// From `outer` to what features and strength get. Turns `outer` into the stencil that, applied to
// the features, gives their gradient: with e the gradient of an edge's similarity S and n the
// norms, grad f_i = sum_j e_ij / (n_i n_j) f_j - (sum_j e_ij S_ij) / n_i^2 f_i. Returns strength's
// gradient.
double chain_rule(State state, Grid grid, double strength, double scale, Outer outer) {
  double grad_strength = 0;
  for (int64_t i = 0; i < grid.cells; ++i) {
    if (!grid.has_right(i)) outer.right[i] = 0;
    if (!grid.has_down(i)) outer.down[i] = 0;
    grad_strength += grid.degree(i) * outer.diagonal[i] - state.right[i] * outer.right[i] -
                     state.down[i] * outer.down[i];
  }
  const double factor = -strength * scale;
  for (int64_t i = 0; i < grid.cells; ++i) {
    const double norm = state.inverse_norm[i];
    double along = outer.right[i] * state.right[i] + outer.down[i] * state.down[i];
    if (i % grid.width != 0) along += outer.right[i - 1] * state.right[i - 1];
    if (i >= grid.width) along += outer.down[i - grid.width] * state.down[i - grid.width];
    outer.diagonal[i] = -factor * along * norm * norm;
  }
  for (int64_t i = 0; i < grid.cells; ++i) {
    const double* norm = state.inverse_norm + i;
    if (grid.has_right(i)) outer.right[i] *= factor * norm[0] * norm[1];
    if (grid.has_down(i)) outer.down[i] *= factor * norm[0] * norm[grid.width];
  }
  return scale * grad_strength;
}

template <typename T>
WSOL_MULTIVERSION void apply_to_features(Stencil weights, CellFeatures<const T> features,
                                         int64_t channels, Grid grid, CellFeatures<T> out) {
  for (int64_t i = 0; i < grid.cells; ++i) {
    const int64_t width = grid.width;
    const T* cell = features[i];
    // Where the grid ends the weight is 0 and the neighbour the cell itself.
    const T* right = grid.has_right(i) ? features[i + 1] : cell;
    const T* left = i % width != 0 ? features[i - 1] : cell;
    const T* down = grid.has_down(i) ? features[i + width] : cell;
    const T* up = i >= width ? features[i - width] : cell;
    const double at_cell = weights.diagonal[i], at_right = weights.right[i],
                 at_left = weights.right[i - 1], at_down = weights.down[i],
                 at_up = weights.down[i - width];
    T* target = out[i];
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
      target[c] = static_cast<T>(
          at_cell * static_cast<double>(cell[c]) + at_right * static_cast<double>(right[c]) +
          at_left * static_cast<double>(left[c]) + at_down * static_cast<double>(down[c]) +
          at_up * static_cast<double>(up[c]));
    }
  }
}

Grid grid_of(const TensorView& features) {
  return {features.size(2), features.size(3), features.size(2) * features.size(3)};
}

// `run(ElementTag<Features>{}, ElementTag<Cam>{})` with the element types of both.
template <typename Run>
void with_types(const TensorView& features, const TensorView& cam, Run&& run) {
  with_floating_type("spatial_diffusion", features.dtype, [&]<typename T>(ElementTag<T> tag) {
    with_float_or_double("spatial_diffusion", cam.dtype,
                         [&]<typename A>(ElementTag<A> of_cam) { run(tag, of_cam); });
  });
}

}  // namespace

void spatial_diffusion_forward(const SpatialDiffusionForward& args, int threads) {
  with_types(args.features, args.cam, [&]<typename T, typename A>(ElementTag<T>, ElementTag<A>) {
    const Grid grid = grid_of(args.features);
    const double strength = *args.strength.as<double>(), root = std::sqrt(args.alpha);
    parallel_for(args.features.size(0), 1, threads, [&](int64_t begin, int64_t end) {
      Planes planes(6, grid);
      const Stencil matrix{planes[0], planes[1], planes[2], grid.width};
      double *older = planes[3], *newer = planes[4], *sum = planes[5];
      for (int64_t image = begin; image < end; ++image) {
        const State state(args.state, image, grid.cells);
        similarities(CellFeatures<const T>(args.features, image), args.features.size(1), grid,
                     state);
        const Series series = make_matrix(state, grid, strength, args, matrix);
        A* out = args.out.as<A>() + image * grid.cells;
        if (series.count == 0) {
          std::fill_n(out, grid.cells, std::numeric_limits<A>::quiet_NaN());
          continue;
        }
        std::copy_n(args.cam.as<A>() + image * grid.cells, grid.cells, older);
        sum_series(matrix, series, grid.cells, older, newer, sum);
        for (int64_t i = 0; i < grid.cells; ++i) out[i] = static_cast<A>(root * sum[i]);
        std::copy_n(newer, grid.cells, state.last);
        std::copy_n(older, grid.cells, state.before_last);
      }
    });
  });
}

void spatial_diffusion_backward(const SpatialDiffusionBackward& args, int threads) {
  with_types(
      args.features, args.grad_out, [&]<typename T, typename A>(ElementTag<T>, ElementTag<A>) {
        const Grid grid = grid_of(args.features);
        const double strength = *args.strength.as<double>(), root = std::sqrt(args.alpha);
        const auto differentiate =
            args.detach_start ? differentiate_series<true> : differentiate_series<false>;
        parallel_for(args.features.size(0), 1, threads, [&](int64_t begin, int64_t end) {
          Planes planes(11, grid);
          const Stencil matrix{planes[0], planes[1], planes[2], grid.width};
          const Stencil weights{planes[3], planes[4], planes[5], grid.width};
          const Outer outer{planes[3], planes[4], planes[5]};
          double *t_newer = planes[6], *t = planes[7], *b = planes[8], *b_newer = planes[9];
          double* grad_out = planes[10];
          for (int64_t image = begin; image < end; ++image) {
            const State state(args.state, image, grid.cells);
            const Series series = make_matrix(state, grid, strength, args, matrix);
            A* grad_cam = args.grad_cam.as<A>() + image * grid.cells;
            double& grad_strength = args.grad_strength.as<double>()[image];
            if (series.count == 0) {
              constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
              std::fill_n(grad_cam, grid.cells, static_cast<A>(kNan));
              std::fill_n(outer.diagonal, grid.cells, kNan);
              grad_strength = kNan;
            } else {
              const A* grad = args.grad_out.as<A>() + image * grid.cells;
              for (int64_t i = 0; i < grid.cells; ++i) grad_out[i] = root * grad[i];
              std::copy_n(state.last, grid.cells, t_newer);
              std::copy_n(state.before_last, grid.cells, t);
              differentiate(matrix, series, grid.cells, grad_out, t_newer, t, b, b_newer, outer);
              std::copy_n(b_newer, grid.cells, grad_cam);
              grad_strength = chain_rule(state, grid, strength, 2 * root / series.bound, outer);
            }
            apply_to_features(weights, CellFeatures<const T>(args.features, image),
                              args.features.size(1), grid,
                              CellFeatures<T>(args.grad_features, image));
          }
        });
      });
}

}  // namespace wsol::cpu
