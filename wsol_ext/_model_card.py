"""The README.md of a model that is shared: what it is, what it learned from, how good it was, under which licence."""

import inspect
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import timm

from wsol_ext._files import sha256_of
from wsol_ext._names import some
from wsol_ext._versions import versions
from wsol_ext.evaluation.results import CENTER, ProtocolResult
from wsol_ext.metrics import PROTOCOLS
from wsol_ext.models import LocalizationModel
from wsol_ext.thresholds import StoredThreshold

_UNKNOWN = "unknown"  # the hub's word where nobody has stated a licence
# Options of a run that a reader wants to know, in this order; no path is among them.
_SETTINGS = (
    *("epochs", "stage2_epochs", "batch_size", "optimizer", "lr", "weight_decay", "schedule"),
    *("label_smoothing", "augmentation", "train_img_size", "precision", "seed"),
)


@dataclass(frozen=True)
class Origin:
    """What a run tells of the model that it has trained; empty where nothing is known.

    Attributes:
        config: `config.yaml`.
        data: `data.json`.
        last_epoch: `metrics.json`.
        evaluation: `evaluation.json`.
        threshold: the best one.
        card: the card that it has already.
        converted_from: the checkpoint of a method's authors that it was.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    last_epoch: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    threshold: StoredThreshold | None = None
    card: str | None = None
    converted_from: Path | None = None


def model_card(model: LocalizationModel, origin: Origin, license: str | None) -> str:
    """The card as markdown, its head as YAML that the hub reads.

    Args:
        model: the model.
        origin: what its run tells.
        license: its licence's identifier; None: nobody has stated one.
    """
    weights = _Weights.of(model, origin)
    results = _results(model, origin.evaluation)
    sections = {
        "Use": _use(),
        "Model": _table(_facts(model, origin, weights)),
        "Training": _training(origin),
        "Evaluation": _evaluation(model, origin, results),
        "Licence": _licence(license, weights),
        "Versions": _table(versions()),
    }
    config = model.config
    parts = [
        f"---\n{_head(model, origin, license, weights, results)}\n---",
        f"# {config['method']} on {_plain(config['backbone'])}",
        f"{_about(model)} A model of weakly supervised object localization: it finds the object of a picture, and "
        "learned that from the pictures' class labels alone, without a box.",
        *(f"## {title}\n\n{text}" for title, text in sections.items()),
    ]
    return "\n\n".join(parts) + "\n"


@dataclass(frozen=True)
class _Weights:
    """Where the backbone's weights came from, as far as that is known.

    Attributes:
        text: that, in words.
        repository: timm's on the hub, if they are its.
        license: what timm says of their licence.
    """

    text: str
    repository: str | None = None
    license: str | None = None

    @classmethod
    def of(cls, model: LocalizationModel, origin: Origin) -> "_Weights":
        config, file = origin.config, model.backbone_file
        if origin.converted_from is not None:
            return cls("not recorded in the checkpoint")
        if config.get("init_from"):
            return cls(f"another model's: {PurePath(str(config['init_from'])).name}")
        if file is not None:
            return cls(
                f"a file: {file.path.name}, in the layout of {file.layout}, SHA-256 {file.sha256}"
            )
        if config.get("backbone_weights"):
            name = PurePath(str(config["backbone_weights"])).name
            digest = config.get("backbone_sha256") or "not recorded"
            return cls(f"a file: {name}, SHA-256 {digest}")
        if config.get("pretrained") is True:
            name = str(config.get("backbone", model.config["backbone"]))
            trained = None if ":" in name else timm.get_pretrained_cfg(name)
            repository, license = (trained.hf_hub_id, trained.license) if trained else (None, None)
            where = f" ({repository})" if repository else ""
            return cls(f"timm's for {name}{where}", repository, license)
        if config.get("pretrained") is False:
            return cls("none: trained from scratch")
        return cls("not recorded")


def _about(model: LocalizationModel) -> str:
    """The method's name and paper, as its module's first line has them."""
    module = inspect.getmodule(type(model))
    return ((module.__doc__ if module else None) or model.config["method"]).strip().splitlines()[0]


def _use() -> str:
    return (
        "```python\n"
        "import wsol_ext\n\n"
        'predictor = wsol_ext.load("FOLDER")              # this folder, or "hf-hub:OWNER/NAME"\n'
        'for found in predictor.predict("picture.jpg")[0]:\n'
        "    print(found.name, found.score, found.box)    # in pixels of the picture\n"
        "```\n\n"
        "`wsol localize FOLDER pictures/` does it for many. The files hold no pickle."
    )


def _facts(model: LocalizationModel, origin: Origin, weights: _Weights) -> dict[str, Any]:
    config = model.config
    size = config["img_size"]
    height, width = (size, size) if isinstance(size, int) else size
    names = model.class_names
    frozen = "frozen" if model.backbone_is_frozen else "trained"
    parameters = sum(p.numel() for p in model.parameters())
    options = {n: v for n, v in model.options.items() if n != "freeze_backbone"}
    return {
        "method": config["method"],
        **({"its options": ", ".join(f"{n} {v}" for n, v in options.items())} if options else {}),
        "backbone": f"{config['backbone']} ({frozen})",
        **{n: v for n, v in {"its options in timm": config["backbone_options"]}.items() if v},
        "its weights began as": weights.text,
        "parameters": f"{parameters:,}",
        "input": f"{height} x {width} pixels, normalized by ImageNet's mean and deviation",
        "classes": f"{model.num_classes}: {some(names, 5)}" if names else str(model.num_classes),
        "maps are cut at": _cut(model, origin.threshold),
    }


def _cut(model: LocalizationModel, threshold: StoredThreshold | None) -> str:
    if threshold is not None:
        return f"{threshold.threshold:g} of their maximum, {threshold}"
    published = model.published_threshold
    if published is not None:
        return f"{published:g} of their maximum, as published; none was measured for this model"
    return "Otsu's threshold of each; none was measured for this model"


def _training(origin: Origin) -> str:
    config, data = origin.config, origin.data
    if origin.converted_from is not None:
        name, digest = _plain(origin.converted_from.name), sha256_of(origin.converted_from)
        return (
            f"By the method's authors: converted from their checkpoint {name} (SHA-256 {digest}). Say here on which "
            "pictures it was trained, and where the checkpoint is from."
        )
    if not config:
        return "Not recorded: say here on which pictures it was trained, and how."
    facts: dict[str, Any] = {"data set": config.get("data", "not recorded")}
    classes = data.get("classes")
    if isinstance(data.get("images"), int) and isinstance(classes, list):
        facts["pictures"] = f"{data['images']:,} of {len(classes):,} classes"
    facts |= {name.replace("_", " "): config[name] for name in _SETTINGS if config.get(name)}
    last = {n: v for n, v in origin.last_epoch.items() if _is_number(v)}
    facts |= {f"last epoch's {name}": f"{value:.4g}" for name, value in last.items()}
    table = _table(facts)
    return f"{table}\n\nNo box was seen. Whose pictures they are, and their terms, belong here."


@dataclass(frozen=True)
class _Number:
    """One number of an evaluation, and the centre baseline's where it has one."""

    protocol: str
    title: str
    name: str
    value: float
    baseline: float | None


