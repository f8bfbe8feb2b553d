"""Weights of a backbone alone, from files of other programs: timm's, Facebook's and Hugging Face's layouts."""

import contextlib
import io
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsol_ext._files import sha256_of
from wsol_ext._weight_files import CheckpointError, read_tensors
from wsol_ext.data.transforms import MEAN, STD
from wsol_ext.models.misfits import MisfitError, differences

__all__ = [
    "IMAGENET",
    "ForeignWeights",
    "Normalization",
    "holds_backbone",
    "load_backbone",
    "read_backbone",
    "resample_by_scale",
    "stored_classifier",
]


class Normalization(NamedTuple):
    """How a network's pixels were normalized, a value a channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET = Normalization(MEAN, STD)


class ForeignWeights(NamedTuple):
    """A backbone's weights as a file has them.

    Attributes:
        path: the file.
        sha256: its hash, in hexadecimal.
        tensors: by the names that Facebook's programs and timm share (`blocks.0.attn.qkv.weight`).
        layout: whose names the file has: "timm", "Facebook" or "Hugging Face".
        normalization: of the pixels that the weights expect, where the file or what lies beside it tells.
    """

    path: Path
    sha256: str
    tensors: dict[str, Tensor]
    layout: str
    normalization: Normalization | None


# Beside a backbone: heads, decoders, and what serves pretraining alone.
_BESIDE_BACKBONE = re.compile(
    r"(head|head_dist|heads|fc|classifier|cls_classifier|distillation_classifier|lm_head|pooler|pre_logits|decoder"
    r"|mask_token|dino_head|ibot_head|projectors|local_cls_norm)(\..*|_.*)?"
)
_ANCHORS = {
    "patch_embed.proj.weight": "timm",
    "embeddings.patch_embeddings.projection.weight": "Hugging Face",
    "embeddings.patch_embeddings.weight": "Hugging Face",  # DINOv3
}
# Where a file has several networks: DINO's teacher is the better one, and what everybody uses.
_PREFERRED = ("teacher.", "model.", "backbone.", "")


def read_backbone(path: str | Path, option: str = "backbone_weights") -> ForeignWeights:
    """The backbone in a file, whatever wraps it, without running any pickle.

    Args:
        path: a ``.safetensors`` file, or one of torch (``.pth``, ``.pt``, ``.bin``).
        option: what the file was given as, for errors.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: a file that cannot be read safely, or without a transformer's patch embedding.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        what = "is a folder, it should be a file" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"{option} {path} {what}")
    given = read_tensors(path, f"{option} {path}")
    found = _layouts(given)
    if not found:
        some = ", ".join(list(given)[:3])
        raise CheckpointError(
            f"{option} {path} holds no vision transformer: there is no {' or '.join(_ANCHORS)} among its "
            f"{len(given)} tensors ({some}, …)"
        )
    prefix = min(found, key=lambda p: (_rank(p), len(p)))
    layout = found[prefix]
    tensors = {n.removeprefix(prefix): t for n, t in given.items() if n.startswith(prefix)}
    normalization = _written_beside(path)
    if layout == "Hugging Face":
        tensors = _from_hugging_face(tensors, f"{option} {path}")
    elif _is_facebooks(given):
        layout, normalization = "Facebook", IMAGENET
    return ForeignWeights(path, sha256_of(path), tensors, layout, normalization)


def holds_backbone(names: Iterable[str]) -> bool:
    """Whether names of weights are, among others, those of a transformer that `read_backbone` takes."""
    return bool(_layouts(names))


def _layouts(names: Iterable[str]) -> dict[str, str]:
    """Whose layout a transformer has, by what its names begin with."""
    return {
        name.removesuffix(anchor): layout
        for name in names
        for anchor, layout in _ANCHORS.items()
        if name == anchor or name.endswith(f".{anchor}")
    }


def stored_classifier(weights: ForeignWeights) -> tuple[Tensor, Tensor]:
    """The classifier beside a backbone in a file: weight (classes, C) and bias (classes,).

    Raises:
        ValueError: the file has none.
    """
    try:
        return weights.tensors["head.weight"], weights.tensors["head.bias"]
    except KeyError as error:
        raise ValueError(f"{weights.path} has no classifier, {error.args[0]}") from error


def _rank(prefix: str) -> int:
    return next(k for k, preferred in enumerate(_PREFERRED) if prefix.startswith(preferred))


