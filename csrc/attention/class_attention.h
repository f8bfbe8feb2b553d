// Rows of head-averaged attention for a few query tokens, without the attention matrix.
//
//   out[b, q, j] = 1/H sum_h softmax_j(scale * query[b, h, q] . key[b, h, j])
//
// query (B, H, Q, D) and key (B, H, N, D): one floating dtype, last dimension contiguous, any other
// strides. All the rest is contiguous, of the accumulator type (float32; float64 for float64
// inputs). The backward saves nothing of the forward: it reads the keys anyway, so the softmax
// costs it nothing more.
#pragma once

#include "core/tensor_view.h"

namespace wsol {

struct ClassAttentionForward {
  TensorView query, key;
  TensorView out;            // (B, Q, N)
  TensorView probabilities;  // (B, H, Q, N), of each head; the CPU needs none
  double scale;
};

struct ClassAttentionBackward {
  TensorView query, key;
  TensorView grad_out;     // (B, Q, N)
  TensorView grad_query;   // like query; without memory where nobody wants it, as grad_key
  TensorView grad_key;     // like key
  TensorView grad_logits;  // (B, H, Q, N), which both gradients are made of; the CPU needs none
  double scale;
};

namespace cpu {
void class_attention_forward(const ClassAttentionForward& args, int threads);
void class_attention_backward(const ClassAttentionBackward& args, int threads);
}  // namespace cpu

namespace cuda {
void class_attention_forward(const ClassAttentionForward& args, Stream stream);
void class_attention_backward(const ClassAttentionBackward& args, Stream stream);
}  // namespace cuda

}  // namespace wsol
