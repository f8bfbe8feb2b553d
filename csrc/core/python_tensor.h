// A torch tensor as a TensorView: by torch's own function for DLPack, some 20 ns, where this torch
// has one, else through the tensor's Python attributes.
//
// Those by CPython's own calls: each is some 50 ns, and a small operator's work is not much more
// than all of them.
#pragma once

#include <pybind11/pybind11.h>

#include "core/dlpack.h"
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

// What is asked of a tensor, found once.
struct TensorNames {
  PyObject *tensor_type, *shape, *stride, *data_ptr, *dtype;

  static const TensorNames& get() {
    static const TensorNames names{
        pybind11::object(pybind11::module_::import("torch").attr("Tensor")).release().ptr(),
        PyUnicode_InternFromString("shape"), PyUnicode_InternFromString("stride"),
        PyUnicode_InternFromString("data_ptr"), PyUnicode_InternFromString("dtype")};
    return names;
  }
};

inline pybind11::object attribute(PyObject* object, PyObject* name) {
  PyObject* const found = PyObject_GetAttr(object, name);
  if (found == nullptr) throw pybind11::error_already_set();
  return pybind11::reinterpret_steal<pybind11::object>(found);
}

inline pybind11::object call_method(PyObject* object, PyObject* name) {
  PyObject* const found = PyObject_VectorcallMethod(name, &object, 1, nullptr);
  if (found == nullptr) throw pybind11::error_already_set();
  return pybind11::reinterpret_steal<pybind11::object>(found);
}

inline bool read_sizes_by_attributes(PyObject* tensor, TensorView& view) {
  const TensorNames& names = TensorNames::get();
  const pybind11::object shape = attribute(tensor, names.shape);
  const pybind11::object strides = call_method(tensor, names.stride);
  const Py_ssize_t dims = PyTuple_GET_SIZE(shape.ptr());
  if (dims > TensorView::kMaxDims) return false;
  view.dims = static_cast<int>(dims);
  for (Py_ssize_t i = 0; i < dims; ++i) {
    view.shape[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(shape.ptr(), i));
    view.strides[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(strides.ptr(), i));
  }
  if (PyErr_Occurred() != nullptr) throw pybind11::error_already_set();
  return true;
}

inline bool read_by_attributes(PyObject* tensor, TensorView& view) {
  if (!read_sizes_by_attributes(tensor, view)) return false;
  const TensorNames& names = TensorNames::get();
  view.data = PyLong_AsVoidPtr(call_method(tensor, names.data_ptr).ptr());
  view.dtype = dtype_of(attribute(tensor, names.dtype));
  if (PyErr_Occurred() != nullptr) throw pybind11::error_already_set();
  return true;
}

// Of None, a view of nothing: memory that the kernel does without, or a result that nobody wants.
// Returns whether the object is one of both.
inline bool read_tensor(PyObject* object, TensorView& view) {
  if (object == Py_None) return true;
  const auto tensor_type = reinterpret_cast<PyTypeObject*>(TensorNames::get().tensor_type);
  if (!PyObject_TypeCheck(object, tensor_type)) return false;
  return dlpack::read(object, view) != 0 || read_by_attributes(object, view);
}

}  // namespace wsol

namespace pybind11::detail {

template <>
struct type_caster<wsol::TensorView> {
  PYBIND11_TYPE_CASTER(wsol::TensorView, const_name("torch.Tensor"));

  bool load(handle tensor, bool) { return wsol::read_tensor(tensor.ptr(), value); }
};

}  // namespace pybind11::detail
