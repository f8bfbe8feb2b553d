// slic of the CPU in one step: core/at_once.h says for what. Of a small image right after other
// work, when what Python touches is in no cache, a tenth of the time would be Python's.
#pragma once

#include <cmath>
#include <map>
#include <tuple>

#include "core/at_once.h"
#include "core/python_tensor.h"
#include "superpixels/slic.h"

namespace wsol::at_once {

// What Python knows of an image's size and the numbers asked for: the tables of colours, and the
// grid of centres. `args` are they in an image's place; the tensors they point into are held.
struct SlicPlan {
  Slic args{};
  pybind11::object tensors;
};

// The plan that `make(images, n_segments, compactness, max_num_iter)` gives, which is asked once
// for what gives the same; null where it gives none. Its errors are Python's.
inline const SlicPlan* find_slic_plan(const TensorView& images, PyObject* const* asked,
                                      PyObject* make) {
  using Key = std::tuple<int64_t, int64_t, int64_t, double, int64_t>;
  // Never destroyed: at the interpreter's end there is nobody to give the tensors back to.
  static auto& plans = *new std::map<Key, SlicPlan>;
  PyObject *const n_segments = asked[1], *const compactness = asked[2], *const rounds = asked[3];
  if (!PyLong_CheckExact(n_segments) || !PyLong_CheckExact(rounds) ||
      !(PyFloat_CheckExact(compactness) || PyLong_CheckExact(compactness))) {
    return nullptr;
  }
  const Key key(images.size(2), images.size(3), PyLong_AsLongLong(n_segments),
                PyFloat_AsDouble(compactness), PyLong_AsLongLong(rounds));
  const bool overflows = PyErr_Occurred() != nullptr;  // a number that no 64 bits hold
  PyErr_Clear();
  if (overflows || std::isnan(std::get<3>(key))) return nullptr;  // a NaN is no key
  if (const auto known = plans.find(key); known != plans.end()) return &known->second;
  const auto made = pybind11::reinterpret_steal<pybind11::object>(
      PyObject_CallFunctionObjArgs(make, asked[0], n_segments, compactness, rounds, nullptr));
  if (!made) throw pybind11::error_already_set();
  if (made.is_none()) return nullptr;
  const auto parts = pybind11::reinterpret_borrow<pybind11::tuple>(made);
  SlicPlan plan;
  plan.tensors = made;
  if (!read_tensor(parts[0].ptr(), plan.args.linear) ||
      !read_tensor(parts[1].ptr(), plan.args.root)) {
    return nullptr;
  }
  size_t at = 2;
  for (int64_t Slic::* number :
       {&Slic::rows, &Slic::columns, &Slic::reach_y, &Slic::reach_x, &Slic::weight}) {
    plan.args.*number = parts[at++].cast<int64_t>();
  }
  plan.args.max_num_iter = std::get<4>(key);
  if (plans.size() >= 1024) plans.clear();
  return &(plans[key] = plan);
}

// (images, n_segments, compactness, max_num_iter, connect, check_values, mask, centres, slic_zero,
// convert2lab, start_label, make a plan, threads) of images (B, 3, h, w) in bytes, sRGB.
inline pybind11::object slic(Call call) {
  PyObject* const* const asked = call.given;
  TensorView images;
  if (!read_plain(call.next(), images) || images.dtype != DType::kUInt8 || images.dims != 4 ||
      images.size(1) != 3 || !is_contiguous(images, 3)) {
    return pybind11::none();
  }
  call.at += 3;  // what the plan is of
  bool connect, checks;
  if (!call.read_flag(connect) || !call.read_flag(checks)) return pybind11::none();
  const bool masked = call.next() != Py_None, centred = call.next() != Py_None;
  const bool fixed = call.next() == Py_False, guessed = call.next() == Py_None;
  PyObject* const start_label = call.next();
  const bool from_0 = PyLong_CheckExact(start_label) && PyObject_Not(start_label) == 1;
  if (masked || centred || !fixed || !guessed || !from_0) return pybind11::none();
  const SlicPlan* const plan = find_slic_plan(images, asked, call.next());
  if (plan == nullptr) return pybind11::none();
  Slic args = plan->args;
  args.images = images;
  args.connect = connect;
  const int threads = PyLong_AsLong(call.next());
  const int64_t shape[] = {images.size(0), images.size(2), images.size(3)};
  pybind11::object labels = dlpack::empty(DType::kInt32, shape, args.labels);
  without_gil([&] { cpu::slic(args, threads); });
  return labels;
}

}  // namespace wsol::at_once
