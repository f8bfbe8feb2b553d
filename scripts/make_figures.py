"""The documentation's figures: what operators and methods make of drawn birds, by the real operators in trained models.

for METHOD in tscam trt scm sat trilite molt: wsol demo --model METHOD --out runs/demo_METHOD --images 1000
python scripts/make_figures.py runs docs/figures
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image
from skimage.segmentation import mark_boundaries
from torch import Tensor

from wsol_ext import attention_rows, ops
from wsol_ext.checkpoints import load_model
from wsol_ext.data import SyntheticDataset, eval_transform
from wsol_ext.discovery import patch_features
from wsol_ext.localize import boxes_of_maps
from wsol_ext.metrics.maps import center_map, to_score_maps
from wsol_ext.models import LocalizationModel
from wsol_ext.thresholds import stored_threshold

METHODS = ("tscam", "trt", "scm", "sat", "trilite", "molt")
SIDE = 64  # of the pictures that the demonstrations learn from
INK = (
    "#7d7d7d"  # to be read on a light ground and on a dark one, which the figures leave to the page
)
GREEN, RED, BLUE = "#22c55e", "#ef4444", "#3b82f6"
BIRD = 3  # of the test pictures, and the next one: those that most figures show
CUT = 0.8  # of the demonstration's tokens, all of which are much alike

Panel = Callable[[Axes], None]


class Birds:
    """The first drawn test pictures: as they are, for networks, and their boxes."""

    def __init__(self, count: int = 8) -> None:
        plain = SyntheticDataset(count, img_size=SIDE, split="test")
        seen = SyntheticDataset(count, img_size=SIDE, split="test", transform=eval_transform(SIDE))
        self.pixels = torch.stack([sample["image"] for sample in plain])
        self.images = torch.stack([sample["image"] for sample in seen])
        self.boxes = torch.stack([sample["boxes"][0] for sample in plain])
        self.labels = torch.tensor([sample["label"] for sample in plain])

    def __getitem__(self, index: int) -> np.ndarray:
        return self.pixels[index].permute(1, 2, 0).numpy()


@contextmanager
def recorded(name: str) -> Iterator[list[tuple[tuple[Any, ...], Any]]]:
    """The calls of an operator: its arguments, and what it gave."""
    calls, operator = [], getattr(ops, name)

    def recording(*arguments: Any, **options: Any) -> Any:
        result = operator(*arguments, **options)
        calls.append((arguments, result))
        return result

    with patch.object(ops, name, recording):
        yield calls


def picture(title: str, pixels: np.ndarray, *boxes: tuple[Sequence[float], str]) -> Panel:
    """A picture, with boxes in colours."""

    def draw(axes: Axes) -> None:
        axes.imshow(pixels)
        for (x0, y0, x1, y1), colour in boxes:
            frame = Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, ec=colour, lw=2)
            axes.add_patch(frame)
        _bare(axes, title)

    return draw


def heat(title: str, values: Tensor, low: float | None = None, high: float | None = None) -> Panel:
    """A map (h, w)."""

    def draw(axes: Axes) -> None:
        axes.imshow(values.detach().float(), cmap="viridis", vmin=low, vmax=high)
        _bare(axes, title)

    return draw


def segments(title: str, labels: Tensor) -> Panel:
    """Integers (h, w) in colours that mean nothing but "the same"; 0 is black."""
    hues = (labels.numpy() * 0.618034) % 1
    colours = plt.get_cmap("hsv")(hues)[..., :3] * (labels.numpy() > 0)[..., None]
    return picture(title, colours)


def curve(title: str, x: Any, lines: dict[str, Any], label: str, marks: Any = ()) -> Panel:
    """Lines over x, with vertical marks."""

    def draw(axes: Axes) -> None:
        for (name, values), colour in zip(lines.items(), (BLUE, RED, GREEN), strict=False):
            axes.plot(x, values, color=colour, label=name, lw=2)
        for mark in marks:
            axes.axvline(mark, color=INK, ls=":", lw=1)
        axes.set_box_aspect(1)
        axes.set_title(title)
        axes.set_xlabel(label)
        axes.spines[["top", "right"]].set_visible(False)
        if len(lines) > 1:
            axes.legend(
                frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=len(lines)
            )

    return draw


def _bare(axes: Axes, title: str) -> None:
    axes.set_title(title)
    axes.set_axis_off()


def save(
    rows: Sequence[Sequence[Panel]], path: Path, size: float = 1.6, titles: float = 0.3
) -> None:
    """Write panels in rows, on no ground."""
    columns = len(rows[0])
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(size * columns, (size + titles) * len(rows)), squeeze=False
    )
    for place, panel in zip(axes.flat, (panel for row in rows for panel in row), strict=True):
        panel(place)
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=130, transparent=True, bbox_inches="tight", pad_inches=0.03)
    plt.close(figure)
    image = Image.open(path)  # a palette takes a third of the room
    image.quantize(256, method=Image.Quantize.FASTOCTREE).save(path, optimize=True)


def grid_of(row: Tensor, prefix: int = 1) -> Tensor:
    """The patches (h, w) of a row over all tokens, square."""
    patches = row[prefix:]
    side = round(len(patches) ** 0.5)
    return patches[: side * side].unflatten(0, (side, side))


def attention(birds: Birds, models: dict[str, LocalizationModel], out: Path) -> None:
    """`class_attention`: the class token's row of each block."""
    model = models["tscam"]
    with attention_rows() as rows:
        model(birds.images)
    lines = []
    for bird in (BIRD, BIRD + 1):
        maps = [grid_of(row[bird]) for row in rows]
        blocks = [heat(f"block {number}", m) for number, m in enumerate(maps, start=1)]
        lines.append(
            [picture("picture", birds[bird]), *blocks, heat("sum", torch.stack(maps).sum(0))]
        )
    save(lines, out / "class_attention.png")


