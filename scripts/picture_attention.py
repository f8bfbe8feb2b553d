"""What a vision transformer attends to: photographs that are free to show, and below each its attention maps.

make backbone
python scripts/picture_attention.py runs/dinov2_small.safetensors docs/attention_maps.jpg
"""

import argparse
from pathlib import Path

import skimage.data
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from wsol_ext import attention_map
from wsol_ext.data import eval_transform
from wsol_ext.models import Backbone
from wsol_ext.models.foreign_weights import read_backbone
from wsol_ext.report import drawing

SIZE, SHOWN, GAP, LABELS = 448, 200, 6, 176
NAMES = (
    "chelsea",
    "astronaut",
    "coffee",
    "rocket",
)  # in the public domain or CC0, as scikit-image says of them


def photographs() -> list[Image.Image]:
    """Squares of the network's size."""
    arrays = [getattr(skimage.data, name)() for name in NAMES]
    return [ImageOps.fit(Image.fromarray(a).convert("RGB"), (SIZE, SIZE)) for a in arrays]


def maps(backbone: Backbone, images: Tensor) -> dict[str, Tensor]:
    """Maps (B, h, w) by what they are called in the picture."""
    patch = (13, 16)  # row and column: a little above the centre
    token = backbone.prefix_tokens + patch[0] * (SIZE // 14) + patch[1]
    return {
        "class token,\nlast layer": attention_map(backbone, images),
        "class token,\nsum of all layers": attention_map(backbone, images, layers=range(12)),
        "rollout": attention_map(backbone, images, rollout=True),
        "centre patch,\nlast layer": attention_map(backbone, images, queries=token),
    }


def main() -> None:
    """Draw a column for each photograph."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", help="of a DINOv2 ViT-S/14")
    parser.add_argument("out", type=Path, help="the picture to write")
    options = parser.parse_args()
    backbone = Backbone(
        "vit_small_patch14_dinov2", False, SIZE, weights=read_backbone(options.weights)
    ).eval()
    pictures = photographs()
    transform = eval_transform(SIZE)
    with torch.inference_mode():
        found = maps(backbone, torch.stack([transform(picture) for picture in pictures]))
    lines = {"photograph": pictures}
    for name, attention in found.items():
        # A few values far above all others would leave the rest black.
        shown = [each.clamp(max=each.flatten().quantile(0.99)) for each in attention]
        lines[name] = [drawing.overlay(p, m, 0.75) for p, m in zip(pictures, shown, strict=True)]
    step = SHOWN + GAP
    sheet = Image.new("RGB", (LABELS + len(pictures) * step, len(lines) * step - GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for row, (name, line) in enumerate(lines.items()):
        draw.text((4, row * step + SHOWN // 2), name, "black", font, "lm", spacing=6)
        for column, picture in enumerate(line):
            small = picture.resize((SHOWN, SHOWN), Image.Resampling.LANCZOS)
            sheet.paste(small, (LABELS + column * step, row * step))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(options.out, quality=85)


if __name__ == "__main__":
    main()
