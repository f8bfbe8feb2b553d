"""What an evaluation found, and the files it becomes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from wsol_ext._files import write_csv, write_json
from wsol_ext._names import unknown
from wsol_ext._versions import versions
from wsol_ext.metrics import PROTOCOLS, Curve

if TYPE_CHECKING:
    from wsol_ext.evaluation.gallery import Example
    from wsol_ext.evaluation.threshold_from import ChosenThresholds

__all__ = ["CENTER", "GAP", "ORACLE", "THRESHOLDS_FROM", "Evaluation", "ProtocolResult"]

_T = TypeVar("_T")

CENTER = "center baseline"
"""The name under which the centred Gaussian stands beside a method."""
ORACLE = "oracle"
"""The name of a method's numbers at the thresholds that are best on the evaluated images."""
GAP = "gap"
"""The name of what is lost at others."""
THRESHOLDS_FROM = "thresholds from"
"""What is said, by this name, of who chose thresholds in place of the evaluated images."""


@dataclass
class ProtocolResult:
    """One protocol's metrics.

    Attributes:
        name: the protocol.
        settings: what else the numbers depend on: the interval or the threshold, and who chose it.
        metrics: for the method, its parts where it has some, and `CENTER`, shares in [0, 1] by name; what a baseline
            without class predictions cannot have is absent.
        curves: by IoU threshold and source.
        thresholds: by source and by what is reached at each, those that were chosen; none that was given.
        oracle: `metrics` at the thresholds that are best on the evaluated images, where others chose those in use.
        intervals: by source and number the 95% bootstrap interval, where `wsol_ext.evaluation.statistics` found one.
    """

    name: str
    settings: dict[str, Any]
    metrics: dict[str, dict[str, float]]
    curves: dict[str, dict[str, Curve]] = field(default_factory=dict)
    thresholds: dict[str, dict[str, float]] = field(default_factory=dict)
    oracle: dict[str, dict[str, float]] = field(default_factory=dict)
    intervals: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The protocol with its settings: ``toploc (upsampling bilinear, threshold 0.1, chosen beforehand)``."""
        chosen = "chosen" if "threshold" in self.settings else "threshold chosen"
        named = {chosen if name == "chosen" else name: v for name, v in self.settings.items()}
        settings = ", ".join(f"{name} {value}" for name, value in named.items())
        return f"{self.name} ({settings})"

    def label(self, number: str) -> str:
        """A number's name for people."""
        shown = number.removeprefix("best ") if self.oracle else number
        return PROTOCOLS[self.name].labels.get(number, shown)

    def beside(self, method: str) -> dict[str, dict[str, float]]:
        """The columns of a table: a method's numbers, the baseline's, and between them, where others chose, the best.

        The gap between chosen and best, of shares alone, is a share too.
        """
        own = self.metrics[method]
        columns = {method: own}
        if best := self.oracle.get(method):
            lost = {name: best[name] - own[name] for name in own if self.is_share(name)}
            columns |= {ORACLE: best, GAP: lost}
        return {**columns, CENTER: self.metrics[CENTER]}

    def interval(self, source: str, number: str) -> str:
        """A number's interval as tables have it behind the number, " [71.0, 74.5]"; "" where it has none."""
        if number not in self.intervals.get(source, {}):
            return ""
        low, high = self.intervals[source][number]
        return (
            f" [{100 * low:.1f}, {100 * high:.1f}]"
            if self.is_share(number)
            else f" [{low:.3g}, {high:.3g}]"
        )

    @staticmethod
    def is_share(name: str) -> bool:
        """Whether a number is a share of images or pixels: all are, but the thresholds they are reached at."""
        return not name.startswith("best threshold")


