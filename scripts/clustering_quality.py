"""How well clusters follow the birds, and what they cost: a row for each setting, and a contact sheet.

python scripts/clustering_quality.py shared/data/CUB_200_2011 --images 8 --settings light --sheet clusters.png
"""

import argparse
import time

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from wsol_ext.clustering import PRESETS, deep_clusters
from wsol_ext.data import CubDataset


def best_union_iou(clusters: Tensor, inside: Tensor) -> float:
    """The highest IoU that any union of clusters (h, w) has with a region (h, w)."""
    area = torch.bincount(clusters.flatten()).double()
    common = torch.bincount(clusters[inside], minlength=len(area)).double()
    # The best union takes clusters in the order of their share inside.
    order = (common / area).argsort(descending=True)
    common, area = common[order].cumsum(0), area[order].cumsum(0)
    return float((common / (area + inside.sum() - common)).max())


def box_on_grid(box: Tensor, image: Tensor, grid: torch.Size) -> Tensor:
    """The pixels of a grid whose centres lie in a box of the image."""
    x0, y0, x1, y1 = box.tolist()
    y = (torch.arange(grid[0]) + 0.5) * image.size(1) / grid[0]
    x = (torch.arange(grid[1]) + 0.5) * image.size(2) / grid[1]
    return ((y >= y0) & (y < y1))[:, None] & ((x >= x0) & (x < x1))


def main():
    """Print the table; draw the sheet where one is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", help="the folder CUB_200_2011")
    parser.add_argument(
        "--images", type=int, default=8, help="how many, spread over the test split"
    )
    parser.add_argument("--settings", nargs="+", choices=sorted(PRESETS), default=["light"])
    parser.add_argument("--sheet", help="a picture to write: each image beside its clusters")
    options = parser.parse_args()
    dataset = CubDataset(options.root, split="test")
    count = min(options.images, len(dataset))
    samples = [dataset[index * len(dataset) // count] for index in range(count)]
    shape = (count, 1 + len(options.settings))
    figure, axes = plt.subplots(*shape, figsize=(2 * shape[1], 1.6 * count), squeeze=False)
    for row, sample in zip(axes, samples, strict=True):
        row[0].imshow(sample["image"].permute(1, 2, 0))
    print(f"{'settings':12}{'IoU of best union':>19}{'clusters':>10}{'s/image':>9}")
    for column, name in enumerate(options.settings, 1):
        ious, kept, begin = [], [], time.perf_counter()
        for row, sample in zip(axes, samples, strict=True):
            clusters = deep_clusters(sample["image"][None], name)[0]
            inside = box_on_grid(sample["boxes"][0], sample["image"], clusters.shape)
            ious.append(best_union_iou(clusters, inside))
            kept.append(int(clusters.max()) + 1)
            row[column].imshow(clusters, cmap="tab20", interpolation="nearest")
        seconds = (time.perf_counter() - begin) / count
        print(f"{name:12}{sum(ious) / count:19.3f}{sum(kept) / count:10.1f}{seconds:9.2f}")
    if options.sheet:
        for axis in axes.flat:
            axis.set_axis_off()
        figure.tight_layout(pad=0.2)
        figure.savefig(options.sheet, dpi=80)


if __name__ == "__main__":
    main()
