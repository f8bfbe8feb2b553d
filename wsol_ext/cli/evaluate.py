"""`wsol evaluate`."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from wsol_ext._files import missing_paths, read_yaml, sha256_of
from wsol_ext._kept_epoch import kept_epoch
from wsol_ext._names import flag_of, in_short, registered_names, unknown
from wsol_ext._problems import Problems
from wsol_ext._processes import of_torchrun, rank_on_machine
from wsol_ext.cli.arguments import Parser
from wsol_ext.cli.options import (
    add_clusters,
    add_config,
    add_data,
    add_device,
    add_switch,
    add_weights,
    check_clusters,
    check_device,
    check_hardware,
    check_out,
    check_weights,
    load_weights,
    set_clusters,
)
from wsol_ext.data.entries import DATASETS, DatasetEntry
from wsol_ext.data.factory import (
    FLAGS,
    ChosenDataset,
    check_split_name,
    chosen_dataset,
    evaluation_flags,
    missing_data,
)
from wsol_ext.evaluation.settings import mistaken_settings
from wsol_ext.thresholds import (
    best_threshold,
    find_evaluation,
    run_folder,
    store_threshold,
    stored_threshold,
    threshold_of_best_box,
)

if TYPE_CHECKING:
    from wsol_ext.data import Transform
    from wsol_ext.evaluation import Evaluation, ThresholdsFrom
    from wsol_ext.evaluation.journal import Journal

__all__ = [
    "DESCRIPTION",
    "HELP",
    "add_options",
    "check",
    "check_further",
    "data_values",
    "keep_threshold",
    "run",
]

HELP = "evaluate a model, or score maps, by the published protocols"
DESCRIPTION = (
    "Evaluate a model by the published protocols, the centre baseline beside it, and write tables, curves and an "
    "HTML report. The best threshold by maxboxacc, or else maxboxaccv2, is stored in the run's folder: `wsol localize` "
    "cuts there. It is chosen by the boxes of the very pictures that are measured; --threshold-from chooses on others. "
    "With --maps, evaluate score maps that any program wrote, without a model; with --found, boxes."
)
_CHECKPOINT = (
    "a model.safetensors, the run folder of `wsol train`, or what a method's authors released"
)
_USUAL_THRESHOLD = 0.1
_OF_MODEL = ("clusters", "cluster_cache", "backbone_weights", "published_heads")


def add_options(parser: Parser) -> None:
    """Add the command's flags."""
    protocols = registered_names("wsol_ext.metrics", "PROTOCOLS", "register_protocol")
    add_config(parser)
    parser.add_argument(
        "checkpoint",
        type=str,
        default="",  # it may be left out, for --maps and --found
        help=f"{_CHECKPOINT}; none with --maps or --found",
    )
    group = parser.add_argument_group("protocol")
    group.add_argument(
        "--protocols",
        nargs="+",
        default=["maxboxaccv2", "toploc"],
        help=", ".join(protocols),
    )
    group.add_argument(
        "--threshold",
        type=float | str,
        default=_USUAL_THRESHOLD,
        help="where maps are cut by protocols of one threshold; 'best' chooses on these images, and the report says so",
    )
    group.add_argument(
        "--threshold-from",
        type=str | None,
        default=None,
        metavar="SPLIT|RUN|pseudo",
        help="choose every threshold on other pictures and use it here unchanged, the best of these beside it: the "
        "boxes of another split; what was chosen for another run, or in a folder of results; pseudo: the training "
        "pictures by --pseudo-boxes",
    )
    group.add_argument(
        "--threshold-boxes",
        "--pseudo-boxes",
        type=str | None,
        default=None,
        metavar="FILE",
        help="boxes of the pictures that thresholds are chosen on, CSV or COCO: true ones of a split, or with pseudo "
        "what `wsol discover` or `wsol localize` found",
    )
    group.add_argument(
        "--interval", type=float, default=0.001, help="between thresholds, of protocols of many"
    )
    maps = parser.add_argument_group("score maps, or boxes, in place of a model")
    maps.add_argument(
        "--maps",
        type=str | None,
        default=None,
        help="folder of score maps of the true classes, .npy, .npz, grey .png or .pt, named as the images with or "
        "without suffix",
    )
    maps.add_argument(
        "--predictions",
        type=str | None,
        default=None,
        help="CSV file of class predictions for Top-1 and Top-5, whose first line is image,class or image,class,score "
        "or image and all classes",
    )
    maps.add_argument(
        "--found",
        type=str | None,
        default=None,
        help="boxes in place of maps, for --protocols corloc: the dataset.json or boxes.csv of `wsol discover` or "
        "`wsol localize`, or other boxes in such files",
    )
    add_switch(
        maps, "--skip-missing", False, "leave out images without a map or a line, and count them"
    )
    add_weights(parser)
    add_data(parser)
    add_clusters(parser)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="folder; by default CHECKPOINT's or that of --maps, /evaluation",
    )
    add_switch(
        output,
        "--overwrite",
        False,
        "start anew where another evaluation was interrupted, and drop what it had found",
    )
    output.add_argument(
        "--gallery",
        type=int,
        default=6,
        help="examples of each outcome to show with their heat maps: best and worst boxes, spread over the classes",
    )
    add_switch(output, "--progress", True, "show a progress bar")
    add_device(parser, batch_size=64)


