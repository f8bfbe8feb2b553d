// Attention to the tokens that are kept and to oneself, without the N x N matrix.
//
//   m_i = max_j s_ij over all j,  K_ij = keep_j or i = j,  s_ij = scale * query_i . key_j
//   out_i = (sum_j K_ij exp(s_ij - m_i) value_j + eps mean_j value_j) / denominator_i
//   denominator_i = sum_j K_ij exp(s_ij - m_i) + eps
//   log_sum_i = m_i + log(denominator_i),  top_i = the first j where s_ij is m_i
//
// With eps = 0 any m_i serves: it is that of the tokens attended to, and top is 0.
//
// query, key, value (B, H, N, D): one dtype, float32 or float64, last dimension contiguous, any
// other strides. All the rest is contiguous, of the same dtype but keep (bool) and top (int32).
#pragma once

#include "core/tensor_view.h"

namespace wsol::cpu {

struct MaskedReattentionForward {
  TensorView query, key, value;
  TensorView keep;     // (B, N)
  TensorView out;      // (B, H, N, D)
  TensorView log_sum;  // (B, H, N)
  TensorView top;      // (B, H, N)
  double scale, eps;
};

struct MaskedReattentionBackward {
  TensorView query, key, value;
  TensorView keep;                              // (B, N)
  TensorView log_sum, top;                      // (B, H, N), of the forward
  TensorView grad_out;                          // (B, H, N, D)
  TensorView grad_query, grad_key, grad_value;  // (B, H, N, D)
  double scale, eps;
};

void masked_reattention_forward(const MaskedReattentionForward& args, int threads);
void masked_reattention_backward(const MaskedReattentionBackward& args, int threads);

}  // namespace wsol::cpu
