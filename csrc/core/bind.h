// Gives kernels to Python: bind<cpu::box_iou>(module, "box_iou").
//
// A kernel is `Result f(const Args&, Last)`, where Args is a plain struct and Last a number of
// threads or a stream. Python passes the members of Args in their order, then Last: the struct is
// the one place that lists an operator's arguments.
#pragma once

#include <pybind11/pybind11.h>

#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "core/python_tensor.h"

namespace wsol {

// An argument from Python: whatever type the member has that it initializes.
struct Argument {
  PyObject* object = nullptr;
  size_t position = 0;

  template <typename T>
  operator T() const {
    pybind11::detail::make_caster<T> caster;
    if (!caster.load(object, /*convert=*/true)) {
      throw pybind11::type_error("argument " + std::to_string(position) + " of " +
                                 Py_TYPE(object)->tp_name + " cannot be what the kernel takes");
    }
    return pybind11::detail::cast_op<T>(std::move(caster));
  }
};

// How many members a plain struct has.
template <typename Args, typename... Members>
consteval size_t count_members() {
  if constexpr (requires { Args{Members{}..., Argument{}}; }) {
    return count_members<Args, Members..., Argument>();
  } else {
    return sizeof...(Members);
  }
}

// What a C++ exception is in Python, as pybind11's own calls have it.
inline void set_python_error() {
  namespace py = pybind11;
  try {
    throw;
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const py::builtin_exception& error) {
    error.set_error();
  } catch (const std::bad_alloc& error) {
    PyErr_SetString(PyExc_MemoryError, error.what());
  } catch (const std::invalid_argument& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
}

// Gives Python a function of so many arguments, which kFunction gets as they are, for an object. It
// is of CPython's own type: pybind11's resolves overloads and packs arguments, which takes longer
// than all else here.
template <size_t kArguments, auto kFunction>
void bind_function(pybind11::module_& module, const char* name) {
  PyObject* (*const call)(PyObject*, PyObject* const*, Py_ssize_t) =
      [](PyObject*, PyObject* const* given, Py_ssize_t count) -> PyObject* {
    try {
      if (count != kArguments) {
        throw pybind11::type_error(std::to_string(count) + " arguments, there should be " +
                                   std::to_string(kArguments));
      }
      return kFunction(given).release().ptr();
    } catch (...) {
      set_python_error();
      return nullptr;
    }
  };
  static PyMethodDef definition{name,
                                reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call)),
                                METH_FASTCALL, nullptr};
  module.attr(name) = pybind11::reinterpret_steal<pybind11::object>(
      PyCFunction_NewEx(&definition, nullptr, module.attr("__name__").ptr()));
}

template <auto kKernel>
struct Kernel;

template <typename Result, typename Args, typename Last, Result (*kKernel)(const Args&, Last)>
struct Kernel<kKernel> {
  static constexpr size_t kMembers = count_members<Args>();

  static pybind11::object call(PyObject* const* given) {
    const auto at = [&](size_t i) { return Argument{given[i], i}; };
    const Args args = [&]<size_t... kIndex>(std::index_sequence<kIndex...>) {
      return Args{at(kIndex)...};
    }(std::make_index_sequence<kMembers>());
    const Last last = at(kMembers);
    if constexpr (std::is_void_v<Result>) {
      run(args, last);
      return pybind11::none();
    } else {
      return pybind11::cast(run(args, last));
    }
  }

 private:
  static Result run(const Args& args, Last last) {
    const pybind11::gil_scoped_release no_gil;
    return kKernel(args, last);
  }
};

template <auto kKernel>
void bind(pybind11::module_& module, const char* name) {
  using Bound = Kernel<kKernel>;
  bind_function<Bound::kMembers + 1, Bound::call>(module, name);
}

// The same, and, as `<name>_scratch_bytes`, how much scratch the kernel needs for given sizes.
template <auto kKernel, auto kScratchBytes>
void bind(pybind11::module_& module, const char* name) {
  bind<kKernel>(module, name);
  module.def((std::string(name) + "_scratch_bytes").c_str(), kScratchBytes);
}

}  // namespace wsol
