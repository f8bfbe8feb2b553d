"""What a protocol is, and the protocols there are, by name."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor
from torchmetrics import Metric

from wsol_ext.metrics.ground_truth import Boxes, list_boxes
from wsol_ext.metrics.verdicts import SumOfVerdicts

__all__ = [
    "EVALUATED",
    "PROTOCOLS",
    "Batch",
    "Curve",
    "Protocol",
    "View",
    "register_protocol",
    "scale_boxes",
]

EVALUATED = 224
"""The side of the square that all of these protocols evaluate on, in pixels."""

View = Literal["whole", "crops"]
"""What of each picture a protocol looks at: the whole, resized to the network's square input; or crops of a square
larger by 256 / 224, the map of the centre and class scores over ten."""


@dataclass
class Batch:
    """A batch as protocols see it, in the view they ask for.

    Attributes:
        maps: (B, h, w), the true class's score maps as the model gives them, on its grid.
        logits: (B, C), over ten crops the logarithm of the mean probability; None for a source that predicts no
            classes.
        labels: (B,) int64.
        boxes: for each image (G, 4), pixels of the original; on the CPU, whatever the rest is on.
        sizes: (B, 2), the originals' width and height; likewise.
        masks: (B, h, w) uint8 where the data has masks.
        found: for each image (N, 4), the best first, in pixels of the original, of a source that gives boxes in place
            of maps; on the CPU.
    """

    maps: Tensor
    logits: Tensor | None
    labels: Tensor
    boxes: list[Tensor]
    sizes: Tensor
    masks: Tensor | None
    found: list[Tensor] | None = None


@dataclass
class Curve:
    """Accuracy at every threshold, a share in [0, 1]."""

    thresholds: list[float]
    accuracy: list[float]


class Protocol:
    """One protocol over one source of maps: fed batches, asked for numbers at the end.

    A subclass under `register_protocol` is all there is to a protocol: the evaluator, the command line and the report
    take what they need to know from it. Its constructor takes whichever of `threshold` and `interval` it depends on.
    One whose metric is a `SumOfVerdicts` has `judge` and `numbers`, so that what was found of each image can be kept;
    any other has an `update` and a `compute` of its own.

    Args:
        metric: what counts; its state is kept where `to` says.

    Attributes:
        name: what `register_protocol` called it.
        needs: what the data must have.
        view: what of each picture it looks at.
        takes_boxes: whether it counts boxes that a source gives in place of maps, `Batch.found`.
        headlines: the numbers that stand for it where there is room for few.
        labels: numbers' names for people; a number without one is called by its own.
        columns: the numbers in a table of several runs, and their titles there; by default the headlines.
        upsampling: how maps become the evaluated square, where they do: "bicubic", "bilinear".
        best_by: the numbers by which it chooses thresholds; none where it has none to choose.
        at: the places of the thresholds that others chose, as `numbers` takes them; None: the best are taken.
        traits: the attributes that tell, after the first batch, of what kind the source is: as `predicts_classes`.
    """

    name: ClassVar[str]
    needs: ClassVar[Literal["boxes", "masks"]] = "boxes"
    view: ClassVar[View] = "whole"
    takes_boxes: ClassVar[bool] = False
    headlines: ClassVar[tuple[str, ...]] = ()
    labels: ClassVar[Mapping[str, str]] = {}
    columns: ClassVar[Mapping[str, str]]
    upsampling: ClassVar[str] = ""
    best_by: ClassVar[tuple[str, ...]] = ()
    traits: ClassVar[tuple[str, ...]] = ()

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.at: Tensor | None = None
        self.chosen = "on the evaluated images"

    @classmethod
    def make(cls, **options: Any) -> "Protocol":
        """The protocol with those of the options, `threshold` and `interval`, that it takes."""
        return cls(**{name: options[name] for name in cls.options() if name in options})

    @classmethod
    def options(cls) -> tuple[str, ...]:
        """The names of the options it takes."""
        return tuple(inspect.signature(cls).parameters)

    @classmethod
    def title(cls, number: str) -> str:
        """A number's name beside those of other protocols."""
        return number if number == cls.name else f"{cls.name} {number}"

    @staticmethod
    def frame(boxes: Tensor, sides: Tensor, size: int) -> Tensor:
        """Boxes of one picture in the frame of the evaluated square, before they are truncated to integers.

        The order of operations is the program's: another one truncates a box at a pixel's border to another pixel.

        Args:
            boxes: (G, 4) float64 x0, y0, x1, y1 in pixels of the original.
            sides: (4,) float64, its width, height, width, height.
            size: side of the square.

        Returns:
            (G, 4) float64.
        """
        return boxes * size / sides

    def settings(self) -> dict[str, Any]:
        """What the numbers depend on beside the protocol's name."""
        return {}

    def candidates(self) -> dict[str, Sequence[float]]:
        """The thresholds that it chooses from, rising, by what is reached at each; none where it chooses none."""
        return {}

    def thresholds(self) -> dict[str, float]:
        """Those of its candidates that its numbers are reached at: the best, or what others chose."""
        candidates = self.candidates()
        if not candidates:
            return {}
        assert isinstance(self.metric, SumOfVerdicts)
        at = self.metric.best_of(self.metric.totals()[0]) if self.at is None else self.at
        places = zip(candidates.items(), at.flatten().tolist(), strict=True)
        return {number: tried[place] for (number, tried), place in places}

    def choose(self, thresholds: Mapping[str, float], source: str) -> None:
        """Give the numbers at thresholds that were chosen on other images, not at the best.

        Args:
            thresholds: as `thresholds` gives them.
            source: by what they were chosen, for reports: "by the boxes of val".

        Raises:
            ValueError: they are none of the candidates.
        """
        places = []
        for number, tried in self.candidates().items():
            wanted = thresholds.get(number, math.nan)
            found = [place for place, each in enumerate(tried) if abs(each - wanted) < 1e-9]
            if not found:
                raise ValueError(
                    f"{self.name}: the threshold for {number} is {wanted}, it should be one of those that are tried, "
                    f"{tried[0]:g}, {tried[1]:g} … {tried[-1]:g}"
                )
            places += found
        assert isinstance(self.metric, SumOfVerdicts)
        best = self.metric.best_of(self.metric.sums)
        self.at = torch.tensor(places, device=best.device).reshape(best.shape)
        self.chosen = source

    @property
    def keeps_verdicts(self) -> bool:
        """Whether its numbers follow from what it says of each image: whether it has `judge`, `add` and `numbers`."""
        return isinstance(self.metric, SumOfVerdicts)

    def judge(self, batch: Batch) -> Tensor:
        """The verdict on each image of a batch, (B, …) bool or integer; notes the `traits`."""
        raise NotImplementedError

    def add(self, verdicts: Tensor) -> None:
        """Take in images that were judged."""
        assert isinstance(self.metric, SumOfVerdicts)
        self.metric.add(verdicts)

    def update(self, batch: Batch) -> None:
        """Take in a batch."""
        self.add(self.judge(batch))

    def numbers(
        self, sums: Tensor, images: Tensor | int, at: Tensor | None = None
    ) -> dict[str, Tensor]:
        """What `compute` gives, of other sums of verdicts: see `SumOfVerdicts.of_sums`, which has the arguments.

        Returns:
            each number by name, of the leading shape of `sums`: float64.
        """
        raise NotImplementedError

    def to(self, device: torch.device) -> None:
        """Keep the metric's state on a device."""
        self.metric.to(device)

    def compute(self) -> dict[str, float]:
        """The numbers over everything seen, by all processes: shares in [0, 1]."""
        assert isinstance(self.metric, SumOfVerdicts)
        found = self.numbers(*self.metric.totals(), self.at)
        return {name: float(value) for name, value in found.items()}

    def oracle(self) -> dict[str, float]:
        """What `compute` gives where nobody else chose the thresholds: the numbers at the best of all."""
        assert isinstance(self.metric, SumOfVerdicts)
        found = self.numbers(*self.metric.totals())
        return {name: float(value) for name, value in found.items()}

    def curves(self) -> dict[str, Curve]:
        """Accuracy over the threshold, by IoU."""
        return {}


