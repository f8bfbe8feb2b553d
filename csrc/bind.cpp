// The kernels as a Python module: wsol_ext._cpu, wsol_ext._cuda, or, over the emulator, the tests'.
// WSOL_BACKEND is the namespace they are in, cpu or cuda. A new operator is one line here.
#include "core/bind.h"

#include "attention/adaptive_token_mask.h"
#include "attention/class_attention.h"
#include "attention/masked_reattention.h"
#include "attention/masked_softmax.h"
#include "attention/spatial_gate.h"
#include "boxes/box_iou.h"
#include "boxes/extract_boxes.h"
#include "components/label_components.h"
#include "core/call_checks.h"
#include "diffusion/spatial_diffusion.h"
#include "graphs/normalized_cut.h"
#include "pictures/resize.h"
#include "pictures/resize_maps.h"
#include "superpixels/segment_mean.h"
#include "superpixels/segment_mode.h"
#include "superpixels/slic.h"
#if defined(WSOL_EMULATOR)
#include "emulator.h"
#elif !defined(WSOL_CUDA_VERSION)
#include "attention/reattention_at_once.h"
#include "boxes/boxes_at_once.h"
#include "superpixels/segments_at_once.h"
#include "superpixels/slic_at_once.h"
#endif

namespace py = pybind11;
namespace kernels = wsol::WSOL_BACKEND;
using wsol::bind;

// Numbers that Python needs too; the same on every backend.
py::dict constants() {
  namespace slic = wsol::slic;
  py::dict table;
  table["bad_score"] = static_cast<int>(wsol::kBadScore);
  table["bad_threshold"] = static_cast<int>(wsol::kBadThreshold);
  table["bad_gt_box"] = static_cast<int>(wsol::kBadGtBox);
  table["largest_map_side"] = wsol::kLargestSide;
  table["largest_reattention_width"] = wsol::kLargestReattentionWidth;
  table["largest_reattention_eps"] = wsol::kLargestReattentionEps;
  table["most_segmented_pixels"] = wsol::kMostSegmentedPixels;
  table["most_cut_tokens"] = wsol::kMostCutTokens;
  table["resize_lanes"] = wsol::kResizeLanes;
  table["slic_colour_unit"] = slic::kColourUnit;
  table["slic_place_unit"] = slic::kPlaceUnit;
  table["slic_levels"] = slic::kLevels;
  table["slic_light_bits"] = slic::kLightBits;
  table["slic_weight_bits"] = slic::kWeightBits;
  return table;
}

PYBIND11_MODULE(WSOL_MODULE, module) {
  module.doc() = "Kernels of wsol_ext; call them through wsol_ext.ops";
#if defined(WSOL_EMULATOR)
  emulator::bind(module);
#elif defined(WSOL_CUDA_VERSION)
  module.attr("architectures") = WSOL_CUDA_ARCHITECTURES;
  module.attr("toolkit_version") = WSOL_CUDA_VERSION;
#else
  module.attr("without_cuda") = WSOL_WITHOUT_CUDA;  // why there is no wsol_ext._cuda, or ""
  wsol::bind_call_checks(module);
  bind<kernels::resize_rows>(module, "resize_rows");
  bind<kernels::resize_columns>(module, "resize_columns");
  bind<kernels::resize_maps>(module, "resize_maps");
  bind<kernels::count_boxes_in_tree_order>(module, "count_boxes_in_tree_order");
  namespace at_once = wsol::at_once;
  at_once::bind<at_once::extract_boxes, 6>(module, "extract_boxes_at_once");
  at_once::bind<at_once::best_box_iou, 6>(module, "best_box_iou_at_once");
  at_once::bind<at_once::masked_reattention, 8>(module, "masked_reattention_at_once");
  at_once::bind<at_once::masked_reattention_forward, 7>(module,
                                                        "masked_reattention_forward_at_once");
  at_once::bind<at_once::masked_reattention_backward, 16>(module,
                                                          "masked_reattention_backward_at_once");
  at_once::bind<at_once::segment_mode, 3>(module, "segment_mode_at_once");
  at_once::bind<at_once::slic, 13>(module, "slic_at_once");
#endif
  module.attr("constants") = constants();
  module.attr("largest_half_reattention_width") = kernels::kLargestHalfReattentionWidth;

  bind<kernels::adaptive_token_mask>(module, "adaptive_token_mask");
  bind<kernels::class_attention_forward, kernels::class_attention_forward_scratch_bytes>(
      module, "class_attention_forward");
  bind<kernels::class_attention_backward, kernels::class_attention_backward_scratch_bytes>(
      module, "class_attention_backward");
  bind<kernels::masked_reattention_forward>(module, "masked_reattention_forward");
  bind<kernels::masked_reattention_backward, kernels::masked_reattention_backward_scratch_bytes>(
      module, "masked_reattention_backward");
  bind<kernels::masked_softmax_forward>(module, "masked_softmax_forward");
  bind<kernels::masked_softmax_backward>(module, "masked_softmax_backward");
  bind<kernels::spatial_gate_forward>(module, "spatial_gate_forward");
  bind<kernels::spatial_gate_backward>(module, "spatial_gate_backward");

  py::class_<wsol::ContourLists, std::shared_ptr<wsol::ContourLists>>(module, "ContourLists",
                                                                      py::module_local());
  bind<kernels::extract_boxes, kernels::extract_boxes_scratch_bytes>(module, "extract_boxes");
  bind<kernels::count_boxes, kernels::count_boxes_scratch_bytes>(module, "count_boxes");
  bind<kernels::list_boxes>(module, "list_boxes");
  bind<kernels::best_box_iou, kernels::best_box_iou_scratch_bytes>(module, "best_box_iou");
  bind<kernels::box_iou>(module, "box_iou");

  py::class_<wsol::ComponentLists, std::shared_ptr<wsol::ComponentLists>>(module, "ComponentLists",
                                                                          py::module_local());
  bind<kernels::label_components, kernels::label_components_scratch_bytes>(module,
                                                                           "label_components");
  bind<kernels::measure_components, kernels::measure_components_scratch_bytes>(
      module, "measure_components");

  bind<kernels::spatial_diffusion_forward, kernels::spatial_diffusion_forward_scratch_bytes>(
      module, "spatial_diffusion_forward");
  bind<kernels::spatial_diffusion_backward, kernels::spatial_diffusion_backward_scratch_bytes>(
      module, "spatial_diffusion_backward");

  bind<kernels::normalized_cut, kernels::normalized_cut_scratch_bytes>(module, "normalized_cut");

  bind<kernels::segment_mean, kernels::segment_mean_scratch_bytes>(module, "segment_mean");
  bind<kernels::segment_mode, kernels::segment_mode_scratch_bytes>(module, "segment_mode");
  bind<kernels::slic, kernels::slic_scratch_bytes>(module, "slic");
}
