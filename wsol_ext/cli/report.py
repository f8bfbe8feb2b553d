"""`wsol report`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsol_ext._problems import Problems, check_folder
from wsol_ext.cli.arguments import Parser
from wsol_ext.cli.compare import add_runs, dataset_of_runs, found_runs
from wsol_ext.cli.options import add_config, add_data

if TYPE_CHECKING:
    from wsol_ext.evaluation.comparison import Comparison
    from wsol_ext.evaluation.runs import Run

__all__ = ["DESCRIPTION", "HELP", "add_options", "check", "check_further", "run"]

HELP = "one page of evaluated runs: numbers, curves, a gallery to sort and filter"
DESCRIPTION = (
    "A self-contained HTML page of evaluated runs, from what `wsol evaluate` kept: no model is run. It has the numbers "
    "with their intervals and the centre baseline, curves, pictures to sort and to filter by class and kind of error, "
    "and what made it all. Several runs stand side by side; of two the differences are tested."
)


def add_options(parser: Parser) -> None:
    """Add the command's flags."""
    add_config(parser)
    add_runs(parser)
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="the page; by default report.html beside the results of one run, of several runs.html here",
    )
    parser.add_argument(
        "--pictures",
        type=int,
        default=200,
        help="how many to show: the best, the worst and others of each kind of error, spread over the classes",
    )
    add_data(parser, "pictures (by default those that the first run was evaluated on)")


def check(options: Any, problems: Problems) -> None:
    """Collect the mistakes that are known before what takes seconds to import."""
    files = found_runs(options, problems)
    if options.pictures < 0:
        problems.add(f"--pictures is {options.pictures}, it should be 0 or more")
    beside = files[0].parent / "report.html" if len(options.runs or []) == 1 and files else None
    options.page = Path(options.out or beside or "runs.html").expanduser()
    if options.page.suffix.lower() not in (".html", ".htm"):  # so that nothing else is written over
        problems.add(f"--out is {options.page}, it should be a file such as report.html")
    else:
        check_folder("--out", options.page.parent, problems)


def check_further(options: Any, problems: Problems) -> None:
    """Nothing that takes torch can be mistaken."""


def run(options: Any) -> int:
    """Write the page."""
    from wsol_ext.evaluation.runs import read_run
    from wsol_ext.report.page import write_report
    from wsol_ext.report.results import made_by

    runs = [read_run(place) for place in options.runs]
    comparison, reason = _comparison(runs)
    for each in runs:
        if each.unfinished:
            raise ValueError(
                f"{each.name}: an evaluation there is not finished: the command that began it goes on with it"
            )
    dataset = dataset_of_runs(runs, options) if options.pictures else None
    write_report(
        options.page,
        runs,
        dataset,
        comparison=comparison,
        no_comparison=reason,
        pictures=options.pictures,
        made_by=made_by(options.command_line),
    )
    print(f"report: {options.page}")
    return 0


def _comparison(runs: "list[Run]") -> "tuple[Comparison | None, str]":
    """The test of two runs' differences; or, where there can be none, why, which is said."""
    from wsol_ext.evaluation.comparison import compare

    if len(runs) != 2:
        return None, ""
    try:
        return compare(runs[0], runs[1]), ""
    except ValueError as error:
        print(f"no test: {error}")
        return None, str(error)