def check(options: Any, problems: Problems) -> None:
    """Collect the mistakes that are known before what takes seconds to import."""
    options.checkpoint = options.checkpoint or None
    _check_source(options, problems)
    known = registered_names("wsol_ext.metrics", "PROTOCOLS", "register_protocol")
    for name in options.protocols:
        if name not in known:
            problems.add(unknown("--protocols", name, known))
    for mistake in mistaken_settings(options.threshold, options.interval, options.gallery, flag_of):
        problems.add(mistake)
    check_hardware(options, problems)
    check_clusters(options, problems)
    check_weights(options, problems)
    options.run_config, there = {}, False
    if options.checkpoint is not None and not _in_place(options):  # else that is said already
        with problems.collected():
            folder = _folder(options)
            options.run_config = _run_config(folder)
            there = True
    values = data_values(options, options.run_config)
    if values.get("data") is not None:
        with problems.collected():
            options.chosen = chosen_dataset(values, options.split, evaluation=True)
    elif there or _in_place(options):
        problems.add(f"--data is missing, it should be one of {', '.join(DATASETS)}")
    else:  # the run's config.yaml would say
        with problems.collected():
            check_split_name(options.split, options.root)
    for missing in missing_data(values):
        problems.add(missing)
    _check_threshold_from(options, values, problems)
    if (
        there or options.out or _in_place(options)
    ) and of_torchrun().rank == 0:  # the one that writes
        check_out(_out(options), problems)


def check_further(options: Any, problems: Problems) -> None:
    """Collect the mistakes that take torch to find, among the options that were given."""
    if options.device != "auto" and not problems.about("device"):
        check_device(options.device, problems)
    if options.data_options and "chosen" in options:
        with problems.collected():
            options.chosen.check_options()
    given = any(options[name] is not None for name in _OF_MODEL)
    mistaken = problems.about("checkpoint", "clusters", "backbone_weights", "published_heads")
    if given and not mistaken and options.checkpoint is not None:
        with problems.collected():
            model = load_weights(options.checkpoint, options)
            set_clusters(model, options, _out(options))


def run(options: Any) -> int:
    """Evaluate."""
    if options.maps is not None:
        return _run_on_maps(options)
    if options.found is not None:
        return _run_on_boxes(options)
    chosen, config, problems = options.chosen, options.run_config, Problems()
    folder, out = _folder(options), _out(options)
    device = check_device(options.device, problems)
    from wsol_ext.checkpoints import find_checkpoint, require_same_classes
    from wsol_ext.data.class_names import are_numbers
    from wsol_ext.evaluation import OtherPictures, evaluate, transform_for
    from wsol_ext.report.results import write_results

    model = dataset = None
    with problems.collected():
        checkpoint = find_checkpoint(options.checkpoint)
        model = load_weights(checkpoint, options)
        with problems.collected():
            set_clusters(model, options, out)
    size = 224 if model is None else model.config["img_size"]
    transform = transform_for(options.protocols, size)
    with problems.collected():
        dataset = chosen.open(transform)
        if model is not None:
            require_same_classes(model, dataset.class_names, checkpoint)
    threshold_from = None
    with problems.collected():
        threshold_from = _threshold_from(options, transform)
        if model is not None and isinstance(threshold_from, OtherPictures):
            require_same_classes(model, threshold_from.dataset.class_names, checkpoint)
    problems.raise_any()
    assert model is not None  # else there was a problem
    assert dataset is not None
    _warn_of_training_images(chosen, config)
    epoch = _epoch(checkpoint, config, chosen)
    if model.class_names and are_numbers(dataset.class_names):
        dataset.class_names = model.class_names
    with _journal(options, {"model": sha256_of(checkpoint)}) as journal:
        with _processes(device) as rank:
            evaluation = evaluate(
                model,
                dataset,
                options.protocols,
                device=device,
                threshold_from=threshold_from,
                journal=journal,
                **_of_maps(options),
            )
        if rank == 0:
            about = {"data": chosen.name, "split": chosen.split, "checkpoint": str(checkpoint)}
            evaluation.about = {**about, **epoch, **evaluation.about}
            command = options.command_line
            write_results(evaluation, dataset, out, command, run_folder=folder, data=chosen)
            keep_threshold(evaluation, checkpoint)
            journal.finish()
    return 0


