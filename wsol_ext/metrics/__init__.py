"""The published evaluation protocols: torchmetrics classes over pure functions, and the protocols by name."""

from wsol_ext.metrics.components import Components, map_components
from wsol_ext.metrics.corloc import CorLoc
from wsol_ext.metrics.ground_truth import pad_boxes
from wsol_ext.metrics.map_thresholds import MAP_THRESHOLDS, mean_thresholds, otsu_thresholds
from wsol_ext.metrics.maps import center_map, normalize_maps, resize_maps, to_score_maps
from wsol_ext.metrics.max_box_acc import (
    BoxAccCurve,
    MaxBoxAcc,
    MaxBoxAccV2,
    count_right_boxes,
    score_thresholds,
)
from wsol_ext.metrics.protocols import TopLoc  # and with it, all of them are registered
from wsol_ext.metrics.pxap import PxAP, PxCurve, pixel_histograms
from wsol_ext.metrics.registry import (
    EVALUATED,
    PROTOCOLS,
    Batch,
    Curve,
    Protocol,
    View,
    register_protocol,
    scale_boxes,
)
from wsol_ext.metrics.sat import (
    SAT_SHARES,
    SAT_THRESHOLDS,
    SatLocalizationAccuracy,
    component_boxes,
)
from wsol_ext.metrics.superpixels import (
    boundary_recall,
    explained_variation,
    undersegmentation_error,
)
from wsol_ext.metrics.toploc import (
    OUTCOMES,
    SHARES,
    LocalizationAccuracy,
    localization_outcomes,
    single_boxes,
    true_class_maps,
)

__all__ = [
    "EVALUATED",
    "MAP_THRESHOLDS",
    "OUTCOMES",
    "PROTOCOLS",
    "SAT_SHARES",
    "SAT_THRESHOLDS",
    "SHARES",
    "Batch",
    "BoxAccCurve",
    "Components",
    "CorLoc",
    "Curve",
    "LocalizationAccuracy",
    "MaxBoxAcc",
    "MaxBoxAccV2",
    "Protocol",
    "PxAP",
    "PxCurve",
    "SatLocalizationAccuracy",
    "TopLoc",
    "View",
    "boundary_recall",
    "center_map",
    "component_boxes",
    "count_right_boxes",
    "explained_variation",
    "localization_outcomes",
    "map_components",
    "mean_thresholds",
    "normalize_maps",
    "otsu_thresholds",
    "pad_boxes",
    "pixel_histograms",
    "register_protocol",
    "resize_maps",
    "scale_boxes",
    "score_thresholds",
    "single_boxes",
    "to_score_maps",
    "true_class_maps",
    "undersegmentation_error",
]
