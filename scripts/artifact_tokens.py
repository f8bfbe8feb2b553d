"""How many artifact tokens a backbone's attention rows have, and what filling them does to maps, without any training.

python scripts/artifact_tokens.py shared/data/CUB_200_2011 dinov2_small.safetensors --pictures maps.png

Two rules are compared. `row`: in one block's row, a patch above a number of times the mean of its neighbours, as
`models.artifacts` has it. `norm`: a patch whose token is of a norm above the median of its picture's plus a number of
times their median absolute deviation, by the tokens that the last row's block gives. `tokens` counts those of a row, a
mean. The maps are the sums of the class token's attention rows over the blocks, MaxBoxAcc at IoU 0.5.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from wsol_ext import create_model
from wsol_ext.data import CubDataset, eval_transform
from wsol_ext.metrics import MaxBoxAcc, scale_boxes, to_score_maps
from wsol_ext.models.artifacts import TIMES_NEIGHBOURS, fill_artifacts, outlier_tokens

TIMES = (1.5, 2.0, 3.0, 4.0, 6.0)
DEVIATIONS = (3.0, 5.0, 8.0, 15.0)


def rows_and_norms(backbone, images: Tensor) -> tuple[Tensor, Tensor]:
    """Of each block and patch (blocks, B, h, w): the row's attention to it, and its token's norm behind the block."""
    grid, tokens = backbone.grid(images), backbone.embed(images)
    rows, norms = [], []
    for index in range(backbone.depth):
        tokens, row = backbone.run_block_with_row(index, tokens)
        rows.append(row[:, backbone.prefix_tokens :].unflatten(1, grid))
        norms.append(backbone.patches(tokens, grid).norm(dim=-1))
    return torch.stack(rows), torch.stack(norms)


def large_norms(norms: Tensor, deviations: float) -> Tensor:
    """The tokens of norms (B, h, w) that lie far above most of their picture's."""
    flat = norms.flatten(1)
    median = flat.median(dim=1, keepdim=True).values
    spread = (flat - median).abs().median(dim=1, keepdim=True).values
    return (flat > median + deviations * spread).view_as(norms)


def max_box_acc(maps: Tensor, boxes: list[Tensor]) -> float:
    """MaxBoxAcc of maps (B, h, w), in per cent."""
    metric = MaxBoxAcc(0.005)
    metric.update(to_score_maps(maps.double(), 224), boxes)
    return 100 * float(metric.compute())


def show(name: str, outliers: Tensor | None, rows: Tensor, boxes: list[Tensor]) -> None:
    """Print a line of the table, for rows (blocks, B, h, w) and outliers that broadcast to them."""
    maps, count = rows, 0.0
    if outliers is not None:
        maps, count = fill_artifacts(rows, outliers.expand_as(rows)), outliers.sum((-2, -1))
        count = float(count.double().mean())
    print(f"| {name} | {count:.1f} | {max_box_acc(maps.sum(dim=0), boxes):.1f} |", flush=True)


def draw(path: Path, images: Tensor, rows: Tensor) -> None:
    """Pictures (B, 3, height, width), and their maps as they are and filled, by all blocks and by all but the last."""
    figure, axes = plt.subplots(len(images), 5, figsize=(10, 2 * len(images)), squeeze=False)
    for number, line in enumerate(axes):
        image = images[number]
        line[0].imshow(((image - image.min()) / (image.max() - image.min())).permute(1, 2, 0))
        for column, (name, some) in enumerate((("all", rows), ("all but the last", rows[:-1]))):
            filled = fill_artifacts(some, outlier_tokens(some))
            for place, (title, maps) in enumerate((("keep", some), ("fill", filled))):
                axis = line[1 + 2 * column + place]
                axis.imshow(maps[:, number].sum(dim=0), cmap="viridis")
                if number == 0:
                    axis.set_title(f"{name}: {title}", fontsize=8)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=100)


@torch.inference_mode()
def main() -> None:
    """Print the tables; draw pictures where they are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", help="the folder CUB_200_2011")
    parser.add_argument("weights", help="the backbone's")
    parser.add_argument("--backbone", default="vit_small_patch14_dinov2", help="timm's name")
    parser.add_argument("--size", type=int, default=224, help="of the images, in pixels")
    parser.add_argument(
        "--images", type=int, default=243, help="how many, spread over the test split"
    )
    parser.add_argument("--pictures", type=Path, help="a picture to write: the maps of some images")
    options = parser.parse_args()
    model = create_model(
        "tscam", options.backbone, 1, img_size=options.size, backbone_weights=options.weights
    )
    backbone = model.eval().backbones()[0]
    dataset = CubDataset(options.root, "test", transform=eval_transform(options.size))
    count = min(options.images, len(dataset))
    samples = [dataset[index * len(dataset) // count] for index in range(count)]
    seen = [rows_and_norms(backbone, sample["image"][None]) for sample in samples]
    rows, norms = (torch.cat(each, dim=1) for each in zip(*seen, strict=True))
    sizes = torch.stack([sample["size"] for sample in samples])
    boxes = scale_boxes([sample["boxes"] for sample in samples], sizes, "maxboxacc")
    print(f"{options.backbone}, {count} pictures, {rows.size(2)} x {rows.size(3)} patches")
    for name, last in (("all blocks", backbone.depth), ("all but the last", backbone.depth - 1)):
        some = rows[:last]
        print(f"\n| {name} | tokens | MaxBoxAcc |\n| --- | --- | --- |")
        show("keep", None, some, boxes)
        for times in TIMES:
            show(f"row, {times:g} times", outlier_tokens(some, times), some, boxes)
        for deviations in DEVIATIONS:
            outliers = large_norms(norms[last - 1], deviations)
            show(f"norm, {deviations:g} deviations", outliers, some, boxes)
    if options.pictures is not None:
        chosen = [index * count // 3 for index in range(3)]
        images = torch.stack([samples[index]["image"] for index in chosen])
        draw(options.pictures, images, rows[:, chosen])
        print(f"\n{options.pictures}: filled above {TIMES_NEIGHBOURS:g} times the neighbours")


if __name__ == "__main__":
    main()
