"""Where to cut maps if nobody measured: GT-known localization of runs at several thresholds, those without boxes too.

python scripts/compare_thresholds.py runs/demo runs/birds_sat

`published` is the method's (`LocalizationModel.published_threshold`); `mean` and `otsu` are chosen for each map from
the map alone; `best` is the threshold of the highest MaxBoxAcc (interval 0.001), chosen on the same pictures: what
`wsol evaluate` stores. All are measured as `wsol localize` cuts: bilinearly upsampled, the largest contour's box.
"""

import argparse
from pathlib import Path

import torch
import yaml
from torch.utils.data import DataLoader

from wsol_ext.checkpoints import find_checkpoint, load_model
from wsol_ext.data import collate, eval_transform
from wsol_ext.data.factory import FLAGS, chosen_dataset
from wsol_ext.evaluation import CENTER
from wsol_ext.metrics import (
    EVALUATED,
    MaxBoxAcc,
    center_map,
    localization_outcomes,
    mean_thresholds,
    otsu_thresholds,
    scale_boxes,
    single_boxes,
    to_score_maps,
)

FIXED = (0.1, 0.2, 0.3, 0.4)


def test_batches(folder, model, root):
    """The batches of a run's test pictures."""
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    given = {name: config.get(name) for name in ("data", "root", *FLAGS, "data_options")}
    if given["root"] is not None and root is not None:
        given["root"] = root
    dataset = chosen_dataset(given, "test", evaluation=True).open(
        eval_transform(model.config["img_size"])
    )
    return DataLoader(dataset, batch_size=50, collate_fn=collate)


def right(score_maps, thresholds, batch):
    """How many pictures are GT-known, as `toploc` counts."""
    boxes = scale_boxes(batch["boxes"], batch["sizes"], "toploc")
    found = localization_outcomes(
        single_boxes(score_maps, thresholds), None, batch["labels"], boxes
    )
    return int(found["gt_known"].sum())


def filling(score_maps, thresholds):
    """How many boxes cover nearly all of their picture."""
    boxes = single_boxes(score_maps, thresholds).double()
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return int((area > 0.95 * EVALUATED**2).sum())


def measure(kept, published):
    """The shares of a row by its columns' names, where the best is, and the number of pictures."""
    metric, count = MaxBoxAcc(0.001), sum(len(batch["labels"]) for _, batch in kept)
    for maps, batch in kept:
        boxes = scale_boxes(batch["boxes"], batch["sizes"], "maxboxacc")
        metric.update(to_score_maps(maps.double(), EVALUATED), boxes)
    best = float(metric.best_thresholds()[0])
    names = [*map(str, FIXED), "published", "mean", "otsu", "best"]
    totals = dict.fromkeys([*names, "filling", "filling, otsu"], 0)
    for maps, batch in kept:
        score_maps = to_score_maps(maps.float(), EVALUATED, "bilinear")
        otsu = otsu_thresholds(score_maps)
        cuts = {str(each): each for each in FIXED}
        cuts |= {"mean": mean_thresholds(score_maps), "otsu": otsu, "best": best}
        cuts |= {} if published is None else {"published": published}
        for name, cut in cuts.items():
            totals[name] += right(score_maps, cut, batch)
        totals["filling"] += filling(score_maps, 0.1)
        totals["filling, otsu"] += filling(score_maps, otsu)
    shares = {name: total / count for name, total in totals.items()}
    if published is None:
        shares["published"] = None
    return shares, best, count


@torch.inference_mode()
def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs")
    parser.add_argument("--root", help="where the data lies, if it has moved")
    options = parser.parse_args()
    columns = [*map(str, FIXED), "published", "mean", "otsu", "best", "best is"]
    columns += ["boxes that fill, 0.1", "otsu"]
    print("| " + " | ".join(["run", "pictures", *columns]) + " |")
    print("| --- " * (len(columns) + 2) + "|")
    centers = {}
    for folder in options.runs:
        model = load_model(find_checkpoint(folder)).eval()
        kept = []
        for batch in test_batches(folder, model, options.root):
            maps = model.localize(batch["images"], batch["labels"][:, None]).maps[:, 0]
            kept.append((maps, {name: batch[name] for name in ("boxes", "sizes", "labels")}))
        show(folder.name, measure(kept, model.published_threshold))
        images = tuple(size for _, batch in kept for size in batch["sizes"].flatten().tolist())
        side = center_map(50, 50)
        centers[images] = [(side.expand(len(batch["labels"]), -1, -1), batch) for _, batch in kept]
    for kept in centers.values():
        show(CENTER, measure(kept, None))


def show(name, measured):
    """Print a row."""
    shares, best, count = measured
    cells = ["" if share is None else f"{100 * share:.1f}%" for share in shares.values()]
    print("| " + " | ".join([name, str(count), *cells[:-2], f"{best:.3f}", *cells[-2:]]) + " |")


if __name__ == "__main__":
    main()
