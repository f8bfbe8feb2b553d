// A matrix function of a grid's 5-point stencil, applied to one vector an image.
//
//   S_ij  cosine similarity of features at cells i, j;  A_ii = deg_i (strength - 1),
//   A_ij = 1 - strength S_ij for 4-neighbours;  out = f(A) cam,
//   f(s) = (1 - (1 - alpha s^2)^(2^iterations)) / s
//
// f is odd, so out = sqrt(alpha) sum_j c_j T_{2j+1}(M / 2) cam, M = 2 sqrt(alpha) A / bound:
// three-term Chebyshev recurrence t_{k+1} = M t_k - t_{k-1} of stencil products. `bound` is the
// first of a ladder that holds sqrt(alpha) times the largest row sum of |A|, so that an image takes
// the terms that its own spectrum asks for, and the coefficients depend on nothing but
// `iterations`. No bound holds it: NaN.
//
// The backward runs the recurrence of the adjoint (Clenshaw's, b_k) down from the last term, and
// the t_k down with it, for t_{k-1} = M t_k - t_{k+1}: stable, for both directions are the same
// recurrence. So it keeps two terms instead of all. b_0 is the gradient of cam; sum_k b_{k+1}
// t_k^T, where the stencil is not zero, that of M.
//
// Newton-Schulz from X_0 makes sum_{j < 2^iterations} (I - X_0 A)^j X_0. Where X_0 = alpha A is
// held constant (`detach_start`), an entry of A between eigenvectors with eigenvalues s and t has
// the derivative s t (p(s^2) - p(t^2)) / (s^2 - t^2), p(s^2) = f(s) / s, not (f(s) - f(t)) / (s -
// t). The former is the part of the latter that is odd in both s and t; the rest is even in both.
// Such are b_{k+1} t_k^T for odd and even k: so the sum is over odd k alone.
//
// All in float64: f is steep at 0 (alpha 2^iterations), so float32 similarities alone would cost
// the result its digits; and there are few numbers. Indices are flat, i = y w + x; an edge belongs
// to its left or upper cell, and is 0 where the grid ends.
#pragma once

#include "core/tensor_view.h"

namespace wsol {

// Both structs have a ladder of Chebyshev coefficients c_j on [-bound, bound]: bounds (R)
// ascending, starts (R + 1) int64, where each bound's coefficients start, and coefficients
// (starts[R]).
struct SpatialDiffusionForward {
  TensorView features;  // (B, C, h, w) with stride 1 over channels, any other strides
  TensorView cam;       // (B, h, w) float32 or float64
  TensorView strength;  // (1) float64
  TensorView out;       // like cam
  TensorView state;  // (B, 5, h, w) float64: 1 / |features|, S to the right, S down, last two t_k
  TensorView bounds, starts, coefficients;
  TensorView scratch;
  double alpha;
};

struct SpatialDiffusionBackward {
  TensorView grad_out;  // (B, h, w) float32 or float64
  TensorView features, strength, state;
  TensorView grad_features;  // like features, no larger strides than its own memory needs
  TensorView grad_cam;       // like grad_out
  TensorView grad_strength;  // (B) float64, one part an image
  TensorView bounds, starts, coefficients;
  TensorView scratch;
  double alpha;
  bool detach_start;
};

namespace cpu {
inline int64_t spatial_diffusion_forward_scratch_bytes(int64_t, int64_t, int64_t) { return 0; }
inline int64_t spatial_diffusion_backward_scratch_bytes(int64_t, int64_t, int64_t) { return 0; }
void spatial_diffusion_forward(const SpatialDiffusionForward& args, int threads);
void spatial_diffusion_backward(const SpatialDiffusionBackward& args, int threads);
}  // namespace cpu

namespace cuda {
int64_t spatial_diffusion_forward_scratch_bytes(int64_t images, int64_t height, int64_t width);
int64_t spatial_diffusion_backward_scratch_bytes(int64_t images, int64_t height, int64_t width);
void spatial_diffusion_forward(const SpatialDiffusionForward& args, Stream stream);
void spatial_diffusion_backward(const SpatialDiffusionBackward& args, Stream stream);
}  // namespace cuda

}  // namespace wsol
