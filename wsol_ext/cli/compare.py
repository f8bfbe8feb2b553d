"""`wsol compare`."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsol_ext._files import mark_own_folder, write_csv, write_json, write_text
from wsol_ext._problems import Problems
from wsol_ext.cli.arguments import Parser
from wsol_ext.cli.evaluate import data_values
from wsol_ext.cli.options import add_config, add_data, add_switch, check_out
from wsol_ext.data.factory import FLAGS, ChosenDataset, chosen_dataset
from wsol_ext.thresholds import find_evaluation

if TYPE_CHECKING:
    from wsol_ext.data.base import LocalizationDataset
    from wsol_ext.evaluation.comparison import Comparison
    from wsol_ext.evaluation.runs import Run

__all__ = [
    "DESCRIPTION",
    "HELP",
    "add_options",
    "add_runs",
    "check",
    "check_further",
    "dataset_of_runs",
    "found_runs",
    "run",
]

HELP = "evaluated runs beside each other: one table, and tests whether two differ"
DESCRIPTION = (
    "A table of evaluated runs as markdown, the centre baseline in its last row. Two runs are compared image by image, "
    "by a paired bootstrap test of each number, with the images whose boxes differ most. With --group, mean and "
    "standard deviation over runs that are alike, such as those of several seeds."
)
_GROUPS = ("method", "data", "split")


def add_options(parser: Parser) -> None:
    """Add the command's flags."""
    add_config(parser)
    add_runs(parser)
    parser.add_argument(
        "--group",
        type=str | None,
        default=None,
        metavar="{" + ",".join(_GROUPS) + "}",
        help="a row for the runs that have this in common: mean and standard deviation",
    )
    add_switch(parser, "--parts", False, "a row for each part of a method too")
    add_switch(
        parser,
        "--above-center",
        False,
        "exit with status 1 unless each run's maxboxacc is above the baseline's",
    )
    test = parser.add_argument_group("two runs")
    test.add_argument("--draws", type=int, default=1000, help="of the bootstrap")
    test.add_argument("--seed", type=int, default=0, help="of the draws")
    test.add_argument(
        "--pictures",
        type=int,
        default=200,
        help="how many to show, first those whose boxes differ most",
    )
    add_data(parser, "pictures for the page (by default those that the first run was evaluated on)")
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="folder for comparison.md, .csv and .json, and of two runs an HTML page",
    )


def add_runs(parser: Parser) -> None:
    """Add the places of evaluated runs, which `found_runs` finds."""
    parser.add_argument(
        "runs", nargs="+", type=str, help="folders of runs or results that `wsol evaluate` wrote"
    )


def check(options: Any, problems: Problems) -> None:
    """Collect the mistakes that are known before what takes seconds to import."""
    found_runs(options, problems)
    if options.group is not None and options.group not in _GROUPS:
        problems.add(f"--group is {options.group}, it should be one of {', '.join(_GROUPS)}")
    for name, least in (("draws", 1), ("seed", 0), ("pictures", 0)):
        if options[name] < least:
            problems.add(f"--{name} is {options[name]}, it should be {least} or more")
    if options.out is not None:
        check_out(options.out, problems)


def found_runs(options: Any, problems: Problems) -> list[Path]:
    """The files of results of the runs that were given, each once."""
    files: list[Path] = []
    for place in options.runs or []:
        with problems.collected():
            file = find_evaluation(place, "RUN")
            if any(file.samefile(other) for other in files):
                raise ValueError(f"RUN is {place}, which is given twice")
            files.append(file)
    return files


def check_further(options: Any, problems: Problems) -> None:
    """Nothing that takes torch can be mistaken."""