def _is_facebooks(names: Mapping[str, Any]) -> bool:
    """Whether names are of DINO, DINOv2, DINOv3 or MAE, all of which saw ImageNet's normalization."""
    telling = (
        "mask_token",
        "decoder_embed.",
        "teacher.",
        "student.",
        "dino_head.",
        "storage_tokens",
    )
    return any(name.startswith(telling) or ".mask_token" in name for name in names)


def _written_beside(path: Path) -> Normalization | None:
    """What a `preprocessor_config.json` (Hugging Face) or `config.json` (timm) beside the file says."""
    for name, mean, std in (
        ("preprocessor_config.json", "image_mean", "image_std"),
        ("config.json", "mean", "std"),
    ):
        with contextlib.suppress(OSError, ValueError, RecursionError, TypeError, AttributeError):
            found = json.loads((path.parent / name).read_text(encoding="utf-8"))
            found = found.get("pretrained_cfg", found)
            if mean in found and std in found:
                return Normalization(
                    tuple(float(value) for value in found[mean]),
                    tuple(float(value) for value in found[std]),
                )
    return None


# Hugging Face's names within a block, of transformers 4 and 5, and Facebook's.
_IN_BLOCKS = (
    (r"(attention\.attention\.|attention\.)(query|q_proj)\.", "attn.q."),
    (r"(attention\.attention\.|attention\.)(key|k_proj)\.", "attn.k."),
    (r"(attention\.attention\.|attention\.)(value|v_proj)\.", "attn.v."),
    (r"attention\.(output\.dense|o_proj)\.", "attn.proj."),
    (r"(intermediate\.dense|mlp\.fc1|mlp\.up_proj)\.", "mlp.fc1."),
    (r"(output\.dense|mlp\.fc2|mlp\.down_proj)\.", "mlp.fc2."),
    (r"mlp\.weights_in\.", "mlp.w12."),
    (r"mlp\.weights_out\.", "mlp.w3."),
    (r"layernorm_before\.", "norm1."),
    (r"layernorm_after\.", "norm2."),
    (r"layer_scale([12])\.lambda1", r"ls\1.gamma"),
)
_OUTSIDE_BLOCKS = (
    (r"embeddings\.patch_embeddings\.(projection\.)?", "patch_embed.proj."),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.distillation_token", "dist_token"),
    (r"embeddings\.", ""),
    (r"layernorm\.", "norm."),
)
_BLOCK = re.compile(r"(?:encoder\.layer|encoder\.layers|model\.layer|layers?)\.(\d+)\.(.+)")


