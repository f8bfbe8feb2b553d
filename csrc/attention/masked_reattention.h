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
// the accumulator type (float32; float64 for float64 inputs). The CPU kernels take inputs of that
// type alone; the CUDA kernels half types where tensor cores can read them: D a multiple of 8 up to
// 128, rows on 16-byte boundaries, compute capability 8.0.
#pragma once

#include "core/tensor_view.h"
#if defined(WSOL_WITH_CUDA)
#include "core/cuda.h"
#endif

namespace wsol {

namespace cpu {

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
  TensorView keep;          // (B, N)
  TensorView log_sum, top;  // (B, H, N), of the forward
  TensorView grad_out;      // (B, H, N, D)
  TensorView grad_query, grad_key, grad_value;
  double scale, eps;
};

void masked_reattention_forward(const MaskedReattentionForward& args, int threads);
void masked_reattention_backward(const MaskedReattentionBackward& args, int threads);

}  // namespace cpu

#if defined(WSOL_WITH_CUDA)
namespace cuda {

constexpr int64_t kLargestReattentionWidth = 256;

struct MaskedReattentionInputs {
  TensorView query, key, value;
  TensorView keep;        // (B, N)
  TensorView order;       // (B, N) int32 scratch: the tokens, kept ones first
  TensorView kept;        // (B,) int32 scratch: how many are kept
  TensorView mean_value;  // (B, H, D) scratch; zeros where eps = 0
  double scale, eps;
};

struct MaskedReattentionForward {
  MaskedReattentionInputs inputs;
  TensorView out;      // like query
  TensorView log_sum;  // (B, H, N)
  TensorView top;      // (B, H, N); -1 where eps = 0
};

struct MaskedReattentionBackward {
  MaskedReattentionInputs inputs;
  TensorView grad_out, out;  // (B, H, N, D)
  TensorView log_sum, top;   // (B, H, N), of the forward
  TensorView grad_query, grad_key, grad_value;
  TensorView row_terms;  // (5, B, H, N) scratch
  TensorView grad_mean;  // (B, H, D) scratch; zeros where eps = 0
};

void masked_reattention_forward(const MaskedReattentionForward& args, Stream stream);
void masked_reattention_backward(const MaskedReattentionBackward& args, Stream stream);

}  // namespace cuda
#endif

}  // namespace wsol