def _in_place(options: Any) -> list[str]:
    """The flags, given, of what is evaluated in place of a model."""
    return [flag_of(name) for name in ("maps", "found") if options[name] is not None]


def _check_source(options: Any, problems: Problems) -> None:
    """Collect what is wrong with a checkpoint, maps and boxes beside each other."""
    in_place = _in_place(options)
    if options.maps is None and options.predictions:
        problems.add("--predictions is for --maps, which is not given")
    if not in_place:
        if options.checkpoint is None:
            problems.add(
                f"CHECKPOINT is missing: {_CHECKPOINT}; or --maps, score maps, or --found, boxes"
            )
        if options.skip_missing:
            problems.add("--skip-missing is for --maps and --found, which are not given")
        return
    if len(in_place) > 1:
        problems.add("--found is boxes in place of score maps, and --maps is given")
    if options.checkpoint is not None:
        problems.add(
            f"CHECKPOINT is {options.checkpoint}, there should be none: {in_place[0]} needs no model"
        )
    for name in _OF_MODEL:
        if options[name] is not None:
            problems.add(f"{flag_of(name)} is for a CHECKPOINT, {in_place[0]} needs no model")
    paths = {flag_of(name): options[name] for name in ("maps", "predictions", "found")}
    for missing in missing_paths(paths):
        problems.add(missing)


def _check_threshold_from(options: Any, values: dict[str, Any], problems: Problems) -> None:
    """Collect what is wrong with `--threshold-from`; leave the split that it names, or the file of results."""
    asked, boxes = options.threshold_from, options.threshold_boxes
    options.other, options.other_results = None, None
    if asked is None:
        if boxes is not None:
            problems.add("--threshold-boxes is for --threshold-from, which is not given")
        return
    if options.found is not None:
        problems.add("--threshold-from is for what is cut, --found is boxes")
    if options.threshold != _USUAL_THRESHOLD:
        problems.add(f"--threshold is {options.threshold}, and --threshold-from chooses it")
    for missing in missing_paths({"--threshold-boxes": boxes}):
        problems.add(missing)
    split = "train" if asked == "pseudo" else asked
    if asked == "pseudo" and boxes is None:
        problems.add(
            "--pseudo-boxes is missing, it should be what `wsol discover` or `wsol localize` found in the training "
            "pictures"
        )
    name = values.get("data")
    known = DATASETS[name].splits if name in DATASETS else ()
    is_path = Path(asked).expanduser().exists() and asked not in (*known, *DatasetEntry.splits)
    if is_path and asked != "pseudo" and not _is_split_folder(values, asked):
        if boxes is not None:
            problems.add(f"--threshold-boxes is for a split, --threshold-from is {asked}")
        with problems.collected():
            options.other_results = find_evaluation(asked, "--threshold-from")
        return
    if name not in DATASETS or problems.about("root", "split"):
        return
    own = dict.fromkeys(evaluation_flags(name))  # what was given is of the measured pictures
    with problems.collected():
        try:
            other = chosen_dataset({**values, **own}, split, option="--threshold-from", asked=True)
        except ValueError as error:
            raise ValueError(f"{error}; or a run's folder, or pseudo") from error
        if own and boxes is None:
            problems.add(f"--threshold-boxes is missing, it should be the boxes of {split}")
        chosen = options.chosen if "chosen" in options else None
        if chosen is not None and asked != "pseudo" and chosen.has_images_of(split):
            problems.add(
                f"--threshold-from is {asked}, whose pictures are those that are measured: it should be of others"
            )
        options.other = other


def _is_split_folder(values: dict[str, Any], name: str) -> bool:
    """Whether it is called as a folder of the data set's."""
    root = values.get("root")
    return root is not None and Path(root, name).expanduser().is_dir()


