"""Weakly supervised object localization: fast operators, the published methods, one trusted evaluator."""

from importlib.metadata import version

__version__ = version("wsol_ext")
