"""The operators' table: an entry for every public operator and way to call it. What an entry says: `contract.py`."""

from ops.cases.attention import (
    CLASS_ATTENTION,
    CLASS_ATTENTION_OF_ONE_QUERY,
    SPATIAL_GATE,
    SPATIAL_GATE_OF_SEVERAL_QUERIES,
)
from ops.cases.boxes import (
    ALL_BOXES,
    BEST_BOX_IOU,
    BEST_BOX_IOU_OF_FLOATS,
    BOX_IOU,
    LARGEST_BOX,
    MOST_PIXELS_BOX,
)
from ops.cases.components import COMPONENT_SUMS, LABEL_COMPONENTS
from ops.cases.diffusion import SPATIAL_DIFFUSION, SPATIAL_DIFFUSION_BY_A_NUMBER
from ops.cases.graphs import NORMALIZED_CUT
from ops.cases.reattention import MASKED_REATTENTION
from ops.cases.superpixels import (
    SEGMENT_MEAN,
    SEGMENT_MODE,
    SEGMENT_MODE_OF_FLAT_IMAGES,
    SLIC,
    SLIC_OF_CHANNELS,
)
from ops.cases.token_masks import ADAPTIVE_TOKEN_MASK, MASKED_SOFTMAX

CASES = (
    CLASS_ATTENTION,
    CLASS_ATTENTION_OF_ONE_QUERY,
    SPATIAL_GATE,
    SPATIAL_GATE_OF_SEVERAL_QUERIES,
    MASKED_REATTENTION,
    ADAPTIVE_TOKEN_MASK,
    MASKED_SOFTMAX,
    SPATIAL_DIFFUSION,
    SPATIAL_DIFFUSION_BY_A_NUMBER,
    NORMALIZED_CUT,
    SLIC,
    SLIC_OF_CHANNELS,
    SEGMENT_MEAN,
    SEGMENT_MODE,
    SEGMENT_MODE_OF_FLAT_IMAGES,
    LARGEST_BOX,
    MOST_PIXELS_BOX,
    ALL_BOXES,
    BEST_BOX_IOU,
    BEST_BOX_IOU_OF_FLOATS,
    BOX_IOU,
    LABEL_COMPONENTS,
    COMPONENT_SUMS,
)