def run(options: Any) -> int:
    """Compare."""
    from wsol_ext.evaluation.runs import grouped, read_run, rows_of_runs, table_columns
    from wsol_ext.report.comparison import differences_table, groups_table, runs_table

    runs = [read_run(place) for place in options.runs]
    titles = list(table_columns())
    if options.group is not None:
        rows = grouped(runs, options.group)
        tables = [groups_table(rows, options.group, titles)]
    else:
        rows = rows_of_runs(runs, options.parts)
        tables = [runs_table(rows, titles)]
    written: dict[str, Any] = {"runs": rows}
    pair = _pair(runs, options)
    if pair is not None:
        rows = pair.rows()
        written["comparison"] = pair.as_dict()
        tables.append(differences_table(pair))
    print("\n\n".join(tables))
    if options.out is not None:
        _write(Path(options.out).expanduser(), written, rows, tables, pair, options)
    return _status(runs) if options.above_center else 0


def _pair(runs: "list[Run]", options: Any) -> "Comparison | None":
    """The comparison of two runs, where it can be made; else why it cannot is said."""
    from wsol_ext.evaluation.comparison import compare

    if len(runs) != 2 or options.group is not None:
        return None
    without = [each.name for each in runs if not each.verdicts.is_dir()]
    if without:
        print(
            f"no test: {' and '.join(without)} has no verdicts of each image, as `wsol evaluate` keeps them"
        )
        return None
    return compare(runs[0], runs[1], options.draws, options.seed, options.pictures)


def _write(
    out: Path,
    written: dict[str, Any],
    rows: list[dict[str, Any]],
    tables: list[str],
    pair: "Comparison | None",
    options: Any,
) -> None:
    """Write the folder."""
    from wsol_ext.report.page import write_report
    from wsol_ext.report.results import made_by

    mark_own_folder(out, "compare")
    write_json(out / "comparison.json", written)
    write_csv(out / "comparison.csv", rows)
    write_text(out / "comparison.md", "\n\n".join(tables) + "\n")
    if pair is not None:
        runs = [pair.first, pair.second]
        dataset = dataset_of_runs(runs, options) if options.pictures else None
        write_report(
            out / "comparison.html",
            runs,
            dataset,
            comparison=pair,
            pictures=options.pictures,
            made_by=made_by(options.command_line),
        )
    print(f"\nwritten: {out / ('comparison.html' if pair is not None else 'comparison.md')}")


def dataset_of_runs(runs: "Sequence[Run]", options: Any) -> "LocalizationDataset | None":
    """The data set whose pictures the first run was evaluated on: as its evaluation noted it, but for what flags name.

    None, with a warning, where it is no longer there; what flags name has to be.
    """
    from wsol_ext.data import eval_transform

    first = runs[0]
    noted = first.origin.get("data")
    if isinstance(noted, dict) and options.data is None:
        given = {name: options[name] for name in FLAGS if options[name] is not None}
        given |= options.data_options or {}
        try:
            root = noted["root"] if options.root is None else options.root
            values = {**noted["options"], **given}
            return ChosenDataset(noted["name"], root, noted["split"], values).open(eval_transform())
        except (AttributeError, LookupError, TypeError, ValueError, OSError) as error:
            if given or options.root is not None:
                raise
            warnings.warn(f"{first.name}: its pictures are not to be had: {error}", stacklevel=2)
            return None
    values = data_values(options, first.config)
    if values.get("data") is None:
        return None
    return chosen_dataset(values, options.split, evaluation=True).open(eval_transform())


def _status(runs: "list[Run]") -> int:
    """Whether a run's maxboxacc is not above the baseline's, which is said.

    Raises:
        ValueError: a run was not measured by it.
    """
    from wsol_ext.evaluation import CENTER

    below = []
    for each in runs:
        results = {result.name: result.metrics for result in each.evaluation.protocols}
        if "maxboxacc" not in results:
            raise ValueError(
                f"{each.name} was not measured by maxboxacc, which --above-center compares"
            )
        accuracy = {
            source: numbers["maxboxacc"] for source, numbers in results["maxboxacc"].items()
        }
        if accuracy[each.evaluation.method] <= accuracy[CENTER]:
            below.append(each.name)
    if below:
        print(f"not above the {CENTER} in maxboxacc: {', '.join(below)}")
    return 1 if below else 0
