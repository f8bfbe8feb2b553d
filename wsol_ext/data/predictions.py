"""Class predictions of other programs: a CSV file."""

import csv
import os
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wsol_ext._names import Spellings, some
from wsol_ext.data.tables import AnnotationError, Row, read_csv

__all__ = ["Predictions", "read_predictions"]

_BEST = 5  # of which the true class may be one
_RANKED, _SCORED = ("image", "class"), ("image", "class", "score")
_FORMS = "image,class; image,class,score; or image and every class's name"


@dataclass(frozen=True)
class Predictions:
    """What another program predicts of the images of a data set.

    Attributes:
        logits: (N, C + 5) float64, by the data set's images, scores of its classes: -inf for what the file does not
            list, below the last five columns, which are no classes. So the best scores are never those of classes that
            the file does not list.
        complete: whether each image has a score of every class.
        has_top5: whether each image has five classes, or all there are: top-5 accuracies can be told.
    """

    logits: Tensor
    complete: bool
    has_top5: bool


def read_predictions(
    path: str | Path, image_names: Sequence[str], class_names: Sequence[str]
) -> Predictions:
    """Read class predictions from a CSV file.

    Args:
        path: the file, UTF-8. Its first line says of which form the others are:

            | first line | other lines |
            | --- | --- |
            | `image,class` | a class an image, or several, the best first |
            | `image,class,score` | likewise, in any order; a logit or a probability |
            | `image,CLASS,CLASS,…` | an image's scores of all classes |

            A class is called by its name or, where no class is called so, by its number from 0.
        image_names: the data set's images; a line may leave out an image's suffix where that leaves no doubt.
        class_names: the data set's classes.

    Raises:
        FileNotFoundError: there is no such file.
        AnnotationError: a malformed line, an unknown class or one that an image has twice, named by file and line; or
            images without a line, of which the first three are named.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of class predictions")
    header = _header(path)
    classes = {str(number): number for number in range(len(class_names))}
    classes |= {name: number for number, name in enumerate(class_names)}
    images = _by_name(image_names)
    known = Spellings(images)
    scores: list[dict[int, float]] = [{} for _ in image_names]
    others: dict[str, None] = {}
    wide = header not in (_RANKED, _SCORED)
    columns = _class_columns(path, header, classes, len(class_names)) if wide else []
    for row in read_csv(path, header):
        name = known.find(row.fields[0].strip())
        owners = [] if name is None else images[name]
        if len(owners) > 1:
            names = " and ".join(image_names[k] for k in owners[:3])
            raise row.error(f"{row.fields[0]!r} may be {names}: write the suffix")
        if not owners:
            others[row.fields[0]] = None
            continue
        found = scores[owners[0]]
        if wide:
            if found:
                raise row.error(f"{row.fields[0]} has a line already")
            found |= {k: row.number(1 + n, header[1 + n]) for n, k in enumerate(columns)}
            continue
        name = row.fields[1].strip()
        if name not in classes:
            raise row.error(f"{name!r} is no class of the data, which has {some(class_names, 5)}")
        if classes[name] in found:
            raise row.error(f"{row.fields[0]} has class {name} already")
        score = row.number(2, "the score") if header == _SCORED else -float(len(found))
        found[classes[name]] = score
    lacking = [name for name, found in zip(image_names, scores, strict=True) if not found]
    if lacking:
        raise AnnotationError(
            f"{path}: has no line for {len(lacking)} of {len(image_names)} images: {some(lacking)}"
        )
    if others:
        count = "1 name is" if len(others) == 1 else f"{len(others)} names are"
        warnings.warn(
            f"{path}: {count} of no image of the data: {some(list(others))}", stacklevel=2
        )
    listed = min(map(len, scores), default=0)
    return Predictions(
        logits=_logits(scores, len(class_names)),
        complete=header != _RANKED and listed == len(class_names),
        has_top5=listed >= min(_BEST, len(class_names)),
    )


def _header(path: Path) -> tuple[str, ...]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = next(csv.reader(file, skipinitialspace=True), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise AnnotationError(f"{path}: is no UTF-8 CSV file: {error}") from error
    header = tuple(field.strip() for field in first)
    if len(header) < 2 or header[0] != "image":
        raise Row(path, 1, header).error(
            f"the header is {','.join(header)!r}, it should be {_FORMS}"
        )
    return header


def _class_columns(
    path: Path, header: Sequence[str], classes: Mapping[str, int], count: int
) -> list[int]:
    """The class of each column after the first."""
    unknown = [name for name in header[1:] if name not in classes]
    columns = [classes[name] for name in header[1:] if name in classes]
    if unknown or len(set(columns)) < max(count, len(header) - 1):
        what = (
            f"{unknown[0]!r} is no class of the data"
            if unknown
            else "classes are missing or twice there"
        )
        raise Row(path, 1, header).error(f"{what}; the header should be {_FORMS}")
    return columns


def _by_name(image_names: Sequence[str]) -> dict[str, list[int]]:
    """The images by their names, and by those without suffix that are no whole names."""
    whole: defaultdict[str, list[int]] = defaultdict(list)
    stems: defaultdict[str, list[int]] = defaultdict(list)
    for k, name in enumerate(image_names):
        whole[name].append(k)
        stems[os.path.splitext(name)[0]].append(k)
    return {**stems, **whole}


def _logits(scores: Sequence[Mapping[int, float]], count: int) -> Tensor:
    logits = torch.full((len(scores), count + _BEST), -torch.inf, dtype=torch.float64)
    logits[:, count:] = torch.finfo(
        torch.float32
    ).min  # as low as a float32 goes, and above what is not listed
    for row, found in enumerate(scores):
        logits[row, list(found)] = torch.tensor(list(found.values()), dtype=torch.float64)
    listed = logits[:, :count]
    is_listed = listed > -torch.inf
    sums = torch.where(is_listed, listed, 0.0).sum(dim=1)
    if ((listed >= 0) | ~is_listed).all() and (sums <= 1.001).all():  # probabilities
        logs = listed.clamp(min=1e-300).log()
        logits[:, :count] = torch.where(is_listed, logs, -torch.inf)
    return logits
