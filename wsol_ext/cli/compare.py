"""`wsol compare`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsol_ext._files import mark_own_folder, read_yaml, write_csv, write_json, write_text
from wsol_ext._problems import Problems
from wsol_ext.cli.arguments import Parser
from wsol_ext.cli.evaluate import data_values
from wsol_ext.cli.options import add_config, add_data, add_switch, check_out
from wsol_ext.data.factory import chosen_dataset
from wsol_ext.thresholds import find_evaluation

if TYPE_CHECKING:
    from wsol_ext.data.base import LocalizationDataset
    from wsol_ext.evaluation.comparison import Comparison
    from wsol_ext.evaluation.runs import Run

__all__ = ["DESCRIPTION", "HELP", "add_options", "check", "check_further", "run"]

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
    parser.add_argument(
        "runs", nargs="+", type=str, help="folders of runs or results that `wsol evaluate` wrote"
    )
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
        "--pictures", type=int, default=12, help="how many images of most different boxes to show"
    )
    add_data(parser, "pictures for the page (by default what the first run's folder says)")
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="folder for comparison.md, .csv and .json, and of two runs an HTML page",
    )


def check(options: Any, problems: Problems) -> None:
    """Collect the mistakes that are known before what takes seconds to import."""
    options.files = []
    for place in options.runs or []:
        with problems.collected():
            file = find_evaluation(place, "RUN")
            if any(file.samefile(other) for other in options.files):
                raise ValueError(f"RUN is {place}, which is given twice")
            options.files.append(file)
    if options.group is not None and options.group not in _GROUPS:
        problems.add(f"--group is {options.group}, it should be one of {', '.join(_GROUPS)}")
    for name, least in (("draws", 1), ("seed", 0), ("pictures", 0)):
        if options[name] < least:
            problems.add(f"--{name} is {options[name]}, it should be {least} or more")
    if options.out is not None:
        check_out(options.out, problems)


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
    from wsol_ext.report.comparison import write_comparison

    dataset = _dataset(options) if pair is not None and pair.disagreements else None
    mark_own_folder(out, "compare")
    write_json(out / "comparison.json", written)
    write_csv(out / "comparison.csv", rows)
    write_text(out / "comparison.md", "\n\n".join(tables) + "\n")
    if pair is not None:
        write_comparison(out / "comparison.html", pair, dataset)
    print(f"\nwritten: {out / ('comparison.html' if pair is not None else 'comparison.md')}")


def _dataset(options: Any) -> "LocalizationDataset | None":
    """The first run's data set, by the flags and its run's options; None where neither names one."""
    from wsol_ext.data import eval_transform

    results = options.files[0].parent
    configs = [folder / "config.yaml" for folder in (results, results.parent)]
    config = next((read_yaml(path) for path in configs if path.exists()), {})
    values = data_values(options, config)
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
