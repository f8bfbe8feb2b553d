"""The public WSOL evaluator's names (Choe et al., CVPR 2020 and the journal version), over this package's operators.

Code that imports from its `evaluation.py`, `data_loaders.py` or `util.py` may import from here instead, or from the
module of the same name here, which has private names too, and gets its numbers to the last digit: `tests/compat` holds
each name to the published loop over OpenCV. ``python -m wsol_ext.compat.wsolevaluation`` takes its program's flags.

| here | there |
| --- | --- |
| boxes, masks and score maps are NumPy arrays, boxes in OpenCV's order, accuracies percent | likewise |
| `np.float`, `np.int` are float64 and any integer, so that NumPy of any version will do | NumPy below 1.24 |
| nothing is printed but by `evaluate_wsol` | `MaskEvaluator.compute` prints too |
| `CamDataset` reads every file that `wsol_ext.data.ScoreMaps` does | `IMAGE_ID.npy` |
| mistakes in metadata name file and line | |
"""

from wsol_ext.compat.wsolevaluation.data_loaders import (
    Metadata,
    configure_metadata,
    get_bounding_boxes,
    get_class_labels,
    get_image_ids,
    get_image_sizes,
    get_mask_paths,
)
from wsol_ext.compat.wsolevaluation.evaluation import (
    BoxEvaluator,
    CamDataset,
    LocalizationEvaluator,
    MaskEvaluator,
    calculate_multiple_iou,
    compute_bboxes_from_scoremaps,
    evaluate_wsol,
    get_mask,
    load_mask_image,
    main,
    resize_bbox,
)
from wsol_ext.compat.wsolevaluation.util import (
    check_box_convention,
    check_scoremap_validity,
    str2bool,
    string_contains_any,
    t2n,
)

__all__ = [
    "BoxEvaluator",
    "CamDataset",
    "LocalizationEvaluator",
    "MaskEvaluator",
    "Metadata",
    "calculate_multiple_iou",
    "check_box_convention",
    "check_scoremap_validity",
    "compute_bboxes_from_scoremaps",
    "configure_metadata",
    "evaluate_wsol",
    "get_bounding_boxes",
    "get_class_labels",
    "get_image_ids",
    "get_image_sizes",
    "get_mask",
    "get_mask_paths",
    "load_mask_image",
    "main",
    "resize_bbox",
    "str2bool",
    "string_contains_any",
    "t2n",
]
