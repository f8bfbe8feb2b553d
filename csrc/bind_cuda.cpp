// The CUDA kernels as the Python module wsol_ext._cuda, or, over the emulator, as the tests'
// module. Every function ends with the stream to run on.
#define WSOL_WITH_CUDA
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
using wsol::cuda::Stream;
using NoGil = py::call_guard<py::gil_scoped_release>;

PYBIND11_MODULE(WSOL_MODULE, module) {
  module.doc() = "CUDA kernels of wsol_ext; call them through wsol_ext.ops";
#if defined(WSOL_EMULATOR)
  emulator::bind(module);
#else
  module.attr("architectures") = WSOL_CUDA_ARCHITECTURES;
  module.attr("toolkit_version") = WSOL_CUDA_VERSION;
#endif

  module.def(
      "class_attention_forward",
      [](const TensorView& query, const TensorView& key, const TensorView& out,
         const TensorView& probabilities, double scale, Stream stream) {
        wsol::cuda::class_attention_forward({query, key, out, probabilities, scale}, stream);
      },
      NoGil());
  module.def(
      "class_attention_backward",
      [](const TensorView& query, const TensorView& key, const TensorView& grad_out,
         const TensorView& grad_query, const TensorView& grad_key, const TensorView& grad_logits,
         double scale, Stream stream) {
        wsol::cuda::class_attention_backward(
            {query, key, grad_out, grad_query, grad_key, grad_logits, scale}, stream);
      },
      NoGil());

  module.def(
      "masked_reattention_forward",
      [](const TensorView& query, const TensorView& key, const TensorView& value,
         const TensorView& keep, const TensorView& order, const TensorView& kept,
         const TensorView& mean_value, const TensorView& out, const TensorView& log_sum,
         const TensorView& top, double scale, double eps, Stream stream) {
        wsol::cuda::masked_reattention_forward(
            {{query, key, value, keep, order, kept, mean_value, scale, eps}, out, log_sum, top},
            stream);
      },
      NoGil());
  module.def(
      "masked_reattention_backward",
      [](const TensorView& query, const TensorView& key, const TensorView& value,
         const TensorView& keep, const TensorView& order, const TensorView& kept,
         const TensorView& mean_value, const TensorView& grad_out, const TensorView& out,
         const TensorView& log_sum, const TensorView& top, const TensorView& grad_query,
         const TensorView& grad_key, const TensorView& grad_value, const TensorView& row_terms,
         const TensorView& grad_mean, double scale, double eps, Stream stream) {
        wsol::cuda::masked_reattention_backward(
            {{query, key, value, keep, order, kept, mean_value, scale, eps},
             grad_out,
             out,
             log_sum,
             top,
             grad_query,
             grad_key,
             grad_value,
             row_terms,
             grad_mean},
            stream);
      },
      NoGil());
  module.def(
      "adaptive_token_mask",
      [](const TensorView& attention, const TensorView& keep, double mass, Stream stream) {
        wsol::cuda::adaptive_token_mask({attention, keep, mass}, stream);
      },
      NoGil());
  module.def(
      "masked_softmax_forward",
      [](const TensorView& logits, const TensorView& keep, const TensorView& out, double log_eps,
         Stream stream) {
        wsol::cuda::masked_softmax_forward({logits, keep, out, log_eps}, stream);
      },
      NoGil());
  module.def(
      "masked_softmax_backward",
      [](const TensorView& grad_out, const TensorView& out, const TensorView& grad_logits,
         Stream stream) {
        wsol::cuda::masked_softmax_backward({grad_out, out, grad_logits}, stream);
      },
      NoGil());
  module.def(
      "spatial_gate_forward",
      [](const TensorView& query, const TensorView& key, const TensorView& gate, double scale,
         Stream stream) { wsol::cuda::spatial_gate_forward({query, key, gate, scale}, stream); },
      NoGil());
  module.def(
      "spatial_gate_backward",
      [](const TensorView& query, const TensorView& key, const TensorView& gate,
         const TensorView& grad_gate, const TensorView& grad_query, const TensorView& grad_key,
         const TensorView& grad_dots, double scale, Stream stream) {
        wsol::cuda::spatial_gate_backward(
            {query, key, gate, grad_gate, grad_query, grad_key, grad_dots, scale}, stream);
      },
      NoGil());

  module.def("boxes_scratch_bytes", [](int64_t images, int64_t height, int64_t width,
                                       int64_t thresholds, bool all_contours, Stream) {
    return wsol::cuda::boxes_scratch_bytes(images, height, width, thresholds, all_contours);
  });
  module.def(
      "extract_boxes",
      [](const TensorView& score_maps, const TensorView& thresholds, const TensorView& boxes,
         const TensorView& status, const TensorView& scratch, bool most_pixels, Stream stream) {
        wsol::cuda::extract_boxes({score_maps, thresholds, boxes, status, scratch, most_pixels},
                                  stream);
      },
      NoGil());
  // count_boxes returns what list_boxes takes: here its scratch.
  module.def("count_boxes", [](const TensorView& score_maps, const TensorView& thresholds,
                               const TensorView& counts, const TensorView& status,
                               const py::object& scratch, Stream stream) {
    const auto memory = py::cast<TensorView>(scratch);
    {
      const py::gil_scoped_release no_gil;
      wsol::cuda::count_boxes({score_maps, thresholds, counts, status, memory}, stream);
    }
    return scratch;
  });
  module.def(
      "list_boxes",
      [](const TensorView& score_maps, const TensorView& thresholds, const TensorView& offsets,
         const TensorView& boxes, const TensorView& scratch, Stream stream) {
        wsol::cuda::list_boxes({score_maps, thresholds, offsets, boxes}, scratch, stream);
      },
      NoGil());
  module.def(
      "best_box_iou",
      [](const TensorView& score_maps, const TensorView& thresholds, const TensorView& gt_boxes,
         const TensorView& best_iou, const TensorView& status, const TensorView& scratch,
         bool all_contours, Stream stream) {
        wsol::cuda::best_box_iou(
            {score_maps, thresholds, gt_boxes, best_iou, status, scratch, all_contours}, stream);
      },
      NoGil());
  module.def(
      "box_iou",
      [](const TensorView& a, const TensorView& b, const TensorView& out, bool inclusive,
         Stream stream) { wsol::cuda::box_iou({a, b, out, inclusive}, stream); },
      NoGil());

  module.def("spatial_diffusion_scratch", [](int64_t height, int64_t width, bool backward, Stream) {
    return wsol::cuda::spatial_diffusion_scratch(height, width, backward);
  });
  module.def(
      "spatial_diffusion_forward",
      [](const TensorView& features, const TensorView& cam, const TensorView& strength,
         const TensorView& out, const TensorView& state, const TensorView& bounds,
         const TensorView& starts, const TensorView& coefficients, const TensorView& scratch,
         double alpha, Stream stream) {
        wsol::cuda::spatial_diffusion_forward(
            {features, cam, strength, out, state, {bounds, starts, coefficients}, scratch, alpha},
            stream);
      },
      NoGil());
  module.def(
      "spatial_diffusion_backward",
      [](const TensorView& grad_out, const TensorView& features, const TensorView& strength,
         const TensorView& state, const TensorView& grad_features, const TensorView& grad_cam,
         const TensorView& grad_strength, const TensorView& weights, const TensorView& bounds,
         const TensorView& starts, const TensorView& coefficients, const TensorView& scratch,
         double alpha, bool detach_start, Stream stream) {
        wsol::cuda::spatial_diffusion_backward({grad_out,
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
                                               stream);
      },
      NoGil());

  module.def("segment_mean_scratch", [](int64_t images, int64_t pixels, Stream) {
    return wsol::cuda::segment_mean_scratch(images, pixels);
  });
  module.def(
      "segment_mean",
      [](const TensorView& values, const TensorView& labels, const TensorView& out,
         const TensorView& scratch,
         Stream stream) { wsol::cuda::segment_mean({values, labels, out, scratch}, stream); },
      NoGil());
  module.def("segment_mode_scratch", [](int64_t images, int64_t pixels, Stream) {
    return wsol::cuda::segment_mode_scratch(images, pixels);
  });
  module.def(
      "segment_mode",
      [](const TensorView& classes, const TensorView& labels, const TensorView& out,
         const TensorView& scratch,
         Stream stream) { wsol::cuda::segment_mode({classes, labels, out, scratch}, stream); },
      NoGil());
  module.def("slic_scratch_bytes",
             [](int64_t batch, int64_t height, int64_t width, int64_t centres, Stream) {
               return wsol::cuda::slic_scratch_bytes(batch, height, width, centres);
             });
  module.def(
      "slic",
      [](const TensorView& images, const TensorView& labels, const TensorView& linear,
         const TensorView& root, const TensorView& scratch, int64_t rows, int64_t columns,
         int64_t reach_y, int64_t reach_x, int64_t weight, int64_t max_num_iter, bool connect,
         Stream stream) {
        wsol::cuda::slic({images, labels, linear, root, scratch, rows, columns, reach_y, reach_x,
                          weight, max_num_iter, connect},
                         stream);
      },
      NoGil());
}
