// The CUDA kernels as the Python module wsol_ext._cuda, or, over the emulator, as the tests' module. Every function ends
// with the stream to run on.
#define WSOL_WITH_CUDA
#include "attention/class_attention.h"
#include "core/python_tensor.h"

namespace py = pybind11;
using wsol::TensorView;
using wsol::cuda::Stream;
using NoGil = py::call_guard<py::gil_scoped_release>;

PYBIND11_MODULE(WSOL_MODULE, module) {
  module.doc() = "CUDA kernels of wsol_ext; call them through wsol_ext.ops";
#if defined(WSOL_EMULATOR)
  emulator::bind(module);
#else
  module.attr("architectures") = WSOL_CUDA_ARCHITECTURES;
  module.attr("toolkit_version") = WSOL_CUDA_VERSION;
#endif

  module.def(
      "class_attention_forward",
      [](const TensorView& query, const TensorView& key, const TensorView& out,
         const TensorView& probabilities, double scale,
         Stream stream) {
        wsol::cuda::class_attention_forward({query, key, out, probabilities, scale},
                                            stream);
      },
      NoGil());
  module.def(
      "class_attention_backward",
      [](const TensorView& query, const TensorView& key, const TensorView& grad_out, const TensorView& grad_query, const TensorView& grad_key,
         const TensorView& grad_logits, double scale, Stream stream) {
        wsol::cuda::class_attention_backward(
            {query, key, grad_out, grad_query, grad_key, grad_logits, scale}, stream);
      },
      NoGil());
}
