// What Python asks of all arguments before it calls an operator, in one step each: a small
// operator's work is not much more than a few of Python's own steps.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <array>

#include "core/bind.h"
#include "core/python_tensor.h"

namespace wsol {

// torch's objects that these look at; they live as long as the process.
struct TorchNames {
  PyTypeObject *tensor, *parameter;
  PyObject *strided, *is_cpu, *is_cuda, *layout, *is_neg, *is_nested, *requires_grad,
      *is_grad_enabled;

  static const TorchNames& get() {
    namespace py = pybind11;
    static const TorchNames names = [] {
      const auto kept = [](const char* module, const char* name) {
        return py::object(py::module_::import(module).attr(name)).release().ptr();
      };
      const auto text = PyUnicode_InternFromString;
      return TorchNames{reinterpret_cast<PyTypeObject*>(kept("torch", "Tensor")),
                        reinterpret_cast<PyTypeObject*>(kept("torch.nn", "Parameter")),
                        kept("torch", "strided"),
                        text("is_cpu"),
                        text("is_cuda"),
                        text("layout"),
                        text("is_neg"),
                        text("is_nested"),
                        text("requires_grad"),
                        kept("torch", "is_grad_enabled")};
    }();
    return names;
  }
  bool is_plain(PyObject* object) const {
    return Py_TYPE(object) == tensor || Py_TYPE(object) == parameter;
  }
};

// How an operator may be called: through PyTorch's dispatcher, or its kernel at once, without or
// with a gradient. Of types of arguments that were not seen yet, Python has to find out.
enum Way : int { kDispatch = 0, kAlone = 1, kWithGradient = 2, kUnseenTypes = 3 };

// Whether a tensor has its values in memory of the CPU or a GPU as they are.
inline bool is_in_memory(PyObject* tensor, const TorchNames& names) {
  dlpack::Tensor found;
  if (dlpack::ask(tensor, found)) {
    if (found.device_type != dlpack::kCpu && found.device_type != dlpack::kCuda) return false;
    if (found.type_code == dlpack::kBool) return true;  // it has no sign
  } else {
    const auto has = [&](PyObject* name) { return attribute(tensor, name).ptr() == Py_True; };
    if ((!has(names.is_cpu) && !has(names.is_cuda)) ||
        attribute(tensor, names.layout).ptr() != names.strided || has(names.is_nested)) {
      return false;
    }
  }
  return call_method(tensor, names.is_neg).ptr() != Py_True;
}

// Whether any of the functions, which take nothing, gives something true.
inline bool any_says_so(PyObject* functions) {
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(functions); ++i) {
    PyObject* const said = PyObject_CallNoArgs(PyTuple_GET_ITEM(functions, i));
    if (said == nullptr) throw pybind11::error_already_set();
    const int is_true = PyObject_IsTrue(said);
    Py_DECREF(said);
    if (is_true < 0) throw pybind11::error_already_set();
    if (is_true == 1) return true;
  }
  return false;
}

inline bool types_are_among(PyObject* seen, PyObject* arguments) {
  const Py_ssize_t count = PyTuple_GET_SIZE(arguments);
  const pybind11::tuple types(count);
  for (Py_ssize_t i = 0; i < count; ++i) {
    types[i] =
        pybind11::handle(reinterpret_cast<PyObject*>(Py_TYPE(PyTuple_GET_ITEM(arguments, i))));
  }
  const int found = PySet_Contains(seen, types.ptr());
  if (found < 0) throw pybind11::error_already_set();
  return found == 1;
}

inline bool requires_grad(PyObject* tensor) {
  return attribute(tensor, TorchNames::get().requires_grad).ptr() == Py_True;
}

inline bool grad_mode_is_on() {
  PyObject* const said = PyObject_CallNoArgs(TorchNames::get().is_grad_enabled);
  if (said == nullptr) throw pybind11::error_already_set();
  Py_DECREF(said);  // True or False, which stay
  return said == Py_True;
}

// The way of a call. `seen` are tuples of types, among tensors' only Tensor and Parameter;
// `listeners` give something true while somebody wants to know of calls.
inline Way way_of_call(PyObject* arguments, PyObject* seen, PyObject* listeners) {
  if (!types_are_among(seen, arguments)) return kUnseenTypes;
  if (any_says_so(listeners)) return kDispatch;
  const TorchNames& names = TorchNames::get();
  Way way = kAlone;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(arguments); ++i) {
    PyObject* const argument = PyTuple_GET_ITEM(arguments, i);
    if (!names.is_plain(argument)) continue;
    if (!is_in_memory(argument, names)) return kDispatch;
    if (way == kAlone && requires_grad(argument)) way = kWithGradient;
  }
  return way;
}

