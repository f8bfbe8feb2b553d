"""What was found in pictures: boxes, classes, scores and maps, printed and drawn."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wsol_ext._files import atomic_path
from wsol_ext._names import printable, some
from wsol_ext.data.images import ImageError
from wsol_ext.localize import Localization, Threshold
from wsol_ext.metrics import to_score_maps
from wsol_ext.pictures import Picture, read_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Detection", "Prediction", "Predictions"]

_SHOWN = 10  # predictions in a `repr`
_NOTEBOOK = 640  # pixels of a notebook's picture, its longest side


class Detection(NamedTuple):
    """One object of a picture, in plain values.

    Attributes:
        name: its class.
        label: its class's number.
        score: its class's probability.
        box: x0, y0, x1, y1 in pixels of the picture.
    """

    name: str
    label: int
    score: float
    box: tuple[float, float, float, float]


@dataclass(repr=False, eq=False)
class Prediction:
    """What was found in one picture, best class first. Its length is how many objects, and it iterates over them.

    Attributes:
        picture: the picture as it was given; it is read again when it is drawn.
        size: its width and height as it is shown, turned by its EXIF orientation.
        objects: what was found, with score maps.
        class_names: of the model.
        threshold: where the maps were cut.
        error: why there is nothing, if the picture could not be read.
    """

    picture: Picture
    size: tuple[int, int]
    objects: list[Localization]
    class_names: Sequence[str]
    threshold: Threshold
    error: str | None = None

    @property
    def path(self) -> Path | None:
        """The picture's file; None where it is none."""
        return Path(self.picture) if isinstance(self.picture, str | Path) else None

    @property
    def boxes(self) -> Tensor:
        """(N, 4) float32 x0, y0, x1, y1, in pixels of the picture."""
        return torch.stack([one.box for one in self.objects]) if self.objects else torch.zeros(0, 4)

    @property
    def labels(self) -> Tensor:
        """(N,) int64, the classes' numbers."""
        return torch.tensor([one.category for one in self.objects], dtype=torch.int64)

    @property
    def names(self) -> list[str]:
        """The N classes' names."""
        return [self.class_names[one.category] for one in self.objects]

    @property
    def scores(self) -> Tensor:
        """(N,) float32, the classes' probabilities."""
        return torch.tensor([one.score for one in self.objects], dtype=torch.float32)

    def score_map(self, index: int = 0, *, upsampled: bool = False) -> Tensor:
        """The map that a box was cut from.

        Args:
            index: which object's.
            upsampled: as large as the picture, and from 0 to 1, as the threshold counts; else as the model gives it.

        Returns:
            (h, w) on the model's patch grid, or (height, width) of the picture, float32.

        Raises:
            IndexError: there is no such object.
        """
        if not -len(self.objects) <= index < len(self.objects):
            raise IndexError(f"index is {index}, there are {len(self.objects)} objects")
        score_map = self.objects[index].score_map
        if not upsampled:
            return score_map
        width, height = self.size
        return to_score_maps(score_map, (height, width), "bilinear")

    def draw(self, largest: int | None = None) -> Image.Image:
        """The picture under the first object's map, all objects' boxes and names over it.

        Args:
            largest: pixels of its longest side, where the picture is to be made smaller.

        Raises:
            ImageError: the picture could not be read, or no longer can.
        """
        from wsol_ext.report import drawing

        image = self._readable_picture()
        if largest is not None:
            image = drawing.fit(image, smallest=0, largest=largest)
        if not self.objects:
            return image
        image = drawing.overlay(image, self.objects[0].score_map)
        boxes = self.boxes.flip(0)  # the best one last, on top
        image = drawing.draw_boxes(image, boxes, drawing.RED, self.size)
        return drawing.caption(image, self._captions()[::-1], boxes, self.size)

    def save(self, path: str | Path, largest: int | None = None) -> Path:
        """Write what `draw` gives to a file, whole or not at all, in the format of its suffix.

        Raises:
            ValueError: a suffix that is no picture's, or the file of the picture itself.
            OSError: it cannot be written; or as `draw`.
        """
        path = Path(path).expanduser()
        if path.suffix.lower() not in Image.registered_extensions():
            raise ValueError(f"path is {path}, it should end as pictures do, such as .jpg or .png")
        if self.path is not None and path.exists() and path.samefile(self.path):
            raise ValueError(f"path is {path}, which is the picture itself")
        image = self.draw(largest)
        with atomic_path(path) as temporary:
            image.save(temporary, quality=90)
        return path

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw into a matplotlib plot, in pixels of the picture.

        Args:
            ax: where to; None: a new figure.

        Returns:
            where it was drawn, to go on with.

        Raises:
            TypeError: `ax` is no plot.
            ImageError: as `draw`.
        """
        from matplotlib import pyplot as plt
        from matplotlib.axes import Axes
        from matplotlib.patches import Rectangle

        from wsol_ext.report import drawing

        if not isinstance(ax, Axes | None):
            raise TypeError(
                f"ax is of type {type(ax).__name__}, it should be a matplotlib Axes, as plt.subplots() gives it"
            )
        image = self._readable_picture()
        if self.objects:
            image = drawing.overlay(image, self.objects[0].score_map)
        ax = plt.subplots()[1] if ax is None else ax
        width, height = self.size
        ax.imshow(np.asarray(image), extent=(0, width, height, 0))
        ax.set_axis_off()
        colour = [value / 255 for value in drawing.RED]
        for place, (box, text) in enumerate(
            zip(self.boxes.tolist(), self._captions(), strict=True)
        ):
            x0, y0, x1, y1 = box
            above = 3 + len(self) - place  # the best one on top
            frame = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=2)
            frame.set_zorder(above)
            ax.add_patch(frame)
            # As it is written: a name is no formula.
            label = ax.text(x0, y0, text, color="white", va="bottom", parse_math=False)
            label.set_zorder(above)
            label.set_bbox({"facecolor": colour, "edgecolor": "none", "pad": 2})
        return ax

    def _readable_picture(self) -> Image.Image:
        if self.error is not None:
            raise ImageError(self.error)
        return read_picture(self.picture)

    def _captions(self) -> list[str]:
        return [f"{found.name} {found.score:.0%}" for found in self]

    def __len__(self) -> int:
        return len(self.objects)

    def __iter__(self) -> Iterator[Detection]:
        for name, one in zip(self.names, self.objects, strict=True):
            x0, y0, x1, y1 = one.box.tolist()
            yield Detection(name, one.category, one.score, (x0, y0, x1, y1))

    def __repr__(self) -> str:
        name = type(self.picture).__name__ if self.path is None else printable(self.path)
        if self.error is not None:
            return f"<{self.error}>"
        found = [
            f"{each.name} {each.score:.0%} [{', '.join(f'{v:.0f}' for v in each.box)}]"
            for each in self
        ]
        return f"<{name} {self.size[0]}x{self.size[1]}: {some(found, 5)}>"

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows."""
        if self.error is not None:
            return None
        buffer = io.BytesIO()
        self.draw(_NOTEBOOK).save(buffer, "PNG")
        return buffer.getvalue()


class Predictions(Sequence[Prediction]):
    """What was found in pictures, in their order."""

    def __init__(self, predictions: Sequence[Prediction]) -> None:
        self._predictions = list(predictions)

    def __len__(self) -> int:
        return len(self._predictions)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...
    @overload
    def __getitem__(self, index: slice) -> "Predictions": ...
    def __getitem__(self, index: int | slice) -> "Prediction | Predictions":
        found = self._predictions[index]
        return Predictions(found) if isinstance(found, list) else found

    def __repr__(self) -> str:
        count = len(self)
        lines = [f"{count} picture{'s' * (count != 1)}", *map(repr, self[:_SHOWN])]
        lines += [f"and {count - _SHOWN} more"] if count > _SHOWN else []
        return "\n  ".join(lines)

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows of a single picture; of several their text."""
        return self[0]._repr_png_() if len(self) == 1 else None
