// segment_mode of the CPU in one step: core/at_once.h says for what.
#pragma once

#include <stdexcept>

#include "core/at_once.h"
#include "superpixels/segment_mode.h"

namespace wsol::at_once {

namespace py = pybind11;

// (classes, labels, threads)
inline py::object segment_mode(Call call) {
  TensorView classes, labels, out;
  if (!read_plain(call.next(), classes) || !read_plain(call.next(), labels)) return py::none();
  const int threads = PyLong_AsLong(call.next());
  const bool is_integral = classes.dtype == DType::kUInt8 || classes.dtype == DType::kInt32 ||
                           classes.dtype == DType::kInt64;
  const bool has_labels = labels.dtype == DType::kInt32 || labels.dtype == DType::kInt64;
  const bool has_sizes = classes.dims == 2 || classes.dims == 3;
  if (!is_integral || !has_labels || !has_sizes || !have_one_shape(classes, labels)) {
    return py::none();
  }
  const int64_t images = classes.size(0);
  const int64_t pixels = classes.size(1) * (classes.dims == 3 ? classes.size(2) : 1);
  if (images == 0 || pixels == 0 || pixels > kMostSegmentedPixels || !is_dense(classes) ||
      !is_dense(labels)) {
    return py::none();
  }
  py::object result = dlpack::empty(classes.dtype, shape_of(classes), out);
  for (TensorView* view : {&classes, &labels, &out}) {
    view->dims = 2;
    view->shape = {images, pixels};
    view->strides = {pixels, 1};
  }
  try {
    without_gil([&] { cpu::segment_mode({classes, labels, out, {}}, threads); });
  } catch (const std::invalid_argument&) {  // a label out of its range
    return py::none();
  }
  return result;
}

}  // namespace wsol::at_once
