"""Boxes in the forms that labelling tools and training programs read: what `wsol localize --format` writes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path

from wsol_ext._files import atomic_folder, atomic_path, is_results_folder, mark_results_folder
from wsol_ext._names import unknown
from wsol_ext.annotations import _coco, _csv_table, _cvat, _fiftyone, _labelstudio, _voc, _yolo
from wsol_ext.annotations._pictures import PLACINGS, About, Object, Picture, Placing

__all__ = ["FORMATS", "PLACINGS", "About", "Format", "Object", "Picture", "Placing", "write"]


@dataclass(frozen=True)
class Format:
    """A form that boxes are written in.

    Attributes:
        tool: what reads it.
        names: what it makes in the folder that it is written to, files or one folder.
        is_folder: whether that is a folder.
        write: writes the pictures' objects to paths of these names, of which files lie beside their place still.
    """

    tool: str
    names: tuple[str, ...]
    is_folder: bool
    write: Callable[[Sequence[Path], Iterable[Picture], Sequence[str], About], None]


FORMATS: Mapping[str, Format] = {
    "coco": Format(
        "pycocotools, CVAT, FiftyOne", ("dataset.json", "boxes.json"), False, _coco.write
    ),
    "yolo": Format("ultralytics", ("yolo",), True, _yolo.write),
    "voc": Format("Pascal VOC's readers", ("voc",), True, _voc.write),
    "labelstudio": Format("Label Studio", ("labelstudio",), True, _labelstudio.write),
    "cvat": Format("CVAT", ("cvat",), True, _cvat.write),
    "fiftyone": Format("FiftyOne", ("fiftyone",), True, _fiftyone.write),
    "csv": Format("spreadsheets, pandas", ("boxes.csv",), False, _csv_table.write),
}
"""The forms by name."""


def write(
    format_name: str,
    folder: str | Path,
    pictures: Iterable[Picture],
    classes: Sequence[str],
    about: About | Mapping[str, str] | None = None,
) -> list[Path]:
    """Write what was found in pictures in one of `FORMATS`, whole or not at all, in place of what was written earlier.

    No form keeps more than one picture in memory. Pictures that could not be read, and rejected ones, are left out of
    every form; one without objects is in each, as a picture of nothing.

    Args:
        format_name: one of `FORMATS`.
        folder: where to.
        pictures: what can be iterated over several times, such as a list, in the same order each time.
        classes: the names of the classes.
        about: what forms say beside the boxes, by default an `About()`; or its fields by name.

    Returns:
        the files, or the folder, that were written.

    Raises:
        ValueError: another format, other fields, or pictures that can be iterated over only once.
        FileExistsError: a folder of that name is none that this function made.
        OSError: files cannot be written.

    Example:
        >>> import tempfile
        >>> picture = Picture(1, "cats/a.jpg", Path("cats/a.jpg"), (640, 480), (Object(0, 0.9, (10, 20, 300, 200)),))
        >>> (path,) = write("csv", tempfile.mkdtemp(), [picture], ["cat"])
        >>> print(path.read_text().splitlines()[1])
        cats/a.jpg,640,480,cat,0.9,,,10,20,310,220
    """
    if format_name not in FORMATS:
        raise ValueError(unknown("format", format_name, FORMATS))
    if iter(pictures) is pictures:
        raise ValueError("pictures is an iterator, it should be what can be iterated over again")
    made, folder = FORMATS[format_name], Path(folder)
    about = _about(about)
    targets = [folder / name for name in made.names]
    with ExitStack() as stack:
        if made.is_folder:
            (target,) = targets
            if target.exists() and not is_results_folder(target, kind=""):
                raise FileExistsError(f"{target} is there, and wsol did not make it")
            temporary = [stack.enter_context(atomic_folder(target))]
            mark_results_folder(temporary[0])
        else:  # the last one comes last, so that it tells that all are there
            temporary = [stack.enter_context(atomic_path(path)) for path in reversed(targets)][::-1]
        made.write(temporary, pictures, classes, about)
    return targets


def _about(about: About | Mapping[str, str] | None) -> About:
    if isinstance(about, About):
        return about
    known = [field.name for field in fields(About)]
    for name in about or {}:
        if name not in known:
            raise ValueError(unknown("about", name, known))
    return About(**(about or {}))  # type: ignore[arg-type]
