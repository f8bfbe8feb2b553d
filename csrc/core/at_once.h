// Operators of the CPU in one step from Python's arguments to its results: of small tensors the
// results are found sooner than Python checks arguments and allocates.
//
// That is for plain arguments, to whom nothing of PyTorch listens (Python has asked). All else is
// None, errors too: then Python goes the general way, which knows what to say.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <span>

#include "core/bind.h"
#include "core/call_checks.h"
#include "core/dlpack.h"

namespace wsol::at_once {

// Whether a tensor lies in the CPU's memory with the values that it has.
inline bool read_plain(PyObject* tensor, TensorView& view) {
  const TorchNames& names = TorchNames::get();
  return names.is_plain(tensor) && dlpack::read(tensor, view) == dlpack::kCpu &&
         (view.dtype == DType::kBool || call_method(tensor, names.is_neg).ptr() == Py_False);
}

inline bool is_contiguous(const TensorView& view, int dim) {
  return view.stride(dim) == 1 || view.size(dim) <= 1;
}

// Whether all of a tensor is one run of memory; it has elements.
inline bool is_dense(const TensorView& view) {
  int64_t stride = 1;
  for (int dim = view.dims; dim-- > 0; stride *= view.size(dim)) {
    if (view.size(dim) != 1 && view.stride(dim) != stride) return false;
  }
  return true;
}

inline std::span<const int64_t> shape_of(const TensorView& view) {
  return {view.shape.data(), static_cast<size_t>(view.dims)};
}

inline bool have_one_shape(const TensorView& a, const TensorView& b) {
  return std::ranges::equal(shape_of(a), shape_of(b));
}

// Arguments, one after the other.
struct Call {
  PyObject* const* given;
  int at = 0;

  PyObject* next() { return given[at++]; }
  bool next_is_true() { return PyObject_IsTrue(next()) == 1; }
  // Whether the next is true or false, and nothing else: then `flag` says which.
  bool read_flag(bool& flag) {
    PyObject* const object = next();
    flag = object == Py_True;
    return flag || object == Py_False;
  }
};

template <typename Run>
auto without_gil(const Run& run) {
  const pybind11::gil_scoped_release no_gil;
  return run();
}

template <pybind11::object (*kStep)(Call)>
pybind11::object run(PyObject* const* given) {
  return dlpack::Functions::get() == nullptr ? pybind11::none() : kStep({given});
}

// Gives Python `<name>_at_once`.
template <pybind11::object (*kStep)(Call), size_t kArguments>
void bind(pybind11::module_& module, const char* name_at_once) {
  bind_function<kArguments, run<kStep>>(module, name_at_once);
}

}  // namespace wsol::at_once
