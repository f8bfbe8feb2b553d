"""The metric tables on a terminal."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wsol_ext.evaluation.breakdown import shown_columns
from wsol_ext.evaluation.results import Evaluation

__all__ = ["print_tables"]


def print_tables(evaluation: Evaluation) -> None:
    """Print each protocol's metrics, the method beside the centre baseline, and all of its parts; shares in percent.

    Where thresholds were chosen on other pictures, the best here and the loss stand beside the method.
    """
    console = Console()
    for result in evaluation.protocols:
        # One line, however long: what decides whether numbers compare.
        console.print(result.title, style="bold", markup=False, highlight=False, soft_wrap=True)
        table = Table()
        table.add_column("metric")
        columns = result.beside(evaluation.method)
        for title in columns:
            table.add_column(title, justify="right")
        for name in result.metrics[evaluation.method]:
            show = "{:.1%}" if result.is_share(name) else "{:.3f}"
            shown = [
                show.format(numbers[name]) + result.interval(source, name)
                if name in numbers
                else ""
                for source, numbers in columns.items()
            ]
            table.add_row(escape(result.label(name)), *map(escape, shown))
        console.print(table)
    if evaluation.parts:
        names, rows = evaluation.comparison()
        # Plain, for its many columns: it fits 80 characters.
        table = Table(
            title="part by part",
            title_justify="left",
            title_style="bold",
            box=SIMPLE_HEAD,
            padding=0,
        )
        table.add_column("maps")
        for name in names:
            table.add_column(name, justify="right")
        for source, values in rows.items():
            part = source.removeprefix(f"{evaluation.method}, ")
            table.add_row(part, *("" if v is None else f"{v:.1%}" for v in values))
        console.print(table)
    if evaluation.by_object:
        table = Table(title="by object", title_justify="left", title_style="bold", box=SIMPLE_HEAD)
        names = shown_columns(evaluation.by_object)
        for name in names:
            table.add_column(name, justify="left" if name == "kind" else "right")
        for row in evaluation.by_object:
            cells = [row[name] for name in names]
            table.add_row(*(f"{v:.1%}" if isinstance(v, float) else str(v) for v in cells))
        console.print(table)
    if gap := evaluation.threshold_gap():
        console.print(gap, markup=False, highlight=False, soft_wrap=True)
    if warning := evaluation.below_baseline():
        console.print(warning, style="bold", markup=False, highlight=False, soft_wrap=True)
