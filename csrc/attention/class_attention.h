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
  TensorView out;  // (B, Q, N)
  TensorView scratch;
  double scale;
};

struct ClassAttentionBackward {
  TensorView query, key;
  TensorView grad_out;    // (B, Q, N)
  TensorView grad_query;  // like query; without memory where nobody wants it, as grad_key
  TensorView grad_key;    // like key
  TensorView scratch;
  double scale;
};

namespace cpu {
inline int64_t class_attention_forward_scratch_bytes(int64_t, int64_t, int64_t, int64_t, int64_t,
                                                     int64_t) {
  return 0;
}
inline int64_t class_attention_backward_scratch_bytes(int64_t, int64_t, int64_t, int64_t, int64_t,
                                                      int64_t) {
  return 0;
}
void class_attention_forward(const ClassAttentionForward& args, int threads);
void class_attention_backward(const ClassAttentionBackward& args, int threads);
}  // namespace cpu

namespace cuda {
int64_t class_attention_forward_scratch_bytes(int64_t images, int64_t heads, int64_t queries,
                                              int64_t tokens, int64_t width, int64_t element_bytes);
int64_t class_attention_backward_scratch_bytes(int64_t images, int64_t heads, int64_t queries,
                                               int64_t tokens, int64_t width,
                                               int64_t element_bytes);
void class_attention_forward(const ClassAttentionForward& args, Stream stream);
void class_attention_backward(const ClassAttentionBackward& args, Stream stream);
}  // namespace cuda

}  // namespace wsol
