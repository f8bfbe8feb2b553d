"""The operators: each a function on torch tensors, CPU or CUDA, registered as ``torch.ops.wsol.*``."""

from wsol_ext.ops.attention import class_attention
from wsol_ext.ops.boxes import best_box_iou, box_iou, extract_boxes
from wsol_ext.ops.reattention import masked_reattention

__all__ = [
    "best_box_iou",
    "box_iou",
    "class_attention",
    "extract_boxes",
    "masked_reattention",
]
