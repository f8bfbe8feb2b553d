"""What `wsol discover` finds on photographs with known boxes: CorLoc by method, features, number and size, as Markdown.

python scripts/discovery_quality.py CUB_200_2011 --backbone-weights runs/dinov2_small.safetensors

Each method's number (the threshold of the cuts, LOST's seeds) is the one that is best on every second training picture;
the test pictures are measured at that one, and at the one that `wsol discover` has if nobody asks for another. CPU
times come last.
"""

import argparse
import time
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from wsol_ext.data import collate, eval_transform, open_dataset
from wsol_ext.discovery import DiscoverySettings, PatchObjects, lost, mask_cut, token_cut
from wsol_ext.discovery.features import all_patch_features
from wsol_ext.models import TokenBackbone, any_backbone
from wsol_ext.models.foreign_weights import read_backbone
from wsol_ext.ops import box_iou

THRESHOLDS, SEEDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), (25, 50, 100, 200)
USUAL = DiscoverySettings()
Way = tuple[str, str, float]  # features, method, number


def found_by(method: str, features: Tensor, number: float) -> PatchObjects:
    """One object of each picture."""
    if method == "lost":
        return lost(features, int(number))
    if method == "tokencut":
        return token_cut(features, number)
    return mask_cut(features, number, objects=1)


def numbers_of(method: str) -> tuple[float, ...]:
    return SEEDS if method == "lost" else THRESHOLDS


class Stopwatch:
    """Seconds of CPU time, of all threads of this process, by what took them."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._last = time.process_time()

    def lap(self, what: str) -> None:
        now = time.process_time()
        self.seconds[what] += now - self._last
        self._last = now


@torch.inference_mode()
def ious(backbone: TokenBackbone, dataset: Subset, watch: Stopwatch) -> dict[Way, Tensor]:
    """The IoU of each picture's box with the true one that fits best, by each way to find it."""

    def measured() -> Iterator[dict[Way, Tensor]]:
        for batch in DataLoader(dataset, batch_size=8, collate_fn=collate):
            watch.lap("reading")
            sides = batch["sizes"].double().repeat(1, 2)
            found = all_patch_features(backbone, batch["images"])
            watch.lap("backbone")
            for name, features in found.items():
                grid = torch.tensor(features.shape[1:3]).flip(0).repeat(2)
                for method in ("maskcut", "tokencut", "lost"):
                    for number in numbers_of(method):
                        boxes = found_by(method, features, number).boxes[:, 0] / grid * sides
                        watch.lap(method)
                        best = [
                            box_iou(box[None], truth.double(), inclusive=False).max()
                            for box, truth in zip(boxes, batch["boxes"], strict=True)
                        ]
                        yield {(name, method, number): torch.stack(best)}
                        watch.lap("measuring")

    gathered: dict[Way, list[Tensor]] = {}
    for one in measured():
        for way, values in one.items():
            gathered.setdefault(way, []).append(values)
    return {way: torch.cat(values) for way, values in gathered.items()}


def share(values: Tensor, iou: float) -> float:
    return float((values >= iou).double().mean())


def main() -> None:
    """Measure, and print a row for each size, features and method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", help="the folder CUB_200_2011")
    parser.add_argument("--backbone", default="vit_small_patch14_dinov2")
    parser.add_argument("--backbone-weights", required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 448])
    parser.add_argument("--every", type=int, default=1, help="of so many pictures one")
    options = parser.parse_args()
    weights = read_backbone(options.backbone_weights)
    print(
        "| pixels | features | method | best number | training | test | test, IoU 0.7 | usual number | test |"
    )
    print("| --- " * 9 + "|")
    for size in options.sizes:
        backbone = any_backbone(options.backbone, img_size=size, weights=weights).eval()
        found, watch, count = [], Stopwatch(), 0
        for split, step in (("train", 2), ("test", 1)):
            pictures = open_dataset("cub", options.root, split, eval_transform(size))
            chosen = range(0, len(pictures), step * options.every)
            found.append(ious(backbone, Subset(pictures, chosen), watch))
            count += len(chosen)
        choosing, test = found
        for name, method in dict.fromkeys(way[:2] for way in test):
            best = max(numbers_of(method), key=lambda n: share(choosing[name, method, n], 0.5))
            usual = USUAL.seeds if method == "lost" else USUAL.threshold
            on, usually = test[name, method, best], test[name, method, usual]
            print(
                f"| {size} | {name} | {method} | {best:g} | {share(choosing[name, method, best], 0.5):.1%} "
                f"| {share(on, 0.5):.1%} | {share(on, 0.7):.1%} | {usual:g} | {share(usually, 0.5):.1%} |",
                flush=True,
            )
        runs = Counter(method for _, method, _ in test)  # of each method on a picture
        took = {
            what: seconds / count / runs.get(what, 1)
            for what, seconds in watch.seconds.items()
            if what != "measuring"
        }
        print(f"\n{size} pixels, CPU time a picture, {torch.get_num_threads()} threads: ", end="")
        print(", ".join(f"{what} {1000 * seconds:.0f} ms" for what, seconds in took.items()))


if __name__ == "__main__":
    main()