// What of a tensor decides which call it is: dtype, device, sizes, and whether all of it, or each
// of its rows, is one run of memory. Numbers behind each other in a key.
class CallKey {
 public:
  // Whether there was room, and the tensor could be asked.
  bool add(size_t position, PyObject* tensor, const TorchNames& names) {
    dlpack::Tensor found;
    if (dlpack::ask(tensor, found)) {
      return add(position, dtype_number(found), device_number(found), found.dims, found.shape,
                 found.strides);
    }
    TensorView view;
    const pybind11::object dtype = attribute(tensor, TensorNames::get().dtype);
    if (attribute(tensor, names.is_cpu).ptr() != Py_True ||
        !read_sizes_by_attributes(tensor, view)) {
      return false;
    }
    // An immortal singleton, so that its address says which.
    return add(position, reinterpret_cast<int64_t>(dtype.ptr()), 0, view.dims, view.shape.data(),
               view.strides.data());
  }
  pybind11::bytes bytes() const {
    return {reinterpret_cast<const char*>(numbers_.data()), count_ * sizeof(int64_t)};
  }

 private:
  static int64_t dtype_number(const dlpack::Tensor& tensor) {
    return tensor.type_code << 24 | tensor.type_bits << 16 | tensor.type_lanes;
  }
  static int64_t device_number(const dlpack::Tensor& tensor) {
    return static_cast<int64_t>(tensor.device_type) << 32 | tensor.device_index;
  }

  bool add(size_t position, int64_t dtype, int64_t device, int dims, const int64_t* shape,
           const int64_t* strides) {
    if (count_ + dims + 5 > numbers_.size()) return false;
    bool is_dense = true;
    int64_t dense_stride = 1;
    for (int d = dims - 1; d >= 0; --d) {
      is_dense &= shape[d] == 1 || strides[d] == dense_stride;
      dense_stride *= shape[d];
    }
    const bool has_dense_rows = dims > 0 && (shape[dims - 1] <= 1 || strides[dims - 1] == 1);
    const bool is_empty = dense_stride == 0;
    for (const int64_t number :
         {static_cast<int64_t>(position), static_cast<int64_t>(dims), dtype, device,
          static_cast<int64_t>(is_dense || is_empty) << 1 | has_dense_rows}) {
      numbers_[count_++] = number;
    }
    std::copy_n(shape, dims, numbers_.begin() + count_);
    count_ += dims;
    return true;
  }

  std::array<int64_t, 96> numbers_;
  size_t count_ = 0;
};

// What tells calls apart, as a key: (CallKey of the tensors, what is no tensor). None where some
// tensor is not a plain one in memory.
inline pybind11::object call_key(const pybind11::tuple& arguments) {
  namespace py = pybind11;
  const TorchNames& names = TorchNames::get();
  const auto tensor_type = reinterpret_cast<PyTypeObject*>(names.tensor);
  CallKey tensors;
  std::array<PyObject*, 16> others;
  size_t count = 0;
  for (size_t i = 0; i < arguments.size(); ++i) {
    PyObject* const argument = PyTuple_GET_ITEM(arguments.ptr(), i);
    if (names.is_plain(argument)) {
      if (!tensors.add(i, argument, names)) return py::none();
    } else {
      if (PyObject_TypeCheck(argument, tensor_type) || count == others.size()) return py::none();
      others[count++] = argument;
    }
  }
  py::tuple key(1 + count);
  key[0] = tensors.bytes();
  for (size_t i = 0; i < count; ++i) key[i + 1] = py::handle(others[i]);
  return key;
}

inline void bind_call_checks(pybind11::module_& module) {
  namespace py = pybind11;
  bind_function<3, [](PyObject* const* given) -> py::object {
    return py::int_(static_cast<int>(way_of_call(given[0], given[1], given[2])));
  }>(module, "way_of_call");
  bind_function<1, [](PyObject* const* given) -> py::object {
    return call_key(py::reinterpret_borrow<py::tuple>(given[0]));
  }>(module, "call_key");
  bind_function<1, [](PyObject* const* given) -> py::object {
    return py::bool_(any_says_so(given[0]));
  }>(module, "any_says_so");
}

}  // namespace wsol
