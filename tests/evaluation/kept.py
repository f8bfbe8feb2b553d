"""A small evaluation and its verdicts, as `wsol evaluate` leaves them, without a model."""

from dataclasses import replace

import numpy as np
import torch

from wsol_ext.evaluation import Evaluation
from wsol_ext.evaluation.measures import Measures
from wsol_ext.evaluation.tally import image_columns
from wsol_ext.evaluation.verdicts import Verdicts, write_part
from wsol_ext.metrics import Batch

METHOD = "own"
LABELS = np.arange(9) % 3
_PROTOCOLS = ["maxboxacc", "maxboxaccv2", "toploc", "pxap"]


def judged(seed, threshold="best", method=METHOD, sharpness=1.2, part=None, chosen=None):
    """Verdicts of nine images with boxes of growing width in noisy maps, by key; the measures; the columns.

    `part` is how noisy the maps of a part are, if the method is to have one.
    """
    random = torch.Generator().manual_seed(seed)
    labels = torch.from_numpy(LABELS)
    boxes = [torch.tensor([[4.0, 4.0, 10.0 + 6 * k, 34.0]]) for k in range(9)]
    columns, rows = torch.arange(12) * 5.0 + 2.5, torch.arange(8) * 5.0 + 2.5
    inside = torch.stack(
        [
            ((rows > b[0, 1]) & (rows < b[0, 3]))[:, None]
            & ((columns > b[0, 0]) & (columns < b[0, 2]))
            for b in boxes
        ]
    )
    noise = torch.randn(9, 8, 12, generator=random)
    maps = sharpness * inside + noise
    logits = 2 * torch.eye(3)[labels] + torch.randn(9, 3, generator=random)
    sizes = torch.tensor([[60, 40]]).expand(9, 2)
    batch = Batch(maps, logits, labels, boxes, sizes, inside.to(torch.uint8))
    parts = {} if part is None else {"part": replace(batch, maps=batch.maps.flip(0) + noise * part)}
    measures = Measures(method, _PROTOCOLS, 0.05, threshold, list(parts), chosen=chosen)
    verdicts = measures.judge("whole", batch, parts)
    measures.add(verdicts)
    return verdicts, measures, image_columns(batch, 0.3)


def kept_evaluation(folder, seed, columns=True, about=None, **options):
    """Write `evaluation.json` and, of every third image, a part of the verdicts; gives the evaluation."""
    verdicts, measures, known = judged(seed, **options)
    evaluation = Evaluation(
        options.get("method", METHOD), len(LABELS), measures.results(), about or {"data": "drawn"}
    )
    evaluation.save(folder)
    for first in range(3):
        index = np.arange(first, len(LABELS), 3)
        part = Verdicts(
            index,
            np.array([f"{k}.png" for k in index]),
            {key: each.numpy()[index] for key, each in verdicts.items()},
            {name: values[index] for name, values in known.items()} if columns else {},
        )
        write_part(folder / "verdicts", str(first), part)
    return evaluation
