"""Heat maps and boxes over pictures."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

__all__ = ["caption", "draw_boxes", "fit", "overlay", "parts_sheet"]

GREEN, RED = (34, 197, 94), (239, 68, 68)


def fit(image: Image.Image, smallest: int, largest: int) -> Image.Image:
    """The image resized, where need be, so that its longest side is `smallest` to `largest` pixels."""
    side = max(image.size)
    wanted = min(max(side, smallest), largest)
    if wanted == side:
        return image
    size = [max(1, round(length * wanted / side)) for length in image.size]
    return image.resize((size[0], size[1]), Image.Resampling.LANCZOS)


def overlay(image: Image.Image, score_map: Tensor, strength: float = 0.5) -> Image.Image:
    """An image under its heat map: blue where the map is lowest, red where it is highest.

    Args:
        image: RGB.
        score_map: (h, w), any finite values.
        strength: of the colours, 0 to 1; low parts of the map are more transparent.
    """
    values = score_map.float().numpy()
    low, high = values.min(), values.max()
    levels = np.rint((values - low) * (255 / (high - low) if high > low else 0)).astype(np.uint8)
    # All in Pillow, 8 bits deep: an album has millions of pixels, and Pillow lets other threads run meanwhile.
    scores = Image.fromarray(levels).resize(image.size, Image.Resampling.BILINEAR)
    opacity = scores.point([round(255 * strength * (0.35 + 0.65 * k / 255)) for k in range(256)])
    colours = scores.copy()
    colours.putpalette(_turbo())
    return Image.composite(colours.convert("RGB"), image, opacity)


def draw_boxes(
    image: Image.Image,
    boxes: Tensor,
    colour: tuple[int, int, int],
    original: tuple[int, int] | None = None,
) -> Image.Image:
    """A copy of the image with boxes on it, their lines inside of the image.

    torchvision's `draw_bounding_boxes` draws no rim, and puts labels inside of the box, over the object.

    Args:
        image: RGB.
        boxes: (N, 4) x0, y0, x1, y1.
        colour: RGB.
        original: width and height of the picture the boxes refer to, where the image was resized.
    """
    image = image.copy()
    canvas = ImageDraw.Draw(image)
    width = max(3, round(max(image.size) / 130))
    scaled = _scaled(boxes, image, original)
    # Inside of the picture, the rim too: of a box that fills it the lines are seen.
    furthest = torch.tensor([image.width - 2, image.height - 2] * 2).clamp(min=1)
    for x0, y0, x1, y1 in torch.minimum(scaled.clamp(min=1), furthest).tolist():
        # The dark rim keeps the line visible on any ground.
        canvas.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=(0, 0, 0), width=width + 2)
        canvas.rectangle((x0, y0, x1, y1), outline=colour, width=width)
    return image


def caption(
    image: Image.Image, texts: Sequence[str], corners: Tensor, original: tuple[int, int]
) -> Image.Image:
    """A copy of the image with a text at each box's top left corner, kept inside of the image.

    Args:
        image: RGB.
        texts: N texts.
        corners: (N, 4) boxes.
        original: width and height of the picture the boxes refer to.
    """
    image = image.copy()
    canvas = ImageDraw.Draw(image)
    font = _font(max(11, round(max(image.size) / 32)))
    for text, (x0, y0, _, _) in zip(texts, _scaled(corners, image, original).tolist(), strict=True):
        left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
        x = max(0, min(x0, image.width - (right - left) - 6))
        y = y0 - (bottom - top) - 7
        y = y if y >= 0 else min(y0 + 2, image.height - (bottom - top) - 7)
        area = (x, y, x + right - left + 6, y + bottom - top + 6)
        canvas.rectangle(area, fill=RED)
        canvas.text((x + 3 - left, y + 3 - top), text, fill=(255, 255, 255), font=font)
    return image


def parts_sheet(
    image: Image.Image,
    parts: Mapping[str, Tensor],
    segments: Tensor | None,
    whole: Tensor,
    result: Image.Image,
) -> Image.Image:
    """One picture of what a method's map is made of: image, each part's map, segments, whole map, boxes.

    Args:
        image: RGB.
        parts: maps (h, w) by name, each drawn by itself.
        segments: (h, w) integers, drawn in colours that mean nothing but "the same"; None: there are none.
        whole: (h, w), the method's own map.
        result: the image as the method leaves it, boxes drawn.
    """
    panels = {"image": image, **{name: overlay(image, part) for name, part in parts.items()}}
    if segments is not None:
        count = int(segments.max()) + 1
        panels[f"{count} clusters"] = _coloured(segments, image)
    panels |= {
        "refined" if segments is not None else "combined": overlay(image, whole),
        "boxes": result,
    }
    columns = math.ceil(len(panels) / 2)
    font = _font(max(11, round(max(image.size) / 28)))
    height, gap = round(font.size * 1.8), 6
    sheet = Image.new(
        "RGB",
        (columns * (image.width + gap) - gap, 2 * (image.height + height + gap) - gap),
        (255, 255, 255),
    )
    canvas = ImageDraw.Draw(sheet)
    for number, (name, panel) in enumerate(panels.items()):
        x = number % columns * (image.width + gap)
        y = number // columns * (image.height + height + gap)
        canvas.text((x + 4, y + height / 2), name, fill=(31, 41, 51), font=font, anchor="lm")
        sheet.paste(panel, (x, y + height))
    return sheet


def _coloured(segments: Tensor, image: Image.Image) -> Image.Image:
    """Each segment in one colour, as large as the image; few segments get the colours furthest apart."""
    count = int(segments.max()) + 1
    hues = (np.arange(count) * 0.618034) % 1  # the golden ratio keeps neighbours in number apart
    palette = (colormaps["hsv"](hues)[:, :3] * 200 + 40).astype(np.uint8)
    pixels = Image.fromarray(palette[segments.numpy()])
    return pixels.resize(image.size, Image.Resampling.NEAREST)


@lru_cache(maxsize=1)
def _turbo() -> bytes:
    """The 256 colours of heat maps."""
    return (colormaps["turbo"](np.arange(256))[:, :3] * 255).astype(np.uint8).tobytes()


def _scaled(boxes: Tensor, image: Image.Image, original: tuple[int, int] | None) -> Tensor:
    width, height = original or image.size
    factors = torch.tensor([image.width / width, image.height / height] * 2)
    return boxes.reshape(-1, 4).float() * factors


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # matplotlib's own font knows most alphabets; Pillow's built-in one knows Latin only.
    file = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(str(file), size)  # Pillow 9 takes no other path
