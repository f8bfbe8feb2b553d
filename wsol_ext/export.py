"""Models out: one file with a model's program, for torch.export or ONNX, and all that using it takes."""

import importlib.util
import io
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.torch_version import TorchVersion

from wsol_ext import __version__
from wsol_ext._files import atomic_path
from wsol_ext._names import unknown
from wsol_ext.data.transforms import MEAN, STD, height_width
from wsol_ext.localize import Threshold, check_settings, default_threshold
from wsol_ext.models import LocalizationModel
from wsol_ext.ops.attention import class_attention_reference, spatial_gate_reference
from wsol_ext.ops.reattention import masked_reattention_reference
from wsol_ext.ops.token_mask import adaptive_token_mask_reference, masked_softmax_reference

__all__ = ["Classes", "Format", "export_model", "exported_program", "metadata", "missing_packages"]

Format: TypeAlias = Literal["onnx", "pt2"]
"""What a file is of: ONNX, or `torch.export`. It is the file's suffix."""

Classes: TypeAlias = Literal["top1", "given"]
"""Whose maps a program gives: each image's best class's, or those of the classes that are its second input."""

_METADATA = "wsol_ext"  # an ONNX file's property; of a .pt2 the extra file wsol_ext.json
_LARGEST_ONNX = 2**31 - 2**24  # bytes of weights; a protobuf message ends at 2 GiB
_ONNX_PACKAGES = ("onnx", "onnxscript")


def export_model(
    model: LocalizationModel,
    path: str | Path,
    format: Format | None = None,
    *,
    classes: Classes = "top1",
    dynamic: bool = False,
    threshold: Threshold | None = None,
) -> None:
    """Write a model's program to one file, weights included, or leave what was there.

    Its inputs and outputs, by name:

    - in `images` (B, 3, height, width) float32, normalized as `wsol_ext.data.eval_transform` does;
    - in, with ``classes="given"``, `classes` (B, K) int64, each in [0, number of classes);
    - out `logits` (B, number of classes) float32;
    - out `maps` (B, K, h, w) float32, what `LocalizationModel.localize` gives: score maps on the patch grid, of the
      given classes, or, with K = 1, of each image's top-1.

    B and K are any from 1 on; of no image, a ``.pt2`` program raises and ONNX gives results of none. In a ``.pt2``
    file this package's operators are custom operators, which ``import wsol_ext.ops`` registers; in an ``.onnx`` file
    they are written out in standard ones. Both carry `metadata` as JSON: ONNX under the key ``wsol_ext`` of its
    metadata, ``.pt2`` as the extra file ``wsol_ext.json``.

    Args:
        model: of float32 weights; it is exported in evaluation mode. A ``.pt2`` program runs on the device that it is
            on.
        path: the file, ``*.onnx`` or ``*.pt2``.
        format: ``onnx`` or ``pt2``; None: what the file's suffix says.
        classes: whose maps, see above.
        dynamic: take images of every size that the patches divide, from two patches a side on (molt: in its coarsest
            level), not of `model.img_size` alone.
        threshold: where maps are to be cut, for `metadata`; None: the method's `default_threshold`.

    Raises:
        TypeError: another object in the model's place.
        ValueError: a mistaken argument; a model that refines its maps by clusters (molt), which are found by training
            on each picture, so that no program holds them: ``model.set_clusters(None)`` leaves its combined map; a
            backbone that takes one size only, with `dynamic`; weights beyond ONNX's 2 GiB; or a torch
            older than 2.7.
        ModuleNotFoundError: packages are missing that ONNX takes: ``pip install onnx onnxscript``.
        OSError: the file cannot be written; an older one is untouched.

    Example:
        >>> import tempfile
        >>> from wsol_ext import create_model
        >>> options = {"embed_dim": 24, "depth": 1, "num_heads": 3}
        >>> model = create_model("tscam", "vit_tiny_patch16_224", 3, False, 32, options)
        >>> path = Path(tempfile.mkdtemp()) / "model.pt2"
        >>> export_model(model, path)
        >>> logits, maps = torch.export.load(path).module()(torch.zeros(5, 3, 32, 32))
        >>> logits.shape, maps.shape
        (torch.Size([5, 3]), torch.Size([5, 1, 2, 2]))
    """
    path = Path(path).expanduser()
    format = _checked_format(path, format)
    about = metadata(model, classes=classes, dynamic=dynamic, threshold=threshold)
    if format == "onnx":
        if missing := missing_packages():
            raise ModuleNotFoundError(missing)
        size = sum(weight.nbytes for weight in model.state_dict().values())
        if size > _LARGEST_ONNX:
            raise ValueError(
                f"model has {size / 2**30:.1f} GiB of weights, and an ONNX file ends at 2: export it as .pt2"
            )
    program = exported_program(model, classes=classes, dynamic=dynamic)
    with atomic_path(path) as temporary:
        if format == "onnx":
            temporary.write_bytes(_onnx(program, about, dynamic))
        else:
            _save(program, about, temporary)


