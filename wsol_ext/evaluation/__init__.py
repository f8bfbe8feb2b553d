"""Evaluation: one pass over the data, every chosen protocol, the centre baseline beside the method."""

from typing import TYPE_CHECKING

from wsol_ext._names import on_first_use

if TYPE_CHECKING:
    from wsol_ext.evaluation.found import evaluate_found
    from wsol_ext.evaluation.gallery import Example
    from wsol_ext.evaluation.journal import EvaluationError, Journal
    from wsol_ext.evaluation.loop import MapFunction, evaluate
    from wsol_ext.evaluation.maps import evaluate_map_files, evaluate_maps
    from wsol_ext.evaluation.results import CENTER, Evaluation, ProtocolResult
    from wsol_ext.evaluation.threshold_from import (
        ChosenThresholds,
        OtherPictures,
        ThresholdsFrom,
        read_evaluation,
        with_boxes_of,
    )
    from wsol_ext.evaluation.views import transform_for
    from wsol_ext.metrics import PROTOCOLS, Curve, Protocol, register_protocol

__all__ = [
    "CENTER",
    "PROTOCOLS",
    "ChosenThresholds",
    "Curve",
    "Evaluation",
    "EvaluationError",
    "Example",
    "Journal",
    "MapFunction",
    "OtherPictures",
    "Protocol",
    "ProtocolResult",
    "ThresholdsFrom",
    "evaluate",
    "evaluate_found",
    "evaluate_map_files",
    "evaluate_maps",
    "read_evaluation",
    "register_protocol",
    "transform_for",
    "with_boxes_of",
]

__getattr__ = on_first_use(
    __name__,
    {
        "found": ["evaluate_found"],
        "gallery": ["Example"],
        "journal": ["EvaluationError", "Journal"],
        "loop": ["MapFunction", "evaluate"],
        "maps": ["evaluate_map_files", "evaluate_maps"],
        "results": ["CENTER", "Evaluation", "ProtocolResult"],
        "threshold_from": [
            "ChosenThresholds",
            "OtherPictures",
            "ThresholdsFrom",
            "read_evaluation",
            "with_boxes_of",
        ],
        "views": ["transform_for"],
        ".metrics": ["PROTOCOLS", "Curve", "Protocol", "register_protocol"],
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)
