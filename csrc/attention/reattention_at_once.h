// masked_reattention of the CPU in one step: core/at_once.h says for what.
#pragma once

#include <cmath>

#include "attention/masked_reattention.h"
#include "core/at_once.h"

namespace wsol::at_once {

namespace py = pybind11;

// Query, key, value and mask as the kernels read them.
struct Tokens {
  TensorView query, key, value, keep;

  bool read(Call& call) {
    for (TensorView* rows : {&query, &key, &value}) {
      if (!read_plain(call.next(), *rows) || !are_rows_as(*rows, query)) return false;
    }
    const bool has_values = query.size(0) > 0 && query.size(1) > 0 && query.size(2) > 0 &&
                            query.size(3) > 0 && query.size(3) <= kLargestReattentionWidth;
    return has_values && read_plain(call.next(), keep) && keep.dtype == DType::kBool &&
           keep.dims == 2 && keep.size(0) == query.size(0) && keep.size(1) == query.size(2) &&
           is_dense(keep);
  }
  static bool are_rows_as(const TensorView& rows, const TensorView& query) {
    return (rows.dtype == DType::kFloat32 || rows.dtype == DType::kFloat64) && rows.dims == 4 &&
           rows.dtype == query.dtype && have_one_shape(rows, query) && is_contiguous(rows, 3);
  }
  // Of a number of each query.
  std::span<const int64_t> sizes() const { return shape_of(query).first(3); }
};

struct Factors {
  double scale, eps;

  bool read(Call& call, const TensorView& query) {
    PyObject *const given_scale = call.next(), *const given_eps = call.next();
    if (!PyFloat_CheckExact(given_eps)) return false;
    eps = PyFloat_AS_DOUBLE(given_eps);
    if (given_scale == Py_None) {
      scale = std::pow(static_cast<double>(query.size(3)), -0.5);
    } else if (PyFloat_CheckExact(given_scale)) {
      scale = PyFloat_AS_DOUBLE(given_scale);
    } else {
      return false;
    }
    return std::isfinite(scale) && eps >= 0 && eps <= kLargestReattentionEps;
  }
};

// (query, key, value, keep, scale, eps, with_gradient, threads); `with_gradient` takes the first
// six, and is called where a gradient is wanted.
inline py::object masked_reattention(Call call) {
  PyObject* const* const arguments = call.given;
  Tokens tokens;
  Factors factors;
  if (!tokens.read(call) || !factors.read(call, tokens.query)) return py::none();
  PyObject* const with_gradient = call.next();
  if (grad_mode_is_on() &&
      (requires_grad(arguments[0]) || requires_grad(arguments[1]) || requires_grad(arguments[2]))) {
    PyObject* const result = PyObject_Vectorcall(with_gradient, arguments, 6, nullptr);
    if (result == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(result);
  }
  const int threads = PyLong_AsLong(call.next());
  TensorView out;
  py::object result = dlpack::empty(tokens.query.dtype, shape_of(tokens.query), out);
  without_gil([&] {
    cpu::masked_reattention_forward({tokens.query,
                                     tokens.key,
                                     tokens.value,
                                     tokens.keep,
                                     out,
                                     {},
                                     {},
                                     {},
                                     {},
                                     factors.scale,
                                     factors.eps},
                                    threads);
  });
  return result;
}

// (query, key, value, keep, scale, eps, threads): out, and log_sum, top, order and mean_value for
// the gradient, the last two empty: the CPU keeps none.
inline py::object masked_reattention_forward(Call call) {
  Tokens tokens;
  Factors factors;
  if (!tokens.read(call) || !factors.read(call, tokens.query)) return py::none();
  const int threads = PyLong_AsLong(call.next());
  TensorView out, log_sum, top, order, mean_value;
  const int64_t none[] = {0};
  py::tuple results(5);
  results[0] = dlpack::empty(tokens.query.dtype, shape_of(tokens.query), out);
  results[1] = dlpack::empty(tokens.query.dtype, tokens.sizes(), log_sum);
  results[2] = dlpack::empty(DType::kInt32, tokens.sizes(), top);
  results[3] = dlpack::empty(DType::kInt32, none, order);
  results[4] = dlpack::empty(tokens.query.dtype, none, mean_value);
  without_gil([&] {
    cpu::masked_reattention_forward({tokens.query, tokens.key, tokens.value, tokens.keep, out,
                                     log_sum, top, order, mean_value, factors.scale, factors.eps},
                                    threads);
  });
  return results;
}

// (query, key, value, keep, out, log_sum, top, order, mean_value, grad_out, scale, eps,
// query_wanted, key_wanted, value_wanted, threads): the gradients, None for those that nobody
// wants.
inline py::object masked_reattention_backward(Call call) {
  Tokens tokens;
  Factors factors;
  TensorView out, log_sum, top, order, mean_value, grad_out;
  if (!tokens.read(call)) return py::none();
  for (TensorView* saved : {&out, &log_sum, &top, &order, &mean_value, &grad_out}) {
    if (!read_plain(call.next(), *saved)) return py::none();
  }
  if (!factors.read(call, tokens.query)) return py::none();
  const auto is_of_queries = [&](const TensorView& saved, DType dtype) {
    return saved.dtype == dtype && is_dense(saved) &&
           std::ranges::equal(shape_of(saved), tokens.sizes());
  };
  if (!is_of_queries(log_sum, tokens.query.dtype) || !is_of_queries(top, DType::kInt32) ||
      !Tokens::are_rows_as(grad_out, tokens.query)) {
    return py::none();
  }
  std::array<TensorView, 3> gradients;
  py::tuple results(3);
  for (int i = 0; i < 3; ++i) {
    results[i] = call.next_is_true()
                     ? dlpack::empty(tokens.query.dtype, shape_of(tokens.query), gradients[i])
                     : py::none();
  }
  const int threads = PyLong_AsLong(call.next());
  without_gil([&] {
    cpu::masked_reattention_backward({tokens.query,
                                      tokens.key,
                                      tokens.value,
                                      tokens.keep,
                                      out,
                                      log_sum,
                                      top,
                                      order,
                                      mean_value,
                                      grad_out,
                                      gradients[0],
                                      gradients[1],
                                      gradients[2],
                                      {},
                                      factors.scale,
                                      factors.eps},
                                     threads);
  });
  return results;
}

}  // namespace wsol::at_once
