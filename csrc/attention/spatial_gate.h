// The head-averaged gate that one token's query lays on all tokens.
//
//   gate[b, j] = sigmoid(1/H sum_h scale * query[b, h] . key[b, h, j])
//
// query (B, H, 1, D) and key (B, H, N, D): one floating dtype, last dimension contiguous, any other
// strides. All the rest is of the accumulator type (float32; float64 for float64 inputs).
#pragma once

#include "core/tensor_view.h"

namespace wsol {

struct SpatialGateForward {
  TensorView query, key;
  TensorView gate;  // (B, N) contiguous
  double scale;
};

struct SpatialGateBackward {
  TensorView query, key;
  TensorView gate, grad_gate;  // (B, N) contiguous
  TensorView grad_query;       // like query; without memory where nobody wants it, as grad_key
  TensorView grad_key;         // like key
  // (B, H, 1, N), a view of a contiguous (B, N): the same for all heads. CUDA needs none.
  TensorView grad_dots;
  double scale;
};

namespace cpu {
void spatial_gate_forward(const SpatialGateForward& args, int threads);
void spatial_gate_backward(const SpatialGateBackward& args, int threads);
}  // namespace cpu

namespace cuda {
void spatial_gate_forward(const SpatialGateForward& args, Stream stream);
void spatial_gate_backward(const SpatialGateBackward& args, Stream stream);
}  // namespace cuda

}  // namespace wsol