def _threshold_from(options: Any, transform: "Transform") -> "ThresholdsFrom | None":
    """What `--threshold-from` names: results, or the pictures of a split with their boxes."""
    from wsol_ext.evaluation import (
        ChosenThresholds,
        OtherPictures,
        read_evaluation,
        with_boxes_of,
    )
    from wsol_ext.metrics import PROTOCOLS

    if options.threshold_from is not None and not any(
        PROTOCOLS[name].best_by for name in options.protocols
    ):
        names = " and ".join(options.protocols)
        warnings.warn(f"--threshold-from changes nothing: {names} has no threshold", stacklevel=2)
        return None
    if options.other_results is not None:
        found, chosen = read_evaluation(options.other_results), options.chosen
        there = f"the results in {in_short(options.other_results.parent)}"
        if (found.about.get("data"), found.about.get("split")) == (chosen.name, chosen.split):
            warnings.warn(
                f"--threshold-from is {options.threshold_from}, whose thresholds were chosen on {chosen.split} of "
                f"{chosen.name}, which is measured here: choose them on other pictures",
                stacklevel=2,
            )
        return ChosenThresholds(found, there)
    if options.other is None:
        return None
    other, boxes = options.other, options.threshold_boxes
    dataset, source = other.open(transform), f"the boxes of {other.split}"
    if boxes is not None:
        dataset = with_boxes_of(dataset, boxes)
        pseudo = "pseudo " if options.threshold_from == "pseudo" else ""
        source = f"the {pseudo}boxes of {other.split} in {in_short(boxes)}"
    elif not dataset.has_boxes and not dataset.has_masks:
        raise ValueError(
            f"--threshold-from is {options.threshold_from}, of which no boxes are known: --threshold-boxes gives some"
        )
    return OtherPictures(dataset, source, {"data": other.name, "split": other.split})


def _run_on_boxes(options: Any) -> int:
    """Evaluate boxes that are there already."""
    from wsol_ext.data import eval_transform
    from wsol_ext.evaluation import evaluate_found
    from wsol_ext.report.results import write_results

    chosen = options.chosen
    dataset = chosen.open(eval_transform())  # of which pictures are read for the report alone
    out = _out(options)
    with _journal(options) as journal:
        with _processes("cpu") as rank:
            evaluation = evaluate_found(
                options.found,
                dataset,
                options.protocols,
                skip_missing=options.skip_missing,
                progress=options.progress,
                journal=journal,
            )
        if rank == 0:
            evaluation.about = {"data": chosen.name, "split": chosen.split, **evaluation.about}
            write_results(evaluation, dataset, out, options.command_line, data=chosen)
            journal.finish()
    return 0


def _run_on_maps(options: Any) -> int:
    """Evaluate score maps that are there already."""
    chosen, problems = options.chosen, Problems()
    from wsol_ext.data import ScoreMaps, eval_transform
    from wsol_ext.evaluation import evaluate_map_files
    from wsol_ext.report.results import write_results

    maps = dataset = None
    with problems.collected():
        maps = ScoreMaps(options.maps)
    with problems.collected():
        dataset = chosen.open(eval_transform())  # of which pictures are read for the report alone
    threshold_from = None
    with problems.collected():
        threshold_from = _threshold_from(options, eval_transform())
    problems.raise_any()
    assert maps is not None  # else there was a problem
    assert dataset is not None
    with _journal(options) as journal:
        with _processes("cpu") as rank:
            evaluation = evaluate_map_files(
                maps,
                dataset,
                options.protocols,
                predictions=options.predictions,
                skip_missing=options.skip_missing,
                threshold_from=threshold_from,
                journal=journal,
                **_of_maps(options),
            )
        if rank == 0:
            evaluation.about = {"data": chosen.name, "split": chosen.split, **evaluation.about}
            write_results(evaluation, dataset, _out(options), options.command_line, data=chosen)
            best = threshold_of_best_box(evaluation)
            if best is not None:
                whose = "best" if evaluation.chosen is None else "chosen"
                print(f"{whose} threshold {best:g}: wsol boxes {options.maps} --threshold {best:g}")
            journal.finish()
    return 0


def _of_maps(options: Any) -> dict[str, Any]:
    """The flags that every evaluation of maps takes as they are."""
    names = ("batch_size", "workers", "threshold", "interval", "gallery", "progress")
    return {name: options[name] for name in names}