PROTOCOLS: dict[str, type[Protocol]] = {}
"""The protocols by name: those of `wsol_ext.metrics.protocols`, and what else `register_protocol` was given."""

_P = TypeVar("_P", bound=type[Protocol])


def register_protocol(name: str) -> Callable[[_P], _P]:
    """Make a subclass of `Protocol` known by a name, to `evaluate`, `wsol evaluate --protocols` and `scale_boxes`.

    Args:
        name: the protocol's, which is part of every result.

    Raises:
        ValueError: another class has that name.

    Example:
        >>> from torchmetrics import MeanMetric
        >>> @register_protocol("mean_score")
        ... class MeanScore(Protocol):
        ...     headlines = ("mean",)
        ...     def __init__(self):
        ...         super().__init__(MeanMetric())
        ...     def update(self, batch):
        ...         self.metric.update(batch.maps)
        ...     def compute(self):
        ...         return {"mean": float(self.metric.compute())}
        >>> PROTOCOLS.pop("mean_score").name
        'mean_score'
    """

    def register(protocol: _P) -> _P:
        if name in PROTOCOLS:
            raise ValueError(f"register_protocol: there is a protocol {name!r} already")
        protocol.name = name
        if "columns" not in vars(protocol):
            protocol.columns = {number: protocol.title(number) for number in protocol.headlines}
        PROTOCOLS[name] = protocol
        return protocol

    return register


