"""Evaluation: one pass over the data, every chosen protocol, the centre baseline beside the method."""

from wsol_ext.evaluation.loop import Example, MapFunction, evaluate
from wsol_ext.evaluation.protocols import PROTOCOLS, transform_for
from wsol_ext.evaluation.results import CENTER, Curve, Evaluation, ProtocolResult

__all__ = [
    "CENTER",
    "PROTOCOLS",
    "Curve",
    "Evaluation",
    "Example",
    "MapFunction",
    "ProtocolResult",
    "evaluate",
    "transform_for",
]
