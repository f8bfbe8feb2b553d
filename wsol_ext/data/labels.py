"""Known classes of one's own images: by their folders, or by a CSV file."""

from collections.abc import Sequence
from pathlib import Path

from wsol_ext.data.tables import read_csv

__all__ = ["read_labels"]


def read_labels(source: str, paths: Sequence[Path], class_names: Sequence[str]) -> dict[Path, int]:
    """The known class of each image.

    Args:
        source: "folder", where each image lies in a folder named as its class; or a CSV file whose first
            line is `image,class`, images named by path or by file name alone, classes by name.
        paths: the images.
        class_names: the model's classes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a malformed line, an unknown class, or an image without one; file and line are named.
    """
    numbers = {name: number for number, name in enumerate(class_names)}
    if source == "folder":
        for path in paths:
            if path.parent.name not in numbers:
                raise ValueError(
                    f"{path}: its folder {path.parent.name!r} is no class of the model, which knows "
                    + _some(class_names)
                )
        return {path: numbers[path.parent.name] for path in paths}
    given = _read_label_file(Path(source), numbers)
    labels = {}
    for path in paths:
        label = given.get(str(path), given.get(path.name))
        if label is None:
            raise ValueError(f"{source}: has no line for {path}")
        labels[path] = label
    return labels


def _read_label_file(path: Path, numbers: dict[str, int]) -> dict[str, int]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such label file")
    labels: dict[str, int] = {}
    for row in read_csv(path, ("image", "class")):
        image, name = row.fields
        if name not in numbers:
            raise row.error(
                f"{name!r} is no class of the model, which knows {_some(list(numbers))}"
            )
        labels[image] = numbers[name]
    return labels


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
