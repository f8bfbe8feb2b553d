// Attention of every token over the kept tokens and itself, with a uniform part, without the
// attention matrix.
//
//   m_i = max_j s_ij over all j,  K_ij = keep_j or i = j,  s_ij = scale * query_i . key_j
//   out_i = (sum_j K_ij exp(s_ij - m_i) value_j + eps mean_j value_j) / denominator_i
//   denominator_i = sum_j K_ij exp(s_ij - m_i) + eps
//   log_sum_i = m_i + log(denominator_i),  top_i = the first j where s_ij is m_i
//
// In other words: attention over the kept tokens, the token itself, and one key more, of logit
// m_i + log(eps) and the mean value. With eps = 0 any m_i serves: it is that of the tokens attended
// to, and nobody reads top.
//
// query, key, value and their gradients are (B, H, N, D), one floating dtype, last dimension
// contiguous, any other strides. All the rest is contiguous; what is neither bool nor int32 is of
// the accumulator type (float32; float64 for float64 inputs). Half types are read where the backend
// has kernels for them, tensor cores: D a multiple of 8 up to kLargestHalfReattentionWidth, rows on
// 16-byte boundaries.
#pragma once

#include "core/tensor_view.h"

namespace wsol {

constexpr int64_t kLargestReattentionWidth = 256;
constexpr double kLargestReattentionEps = 1e30;  // its product with a value is still a float32

struct MaskedReattentionForward {
  TensorView query, key, value;
  TensorView keep;     // (B, N)
  TensorView out;      // like query
  TensorView log_sum;  // (B, H, N); the CPU may do without both where nothing is to be saved
  TensorView top;      // (B, H, N); -1 where eps = 0
  // Of the backward's too, and the CPU, which keeps none of it, needs no memory:
  TensorView order;       // (B, 1 + N) int32: how many tokens are kept; the tokens, kept ones first
  TensorView mean_value;  // (B, H, D); zeros where eps = 0
  double scale, eps;
};

struct MaskedReattentionBackward {
  TensorView query, key, value;
  TensorView keep;                              // (B, N)
  TensorView out, log_sum, top;                 // of the forward
  TensorView order, mean_value;                 // too
  TensorView grad_out;                          // (B, H, N, D)
  TensorView grad_query, grad_key, grad_value;  // the CPU may do without those that nobody wants
  TensorView scratch;
  double scale, eps;
};

namespace cpu {
constexpr int64_t kLargestHalfReattentionWidth = 0;  // none: Python converts half types to float
inline int64_t masked_reattention_backward_scratch_bytes(int64_t, int64_t, int64_t, int64_t, bool) {
  return 0;
}
void masked_reattention_forward(const MaskedReattentionForward& args, int threads);
void masked_reattention_backward(const MaskedReattentionBackward& args, int threads);
}  // namespace cpu

namespace cuda {
constexpr int64_t kLargestHalfReattentionWidth = 128;
int64_t masked_reattention_backward_scratch_bytes(int64_t images, int64_t heads, int64_t tokens,
                                                  int64_t width, bool doubles);
void masked_reattention_forward(const MaskedReattentionForward& args, Stream stream);
void masked_reattention_backward(const MaskedReattentionBackward& args, Stream stream);
}  // namespace cuda

}  // namespace wsol
