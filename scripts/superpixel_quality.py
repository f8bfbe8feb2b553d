"""Superpixels' quality: `wsol_ext.ops.slic` beside scikit-image's SLIC and fast-slic's, at equal numbers of segments.

python scripts/superpixel_quality.py > benchmarks/results/superpixel_quality.md
python scripts/superpixel_quality.py --implementation my_module:my_slic --picture boundaries.png

Photographs: explained variation in CIELAB, or of their channels; of those with a mask, inside. Drawn regions with
noise, whose partition is known: boundary recall (tolerance 2 pixels) and undersegmentation error (Neubert and
Protzel's). scikit-image segments at the numbers asked for; every other implementation's n_segments is then chosen so
that it gets as many segments, on average over the images. Where it jumps past that number, its figures are
interpolated between the two n_segments on either side, linearly in the logarithm of the number obtained.
"""

import argparse
import contextlib
import datetime
import importlib
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from skimage.color import rgb2gray, rgb2hsv, rgb2lab
from skimage.segmentation import find_boundaries
from skimage.segmentation import slic as skimage_slic
from torch import Tensor
from torch.nn import functional as F

from wsol_ext import ops
from wsol_ext.metrics import boundary_recall, explained_variation, undersegmentation_error

BASELINE = "scikit-image"
SAME_COUNT = 0.02  # obtained numbers of segments this close need no interpolation
SHARED = Path(os.environ.get("WSOL_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@dataclass
class Images:
    """Pictures, and what makes of their segments' labels (B, h, w) each measure's values (B,).

    Attributes:
        name: what they are, for the table.
        pictures: (B, h, w, C), uint8 where they are sRGB.
        measures: by name.
        masks: (B, h, w) bool, or None: what is segmented.
        compactness: to segment them with.
        slic_zero: whether by SLICO.
    """

    name: str
    pictures: np.ndarray
    measures: dict[str, Callable[[Tensor], Tensor]]
    compactness: float
    masks: np.ndarray | None = None
    slic_zero: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether every implementation can segment them."""
        return self.pictures.shape[-1] == 3 and self.masks is None and not self.slic_zero


# images and n_segments to labels (B, h, w), -1 outside of a mask
Segment = Callable[[Images, int], np.ndarray]


@dataclass
class Figures:
    """What an implementation gets at an n_segments: the mean number obtained, and each measure's values."""

    asked: str
    count: float
    values: dict[str, Tensor]


@dataclass
class Implementation:
    """A way to segment, and what it got so far at each n_segments."""

    name: str
    segment: Segment
    known: dict[int, Figures] = field(default_factory=dict)

    def figures(self, images: Images, n_segments: int) -> Figures:
        if n_segments not in self.known:
            labels = torch.from_numpy(self.segment(images, n_segments))
            count = sum(len(each[each >= 0].unique()) for each in labels) / len(labels)
            values = {name: measure(labels) for name, measure in images.measures.items()}
            self.known[n_segments] = Figures(str(n_segments), count, values)
        return self.known[n_segments]

    def at_count(self, images: Images, count: float) -> Figures:
        """Its figures where it gets that many segments."""
        low, high = max(1, math.floor(count / 2)), math.ceil(2 * count)
        while high - low > 1:
            middle = (low + high) // 2
            if abs(self.figures(images, middle).count / count - 1) <= SAME_COUNT / 4:
                return self.figures(images, middle)
            low, high = (
                (middle, high) if self.figures(images, middle).count < count else (low, middle)
            )
        below, above = self.figures(images, low), self.figures(images, high)
        nearest = min(below, above, key=lambda figures: abs(figures.count / count - 1))
        if abs(nearest.count / count - 1) <= SAME_COUNT or not below.count < count < above.count:
            return nearest
        share = math.log(count / below.count) / math.log(above.count / below.count)
        values = {
            name: torch.lerp(below.values[name], above.values[name], share) for name in below.values
        }
        asked = f"{low}-{high}, interpolated from {below.count:.1f} and {above.count:.1f}"
        return Figures(asked, count, values)


def scikit_image(images: Images, n_segments: int) -> np.ndarray:
    masks = [None] * len(images.pictures) if images.masks is None else images.masks
    return np.stack(
        [
            skimage_slic(
                picture,
                n_segments,
                images.compactness,
                max_num_iter=10,
                channel_axis=-1,
                start_label=0,
                mask=mask,
                slic_zero=images.slic_zero,
            )
            for picture, mask in zip(images.pictures, masks, strict=True)
        ]
    )


def fast_slic(**options) -> Segment:
    from fast_slic.avx2 import SlicAvx2

    def segment(images, n_segments):
        return np.stack(
            [
                SlicAvx2(n_segments, compactness=images.compactness, **options).iterate(picture, 10)
                for picture in images.pictures
            ]
        )

    return segment


def with_our_signature(function: Callable[..., Tensor]) -> Segment:
    def segment(images, n_segments):
        pictures = torch.from_numpy(images.pictures).permute(0, 3, 1, 2).contiguous()
        other = {}
        if not images.is_plain:
            masks = None if images.masks is None else torch.from_numpy(images.masks)
            other = {"mask": masks, "slic_zero": images.slic_zero}
        return function(pictures, n_segments, images.compactness, 10, True, **other).cpu().numpy()

    return segment


def implementations(extra: list[str]) -> list[Implementation]:
    """Scikit-image's first, then ours, then those asked for, then fast-slic's where it is installed."""
    found = [Implementation(BASELINE, scikit_image)]
    if hasattr(ops, "slic"):
        found.append(Implementation("ours", with_our_signature(ops.slic)))
    sys.path.insert(0, str(Path.cwd()))
    for each in extra:
        module, _, name = each.partition(":")
        function = getattr(importlib.import_module(module), name or "slic")
        found.append(Implementation(each, with_our_signature(function)))
    try:
        comparable = fast_slic(subsample_stride=1, manhattan_spatial_dist=False)
    except ImportError:
        return found
    found.append(Implementation("fast-slic, defaults", fast_slic()))
    found.append(Implementation("fast-slic, every pixel, Euclidean", comparable))
    return found


def photographs(folder: Path, count: int, side: int, compactness: float) -> Images:
    """Photographs from all over the folder, resized to a square."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".png"))
    if not paths:
        raise SystemExit(
            f"superpixel_quality: no photographs in {folder}; say --photographs FOLDER"
        )
    chosen = [
        paths[i * len(paths) // min(count, len(paths))] for i in range(min(count, len(paths)))
    ]
    pictures = np.stack(
        [
            np.asarray(
                Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
            )
            for path in chosen
        ]
    )
    name = f"{len(pictures)} photographs, {side} x {side}"
    return Images(name, pictures, explaining(rgb2lab(pictures)), compactness)


def explaining(values: np.ndarray, masks: np.ndarray | None = None) -> dict:
    """The explained variation of (B, h, w, C), inside of masks (B, h, w)."""
    inside = np.ones(values.shape[:3], bool) if masks is None else masks

    def measure(labels: Tensor) -> Tensor:
        return torch.cat(
            [
                explained_variation(
                    torch.from_numpy(each[mask]).T[None, :, None],
                    of_each[torch.from_numpy(mask)][None, None],
                )
                for each, mask, of_each in zip(values, inside, labels, strict=True)
            ]
        )

    return {"explained variation": measure}


def other_images(photos: Images, channels_compactness: float) -> list[Images]:
    """The photographs by SLICO, in masks, and as channels."""
    pictures = photos.pictures
    count, side = pictures.shape[:2]
    masks = (drawn_partition(count, side, torch.Generator().manual_seed(1)) < 4).numpy()
    grey = rgb2gray(pictures)[..., None].astype(np.float32)
    six = np.concatenate([pictures / 255, rgb2hsv(pictures)], axis=-1).astype(np.float32)
    lab = rgb2lab(pictures)
    return [
        replace(photos, name=f"{photos.name}, SLICO", slic_zero=True),
        replace(
            photos,
            name=f"{photos.name}, in masks of {masks.mean():.0%} of the pixels",
            measures=explaining(lab, masks),
            masks=masks,
        ),
        Images(f"{photos.name}, grey", grey, explaining(grey), channels_compactness),
        Images(
            f"{photos.name}, RGB and HSV as six channels",
            six,
            explaining(six),
            channels_compactness,
        ),
    ]


def drawn_partition(count: int, side: int, random: torch.Generator) -> Tensor:
    """(B, side, side): which of ten smooth random fields is the largest."""
    return smooth_fields(count, 10, 5, side, random).argmax(dim=1)


def smooth_fields(
    count: int, channels: int, grid: int, side: int, random: torch.Generator
) -> Tensor:
    coarse = torch.randn(count, channels, grid, grid, generator=random)
    return F.interpolate(coarse, (side, side), mode="bicubic", align_corners=False)


def drawn_regions(count: int, side: int, noise: float, compactness: float) -> Images:
    """Smooth random regions, each of its colour with a smooth shading, and noise over all."""
    random = torch.Generator().manual_seed(0)
    truth = drawn_partition(count, side, random)
    colours = 0.15 + 0.7 * torch.rand(count, 3, 10, generator=random)
    flat = colours.gather(2, truth.flatten(1)[:, None].expand(-1, 3, -1)).view(count, 3, side, side)
    shaded = flat + 0.04 * smooth_fields(count, 1, 4, side, random)
    noisy = shaded + noise * torch.randn(shaded.shape, generator=random)
    pictures = (255 * noisy.clamp(0, 1)).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    measures = {
        "boundary recall": lambda labels: boundary_recall(labels, truth),
        "undersegmentation error": lambda labels: undersegmentation_error(labels, truth),
    }
    name = f"{count} drawn images, {side} x {side}, noise {noise:g}"
    return Images(name, pictures, measures, compactness)


def table(images: Images, candidates: list[Implementation], asked: list[int]) -> list[str]:
    """Markdown: a row for each number asked for and implementation."""
    heads = [f"{name} | minus {BASELINE}'s" for name in images.measures]
    lines = [
        f"| asked of {BASELINE} | implementation | n_segments | obtained | {' | '.join(heads)} |",
        "|" + " --- |" * (4 + 2 * len(heads)),
    ]
    if not images.is_plain:
        candidates = [each for each in candidates if each.name in (BASELINE, "ours")]
    for candidate in candidates:
        candidate.known.clear()
    for n_segments in asked:
        baseline = candidates[0].figures(images, n_segments)
        for candidate in candidates:
            got = (
                baseline
                if candidate is candidates[0]
                else candidate.at_count(images, baseline.count)
            )
            cells = [str(n_segments), candidate.name, got.asked, f"{got.count:.1f}"]
            for name, values in got.values.items():
                difference = values - baseline.values[name]
                error = difference.std() / math.sqrt(len(values))
                cells += [f"{values.mean():.4f}", f"{difference.mean():+.4f} ± {error:.4f}"]
            if candidate is candidates[0]:
                cells[5::2] = [""] * len(cells[5::2])
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def draw(
    photos: Images, drawn: Images, candidates: list[Implementation], n_segments: int, out: Path
) -> None:
    """Boundaries over three photographs and a drawn image: a row for each, a column for each implementation."""
    rows = [(photos, i * len(photos.pictures) // 3) for i in range(3)] + [(drawn, 0)]
    side = 2.6
    figure, axes = plt.subplots(
        len(rows),
        len(candidates),
        figsize=(side * len(candidates), side * len(rows) + 0.3),
        squeeze=False,
    )
    for line, (images, index) in zip(axes, rows, strict=True):
        picture = images.pictures[index : index + 1]
        for axis, candidate in zip(line, candidates, strict=True):
            labels = candidate.segment(replace(images, pictures=picture), n_segments)[0]
            # Twice the size, so that the line lies between pixels and is thin.
            shown = picture[0].repeat(2, axis=0).repeat(2, axis=1)
            shown[find_boundaries(labels.repeat(2, axis=0).repeat(2, axis=1), mode="inner")] = (
                255,
                230,
                0,
            )
            axis.imshow(shown)
            axis.set_axis_off()
            axis.set_title(f"{candidate.name}, {len(np.unique(labels))}", fontsize=8)
    figure.tight_layout(pad=0.4)
    figure.savefig(out, dpi=110)


def versions() -> str:
    installed = []
    for name in ("wsol_ext", "scikit-image", "fast-slic"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed.append(f"{name} {metadata.version(name)}")
    return f"{', '.join(installed)}; {datetime.date.today().isoformat()}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--implementation",
        action="append",
        default=[],
        metavar="MODULE:FUNCTION",
        help="one more to compare, called as wsol_ext.ops.slic is; repeatable",
    )
    parser.add_argument("--segments", type=int, nargs="+", default=[50, 100, 200, 400])
    parser.add_argument("--compactness", type=float, default=10.0)
    parser.add_argument("--channels-compactness", type=float, default=0.1)
    parser.add_argument(
        "--photographs", type=Path, default=SHARED / "data" / "CUB_200_2011", metavar="FOLDER"
    )
    parser.add_argument("--images", type=int, default=60, help="photographs and drawn images, each")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--noise", type=float, default=0.02, help="of drawn images, white is 1")
    parser.add_argument("--picture", type=Path, help="also draw the boundaries to this file")
    parser.add_argument("--picture-only", action="store_true", help="no tables")
    options = parser.parse_args()
    candidates = implementations(options.implementation)
    photos = photographs(options.photographs, options.images, options.side, options.compactness)
    drawn = drawn_regions(options.images, options.side, options.noise, options.compactness)
    if options.picture:
        draw(photos, drawn, candidates, 200, options.picture)
    if options.picture_only:
        return
    print(f"# Superpixels' quality\n\n{versions()}")
    for images in (photos, drawn, *other_images(photos, options.channels_compactness)):
        print(f"\n{images.name}; compactness {images.compactness:g}\n")
        print("\n".join(table(images, candidates, options.segments)), flush=True)


if __name__ == "__main__":
    main()
