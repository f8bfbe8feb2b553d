"""A model of whatever file it lies in."""

import warnings
from pathlib import Path

from safetensors import SafetensorError

from wsol_ext._weight_files import LIGHTNING, TORCH, CheckpointError, other_kind, read_header
from wsol_ext.checkpoints.authors import load_authors
from wsol_ext.checkpoints.own import FORMAT, load_own
from wsol_ext.models import LocalizationModel

__all__ = ["find_checkpoint", "is_authors", "load_model"]


def load_model(
    path: str | Path,
    method: str | None = None,
    backbone_weights: str | Path | None = None,
    published_heads: int | None = None,
) -> LocalizationModel:
    """A model that `save_model` wrote, or that its method's authors released, in evaluation mode on the CPU.

    Its ``class_names`` are set where they were saved. Nothing is built before the file was found to hold the tensors of
    the model that it describes: what a hostile file costs is bounded by its size. Of an authors' file, names and shapes
    tell the method; `load_published` takes it with other options.

    Args:
        path: the file, or the folder of a run of `wsol train`; of authors, a ``.pth`` or ``.safetensors``, read with
            ``weights_only=True``.
        method: where given, the method the file has to hold.
        backbone_weights: the file of its frozen backbone, where that is no longer where it was, nor beside the model.
        published_heads: attention heads of a block, which an authors' file does not say (DeiT-T 3, DeiT-S 6, DeiT-B
            12); None: width // 64, as all of these have, and a warning says so.

    Raises:
        FileNotFoundError: no such file, or a folder without a model; or its frozen backbone's file is not to be found.
        CheckpointError: a corrupt file, one that is neither `save_model`'s nor a method's authors', or another
            method's; or a file of another backbone; or an authors' file of a width that does not tell the heads.
        ValueError: `published_heads` does not divide the width.
    """
    path = find_checkpoint(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    tensors = metadata = None
    try:
        header = read_header(path)
        tensors, metadata = header.tensors, header.metadata
    except SafetensorError as error:
        if other_kind(path) != TORCH:
            raise CheckpointError(f"checkpoint {path} {_no_model(path, error)}") from error
    if metadata is None or metadata.get("format") != FORMAT:
        model = load_authors(path, tensors, method, published_heads)
        holds_backbone = True
    else:
        model = load_own(path, header, method, backbone_weights)
        holds_backbone = "backbone_file" not in metadata
        if published_heads is not None:
            warnings.warn(f"published_heads is not used: {path} says how many it has", stacklevel=2)
    if backbone_weights is not None and holds_backbone:
        warnings.warn(f"backbone_weights is not used: {path} holds its backbone", stacklevel=2)
    return model


def is_authors(path: str | Path) -> bool:
    """Whether a file of weights is another program's, such as that of a method's authors, and not `save_model`'s.

    Raises:
        FileNotFoundError: no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    try:
        return read_header(path).metadata.get("format") != FORMAT
    except SafetensorError:
        return True


def find_checkpoint(given: str | Path) -> Path:
    """The model file that is meant by its path, or by the run folder of `wsol train`.

    Raises:
        FileNotFoundError: a folder without one, such as that of a run which has not finished.
    """
    path = Path(given).expanduser()
    if not path.is_dir():
        return path
    checkpoint = path / "model.safetensors"
    if checkpoint.exists():
        return checkpoint
    if (path / "config.yaml").exists():
        raise FileNotFoundError(f"{path} has no model.safetensors: training has not ended there")
    raise FileNotFoundError(f"{path} is no folder of a run: it has no model.safetensors")


def _no_model(path: Path, error: SafetensorError) -> str:
    """What a file is that is of neither safetensors nor torch, and the way on."""
    kind = other_kind(path)
    if kind == LIGHTNING:
        return (
            f"is {kind}, from which training goes on: the same `wsol train` command ends the run and writes its "
            "model.safetensors; give that, or the run's folder"
        )
    if kind is None and path.suffix != ".safetensors":
        return "is no file of weights: it begins as neither torch's files do nor safetensors'"
    return f"is {kind}" if kind else f"is corrupt or no safetensors file: {error}"
