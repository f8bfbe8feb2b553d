// Normalized cuts of graphs whose nodes are tokens (Shi and Malik 2000; TokenCut, Wang et al.
// 2022).
//
//   S_ij  cosine similarity of features i and j
//   A_ij = 1 where S_ij > threshold, else eps;  weighted: S_ij there instead of 1
//   d_i = sum_j A_ij,  D = diag(d):  the vector v of (D - A) v = lambda D v for the second smallest
//   lambda, v^T D v = 1
//
// M = D^-1/2 A D^-1/2 has the eigenvalues 1 - lambda, the largest with the eigenvector D^1/2 1; so
// v = D^-1/2 u for the eigenvector u of M's second largest, which is what second_eigenvector.h
// finds.
//
// A = eps 1 1^T + (1 - eps) B for a matrix B of bits, N^2 / 8 bytes: a product with it is a sum of
// the vector's entries where bits are set. Weighted graphs have A itself, in the features'
// precision.
//
// On the CPU, bits are those of similarities in float64; elsewhere a similarity is a sum of
// products in float32 (float64 for float64 features). All else is float64. Features that are not
// finite make their image's results NaN.
#pragma once

#include "core/tensor_view.h"

namespace wsol {

constexpr int64_t kMostCutTokens = 16'384;  // 32 MiB of bits

struct NormalizedCut {
  TensorView features;    // (B, N, C) floating, last dimension contiguous; 2 <= N <= kMostCutTokens
  TensorView vector;      // (B, N) float64; NaN where the third eigenvalue equals the second
  TensorView eigenvalue;  // (B) float64: lambda
  TensorView residual;    // (B) float64: |M u - (1 - lambda) u|
  TensorView determined;  // (B) bool
  TensorView scratch;
  double threshold, eps;
  bool weighted;
};

namespace cpu {
inline int64_t normalized_cut_scratch_bytes(int64_t, int64_t, int64_t, bool, bool) { return 0; }
void normalized_cut(const NormalizedCut& args, int threads);
}  // namespace cpu

namespace cuda {
int64_t normalized_cut_scratch_bytes(int64_t images, int64_t tokens, int64_t channels,
                                     bool in_double, bool weighted);
void normalized_cut(const NormalizedCut& args, Stream stream);
}  // namespace cuda

}  // namespace wsol
