"""The operators: each a function on torch tensors, CPU or CUDA, registered as ``torch.ops.wsol.*``."""

from wsol_ext.ops.attention import class_attention, spatial_gate
from wsol_ext.ops.boxes import best_box_iou, box_iou, extract_boxes
from wsol_ext.ops.components import label_components
from wsol_ext.ops.diffusion import spatial_diffusion
from wsol_ext.ops.graphs import normalized_cut
from wsol_ext.ops.reattention import masked_reattention
from wsol_ext.ops.segments import segment_mean, segment_mode
from wsol_ext.ops.superpixels import slic
from wsol_ext.ops.token_mask import adaptive_token_mask, masked_softmax

__all__ = [
    "adaptive_token_mask",
    "best_box_iou",
    "box_iou",
    "class_attention",
    "extract_boxes",
    "label_components",
    "masked_reattention",
    "masked_softmax",
    "normalized_cut",
    "segment_mean",
    "segment_mode",
    "slic",
    "spatial_diffusion",
    "spatial_gate",
]
