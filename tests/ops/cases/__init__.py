"""The operators' table: an entry for every public operator and way to call it. What an entry says: `contract.py`."""

from ops.cases.attention import CLASS_ATTENTION, SPATIAL_GATE
from ops.cases.boxes import (
    ALL_BOXES,
    BEST_BOX_IOU,
    BEST_BOX_IOU_OF_FLOATS,
    BOX_IOU,
    LARGEST_BOX,
    MOST_PIXELS_BOX,
)
from ops.cases.diffusion import SPATIAL_DIFFUSION, SPATIAL_DIFFUSION_BY_A_NUMBER
from ops.cases.reattention import MASKED_REATTENTION
from ops.cases.superpixels import SEGMENT_MEAN, SEGMENT_MODE, SLIC
from ops.cases.token_masks import ADAPTIVE_TOKEN_MASK, MASKED_SOFTMAX

CASES = (
    CLASS_ATTENTION,
    SPATIAL_GATE,
    MASKED_REATTENTION,
    ADAPTIVE_TOKEN_MASK,
    MASKED_SOFTMAX,
    SPATIAL_DIFFUSION,
    SPATIAL_DIFFUSION_BY_A_NUMBER,
    SLIC,
    SEGMENT_MEAN,
    SEGMENT_MODE,
    LARGEST_BOX,
    MOST_PIXELS_BOX,
    ALL_BOXES,
    BEST_BOX_IOU,
    BEST_BOX_IOU_OF_FLOATS,
    BOX_IOU,
)
