"""Weights under the names that a method's authors gave them: whose they are, and the model that they are of."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from wsol_ext._weight_files import CheckpointError
from wsol_ext.models import METHODS, LocalizationModel, create_model
from wsol_ext.models.foreign_weights import holds_backbone
from wsol_ext.models.meta_device import without_values
from wsol_ext.models.misfits import MisfitError, differences
from wsol_ext.models.networks import is_dinov2

HEAD_WIDTH = 64  # channels of an attention head, in every DeiT and nearly every ViT
_BACKBONE = "backbone.vit."


class AbsentError(LookupError):
    """A weight that tells a model's sizes, and is not there or has a shape that tells nothing."""

    def __str__(self) -> str:
        """What is missing, as a sentence says it; a KeyError would put it in quotes."""
        return str(self.args[0])


class Published(NamedTuple):
    """Weights of a method's authors.

    Attributes:
        method: the method.
        arguments: of `create_model`, all but `pretrained`.
        names: ours by the authors' names, "" where we have no use for the weight.
        width: channels of a token.
        usual_heads: how many attention heads networks of this width have; None where the width does not tell.
    """

    method: str
    arguments: dict[str, Any]
    names: dict[str, str]
    width: int
    usual_heads: int | None

    def renamed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights that we keep, under our names."""
        return {ours: state[theirs] for theirs, ours in self.names.items() if ours}


def published_methods() -> list[str]:
    """The methods whose authors released a program."""
    return [name for name, method in METHODS.items() if method.published_names is not None]


def is_count(value: Any) -> bool:
    """Whether it is a whole number of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def published_as(method: str, state: Mapping[str, Tensor], num_heads: int | None) -> Published:
    """What weights are if they are a method's, by their names and shapes; whether they fit is not looked at.

    Args:
        method: one of `published_methods`.
        state: by the authors' names; tensors without values will do.
        num_heads: attention heads, of which names and shapes say nothing; where None or impossible: the usual, or 1.

    Raises:
        AbsentError: a weight is missing by which a method's model is known.
    """
    known = METHODS[method]
    names = {name: _rename(name, known) for name in state}
    ours = {names[name]: tensor for name, tensor in state.items()}
    width = _shape(ours, f"{_BACKBONE}patch_embed.proj.weight", 4)[0]
    usual = width // HEAD_WIDTH if width % HEAD_WIDTH == 0 else None
    if num_heads is None or not is_count(num_heads) or width % num_heads:
        num_heads = usual or 1
    sizes = {**_sizes(ours, known, num_heads), **known.published_options(state)}
    return Published(method, {"method": method, **sizes}, names, width, usual)


def recognized(
    state: Mapping[str, Tensor], source: str, num_heads: int | None = None, first: str | None = None
) -> Published:
    """Whose weights they are: of the first method that they fit one to one.

    Args:
        state: by the authors' names; tensors without values will do.
        source: where they are from, as an error starts.
        num_heads: as for `published_as`.
        first: the method to try first, if any.

    Raises:
        CheckpointError: they are a backbone alone, or fit no method; what keeps them from the closest is said, all of
            it in the `details`.
    """
    problems_of: dict[str, list[str]] = {}
    methods = published_methods()
    for method in sorted(methods, key=lambda name: name != first):
        try:
            found = published_as(method, state, num_heads)
            with without_values():
                model = create_model(**found.arguments, pretrained=False)
            problems = differences(model.state_dict(), found.renamed(state))
        except AbsentError:
            continue
        except Exception as error:  # of sizes that no file of theirs has
            problems = [str(error)]
        if not problems:
            return found
        problems_of[method] = problems
    if _is_backbone_alone(state):
        raise CheckpointError(
            f"{source} is a backbone alone, without a method's head: `wsol train --backbone-weights FILE` takes it"
        )
    none = f"{source} was not written by wsol_ext, nor by the program of {', '.join(methods[:-1])} or {methods[-1]}"
    if not problems_of:
        some = ", ".join(list(state)[:3])
        raise CheckpointError(
            f"{none}: among its {len(state)} tensors ({some}, …) is no transformer's classifier"
        )
    closest = min(problems_of, key=lambda name: len(problems_of[name]))
    misfit = MisfitError(f"{none}; what keeps it from {closest}", problems_of[closest])
    raise CheckpointError(str(misfit), misfit.details)


def _is_backbone_alone(state: Mapping[str, Tensor]) -> bool:
    """Whether there is a transformer, and of every method nothing but what could be its linear classifier."""
    if not holds_backbone(state):
        return False
    of_methods = (
        (ours, tensor)
        for method in published_methods()
        for name, tensor in state.items()
        if (ours := _rename(name, METHODS[method])) and not ours.startswith("backbone.")
    )
    return all(ours.startswith("head.") and tensor.dim() <= 2 for ours, tensor in of_methods)


def _rename(name: str, method: type[LocalizationModel]) -> str:
    for pattern, replacement in method.published_names or ():
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    return f"{_BACKBONE}{name}"


def _shape(state: Mapping[str, Tensor], name: str, sides: int | None = None) -> tuple[int, ...]:
    if name not in state:
        raise AbsentError(f"{name} is missing")
    shape = tuple(state[name].shape)
    if len(shape) != (sides or len(shape)) or min(shape, default=0) < 1:
        wanted = f"{sides} sides of at least 1" if sides else "sides of at least 1"
        raise AbsentError(f"{name} has the shape {shape}, it should have {wanted}")
    return shape


def _sizes(
    state: Mapping[str, Tensor], method: type[LocalizationModel], num_heads: int
) -> dict[str, Any]:
    """The number of classes and the backbone with its sizes, as `create_model` takes them.

    Raises:
        AbsentError: a weight that tells them.
    """
    classes = _shape(state, f"{method.published_classifier}.weight")[0]
    vit = {n.removeprefix(_BACKBONE): t for n, t in state.items() if n.startswith(_BACKBONE)}
    width, _, patch_height, patch_width = _shape(vit, "patch_embed.proj.weight", 4)
    hidden = _shape(vit, "blocks.0.mlp.fc1.weight", 2)[0]
    side = round((_shape(vit, "pos_embed", 3)[1] - 1) ** 0.5)
    numbers = (re.match(r"blocks\.(\d{1,9})\.", name) for name in vit)
    depth = 1 + max((int(number[1]) for number in numbers if number), default=-1)
    if depth > len(vit):  # modules take time without their values too
        raise AbsentError(f"of {depth} blocks most are missing")
    size = (
        (side * patch_height, side * patch_width)
        if patch_height != patch_width
        else side * patch_height
    )
    options: dict[str, Any] = {
        "embed_dim": width,
        "depth": depth,
        "num_heads": num_heads,
        "patch_size": patch_height,
        "mlp_ratio": hidden / width,
        "qkv_bias": "blocks.0.attn.qkv.bias" in vit,
    }
    if is_dinov2(method.published_backbone):
        # Its positions are stored for one size, whatever the images'.
        options["position_size"] = size
        size = method.usual_img_size
    return {
        "backbone": method.published_backbone,
        "num_classes": classes,
        "img_size": size,
        "backbone_options": options,
    }