def exported_program(
    model: LocalizationModel, *, classes: Classes = "top1", dynamic: bool = False
) -> ExportedProgram:
    """What `export_model` writes to a ``.pt2`` file, in memory; arguments and errors are that function's.

    Example:
        >>> from wsol_ext import create_model
        >>> options = {"embed_dim": 24, "depth": 1, "num_heads": 3}
        >>> model = create_model("sat", "vit_tiny_patch16_224", 3, False, 32, options)
        >>> program = exported_program(model, classes="given")
        >>> logits, maps = program.module()(torch.zeros(1, 3, 32, 32), torch.tensor([[0, 2]]))
        >>> maps.shape
        torch.Size([1, 2, 2, 2])
    """
    _check_model(model, classes, dynamic)
    height, width = height_width("export_model", model.img_size)
    device = next(model.parameters()).device
    # Neither a batch nor a count of classes of 1, which torch would take for no size at all but a constant.
    images = torch.zeros((2, 3, height, width), device=device)
    shapes: list[dict[int, Any]] = [{0: Dim("batch", min=1)}]
    if dynamic:
        patch, least = model.backbones()[-1].patch_size, _fewest_patches(model)
        sides = [max(least, s // p) * p for s, p in zip((height, width), patch, strict=True)]
        images = torch.zeros((2, 3, *sides), device=device)
        shapes[0] |= {
            2: patch[0] * Dim("rows", min=least),
            3: patch[1] * Dim("columns", min=least),
        }
    arguments = [images]
    if classes == "given":
        arguments.append(torch.zeros((2, 2), dtype=torch.int64, device=device))
        shapes.append({0: shapes[0][0], 1: Dim("count", min=1)})
    kind = _OfGivenClasses if classes == "given" else _OfTop1
    with _evaluating(model), torch.no_grad():
        program = torch.export.export(kind(model), tuple(arguments), dynamic_shapes=tuple(shapes))
    _drop_divisions_by_batch(program)
    return program


def metadata(
    model: LocalizationModel,
    *,
    classes: Classes = "top1",
    dynamic: bool = False,
    threshold: Threshold | None = None,
) -> dict[str, Any]:
    """What a program's user has to know of it, as values that JSON has; arguments are those of `export_model`.

    Returns:
        ``version`` of this package; ``method``, ``backbone``; ``class_names``, or None; ``img_size`` [height, width] to
        resize pictures to, ``dynamic``: whether other sizes are taken; ``mean`` and ``std`` of the normalization
        (x - mean) / std of pixels in [0, 1]; ``classes``; ``threshold``: a share of each map's maximum, or "otsu".

    Raises:
        TypeError, ValueError: as `export_model`, or a threshold that `localize_images` refuses.
    """
    _check_model(model, classes, dynamic)
    threshold = default_threshold(model) if threshold is None else threshold
    check_settings(model, threshold, top_k=1)
    return {
        "version": __version__,
        "method": model.config["method"],
        "backbone": model.config["backbone"],
        "class_names": model.class_names,
        "img_size": list(height_width("export_model", model.img_size)),
        "dynamic": dynamic,
        "mean": list(MEAN),
        "std": list(STD),
        "classes": classes,
        "threshold": threshold,
    }


def missing_packages() -> str | None:
    """What to say where packages are missing that exporting to ONNX takes; None where they are there."""
    missing = [name for name in _ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if not missing:
        return None
    return f"ONNX takes the packages {' and '.join(missing)}: pip install {' '.join(missing)}"


def _torch_exports() -> bool:
    """Torch 2.6 keeps image sizes as constants of programs for all sizes, and does not write each operator to ONNX."""
    return TorchVersion(torch.__version__) >= "2.7"


# --- what is exported


class _OfTop1(nn.Module):
    def __init__(self, model: LocalizationModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        _require_images(images)
        logits, maps = self.model.localize(images)
        return logits, maps.contiguous()  # some are one map, shown for each class


class _OfGivenClasses(nn.Module):
    def __init__(self, model: LocalizationModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        _require_images(images)
        logits, maps = self.model.localize(images, classes)
        return logits, maps.contiguous()


def _require_images(images: Tensor) -> None:
    """Have a program say what it refuses; the range of a dimension is not looked at when it runs."""
    count = torch.full((), images.size(0), device=images.device)
    torch._assert_async(count > 0, "images are an empty batch, there should be at least one image")


def _drop_divisions_by_batch(program: Any) -> None:
    """Leave out what torch's newer releases would check of an empty batch before the program itself refuses it.

    They keep what was taken for granted in tracing, such as that a batch is no multiple of more than itself: true of
    every batch of an image or more, and of none a division by zero.
    """
    guards = getattr(program, "_guards_code", None)
    if guards is not None:
        program._guards_code = [guard for guard in guards if ".size()[0] % (" not in guard]


def _fewest_patches(model: Any) -> int:
    """Of a side: two, in the coarsest level of a pyramid too. Of one torch would make a case of its own."""
    levels = getattr(model, "levels", [1])
    return max(2, math.ceil(1.5 * levels[-1] / levels[0]))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _check_model(model: Any, classes: str, dynamic: bool) -> None:
    if not _torch_exports():
        raise ValueError(f"exporting takes torch 2.7 or newer, this is {torch.__version__}")
    if not isinstance(model, LocalizationModel):
        raise TypeError(
            f"model is of type {type(model).__name__}, it should be a LocalizationModel, as "
            "wsol_ext.checkpoints.load_model gives it"
        )
    if classes not in get_args(Classes):
        raise ValueError(unknown("classes", classes, get_args(Classes)))
    if getattr(model, "clustering", None) is not None:
        raise ValueError(
            f"this {model.config['method']} model refines its maps by clusters, which are found by training on each "
            "picture, so that no program holds them; model.set_clusters(None) (--clusters none) leaves the map that "
            "they refine, which can be exported"
        )
    dtypes = {weight.dtype for weight in model.parameters()} - {torch.float32}
    if dtypes:
        raise ValueError(
            f"model has weights of {dtypes.pop()}, they should be float32: model.float()"
        )
    if dynamic and not all(backbone.any_size for backbone in model.backbones()):
        height, width = height_width("export_model", model.img_size)
        raise ValueError(
            f"dynamic (--dynamic): {model.config['backbone']} takes images of {height} x {width} pixels only"
        )


def _checked_format(path: Path, format: str | None) -> Format:
    formats = get_args(Format)
    if format is not None and format not in formats:
        raise ValueError(unknown("format", format, formats))
    wanted = formats if format is None else (format,)
    for each in wanted:
        if path.suffix == f".{each}":
            return each
    endings = " or ".join(f".{each}" for each in wanted)
    raise ValueError(f"path is {path}, it should end in {endings}")


# --- torch.export's file


def _save(program: ExportedProgram, about: Mapping[str, Any], path: Path) -> None:
    buffer = io.BytesIO()  # so that what fails is the writing alone, whose error names the file
    torch.export.save(program, buffer, extra_files={f"{_METADATA}.json": json.dumps(about)})
    path.write_bytes(buffer.getbuffer())


# --- ONNX


def _reattention(*arguments: Any, **options: Any) -> tuple[Tensor, ...]:
    out = masked_reattention_reference(*arguments, **options)
    return (out,) * 5  # what only a backward reads falls away


def _stable_sort(
    values: Tensor, *, stable: bool, dim: int = -1, descending: bool = False
) -> tuple[Tensor, Tensor]:
    """ONNX has no sort but its TopK, which of equal values takes the first first: it is stable."""
    values, order = values.topk(values.size(dim), dim, largest=descending)
    return values, order


def _in_plain_operators() -> dict[Any, Callable[..., Any]]:
    """What stands for each operator in ONNX: its definition."""
    wsol = torch.ops.wsol
    return {
        wsol.class_attention.default: class_attention_reference,
        wsol.spatial_gate.default: spatial_gate_reference,
        wsol.masked_reattention.default: _reattention,
        wsol.adaptive_token_mask.default: adaptive_token_mask_reference,
        wsol.masked_softmax.default: masked_softmax_reference,
        torch.ops.aten.sort.stable: _stable_sort,
    }


def _onnx(program: ExportedProgram, about: Mapping[str, Any], dynamic: bool) -> bytes:
    """The program as an ONNX file's bytes.

    Raises:
        ValueError: torch's exporter knows no ONNX for one of its operators, such as another package's method's.
    """
    given = about["classes"] == "given"
    sizes = {2: "height", 3: "width"} if dynamic else {}
    axes = ({0: "batch", **sizes}, *([{0: "batch", 1: "count"}] if given else []))
    with _quietly():
        program = program.run_decompositions(_in_plain_operators())
        try:
            written: Any = torch.onnx.export(
                program,
                input_names=["images", *(["classes"] if given else [])],
                output_names=["logits", "maps"],
                dynamic_shapes=axes,
                dynamo=True,
                verbose=False,
                external_data=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            reason = error.__cause__ or error
            raise ValueError(
                f"model cannot be written in ONNX's operators: {' '.join(str(reason).split())[:300]}"
            ) from error
        written.model.metadata_props[_METADATA] = json.dumps(about)
        return written.model_proto.SerializeToString()


@contextmanager
def _quietly() -> Iterator[None]:
    """Without torch's notes to itself."""
    exporting = logging.getLogger("torch.onnx")
    level = exporting.level
    exporting.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporting.setLevel(level)
