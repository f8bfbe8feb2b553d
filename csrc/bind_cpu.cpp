// The CPU kernels as the Python module wsol_ext._cpu. Every function ends with the number of threads.
#include "attention/class_attention.h"
#include "core/python_tensor.h"

namespace py = pybind11;
using wsol::TensorView;
using NoGil = py::call_guard<py::gil_scoped_release>;

PYBIND11_MODULE(WSOL_MODULE, module) {
  module.doc() = "CPU kernels of wsol_ext; call them through wsol_ext.ops";

  module.def(
      "class_attention_forward",
      [](const TensorView& query, const TensorView& key, const TensorView& out,
         const TensorView& probabilities, double scale,
         int threads) {
        wsol::cpu::class_attention_forward({query, key, out, probabilities, scale},
                                           threads);
      },
      NoGil());
  module.def(
      "class_attention_backward",
      [](const TensorView& query, const TensorView& key, const TensorView& grad_out, const TensorView& grad_query, const TensorView& grad_key,
         const TensorView& grad_logits, double scale, int threads) {
        wsol::cpu::class_attention_backward(
            {query, key, grad_out, grad_query, grad_key, grad_logits, scale}, threads);
      },
      NoGil());
}