def _from_hugging_face(tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """`ViTModel`, `DeiTModel`, `Dinov2Model`, also with registers, and `DINOv3ViTModel`, under Facebook's names."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if (block := _BLOCK.fullmatch(name)) is not None:
            renamed[f"blocks.{block[1]}.{_replaced(block[2], _IN_BLOCKS)}"] = tensor
        else:
            renamed[_replaced(name, _OUTSIDE_BLOCKS)] = tensor
    separate = [name for name in renamed if name.endswith(".attn.q.weight")]
    for name in separate:
        layer = name.removesuffix("q.weight")
        for kind in ("weight", "bias"):
            parts = [renamed.pop(f"{layer}{which}.{kind}", None) for which in "qkv"]
            if (
                kind == "bias"
                and parts[0] is not None
                and parts[1] is None
                and parts[2] is not None
            ):
                parts[1] = torch.zeros_like(parts[0])  # DINOv3 and BEiT, whose keys have none
            present = [part for part in parts if part is not None]
            if len(present) not in (0, 3):
                raise CheckpointError(f"{source}: {layer} lacks one of q, k and v")
            if present:
                renamed[f"{layer}qkv.{kind}"] = torch.cat(present)
    if "register_tokens" in renamed and "pos_embed" not in renamed:  # DINOv3
        renamed["storage_tokens"] = renamed.pop("register_tokens")
    return renamed


def _replaced(name: str, patterns: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in patterns:
        new, count = re.subn(f"^{pattern}", replacement, name)
        if count:
            return new
    return name


def load_backbone(
    vit: nn.Module, weights: ForeignWeights, name: str, by_scale: bool, option: str
) -> list[str]:
    """Put a file's weights into a timm transformer, all of them, position embeddings resampled to its grid.

    Args:
        vit: the transformer, without a head; weights must be its own one to one.
        weights: of the file.
        name: by which timm makes it.
        by_scale: whether positions are resampled as DINOv2 does, see `resample_by_scale`.
        option: what the file was given as, for errors.

    Returns:
        what the file has beside the backbone, and was left out.

    Raises:
        MisfitError: what is missing, unexpected or of another shape.
    """
    own = {n: t for n, t in vit.state_dict().items() if n not in _buffers(vit)}
    given = dict(weights.tensors)
    beginning = f"{option} {weights.path} does not fit {name}"
    patches = given["patch_embed.proj.weight"].shape
    if (
        patches[-2:] != own["patch_embed.proj.weight"].shape[-2:]
        or patches[0] != own["patch_embed.proj.weight"].shape[0]
    ):
        wanted = own["patch_embed.proj.weight"].shape
        raise MisfitError(
            beginning,
            [f"of another shape: patch_embed.proj.weight {tuple(patches)}, not {tuple(wanted)}"],
        )
    if by_scale and "pos_embed" in given:
        given["pos_embed"] = _positions_by_scale(given, own["pos_embed"].shape, weights)
    left_out = [n for n in given if n not in own and _BESIDE_BACKBONE.fullmatch(n)]
    mask = {"mask_token": given["mask_token"]} if "mask_token" in given else {}
    given = {n: t for n, t in given.items() if n not in left_out}
    given = _as_timm_has_them(vit, {**given, **mask}, name)
    problems = differences(own, given)
    broken = [n for n, t in given.items() if t.is_floating_point() and not t.isfinite().all()]
    if broken:
        problems.append(f"with values that are not finite: {', '.join(broken)}")
    if problems:
        raise MisfitError(beginning, problems)
    vit.load_state_dict(given, strict=False)
    return left_out


def _buffers(vit: nn.Module) -> set[str]:
    """What timm computes itself, and other programs do not store."""
    return {name for name, _ in vit.named_buffers()}


def _as_timm_has_them(vit: nn.Module, given: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """What timm itself changes in the files that its models come from, positions resampled by size."""
    zero = {n: t for n, t in given.items() if n.endswith("attn.qkv.bias") and not _has(vit, n)}
    module = timm.model_entrypoint(name.partition(".")[0]).__module__
    convert = getattr(sys.modules[module], "checkpoint_filter_fn", None)
    if convert is None:
        convert = sys.modules["timm.models.vision_transformer"].checkpoint_filter_fn
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it leaves out
        converted = dict(convert(dict(given), vit))
    for biases, values in zero.items():  # of a block without biases: nothing, if they were nothing
        if not _has(vit, biases.replace("qkv.bias", "q_bias")) and values.any():
            converted[biases] = values
    return converted


def _has(vit: nn.Module, name: str) -> bool:
    layer, _, leaf = name.rpartition(".")
    try:
        return getattr(vit.get_submodule(layer), leaf, None) is not None
    except AttributeError:
        return False


def _positions_by_scale(
    given: Mapping[str, Tensor], wanted: torch.Size, weights: ForeignWeights
) -> Tensor:
    positions = given["pos_embed"]
    if positions.dim() != 3 or positions.shape[1:] == wanted[1:]:
        return positions
    old, new = (round((count - 1) ** 0.5) for count in (positions.size(1), wanted[1]))
    if old * old + 1 != positions.size(1) or new * new + 1 != wanted[1]:
        return positions  # the comparison of shapes says it
    patches = resample_by_scale(positions[:, 1:], (old, old), (new, new))
    return torch.cat((positions[:, :1], patches), dim=1)


def resample_by_scale(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Position embeddings on another grid, exactly as DINOv2's program resamples them (Oquab et al., 2023).

    Bicubically, without antialiasing, and by the scale (new + 0.1) / old rather than by size: the samples lie a little
    further apart than the grids' sizes say, which the networks were used with ever since.

    Args:
        positions: (1, rows * columns, C), of patches alone.
        old: its rows and columns.
        new: those wanted.

    Returns:
        (1, new rows * new columns, C).
    """
    if old == new:
        return positions
    grid = positions.unflatten(1, old).permute(0, 3, 1, 2)
    scale = ((new[0] + 0.1) / old[0], (new[1] + 0.1) / old[1])
    return F.interpolate(grid, scale_factor=scale, mode="bicubic").flatten(2).transpose(1, 2)
