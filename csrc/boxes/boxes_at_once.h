// The box operators of the CPU in one step: core/at_once.h says for what.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <vector>

#include "boxes/extract_boxes.h"
#include "core/at_once.h"

namespace wsol::at_once {

namespace py = pybind11;

enum class Contours { kLargest, kMostPixels, kAll };

inline std::optional<Contours> contours_of(PyObject* text) {
  if (!PyUnicode_CheckExact(text)) return {};
  const auto is = [&](const char* name) {
    return PyUnicode_CompareWithASCIIString(text, name) == 0;
  };
  if (is("largest")) return Contours::kLargest;
  if (is("most_pixels")) return Contours::kMostPixels;
  if (is("all")) return Contours::kAll;
  return {};
}

// Maps and thresholds, and how many there are of both: neither is none.
class Maps {
 public:
  bool read(PyObject* score_maps, PyObject* thresholds) {
    if (!read_plain(score_maps, maps_) || maps_.dims != 3) return false;
    for (int dim = 0; dim < 3; ++dim) {
      if (maps_.size(dim) == 0 || (dim > 0 && maps_.size(dim) > kLargestSide)) return false;
    }
    const bool is_floating = maps_.dtype == DType::kFloat32 || maps_.dtype == DType::kFloat64 ||
                             maps_.dtype == DType::kFloat16 || maps_.dtype == DType::kBFloat16;
    return is_floating && is_contiguous(maps_, 2) && read_thresholds(thresholds);
  }
  const TensorView& maps() const { return maps_; }
  const TensorView& thresholds() const { return thresholds_; }
  int64_t images() const { return maps_.size(0); }
  int64_t count() const { return thresholds_.size(0); }

 private:
  bool read_thresholds(PyObject* given) {
    if (PyFloat_CheckExact(given)) {
      numbers_.push_back(PyFloat_AS_DOUBLE(given));
    } else if (PyList_CheckExact(given) || PyTuple_CheckExact(given)) {
      for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(given); ++i) {
        PyObject* const number = PySequence_Fast_GET_ITEM(given, i);
        if (!PyFloat_CheckExact(number)) return false;
        numbers_.push_back(PyFloat_AS_DOUBLE(number));
      }
    } else {
      if (!read_plain(given, thresholds_) || thresholds_.dtype != DType::kFloat64) return false;
      if (thresholds_.dims == 0) thresholds_.dims = 1, thresholds_.shape[0] = 1;
      return thresholds_.dims == 1 && thresholds_.size(0) > 0 && is_contiguous(thresholds_, 0);
    }
    thresholds_.data = numbers_.data();
    thresholds_.dtype = DType::kFloat64;
    thresholds_.dims = 1;
    thresholds_.shape[0] = static_cast<int64_t>(numbers_.size());
    thresholds_.strides[0] = 1;
    return !numbers_.empty();
  }

  TensorView maps_, thresholds_;
  std::vector<double> numbers_;
};

// As box operators clip: to the last pixel, x1 and y1.
inline void clip(std::span<Box> boxes, const TensorView& maps) {
  const auto bottom = static_cast<int32_t>(maps.size(1) - 1);
  const auto right = static_cast<int32_t>(maps.size(2) - 1);
  for (Box& box : boxes) box.x1 = std::min(box.x1, right), box.y1 = std::min(box.y1, bottom);
}

inline py::object all_boxes(const Maps& given, bool check_values, bool clipped, int threads) {
  const int64_t ranges = given.images() * given.count();
  TensorView offsets, boxes;
  const py::object offsets_object =
      dlpack::empty(DType::kInt64, std::array<int64_t, 1>{ranges + 1}, offsets);
  int64_t* const ends = offsets.as<int64_t>() + 1;  // first as counts
  TensorView counts = offsets, status_view;
  int32_t status = 0;
  counts.data = ends;
  status_view.data = &status;
  const std::shared_ptr<ContourLists> found = without_gil([&] {
    return cpu::count_boxes({given.maps(), given.thresholds(), counts, status_view, {}}, threads);
  });
  if (check_values && status != 0) return py::none();
  ends[-1] = 0;
  for (int64_t i = 0; i < ranges; ++i) ends[i] += ends[i - 1];
  const int64_t total = ends[ranges - 1];
  const py::object boxes_object =
      dlpack::empty(DType::kInt32, std::array<int64_t, 2>{total, 4}, boxes);
  without_gil([&] {
    cpu::list_boxes({given.maps(), given.thresholds(), offsets, boxes, {}, found}, threads);
    if (clipped) clip({boxes.as<Box>(), static_cast<size_t>(total)}, given.maps());
  });
  return py::make_tuple(boxes_object, offsets_object);
}

