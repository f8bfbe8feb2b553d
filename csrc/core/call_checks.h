// What Python asks of all arguments before it calls an operator, in one step each: a small
// operator's work is not much more than a few of Python's own steps.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <string>

#include "core/python_tensor.h"

namespace wsol {

// torch's objects that these look at; they live as long as the process.
struct TorchNames {
  PyTypeObject *tensor, *parameter;
  PyObject *strided, *is_cpu, *is_cuda, *layout, *is_neg, *is_nested, *requires_grad;

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
                        text("requires_grad")};
    }();
    return names;
  }
  bool is_plain(PyObject* object) const {
    return Py_TYPE(object) == tensor || Py_TYPE(object) == parameter;
  }
};

enum TensorsAre : int { kNotPlain = 0, kPlain = 1, kPlainWithGradient = 2 };

// Whether every tensor among the arguments (of the types Tensor and Parameter, to which the caller
// has seen) has its values in memory as they are, and whether any requires a gradient.
inline pybind11::object tensors_are(const pybind11::tuple& arguments) {
  const TorchNames& names = TorchNames::get();
  int result = kPlain;
  for (const pybind11::handle argument : arguments) {
    PyObject* const tensor = argument.ptr();
    if (!names.is_plain(tensor)) continue;
    const auto has = [&](PyObject* name) { return attribute(tensor, name).ptr() == Py_True; };
    if ((!has(names.is_cpu) && !has(names.is_cuda)) ||
        attribute(tensor, names.layout).ptr() != names.strided ||
        call_method(tensor, names.is_neg).ptr() == Py_True || has(names.is_nested)) {
      return pybind11::int_(static_cast<int>(kNotPlain));
    }
    if (result == kPlain && has(names.requires_grad)) result = kPlainWithGradient;
  }
  return pybind11::int_(result);
}

// What tells arguments apart whose tensors are of other shapes or dtypes, as a key: (bytes, what is
// no tensor). None where some tensor is not a plain one of the CPU.
inline pybind11::object shapes_and_others(const pybind11::tuple& arguments) {
  namespace py = pybind11;
  const TorchNames& names = TorchNames::get();
  const TensorNames& parts = TensorNames::get();
  const auto tensor_type = reinterpret_cast<PyTypeObject*>(names.tensor);
  std::array<int64_t, 64> shapes;
  std::array<PyObject*, 16> others;
  size_t numbers = 0, count = 0;
  for (size_t i = 0; i < arguments.size(); ++i) {
    PyObject* const argument = PyTuple_GET_ITEM(arguments.ptr(), i);
    if (!names.is_plain(argument)) {
      if (PyObject_TypeCheck(argument, tensor_type) || count == others.size()) return py::none();
      others[count++] = argument;
      continue;
    }
    if (attribute(argument, names.is_cpu).ptr() != Py_True) return py::none();
    const py::object shape = attribute(argument, parts.shape);
    const size_t dims = PyTuple_GET_SIZE(shape.ptr());
    if (numbers + dims + 3 > shapes.size()) return py::none();
    shapes[numbers++] = static_cast<int64_t>(i);
    shapes[numbers++] = static_cast<int64_t>(dims);
    // An immortal singleton, so that its address says which.
    shapes[numbers++] = reinterpret_cast<int64_t>(attribute(argument, parts.dtype).ptr());
    for (size_t d = 0; d < dims; ++d) {
      shapes[numbers++] = PyLong_AsLongLong(PyTuple_GET_ITEM(shape.ptr(), d));
    }
  }
  if (PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    return py::none();
  }
  py::tuple key(1 + count);
  key[0] = py::bytes(reinterpret_cast<const char*>(shapes.data()), numbers * sizeof(int64_t));
  for (size_t i = 0; i < count; ++i) key[i + 1] = py::handle(others[i]);
  return key;
}

// Whether any of the functions, which take no arguments, gives something true.
inline pybind11::object any_is_true(const pybind11::tuple& functions) {
  for (const pybind11::handle function : functions) {
    const auto result =
        pybind11::reinterpret_steal<pybind11::object>(PyObject_CallNoArgs(function.ptr()));
    const int is_true = result ? PyObject_IsTrue(result.ptr()) : -1;
    if (is_true < 0) throw pybind11::error_already_set();
    if (is_true > 0) return pybind11::bool_(true);
  }
  return pybind11::bool_(false);
}

// A function of a tuple, as CPython's own: pybind11's would take longer than what it does.
template <pybind11::object (*kFunction)(const pybind11::tuple&)>
PyObject* of_tuple(PyObject*, PyObject* arguments) {
  try {
    return kFunction(pybind11::reinterpret_borrow<pybind11::tuple>(arguments)).release().ptr();
  } catch (pybind11::error_already_set& error) {
    error.restore();
    return nullptr;
  }
}

inline void bind_call_checks(pybind11::module_& module) {
  static PyMethodDef definitions[] = {
      {"tensors_are", of_tuple<tensors_are>, METH_O, nullptr},
      {"any_is_true", of_tuple<any_is_true>, METH_O, nullptr},
      {"shapes_and_others", of_tuple<shapes_and_others>, METH_O, nullptr},
      {nullptr, nullptr, 0, nullptr}};
  if (PyModule_AddFunctions(module.ptr(), definitions) != 0) throw pybind11::error_already_set();
}

}  // namespace wsol
