"""Evaluated runs as `wsol evaluate` leaves them, of as many images as wanted, and pictures for them."""

import numpy as np
from PIL import Image

from wsol_ext._files import write_json
from wsol_ext.data.base import LocalizationDataset
from wsol_ext.evaluation import CENTER, Curve, Evaluation, ProtocolResult
from wsol_ext.evaluation.runs import ORIGIN, read_run
from wsol_ext.evaluation.verdicts import Verdicts, write_part
from wsol_ext.metrics import OUTCOMES

WIDTH, HEIGHT = 320, 240
METHOD = "mine"


def kept_run(
    folder,
    count=12,
    *,
    seed=0,
    classes=3,
    class_names=None,
    names=None,
    boxes=True,
    predicts=True,
    command="wsol evaluate runs/mine",
):
    """A run of `count` images, each of the next class, whose IoUs and kinds of error are drawn."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    names = [f"{k:04d}.jpg" for k in range(count)] if names is None else names
    class_names = [f"bird {k}" for k in range(classes)] if class_names is None else class_names
    thresholds = [0.0, 0.25, 0.5, 0.75]
    curves = {METHOD: [0.1, 0.6 + seed / 10, 0.3, 0.0], CENTER: [0.2, 0.4, 0.1, 0.0]}
    results = [
        ProtocolResult(
            "toploc",
            {"threshold": 0.1, "chosen": "beforehand"},
            {METHOD: {"cls_top1": 0.5, "gt_known": 0.75, "right": 0.5}, CENTER: {"gt_known": 0.25}},
            intervals={METHOD: {"gt_known": (0.7, 0.8)}, CENTER: {"gt_known": (0.2, 0.3)}},
        ),
        ProtocolResult(
            "maxboxacc",
            {"interval": 0.25, "chosen": "on the evaluated images"},
            {METHOD: {"maxboxacc": 0.6}, CENTER: {"maxboxacc": 0.4}},
            curves={"IoU 0.5": {name: Curve(thresholds, line) for name, line in curves.items()}},
            thresholds={METHOD: {"best threshold, IoU 0.5": 0.25}},
        ),
    ]
    present = np.unique(labels).tolist()
    rows = [{"kind": class_names[k], "images": 1, "maxboxacc": k / classes} for k in present]
    kinds = [
        {"kind": f"{size} object", "images": 1, "maxboxacc": 0.5} for size in ("small", "large")
    ]
    about = {"data": "birds", "split": "test"}
    Evaluation(METHOD, count, results, about, by_object=kinds, by_class=rows).save(folder)
    versions = {"wsol_ext": "0.1.0", "torch": "2.6"}
    origin = {"command": command, "date": "2030-01-01T00:00:00Z", "duration": "61.5 s"}
    write_json(folder / ORIGIN, {**origin, "versions": versions})
    columns = {
        "label": labels,
        "predicted": random.integers(classes, size=count) if predicts else np.full(count, -1),
        "probability": random.random(count) if predicts else np.full(count, np.nan),
        "size": np.tile([WIDTH, HEIGHT], (count, 1)),
    }
    if boxes:
        columns |= {
            "box": np.tile(np.float32([10, 10, 100, 90]), (count, 1)) + seed,
            "truth": np.tile(np.float32([20, 20, 200, 180]), (count, 1)),
            "iou": random.random(count).astype(np.float32),
            "outcome": random.choice(OUTCOMES, count) if predicts else np.full(count, ""),
        }
    index = np.arange(count)
    write_part(folder / "verdicts", "0", Verdicts(index, np.array(names, np.str_), {}, columns))
    return read_run(folder)


class Photographs(LocalizationDataset):
    """Pictures of noise, the hardest to compress, of the images of `kept_run`, without boxes of their own."""

    def __init__(self, count=12, classes=3, names=None, class_names=None):
        super().__init__(
            [f"{k:04d}.jpg" for k in range(count)] if names is None else names,
            [k % classes for k in range(count)],
            [f"bird {k}" for k in range(classes)] if class_names is None else class_names,
        )
        noise = np.random.default_rng(0).integers(256, size=(HEIGHT, WIDTH, 3), dtype=np.uint8)
        self.noise = Image.fromarray(noise)

    def load_image(self, index):
        return self.noise