// (score_maps, thresholds, contours, check_values, clip, threads)
inline py::object extract_boxes(Call call) {
  Maps given;
  PyObject *const score_maps = call.next(), *const thresholds = call.next();
  const std::optional<Contours> contours = contours_of(call.next());
  if (!contours || !given.read(score_maps, thresholds)) return py::none();
  bool check_values, clipped;
  if (!call.read_flag(check_values) || !call.read_flag(clipped)) return py::none();
  const int threads = PyLong_AsLong(call.next());
  if (*contours == Contours::kAll) return all_boxes(given, check_values, clipped, threads);
  TensorView boxes;
  py::object result =
      dlpack::empty(DType::kInt32, std::array<int64_t, 3>{given.images(), given.count(), 4}, boxes);
  const bool most_pixels = *contours == Contours::kMostPixels;
  const int32_t status = without_gil([&] {
    const int32_t bits =
        cpu::extract_boxes({given.maps(), given.thresholds(), boxes, {}, {}, most_pixels}, threads);
    const auto count = static_cast<size_t>(given.images() * given.count());
    if (clipped) clip({boxes.as<Box>(), count}, given.maps());
    return bits;
  });
  return check_values && status != 0 ? py::none() : result;
}

// Ground truth (B, G, 4) of the usual dtypes as contiguous float32.
class GtBoxes {
 public:
  bool read(PyObject* tensor, int64_t images) {
    if (!read_plain(tensor, view_) || view_.dims != 3) return false;
    if (view_.size(0) != images || view_.size(2) != 4) return false;
    switch (view_.dtype) {
      case DType::kFloat32:
        copy<float>();
        break;
      case DType::kFloat64:
        copy<double>();
        break;
      case DType::kInt32:
        copy<int32_t>();
        break;
      case DType::kInt64:
        copy<int64_t>();
        break;
      default:
        return false;
    }
    return true;
  }
  const TensorView& view() const { return view_; }

 private:
  template <typename T>
  void copy() {
    const auto [images, boxes, corners] = std::array{view_.size(0), view_.size(1), int64_t{4}};
    numbers_.resize(images * boxes * corners);
    float* out = numbers_.data();
    for (int64_t b = 0; b < images; ++b) {
      for (int64_t g = 0; g < boxes; ++g) {
        const T* box = view_.as<T>() + b * view_.stride(0) + g * view_.stride(1);
        for (int64_t i = 0; i < corners; ++i) *out++ = static_cast<float>(box[i * view_.stride(2)]);
      }
    }
    view_.data = numbers_.data();
    view_.dtype = DType::kFloat32;
    view_.strides = {boxes * corners, corners, 1};
  }

  TensorView view_;
  std::vector<float> numbers_;
};

// (score_maps, thresholds, gt_boxes, contours, check_values, threads)
inline py::object best_box_iou(Call call) {
  Maps given;
  GtBoxes truth;
  PyObject *const score_maps = call.next(), *const thresholds = call.next();
  PyObject* const gt_boxes = call.next();
  const std::optional<Contours> contours = contours_of(call.next());
  if (!contours || *contours == Contours::kMostPixels || !given.read(score_maps, thresholds) ||
      !truth.read(gt_boxes, given.images())) {
    return py::none();
  }
  bool check_values;
  if (!call.read_flag(check_values)) return py::none();
  const bool all = *contours == Contours::kAll;
  const int threads = PyLong_AsLong(call.next());
  TensorView best_iou;
  py::object result = dlpack::empty(
      DType::kFloat32, std::array<int64_t, 2>{given.images(), given.count()}, best_iou);
  const int32_t status = without_gil([&] {
    return cpu::best_box_iou(
        {given.maps(), given.thresholds(), truth.view(), best_iou, {}, {}, all}, threads);
  });
  return check_values && status != 0 ? py::none() : result;
}

}  // namespace wsol::at_once
