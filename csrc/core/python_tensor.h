// pybind11 caster from a torch tensor to TensorView, through the tensor's Python attributes.
#pragma once

#include <pybind11/pybind11.h>

#include "core/tensor_view.h"

namespace wsol {

inline DType dtype_of(pybind11::handle torch_dtype) {
  namespace py = pybind11;
  // torch's dtype objects are immortal singletons, so their addresses identify them.
  struct Entry {
    const PyObject* object;
    DType dtype;
  };
  static const std::array<Entry, 9> table = [] {
    const py::module_ torch = py::module_::import("torch");
    const auto entry = [&](const char* name, DType dtype) {
      return Entry{torch.attr(name).ptr(), dtype};
    };
    return std::array<Entry, 9>{
        entry("float32", DType::kFloat32), entry("bfloat16", DType::kBFloat16),
        entry("float16", DType::kFloat16), entry("float64", DType::kFloat64),
        entry("uint8", DType::kUInt8),     entry("int32", DType::kInt32),
        entry("int64", DType::kInt64),     entry("bool", DType::kBool),
        entry("int16", DType::kInt16),
    };
  }();
  for (const Entry& entry : table) {
    if (entry.object == torch_dtype.ptr()) return entry.dtype;
  }
  throw py::type_error("unsupported tensor dtype " + py::cast<std::string>(py::str(torch_dtype)));
}

}  // namespace wsol

namespace pybind11::detail {

template <>
struct type_caster<wsol::TensorView> {
  PYBIND11_TYPE_CASTER(wsol::TensorView, const_name("torch.Tensor"));

  bool load(handle tensor, bool) {
    if (!hasattr(tensor, "data_ptr")) return false;
    const tuple shape = tensor.attr("shape");
    const tuple strides = tensor.attr("stride")();
    const size_t dims = shape.size();
    if (dims > wsol::TensorView::kMaxDims) return false;
    value.data = reinterpret_cast<void*>(pybind11::cast<uintptr_t>(tensor.attr("data_ptr")()));
    value.dtype = wsol::dtype_of(tensor.attr("dtype"));
    value.dims = static_cast<int>(dims);
    for (size_t i = 0; i < dims; ++i) {
      value.shape[i] = pybind11::cast<int64_t>(shape[i]);
      value.strides[i] = pybind11::cast<int64_t>(strides[i]);
    }
    return true;
  }
};

}  // namespace pybind11::detail