@dataclass(repr=False)
class Evaluation:
    """All protocols' results on one data set.

    Attributes:
        method: the name under which the method stands in each `ProtocolResult.metrics`.
        images: the number of images evaluated.
        protocols: a result a protocol.
        about: checkpoint, data and whatever else a reader should know.
        examples: images with their maps and boxes, for a gallery.
        seconds: how long the pass over the images took.
        chosen: the thresholds that other pictures chose, where they did.
        by_object: the main numbers by size and shape of objects, and
        by_class: by class, as `wsol_ext.evaluation.breakdown` has them.
    """

    method: str
    images: int
    protocols: list[ProtocolResult]
    about: dict[str, Any] = field(default_factory=dict)
    examples: list["Example"] = field(default_factory=list)
    seconds: float = 0.0
    chosen: "ChosenThresholds | None" = None
    by_object: list[dict[str, Any]] = field(default_factory=list)
    by_class: list[dict[str, Any]] = field(default_factory=list)

    def metric(self, protocol: str, name: str, source: str | None = None) -> float:
        """One number: `evaluation.metric("toploc", "gt_known")`; `source` is the method by default.

        Raises:
            ValueError: a protocol, a source or a number that is not among the results; the message says which are.
        """
        results = {result.name: result for result in self.protocols}
        sources = _named("protocol", protocol, results).metrics
        return _named("metric", name, _named("source", source or self.method, sources))

    def __repr__(self) -> str:
        """The method's main numbers."""
        names, sources = self.comparison()
        values = zip(names, sources[self.method], strict=True)
        numbers = [f"{name} {value:.4f}" for name, value in values if value is not None]
        return f"<Evaluation of {self.method} on {self.images} images: {', '.join(numbers)}>"

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
        wanted = [(r, n) for r in self.protocols for n in PROTOCOLS[r.name].headlines]
        shown = [(r, n) for r, n in wanted if n in r.metrics[self.method]]
        names = [PROTOCOLS[r.name].title(n) for r, n in shown]
        sources = (*self.parts, self.method, CENTER)
        return names, {s: [r.metrics.get(s, {}).get(n) for r, n in shown] for s in sources}

    def below_baseline(self) -> str:
        """A sentence about the headline numbers in which no model at all is better; "" where there is none."""
        found = []
        for result in self.protocols:
            own, baseline = result.metrics[self.method], result.metrics[CENTER]
            for number in PROTOCOLS[result.name].headlines:
                points = 100 * (baseline.get(number, 0.0) - own.get(number, 0.0))
                if points > 0:
                    by = f"{points:.1f}" if points >= 0.05 else "less than 0.1"
                    label = "" if number == result.name else f" ({result.label(number)})"
                    found.append(f"by {by} points under {result.name}{label}")
        return f"{self.method} is below the {CENTER} {', '.join(found)}" if found else ""

    def threshold_gap(self) -> str:
        """A sentence about what the method loses at thresholds that others chose; "" where none did."""
        found = []
        for result in self.protocols:
            gap = result.beside(self.method).get(GAP, {})
            for number in (each for each in PROTOCOLS[result.name].best_by if each in gap):
                label = "" if number == result.name else f" ({result.label(number)})"
                found.append(f"{100 * gap[number]:.1f} points under {result.name}{label}")
        if not found:
            return ""
        chosen = self.about_dict()[THRESHOLDS_FROM]
        return f"by thresholds from {chosen}, not the best here, {self.method} loses {', '.join(found)}"

    def about_dict(self) -> dict[str, Any]:
        """What a reader should know, as `about` and `chosen` say it."""
        return self.about | ({} if self.chosen is None else {THRESHOLDS_FROM: str(self.chosen)})

    def as_dict(self) -> dict[str, Any]:
        """Everything but curves, examples and the time it took, as JSON has it: the same, however often it is found."""
        protocols = [
            {
                "protocol": r.name,
                "title": r.title,
                "settings": r.settings,
                "metrics": r.metrics,
                "thresholds": r.thresholds,
                **({"oracle": r.oracle} if r.oracle else {}),
                **({"intervals": r.intervals} if r.intervals else {}),
            }
            for r in self.protocols
        ]
        return {
            **self.about_dict(),
            "method": self.method,
            "images": self.images,
            "versions": versions(),
            "protocols": protocols,
            **({"by object": self.by_object} if self.by_object else {}),
        }

    def rows(self) -> list[dict[str, Any]]:
        """A row for each protocol, source and metric, `low` and `high` being the interval where there is one."""
        return [
            {
                **{"protocol": result.title, "source": source, "metric": name, "value": value},
                **_bounds(result.intervals.get(source, {}).get(name)),
            }
            for result in self.protocols
            for source, metrics in (
                *result.metrics.items(),
                *((f"{source}, {ORACLE}", metrics) for source, metrics in result.oracle.items()),
            )
            for name, value in metrics.items()
        ]

    def save(self, folder: str | Path) -> list[Path]:
        """Write `evaluation.json`, `evaluation.csv`, a `curve_<protocol>.csv` for each curve, and where verdicts were
        kept `by_class.csv` and `by_object.csv`.

        Returns:
            the files written.
        """
        folder = Path(folder)
        write_json(folder / "evaluation.json", self.as_dict())
        write_csv(folder / "evaluation.csv", self.rows())
        written = [folder / "evaluation.json", folder / "evaluation.csv"]
        tables = {"by_object": self.by_object, "by_class": self.by_class}
        tables |= {f"curve_{result.name}": _curve_rows(result) for result in self.protocols}
        for name, rows in tables.items():
            path = folder / f"{name}.csv"
            if rows:
                write_csv(path, rows)
                written.append(path)
            else:  # of an evaluation before
                path.unlink(missing_ok=True)
        return written


def _named(what: str, name: str, known: Mapping[str, _T]) -> _T:
    if name not in known:
        raise ValueError(unknown(what, name, known))
    return known[name]


def _bounds(interval: tuple[float, float] | None) -> dict[str, float]:
    return {} if interval is None else dict(zip(("low", "high"), interval, strict=True))


def _curve_rows(result: ProtocolResult) -> list[dict[str, float]]:
    """A row for each threshold: it, and there the accuracy of each source at each IoU."""
    columns: dict[str, list[float]] = {}
    for title, by_source in result.curves.items():
        for source, curve in by_source.items():
            columns["threshold"] = curve.thresholds
            columns[f"{source}, {title}"] = curve.accuracy
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