def scale_boxes(
    boxes: Boxes,
    sizes: Tensor,
    protocol: str = "maxboxacc",
    size: int | tuple[int, int] = EVALUATED,
) -> list[Tensor]:
    """Ground-truth boxes in the frame of the evaluated picture, as each published program computes them.

    | protocol | x0, y0, x1, y1, each truncated to an integer |
    | --- | --- |
    | `maxboxacc`, `maxboxaccv2` (Choe et al., CVPR 2020) | v * size / side |
    | `toploc` (TS-CAM's program; TRT, LCTR) | v / side * size; x0, y0 at least 0, x1, y1 at most size - 1 |
    | `sat` (SAT's program) | v / side * resize - shift, limited likewise |

    `sat` resizes to 256 / 224 of `size` and cuts out the centre, shift pixels from each border.

    Args:
        boxes: B tensors (G_i, 4) of x0, y0, x1, y1 in pixels of the original picture; or one (B, G, 4), rows of -1
            being padding. Best on the CPU: on CUDA their check waits for the device once an image.
        sizes: (B, 2), each picture's original width and height.
        protocol: a name in `PROTOCOLS`, of a protocol that needs boxes.
        size: side of the evaluated picture in pixels, which is a square in the published programs; or its width and
            height, for each of which the table then holds.

    Returns:
        B tensors (G_i, 4) int64.

    Raises:
        ValueError: another protocol; shapes that do not fit; a picture or `size` without pixels; a box not finite.

    Example:
        >>> scale_boxes([torch.tensor([[60.0, 27.0, 385.0, 331.0]])], torch.tensor([[500, 335]]))
        [tensor([[ 26,  18, 172, 221]])]
    """
    known = {name: each for name, each in PROTOCOLS.items() if each.needs == "boxes"}
    if protocol not in known:
        raise ValueError(
            f"scale_boxes: protocol is {protocol!r}, it should be one of {', '.join(known)}"
        )
    listed = list_boxes(boxes)
    if sizes.shape != (len(listed), 2):
        raise ValueError(
            f"scale_boxes: sizes has shape {tuple(sizes.shape)}, it should be ({len(listed)}, 2)"
        )
    if (sizes <= 0).any():
        raise ValueError("scale_boxes: sizes has values that are not positive")
    width, height = size if isinstance(size, Sequence) else (size, size)
    if min(width, height) < 1:
        raise ValueError(f"scale_boxes: size is {size}, it should be positive")
    frame = known[protocol].frame
    is_x = torch.tensor([True, False, True, False])
    sides = sizes.to(torch.float64).repeat(1, 2).unbind()
    scaled = []
    for image_boxes, side in zip(listed, sides, strict=True):
        values = image_boxes.to(torch.float64)
        if not torch.isfinite(values).all():
            raise ValueError(
                f"scale_boxes: boxes has values that are not finite: {image_boxes.tolist()}"
            )
        side = side.to(values.device)
        framed = frame(values, side, width)
        if height != width:
            framed = torch.where(is_x.to(values.device), framed, frame(values, side, height))
        scaled.append(framed.trunc().to(torch.int64))
    return scaled
