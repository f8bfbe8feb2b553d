// Attention of every token over the kept tokens and itself, with a uniform part, without the
// attention matrix.
//
//   out_i = (sum_j K_ij exp(s_ij - m_i) v_j + eps/N sum_j v_j) / (sum_j K_ij exp(s_ij - m_i) + eps)
//
// s_ij = scale * query_i . key_j, m_i = max_j s_ij over all j, K_ij = keep_j or i = j. In other
// words: attention over the kept tokens, the token itself, and one key more, of logit
// m_i + log(eps) and the mean value.
//
// query, key, value (B, H, N, D): one floating dtype, last dimension contiguous, any other strides.
// All the rest is contiguous; what is not of the inputs' dtype is of the accumulator type (float32;
// float64 for float64 inputs) but for the masks and indices.
#pragma once

#include "core/tensor_view.h"
#if defined(WSOL_WITH_CUDA)
#include "core/cuda.h"
#endif

namespace wsol {

constexpr int64_t kLargestReattentionWidth = 256;

struct MaskedReattentionInputs {
  TensorView query, key, value;
  TensorView keep;        // (B, N) bool
  TensorView order;       // (B, N) int32 scratch: the tokens, kept ones first
  TensorView kept;        // (B,) int32 scratch: how many are kept
  TensorView mean_value;  // (B, H, D) scratch; zeros where eps = 0
  double scale, eps;
};

struct MaskedReattentionForward {
  MaskedReattentionInputs inputs;
  TensorView out;      // like query
  TensorView log_sum;  // (B, H, N): the logarithm of the weights' sum, which normalizes them
  TensorView top;      // (B, H, N) int32: the first j of the largest logit; -1 where eps = 0
};

struct MaskedReattentionBackward {
  MaskedReattentionInputs inputs;
  TensorView grad_out, out;  // (B, H, N, D)
  TensorView log_sum, top;   // from the forward
  TensorView grad_query, grad_key, grad_value;
  TensorView row_terms;  // (5, B, H, N) scratch
  TensorView grad_mean;  // (B, H, D) scratch; zeros where eps = 0
};

#if defined(WSOL_WITH_CUDA)
namespace cuda {
void masked_reattention_forward(const MaskedReattentionForward& args, Stream stream);
void masked_reattention_backward(const MaskedReattentionBackward& args, Stream stream);
}  // namespace cuda
#endif

}  // namespace wsol
