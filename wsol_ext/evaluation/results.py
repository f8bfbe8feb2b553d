"""What an evaluation found, and the files it becomes."""

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsol_ext._files import write_json, write_text

CENTER = "center baseline"
"""The name under which the centred Gaussian stands beside a method."""

_HEADLINES = {
    "maxboxacc": ("maxboxacc",),
    "maxboxaccv2": ("maxboxaccv2",),
    "toploc": ("cls_top1", "loc_top1", "loc_top5", "gt_known"),
    "sat": ("cls_top1", "loc_top1", "loc_top5", "gt_known"),
    "pxap": ("pxap",),
}


@dataclass
class Curve:
    """Accuracy at every threshold, a line for each name, shares in [0, 1]."""

    thresholds: list[float]
    accuracy: dict[str, list[float]]


@dataclass
class ProtocolResult:
    """One protocol's metrics.

    Attributes:
        name: the protocol.
        settings: what else the numbers depend on: the interval or the threshold, and who chose it.
        metrics: for the method, its parts where it has some, and `CENTER`, shares in [0, 1] by name; what a baseline
            without class predictions cannot have is absent.
        curves: by IoU threshold.
    """

    name: str
    settings: dict[str, Any]
    metrics: dict[str, dict[str, float]]
    curves: dict[str, Curve] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The protocol with its settings: ``toploc (threshold 0.1, given)``."""
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        return f"{self.name} ({settings})"


@dataclass
class Evaluation:
    """All protocols' results on one data set.

    Attributes:
        method: the name under which the method stands in each `ProtocolResult.metrics`.
        images: the number of images evaluated.
        protocols: a result a protocol.
        about: checkpoint, data and whatever else a reader should know.
        examples: images with their maps and boxes, for a gallery.
    """

    method: str
    images: int
    protocols: list[ProtocolResult]
    about: dict[str, Any] = field(default_factory=dict)
    examples: list[Any] = field(default_factory=list)

    def metric(self, protocol: str, name: str, source: str | None = None) -> float:
        """One number: `evaluation.metric("toploc", "gt_known")`; `source` is the method by default."""
        for result in self.protocols:
            if result.name == protocol:
                return result.metrics[source or self.method][name]
        raise KeyError(f"protocol {protocol!r} was not evaluated")

    @property
    def parts(self) -> list[str]:
        """The sources that are parts of the method, such as single scales: ``molt, 224``."""
        sources = dict.fromkeys(source for r in self.protocols for source in r.metrics)
        return [source for source in sources if source not in (self.method, CENTER)]

    def comparison(self) -> tuple[list[str], dict[str, list[float | None]]]:
        """Each protocol's main numbers side by side.

        Returns:
            the names of the numbers, and for each part, the method and the baseline their values, None where a source
            has none.
        """
        wanted = [(r, n) for r in self.protocols for n in _HEADLINES[r.name]]
        shown = [(r, n) for r, n in wanted if n in r.metrics[self.method]]
        names = [n if n == r.name else f"{r.name} {n}" for r, n in shown]
        sources = (*self.parts, self.method, CENTER)
        return names, {s: [r.metrics.get(s, {}).get(n) for r, n in shown] for s in sources}

    def as_dict(self) -> dict[str, Any]:
        """Everything but curves and examples, as JSON has it."""
        protocols = [
            {"protocol": r.name, "settings": r.settings, "metrics": r.metrics}
            for r in self.protocols
        ]
        return {**self.about, "method": self.method, "images": self.images, "protocols": protocols}

    def rows(self) -> list[dict[str, Any]]:
        """A row for each protocol, source and metric."""
        return [
            {"protocol": result.title, "source": source, "metric": name, "value": value}
            for result in self.protocols
            for source, metrics in result.metrics.items()
            for name, value in metrics.items()
        ]

    def save(self, folder: str | Path) -> list[Path]:
        """Write `evaluation.json`, `evaluation.csv` and a `curve_<protocol>.csv` for each curve.

        Returns:
            the files written.
        """
        folder = Path(folder)
        write_json(folder / "evaluation.json", self.as_dict())
        names = ["protocol", "source", "metric", "value"]
        table = [[row[name] for name in names] for row in self.rows()]
        write_text(folder / "evaluation.csv", _csv(names, table))
        written = [folder / "evaluation.json", folder / "evaluation.csv"]
        for result in self.protocols:
            if not result.curves:
                continue
            columns: dict[str, list[float]] = {}
            for title, curve in result.curves.items():
                columns["threshold"] = curve.thresholds
                columns |= {f"{source}, {title}": line for source, line in curve.accuracy.items()}
            path = folder / f"curve_{result.name}.csv"
            rows = [list(row) for row in zip(*columns.values(), strict=True)]
            write_text(path, _csv(list(columns), rows))
            written.append(path)
        return written


def _csv(header: list[str], rows: list[list[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([header, *rows])
    return text.getvalue()
