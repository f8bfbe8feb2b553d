"""Weights in and out: our own files, and the checkpoints the methods' authors released. No pickle is ever run."""

from wsol_ext._weight_files import CheckpointError
from wsol_ext.checkpoints.authors import load_published
from wsol_ext.checkpoints.loading import find_checkpoint, is_authors, load_model
from wsol_ext.checkpoints.own import save_model
from wsol_ext.checkpoints.starting import initialize_from, require_same_classes, start_from

__all__ = [
    "CheckpointError",
    "find_checkpoint",
    "initialize_from",
    "is_authors",
    "load_model",
    "load_published",
    "require_same_classes",
    "save_model",
    "start_from",
]
