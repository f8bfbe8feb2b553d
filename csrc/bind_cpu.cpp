// The CPU kernels as the Python module wsol_ext._cpu. Every function ends with the number of
// threads.
#include "attention/adaptive_token_mask.h"
#include "attention/class_attention.h"
#include "attention/masked_reattention.h"
#include "attention/masked_softmax.h"
#include "attention/spatial_gate.h"
#include "boxes/box_iou.h"
#include "boxes/extract_boxes.h"
#include "core/python_tensor.h"
#include "diffusion/spatial_diffusion.h"
#include "superpixels/segment_mean.h"
#include "superpixels/segment_mode.h"
#include "superpixels/slic.h"

namespace py = pybind11;
using wsol::TensorView;
using NoGil = py::call_guard<py::gil_scoped_release>;

PYBIND11_MODULE(WSOL_MODULE, module) {
  module.doc() = "CPU kernels of wsol_ext; call them through wsol_ext.ops";
  module.attr("without_cuda") = WSOL_WITHOUT_CUDA;  // why there is no wsol_ext._cuda, or ""

  module.def(
      "class_attention_forward",
      [](const TensorView& query, const TensorView& key, const TensorView& out,
         const TensorView& probabilities, double scale, int threads) {
        wsol::cpu::class_attention_forward({query, key, out, probabilities, scale}, threads);
      },
      NoGil());
  module.def(
      "class_attention_backward",
      [](const TensorView& query, const TensorView& key, const TensorView& grad_out,
         const TensorView& grad_query, const TensorView& grad_key, const TensorView& grad_logits,
         double scale, int threads) {
        wsol::cpu::class_attention_backward(
            {query, key, grad_out, grad_query, grad_key, grad_logits, scale}, threads);
      },
      NoGil());

  module.def(
      "masked_reattention_forward",
      [](const TensorView& query, const TensorView& key, const TensorView& value,
         const TensorView& keep, const TensorView& out, const TensorView& log_sum,
         const TensorView& top, double scale, double eps, int threads) {
        wsol::cpu::masked_reattention_forward(
            {query, key, value, keep, out, log_sum, top, scale, eps}, threads);
      },
      NoGil());
  module.def(
      "masked_reattention_backward",
      [](const TensorView& query, const TensorView& key, const TensorView& value,
         const TensorView& keep, const TensorView& log_sum, const TensorView& top,
         const TensorView& grad_out, const TensorView& grad_query, const TensorView& grad_key,
         const TensorView& grad_value, double scale, double eps, int threads) {
        wsol::cpu::masked_reattention_backward({query, key, value, keep, log_sum, top, grad_out,
                                                grad_query, grad_key, grad_value, scale, eps},
                                               threads);
      },
      NoGil());
  module.def(
      "adaptive_token_mask",
      [](const TensorView& attention, const TensorView& keep, double mass, int threads) {
        wsol::cpu::adaptive_token_mask({attention, keep, mass}, threads);
      },
      NoGil());
  module.def(
      "masked_softmax_forward",
      [](const TensorView& logits, const TensorView& keep, const TensorView& out, double log_eps,
         int threads) { wsol::cpu::masked_softmax_forward({logits, keep, out, log_eps}, threads); },
      NoGil());
  module.def(
      "masked_softmax_backward",
      [](const TensorView& grad_out, const TensorView& out, const TensorView& grad_logits,
         int threads) {
        wsol::cpu::masked_softmax_backward({grad_out, out, grad_logits}, threads);
      },
      NoGil());
  module.def(
      "spatial_gate_forward",
      [](const TensorView& query, const TensorView& key, const TensorView& gate, double scale,
         int threads) { wsol::cpu::spatial_gate_forward({query, key, gate, scale}, threads); },
      NoGil());
  module.def(
      "spatial_gate_backward",
      [](const TensorView& query, const TensorView& key, const TensorView& gate,
         const TensorView& grad_gate, const TensorView& grad_query, const TensorView& grad_key,
         const TensorView& grad_dots, double scale, int threads) {
        wsol::cpu::spatial_gate_backward(
            {query, key, gate, grad_gate, grad_query, grad_key, grad_dots, scale}, threads);
      },
      NoGil());

  module.def("boxes_scratch_bytes", [](int64_t, int64_t, int64_t, int64_t, bool, int) {
    return 0;  // threads keep their own
  });
  module.def(
      "extract_boxes",
      [](const TensorView& score_maps, const TensorView& thresholds, const TensorView& boxes,
         const TensorView& status, const TensorView& scratch, bool most_pixels, int threads) {
        wsol::cpu::extract_boxes({score_maps, thresholds, boxes, status, scratch, most_pixels},
                                 threads);
      },
      NoGil());
  // count_boxes returns what list_boxes takes: here the contours it found.
  py::class_<wsol::cpu::ContourLists, std::shared_ptr<wsol::cpu::ContourLists>>(module,
                                                                                "ContourLists");
  module.def(
      "count_boxes",
      [](const TensorView& score_maps, const TensorView& thresholds, const TensorView& counts,
         const TensorView& status, const TensorView& scratch, int threads) {
        return wsol::cpu::count_boxes({score_maps, thresholds, counts, status, scratch}, threads);
      },
      NoGil());
  module.def(
      "list_boxes",
      [](const TensorView& score_maps, const TensorView& thresholds, const TensorView& offsets,
         const TensorView& boxes, const wsol::cpu::ContourLists& found, int threads) {
        wsol::cpu::list_boxes({score_maps, thresholds, offsets, boxes}, found, threads);
      },
      NoGil());
  module.def(
      "best_box_iou",
      [](const TensorView& score_maps, const TensorView& thresholds, const TensorView& gt_boxes,
         const TensorView& best_iou, const TensorView& status, const TensorView& scratch,
         bool all_contours, int threads) {
        wsol::cpu::best_box_iou(
            {score_maps, thresholds, gt_boxes, best_iou, status, scratch, all_contours}, threads);
      },
      NoGil());
  module.def(
      "box_iou",
      [](const TensorView& a, const TensorView& b, const TensorView& out, bool inclusive,
         int threads) { wsol::cpu::box_iou({a, b, out, inclusive}, threads); },
      NoGil());

  module.def("spatial_diffusion_scratch", [](int64_t, int64_t, bool, int) {
    return 0;  // threads keep their own
  });
  module.def(
      "spatial_diffusion_forward",
      [](const TensorView& features, const TensorView& cam, const TensorView& strength,
         const TensorView& out, const TensorView& state, const TensorView& bounds,
         const TensorView& starts, const TensorView& coefficients, const TensorView& scratch,
         double alpha, int threads) {
        wsol::cpu::spatial_diffusion_forward(
            {features, cam, strength, out, state, {bounds, starts, coefficients}, scratch, alpha},
            threads);
      },
      NoGil());
  module.def(
      "spatial_diffusion_backward",
      [](const TensorView& grad_out, const TensorView& features, const TensorView& strength,
         const TensorView& state, const TensorView& grad_features, const TensorView& grad_cam,
         const TensorView& grad_strength, const TensorView& weights, const TensorView& bounds,
         const TensorView& starts, const TensorView& coefficients, const TensorView& scratch,
         double alpha, bool detach_start, int threads) {
        wsol::cpu::spatial_diffusion_backward({grad_out,
                                               features,
                                               strength,
                                               state,
                                               grad_features,
                                               grad_cam,
                                               grad_strength,
                                               weights,
                                               {bounds, starts, coefficients},
                                               scratch,
                                               alpha,
                                               detach_start},
                                              threads);
      },
      NoGil());

  module.def("segment_mean_scratch", [](int64_t, int64_t, int) { return 0; });
  module.def(
      "segment_mean",
      [](const TensorView& values, const TensorView& labels, const TensorView& out,
         const TensorView& scratch,
         int threads) { wsol::cpu::segment_mean({values, labels, out, scratch}, threads); },
      NoGil());
  module.def("segment_mode_scratch", [](int64_t, int64_t, int) { return 0; });
  module.def(
      "segment_mode",
      [](const TensorView& classes, const TensorView& labels, const TensorView& out,
         const TensorView& scratch,
         int threads) { wsol::cpu::segment_mode({classes, labels, out, scratch}, threads); },
      NoGil());
  module.def("slic_scratch_bytes",
             [](int64_t batch, int64_t height, int64_t width, int64_t centres, int) {
               return wsol::cpu::slic_scratch_bytes(batch, height, width, centres);
             });
  module.def(
      "slic",
      [](const TensorView& images, const TensorView& labels, const TensorView& linear,
         const TensorView& root, const TensorView& scratch, int64_t rows, int64_t columns,
         int64_t reach_y, int64_t reach_x, int64_t weight, int64_t max_num_iter, bool connect,
         int threads) {
        wsol::cpu::slic({images, labels, linear, root, scratch, rows, columns, reach_y, reach_x,
                         weight, max_num_iter, connect},
                        threads);
      },
      NoGil());
}