def gate(birds: Birds, models: dict[str, LocalizationModel], out: Path) -> None:
    """`spatial_gate`: how far SAT's token opens each column, block by block."""
    model = models["sat"]
    with recorded("spatial_gate") as calls:
        _, maps = model.localize(birds.images)
    lines = []
    for bird in (BIRD, BIRD + 1):
        gates = [grid_of(gate[bird][:-1]) for _, gate in calls]
        blocks = [heat(f"gate {k}", g, 0, 1) for k, g in enumerate(gates, start=1)]
        lines.append(
            [picture("picture", birds[bird]), *blocks, heat("mean: M", maps[bird, 0], 0, 1)]
        )
    save(lines, out / "spatial_gate.png")


def reattention(birds: Birds, models: dict[str, LocalizationModel], out: Path) -> None:
    """TRT's operators: the tokens that hold the mass, attention among them, their weights."""
    model = models["trt"]
    names = ("adaptive_token_mask", "masked_reattention", "masked_softmax")
    with recorded(names[0]) as masks, recorded(names[1]) as attended, recorded(names[2]) as weighed:
        _, maps = model.localize(birds.images)
    (attention, mass), keep = masks[0]
    query, key, _, _, scale = attended[0][0]
    everything = torch.ones_like(keep)
    matrices = [_matrix(query, key, kept, scale) for kept in (everything, keep)]
    lines = []
    for bird in (BIRD, BIRD + 1):
        patch = int(attention[bird].argmax())
        lines.append(
            [
                picture("picture", birds[bird]),
                heat("attention m", grid_of(attention[bird], 0)),
                heat("kept tokens", grid_of(keep[bird], 0)),
                heat("a token, all", grid_of(matrices[0][bird, patch], 0)),
                heat("a token, kept", grid_of(matrices[1][bird, patch], 0)),
                heat("weights", grid_of(weighed[0][1][bird], 0)),
                heat("map", maps[bird, 0]),
            ]
        )
    save(lines, out / "reattention.png", 1.4)
    values = (attention[BIRD] / attention[BIRD].sum()).sort(descending=True).values
    kept = int(keep[BIRD].sum())
    lines = {"cumulative sum": values.cumsum(0), "mass": [mass] * len(values)}
    save(
        [
            [
                curve(
                    f"{kept} of {len(values)} tokens kept",
                    range(1, len(values) + 1),
                    lines,
                    "token, most attended first",
                    [kept],
                )
            ]
        ],
        out / "token_mask.png",
        3.2,
    )