def keep_threshold(evaluation: "Evaluation", checkpoint: Path) -> None:
    """Store where the run's maps are to be cut beside its model, for `wsol localize`, and say so.

    What other pictures chose is kept where a later evaluation only finds the best of its own.
    """
    found = best_threshold(evaluation, checkpoint)
    if found is None:
        print(
            "no threshold is stored for `wsol localize`: maxboxacc or maxboxaccv2 finds one, where any box is right"
        )
        return
    folder = run_folder(checkpoint)
    if folder is None:
        print(
            f"threshold {found.threshold:g} is {found}; it is not stored, as {checkpoint} is no trained model in a "
            f"run's folder: `wsol localize … --threshold {found.threshold:g}`"
        )
        return
    stored = None
    with suppress(ValueError, OSError):  # damaged, it is written anew
        stored = stored_threshold(folder)
    if stored is not None and stored.outranks(found):
        print(
            f"threshold {found.threshold:g} is {found}; `wsol localize` keeps to {stored.threshold:g}, {stored}"
        )
        return
    try:
        path = store_threshold(folder, found)
    except OSError as error:
        warnings.warn(
            f"{error.filename}: {error.strerror}: the threshold, {found.threshold:g}, is not stored",
            stacklevel=2,
        )
        return
    print(f"threshold {found.threshold:g} is {found}; `wsol localize` uses it: {path}")


def _folder(options: Any) -> Path:
    """The checkpoint's folder.

    Raises:
        FileNotFoundError: there is no such checkpoint.
    """
    path = Path(options.checkpoint).expanduser()
    if not path.exists():  # before its run's options are missed
        raise FileNotFoundError(f"CHECKPOINT is {path}: there is no such checkpoint or run folder")
    return path if path.is_dir() else path.parent


def _out(options: Any) -> Path:
    """The folder of the results."""
    if options.out:
        return Path(options.out).expanduser()
    found = options.found and Path(options.found).expanduser().parent
    return Path(options.maps or found or _folder(options), "evaluation").expanduser()


def _journal(options: Any, about: Mapping[str, str] = MappingProxyType({})) -> "Journal":
    """Where what is found of each image is kept, and was, if the same evaluation was interrupted."""
    from wsol_ext.evaluation.journal import FOLDER, Journal

    of_model = {name: options[name] for name in _OF_MODEL if options[name] is not None}
    of_data = {"data": options.chosen.name, "split": options.chosen.split}
    return Journal(_out(options) / FOLDER, {**about, **of_model, **of_data}, options.overwrite)


def _warn_of_training_images(chosen: ChosenDataset, config: dict[str, Any]) -> None:
    """A folder that is not divided into splits serves them all, training too."""
    trained_on = config.get("root")
    if chosen.root is None or trained_on is None or chosen.split == "train":
        return
    same = Path(chosen.root).resolve() == Path(trained_on).expanduser().resolve()
    if same and chosen.is_of_training:
        warnings.warn(
            f"{chosen.root} is not divided into train and test: the run was trained on these images",
            stacklevel=2,
        )


def _epoch(checkpoint: Path, config: dict[str, Any], chosen: ChosenDataset) -> dict[str, str]:
    """Which epoch's weights a run's model has, by name, for reports; nothing of what is no run's model."""
    folder = run_folder(checkpoint)
    if folder is None or not config:
        return {}
    try:
        kept = kept_epoch(folder)
    except ValueError as error:
        warnings.warn(f"{error}: which epoch was kept is not known", stacklevel=2)
        return {}
    if kept is None:
        return {"epoch": "the last"}
    if chosen.name == config.get("data") and chosen.has_images_of(kept.split):
        warnings.warn(
            f"the run's epoch was chosen on {kept.split}, which is measured here: what is chosen on pictures is better "
            "on them than on others",
            stacklevel=2,
        )
    return {"epoch": str(kept)}


def _run_config(folder: Path) -> dict[str, Any]:
    if not (folder / "config.yaml").exists():
        return {}
    return read_yaml(folder / "config.yaml")


def data_values(options: Any, config: dict[str, Any]) -> dict[str, Any]:
    """What names the data set: flags, and what they leave out as the run has it that was trained on it."""
    names = ("data", "root", *FLAGS, "data_options")
    given = {name: options[name] for name in names if options[name] is not None}
    if given.get("data", config.get("data")) == config.get("data"):
        of_run = {name: config.get(name) for name in names}
        # Its boxes name pictures below one split's folder.
        if options.split != (config.get("select") or "test"):
            of_run |= dict.fromkeys(evaluation_flags(config.get("data")))
        given = {**of_run, **given}
    return given


@contextmanager
def _processes(device: str) -> Iterator[int]:
    """Under `torchrun`, join the other processes and leave them in the end; gives this one's rank."""
    if of_torchrun().total == 1:
        yield 0
        return
    import torch

    if device.startswith("cuda"):
        torch.cuda.set_device(rank_on_machine())
    torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield torch.distributed.get_rank()
        # Under torch 2.6, leaving waits for a thread that may wait for this one to free what was gathered last.
        torch.distributed.barrier()
    finally:  # left to the interpreter's exit, its threads end the process with an abort
        torch.distributed.destroy_process_group()