def _results(model: LocalizationModel, evaluation: Mapping[str, Any]) -> list[_Number]:
    """The numbers of the protocols that are known here; what is damaged is passed over."""
    found = []
    protocols = evaluation.get("protocols")
    for each in protocols if isinstance(protocols, list) else []:
        try:
            result = ProtocolResult(each["protocol"], dict(each["settings"]), dict(each["metrics"]))
            own, baseline = result.metrics[model.config["method"]], result.metrics.get(CENTER, {})
            for number in PROTOCOLS[result.name].headlines:
                if _is_number(own.get(number)):
                    beside: Any = baseline.get(number)
                    found.append(
                        _Number(
                            result.name,
                            result.title,
                            result.label(number),
                            float(own[number]),
                            float(beside) if _is_number(beside) else None,
                        )
                    )
        except (AttributeError, KeyError, TypeError, ValueError):
            continue
    return found


def _evaluation(model: LocalizationModel, origin: Origin, results: Sequence[_Number]) -> str:
    if not results and origin.threshold is not None:
        return (
            "The run's folder holds no evaluation. Its threshold was measured, as above; `wsol evaluate RUN` without "
            "`--out` keeps the numbers beside it."
        )
    if not results:
        return "Not measured: `wsol evaluate` does that, on pictures with boxes."
    about = origin.evaluation
    images, data, split = (about.get(name, "?") for name in ("images", "data", "split"))
    lines = ["| protocol | number | model | centre baseline |", "| --- | --- | --- | --- |"]
    for each in results:
        beside = "" if each.baseline is None else f"{each.baseline:.1%}"
        lines.append(_row([each.title, each.name, f"{each.value:.1%}", beside]))
    where = _plain(f"{images} pictures ({data}, {split})")
    return (
        f"On {where}. Numbers compare under one protocol only; the baseline is a centred Gaussian as every picture's "
        "map.\n\n" + "\n".join(lines)
    )


def _licence(license: str | None, weights: _Weights) -> str:
    bound = (
        f"the backbone's weights ({weights.license}, as timm has it)"
        if weights.license
        else "the backbone's weights"
    )
    bound = f"{bound} and the pictures that it was trained on may bind it"
    if license is None:
        return (
            f"**Nobody has stated one yet.** Before this is shared, put one in place of `license: {_UNKNOWN}` above "
            f"and of this text: the terms of {bound}."
        )
    return f"{license}. The terms of {bound} too. The program, wsol_ext, is under Apache-2.0."


def _head(
    model: LocalizationModel,
    origin: Origin,
    license: str | None,
    weights: _Weights,
    results: Iterable[_Number],
) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    about = origin.evaluation
    numbers = [
        EvalResult(
            task_type="object-detection",
            dataset_type=str(about.get("data")),
            dataset_name=f"{about.get('data')}, {about.get('split')}",
            metric_type=each.protocol,
            metric_name=f"{each.title}: {each.name}",
            metric_value=round(each.value, 6),
        )
        for each in results
    ]
    method = model.config["method"]
    return ModelCardData(
        license=license or _UNKNOWN,
        library_name="wsol_ext",
        pipeline_tag="object-detection",
        tags=["weakly-supervised-object-localization", method],
        base_model=weights.repository,
        model_name=f"{method} on {model.config['backbone']}",
        eval_results=numbers or None,
    ).to_yaml()


def _table(facts: Mapping[str, Any]) -> str:
    rows = [_row([name, value]) for name, value in facts.items()]
    return "\n".join(["| | |", "| --- | --- |", *rows])


def _row(cells: Iterable[Any]) -> str:
    return f"| {' | '.join(_plain(cell) for cell in cells)} |"


def _plain(value: Any) -> str:
    """A text on one line that markdown and HTML take for nothing else."""
    text = " ".join(str(value).encode("utf-8", "backslashreplace").decode().split())
    return re.sub(r"([\\`*\[\]<>|#~])", r"\\\1", text)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
