"""Evaluation: one pass over the data, every chosen protocol, the centre baseline beside the method."""

from wsol_ext.evaluation.loop import Example, MapFunction, evaluate
from wsol_ext.evaluation.results import CENTER, Evaluation, ProtocolResult
from wsol_ext.evaluation.views import transform_for
from wsol_ext.metrics import PROTOCOLS, Curve, Protocol, register_protocol

__all__ = [
    "CENTER",
    "PROTOCOLS",
    "Curve",
    "Evaluation",
    "Example",
    "MapFunction",
    "Protocol",
    "ProtocolResult",
    "evaluate",
    "register_protocol",
    "transform_for",
]