def _matrix(query: Tensor, key: Tensor, keep: Tensor, scale: float) -> Tensor:
    """Weights (B, N, N) of masked re-attention, a mean over heads: what it gives of the identity as values."""
    tokens, width = key.shape[2:]
    columns = torch.eye(tokens).expand(*key.shape[:2], -1, -1).split(width, dim=-1)
    found = [ops.masked_reattention(query, key, some, keep, scale) for some in columns]
    return torch.cat(found, dim=-1).mean(dim=1)


def diffusion(birds: Birds, models: dict[str, LocalizationModel], out: Path) -> None:
    """`spatial_diffusion`: a spot that spreads along similar class scores."""
    with recorded("spatial_diffusion") as calls:
        models["scm"].calibrate(birds.images)
    (features, cam, *_), _ = calls[0]
    lines = []
    for bird in (BIRD, BIRD + 1):
        spot = torch.zeros_like(cam[bird])
        spot.view(-1)[cam[bird].argmax()] = 1
        line = [picture("picture", birds[bird]), heat("a spot", spot)]
        for iterations in (4, 8, 16):
            spread = ops.spatial_diffusion(features[bird : bird + 1], spot[None], 1.0, iterations)[
                0
            ]
            line.append(heat(f"{iterations} steps", spread.abs().sqrt()))
        spread = ops.spatial_diffusion(features[bird : bird + 1], cam[bird : bird + 1])[0]
        lines.append([*line, heat("map F", cam[bird]), heat("F, diffused", spread)])
    save(lines, out / "spatial_diffusion.png", 1.4)
    s = torch.linspace(-8, 8, 801, dtype=torch.float64)
    series = {f"{k} steps": (1 - (1 - 0.002 * s**2) ** (2**k)) / s for k in (4, 16)}
    save([[curve("f(s), which tends to 1 / s", s, series, "s")]], out / "diffusion_f.png", 3.2)


