// slic of the CPU in one step: core/at_once.h says for what.
#pragma once

#include "core/at_once.h"
#include "core/python_tensor.h"
#include "superpixels/slic.h"

namespace wsol::at_once {

// (images, linear, root, rows, columns, reach_y, reach_x, weight, max_num_iter, connect, threads) of
// images (B, 3, h, w) in bytes, none of whose sizes is 0.
inline pybind11::object slic(Call call) {
  Slic args{};
  if (!read_plain(call.next(), args.images)) return pybind11::none();
  const TensorView& images = args.images;
  if (!is_contiguous(images, 3) || !read_tensor(call.next(), args.linear) ||
      !read_tensor(call.next(), args.root)) {
    return pybind11::none();
  }
  for (int64_t* number : {&args.rows, &args.columns, &args.reach_y, &args.reach_x, &args.weight,
                          &args.max_num_iter}) {
    *number = PyLong_AsLongLong(call.next());
  }
  args.connect = call.next_is_true();
  const int threads = PyLong_AsLong(call.next());
  if (PyErr_Occurred() != nullptr) throw pybind11::error_already_set();
  const int64_t shape[] = {images.size(0), images.size(2), images.size(3)};
  pybind11::object labels = dlpack::empty(DType::kInt32, shape, args.labels);
  without_gil([&] { cpu::slic(args, threads); });
  return labels;
}

}  // namespace wsol::at_once
