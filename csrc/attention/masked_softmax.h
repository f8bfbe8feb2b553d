// Softmax over the kept entries of each row, whose sum has eps added.
//
//   out[r, j] = exp(logits[r, j]) keep[r, j] / (sum_i exp(logits[r, i]) keep[r, i] + eps)
//
// That is the softmax over the kept entries and one more, whose logit is log(eps) and whose share
// is given to nobody: so no logit overflows, and the backward is a softmax's, of `out` alone.
#pragma once

#include "core/tensor_view.h"

namespace wsol {

struct MaskedSoftmaxForward {
  TensorView logits;  // (R, N) floating, last dimension contiguous
  TensorView keep;    // (R, N) bool, last dimension contiguous
  TensorView out;     // R x N of the accumulator type, contiguous
  double log_eps;     // -infinity for eps = 0
};

struct MaskedSoftmaxBackward {
  TensorView grad_out, out;  // (R, N) of the accumulator type, contiguous
  TensorView grad_logits;    // (R, N) of the logits' type, contiguous
};

namespace cpu {
void masked_softmax_forward(const MaskedSoftmaxForward& args, int threads);
void masked_softmax_backward(const MaskedSoftmaxBackward& args, int threads);
}  // namespace cpu

namespace cuda {
void masked_softmax_forward(const MaskedSoftmaxForward& args, Stream stream);
void masked_softmax_backward(const MaskedSoftmaxBackward& args, Stream stream);
}  // namespace cuda

}  // namespace wsol