def boxes(birds: Birds, models: dict[str, LocalizationModel], out: Path) -> None:
    """`extract_boxes` and `best_box_iou`: how a cut decides the box, and how good each is."""
    _, maps = models["scm"].localize(birds.images, birds.labels[:, None])
    scores = to_score_maps(maps[:, 0], (SIDE, SIDE), "bicubic")
    cuts = [0.2, 0.4, 0.6, 0.8]
    found = ops.extract_boxes(scores, cuts)
    lines = []
    for bird in (BIRD, BIRD + 1):
        true = (birds.boxes[bird].tolist(), GREEN)
        line = [picture("picture", birds[bird], true), heat("score map", scores[bird])]
        for cut, box in zip(cuts, found[bird].tolist(), strict=True):
            above = (scores[bird] > cut)[..., None].numpy()
            line.append(
                picture(
                    f"above {cut}", np.where(above, birds[bird], birds[bird] // 4), (box, RED), true
                )
            )
        lines.append(line)
    save(lines, out / "extract_boxes.png", 1.5)
    thresholds = torch.arange(0, 1, 0.01, dtype=torch.float64)
    ious = ops.best_box_iou(scores, thresholds, birds.boxes[:, None])
    right = (ious >= 0.5).double().mean(0)
    chosen = float(thresholds[right.argmax()])
    center = center_map(SIDE, SIDE)[None].expand(len(scores), -1, -1)
    baseline = (ops.best_box_iou(center, thresholds, birds.boxes[:, None]) >= 0.5).double().mean(0)
    save(
        [
            [
                curve(
                    "IoU, by picture",
                    thresholds,
                    {f"{k}": ious[k] for k in (BIRD, BIRD + 1, 5)},
                    "threshold",
                ),
                curve(
                    f"share with IoU 0.5 of {len(scores)}",
                    thresholds,
                    {"SCM": right, "centre baseline": baseline},
                    "threshold",
                    [chosen],
                ),
            ]
        ],
        out / "best_box_iou.png",
        3.2,
    )


def overlap(birds: Birds, models: dict[str, LocalizationModel], out: Path) -> None:
    """`box_iou`: three pairs of boxes, counted by pixels and by edges."""
    line = []
    for shift in (2, 8, 14):
        a, b = [8, 8, 40, 40], [8 + shift, 8 + shift, 40 + shift, 40 + shift]
        pair = torch.tensor([a]), torch.tensor([b])
        pixels, edges = (float(ops.box_iou(*pair, inclusive=way)) for way in (True, False))
        ground = np.full((SIDE, SIDE, 3), 225, np.uint8)
        line.append(picture(f"{pixels:.3f}, edges {edges:.3f}", ground, (a, GREEN), (b, RED)))
    save([line], out / "box_iou.png", 1.8)


def components(birds: Birds, models: dict[str, LocalizationModel], out: Path) -> None:
    """`label_components`: the parts of a mask over four pictures in one, and their boxes."""

    def together(each: Tensor) -> Tensor:
        return torch.cat([torch.cat(list(each[k : k + 2]), dim=1) for k in (0, 2)])

    _, maps = models["scm"].localize(birds.images[2:6])
    scores = together(to_score_maps(maps[:, 0], (SIDE, SIDE), "bilinear"))
    pixels = together(birds.pixels[2:6].permute(0, 2, 3, 1)).numpy()
    mask = scores > 0.45
    found = ops.label_components(mask[None], values=scores[None])
    framed = [(box, RED) for box in found.boxes.tolist()]
    line = [
        picture("picture", pixels),
        heat("score map", scores),
        heat("mask", mask),
        segments(f"{int(found.counts)} components", found.labels[0]),
        picture("their boxes", pixels, *framed),
    ]
    save([line], out / "label_components.png", 1.9)


def cut(birds: Birds, models: dict[str, LocalizationModel], out: Path) -> None:
    """`normalized_cut`: patches of similar features on one side of the second eigenvector."""
    features = patch_features(models["tscam"].backbone, birds.images, "tokens")
    found = ops.normalized_cut(features.flatten(1, 2), CUT)
    side = found.vector > found.vector.mean(dim=1, keepdim=True)
    lines = []
    for bird in (BIRD, BIRD + 1):
        tokens = torch.nn.functional.normalize(features[bird].flatten(0, 1), dim=1)
        lines.append(
            [
                picture("picture", birds[bird]),
                heat("similarities", tokens @ tokens.T),
                heat(f"above {CUT}", tokens @ tokens.T > CUT),
                heat("vector", grid_of(found.vector[bird], 0)),
                heat("one side", grid_of(side[bird], 0)),
            ]
        )
    save(lines, out / "normalized_cut.png")


def superpixels(birds: Birds, models: dict[str, LocalizationModel], out: Path) -> None:
    """`slic`, `segment_mean`, `segment_mode`."""
    _, maps = models["molt"].localize(birds.images)
    size = (3 * SIDE, 3 * SIDE)
    scores = to_score_maps(maps[:, 0], size, "bilinear")
    large = torch.nn.functional.interpolate(birds.pixels, size=size, mode="bicubic")
    lines = []
    for bird in (BIRD, BIRD + 1):
        pixels = large[bird]
        shown = pixels.permute(1, 2, 0).numpy()
        labels = ops.slic(pixels[None], n_segments=100)
        coarse = ops.slic(pixels[None], n_segments=25)
        noisy = (scores[bird] + 0.25 * torch.randn(size) > 0.4).int()
        line = [picture("picture", shown)]
        for count, found in ((25, coarse), (100, labels)):
            drawn = mark_boundaries(shown, found[0].numpy(), (1, 1, 0), mode="thick")
            line.append(picture(f"slic, {count}", drawn))
        mean = ops.segment_mean(scores[bird][None], labels)[0]
        line += [heat("map", scores[bird]), heat("segment_mean", mean), heat("noisy mask", noisy)]
        lines.append([*line, heat("segment_mode", ops.segment_mode(noisy[None], labels)[0])])
    save(lines, out / "superpixels.png", 1.5)


def gallery(birds: Birds, models: dict[str, LocalizationModel], runs: Path, out: Path) -> None:
    """Every method's map and box of the same pictures, cut at its run's best threshold."""
    shown = range(6)
    lines = [[picture("", birds[k], (birds.boxes[k].tolist(), GREEN)) for k in shown]]
    for name, model in models.items():
        _, maps = model.localize(birds.images)
        stored = stored_threshold(runs / f"demo_{name}")
        sizes = torch.full((len(maps), 2), SIDE)
        found = boxes_of_maps(maps[:, 0], sizes, stored.threshold if stored else "otsu")
        scores = to_score_maps(maps[:, 0], (SIDE, SIDE), "bilinear")
        line = []
        for k in shown:
            colours = plt.get_cmap("viridis")(scores[k].numpy())[..., :3]
            mixed = 0.5 * colours + 0.5 * birds[k] / 255
            line.append(
                picture("", mixed, (birds.boxes[k].tolist(), GREEN), (found[k].tolist(), RED))
            )
        lines.append(line)

    def titled(panel: Panel, title: str) -> Panel:
        def draw(axes: Axes) -> None:
            panel(axes)
            axes.text(
                -0.08, 0.5, title, transform=axes.transAxes, ha="right", va="center", fontsize=11
            )

        return draw

    for line, title in zip(lines, ("picture", *models), strict=True):
        line[0] = titled(line[0], title)
    save(lines, out / "methods.png", 1.2, titles=0)


def errors(birds: Birds, models: dict[str, LocalizationModel], out: Path) -> None:
    """Boxes that are right, and wrong in the usual ways."""
    x0, y0, x1, y1 = (int(side) for side in birds.boxes[BIRD])
    width, height = x1 - x0, y1 - y0
    wrong = {
        "right": (x0 + width // 8, y0, x1, y1),
        "part": (x0, y0, x0 + width // 2, y0 + height // 2),
        "more": (0, 0, SIDE, SIDE),
        "other": (x0 - width // 2, y0 - height // 2, x0 + width // 3, y0 + height // 2),
    }
    line = []
    for name, box in wrong.items():
        box = [min(max(side, 0), SIDE) for side in box]
        iou = float(ops.box_iou(torch.tensor([box]), birds.boxes[BIRD][None]))
        line.append(
            picture(
                f"{name}: {iou:.2f}", birds[BIRD], (birds.boxes[BIRD].tolist(), GREEN), (box, RED)
            )
        )
    save([line], out / "errors.png", 1.8)


FIGURES = (
    attention,
    gate,
    reattention,
    diffusion,
    boxes,
    overlap,
    components,
    cut,
    superpixels,
    errors,
)


def main() -> None:
    """Draw all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="the folder of demo_METHOD")
    parser.add_argument("out", type=Path, help="the folder to write to")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    plt.rcParams.update({f"{part}.color": INK for part in ("text", "xtick", "ytick")})
    plt.rcParams.update(
        {"axes.labelcolor": INK, "axes.edgecolor": INK, "font.size": 11, "axes.titlesize": 11}
    )
    torch.manual_seed(0)
    models = {name: load_model(options.runs / f"demo_{name}") for name in METHODS}
    birds = Birds()
    with torch.inference_mode():
        for figure in FIGURES:
            figure(birds, models, options.out)
        gallery(birds, models, options.runs, options.out)


if __name__ == "__main__":
    main()
