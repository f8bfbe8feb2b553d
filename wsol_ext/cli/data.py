"""`wsol data`: which data sets there are, and what is wrong with one on the disk."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsol_ext._files import write_json
from wsol_ext._names import flag_of, on_terminal, unknown
from wsol_ext._problems import Problems, check_folder
from wsol_ext.cli.arguments import Parser
from wsol_ext.cli.options import add_config, add_switch
from wsol_ext.data.entries import DATASETS, DatasetEntry
from wsol_ext.data.factory import FLAGS, chosen_dataset, flag_help, missing_data
from wsol_ext.data.splits import split_folders

if TYPE_CHECKING:
    from wsol_ext.data.checking import SplitReport

__all__ = ["DESCRIPTION", "HELP", "add_options", "check", "check_further", "run"]

HELP = "which data sets there are; read one through for what is wrong with it"
DESCRIPTION = (
    "wsol data list says which data sets there are, where to get each, and what its root should hold. wsol data check "
    "DATASET reads one through, its annotations, every image to its last byte and every mask, and names what is "
    "missing, broken, misnamed, or a box without area or outside of its image; the exit status is 1 if there is any."
)
_ACTIONS = ("list", "check")


def add_options(parser: Parser) -> None:
    """Add the command's flags."""
    add_config(parser)
    parser.add_argument("action", type=str, help=" or ".join(_ACTIONS))
    parser.add_argument(
        "dataset", type=str, default="", help=f"one of {', '.join(DATASETS)}; of list: all"
    )
    listing = parser.add_argument_group("list")
    add_switch(listing, "--markdown", False, "print a table as docs/datasets.md has it")
    group = parser.add_argument_group("check")
    group.add_argument("--root", type=str | None, default=None, help="where the data set lies")
    for name in FLAGS:
        group.add_argument(flag_of(name), type=str | None, default=None, help=flag_help(name))
    group.add_argument(
        "--data-options", type=dict[str, Any] | None, default=None, help="passed to the data set"
    )
    group.add_argument(
        "--split", nargs="+", type=str, default=[], help="train, val or test; by default all"
    )
    group.add_argument(
        "--out", type=str | None, default=None, help="a JSON file for what was found, by split"
    )
    group.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="threads that read; 0: one alone"
    )
    add_switch(group, "--progress", True, "show progress")


def check(options: Any, problems: Problems) -> None:
    """Collect what is wrong with the flags."""
    options.chosen = []
    if options.action is not None and options.action not in _ACTIONS:
        problems.add(unknown("ACTION", options.action, _ACTIONS))
    if options.dataset and options.dataset not in DATASETS:
        problems.add(unknown("DATASET", options.dataset, DATASETS))
        return
    if options.action != "check":
        return
    if options.workers < 0:
        problems.add(f"--workers is {options.workers}, it should be 0 or more")
    if options.out is not None:
        out = Path(options.out).expanduser()
        check_folder("--out", out.parent, problems)
        if out.is_dir():
            problems.add(f"--out is {options.out}, which is a folder; it should be a JSON file")
    if not options.dataset:
        problems.add(f"DATASET is missing, it should be one of {', '.join(DATASETS)}")
        return
    values = {"data": options.dataset, **{n: options[n] for n in ("root", *FLAGS, "data_options")}}
    for missing in missing_data(values):
        problems.add(missing)
    splits = options.split or _splits(DATASETS[options.dataset], options.root)
    for split in splits:
        with problems.collected():
            chosen = chosen_dataset(values, split, options.boxes is not None, asked=True)
            options.chosen.append(chosen)


def check_further(options: Any, problems: Problems) -> None:
    """Collect the mistakes that take torch to find: options that the data set does not take."""
    if options.data_options:
        for chosen in options.chosen:
            with problems.collected():
                chosen.check_options()


def run(options: Any) -> int:
    """List, or check."""
    if options.action == "list":
        names = [options.dataset] if options.dataset else list(DATASETS)
        print(_table(names) if options.markdown else "\n\n".join(map(_described, names)))
        return 0
    return _check(options)


def _table(names: list[str]) -> str:
    """A table of data sets in Markdown."""
    rows = ["| `--data` | what | splits | `--root` | boxes | terms |", "| --- " * 6 + "|"]
    for name in names:
        entry, source = DATASETS[name], DATASETS[name].source
        if source is None:
            rows.append(f"| `{name}` |  | {', '.join(entry.splits)} |  |  |  |")
            continue
        homes = ", ".join(f"<{home}>" for home in filter(None, source.home.split(", ")))
        what = f"{source.title}: {homes}" if homes else source.title
        splits = ", ".join(entry.splits)
        rows.append(
            f"| `{name}` | {what} | {splits} | {source.root} | {source.boxes} | {source.licence} |"
        )
    return "\n".join(rows)


def _described(name: str) -> str:
    entry, source = DATASETS[name], DATASETS[name].source
    lines = {"splits": ", ".join(entry.splits)}
    if source is not None:
        lines |= {"home": source.home, "terms": source.licence}
        lines |= {"--root": source.root, "boxes": source.boxes}
    text = [f"{name}: {source.title}" if source else name]
    text += [f"  {key:<8}{value.replace('`', '')}" for key, value in lines.items() if value]
    return "\n".join(text)


def _splits(entry: DatasetEntry, root: str | None) -> list[str]:
    """The splits to look at where none is asked for: those that a folder is divided into, or it as a whole."""
    if not entry.split_folders or root is None:
        return list(entry.splits)
    return list(split_folders(Path(root).expanduser(), entry.splits)) or [entry.splits[0]]


def _check(options: Any) -> int:
    from wsol_ext.data.checking import Finding, SplitReport, check_dataset

    reports: list[SplitReport] = []
    absent: dict[str, str] = {}
    for chosen in options.chosen:
        try:
            report = check_dataset(chosen.open, chosen.split, options.workers, options.progress)
        except FileNotFoundError as error:
            absent[chosen.split] = str(error)
            continue
        reports.append(report)
        _tell(report)
    for split, message in absent.items():
        if options.split or not reports:
            reports.append(SplitReport(split, findings=[Finding("list", message)]))
            _tell(reports[-1])
        else:  # whoever wants it will ask for it
            print(f"{split}: is not there: {on_terminal(message)}")
    if options.out is not None:
        path = Path(options.out).expanduser()
        about = {"data": options.dataset, "root": options.root}
        write_json(path, {**about, "splits": [report.as_dict() for report in reports]})
        print(f"wrote {path}")
    return 1 if any(report.findings for report in reports) else 0


def _tell(report: "SplitReport") -> None:
    for line in _lines(report):
        print(line)
    sys.stdout.flush()


def _lines(report: "SplitReport") -> Iterator[str]:
    for finding in report.findings:
        yield f"{finding.kind}: {on_terminal(finding.message)}"
    counts = ", ".join(f"{count} {kind}" for kind, count in report.counts().items())
    masks = f", {report.masks} mask files" if report.masks else ""
    yield (
        f"{report.split}: {report.images} images of {report.classes} classes, {report.boxes} boxes{masks}; "
        f"{f'wrong: {counts}' if counts else 'nothing is wrong'}"
    )
