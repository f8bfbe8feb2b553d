"""Ways from a JPEG file's bytes to the network's square, beside the one that evaluation uses.

    python benchmarks/bench_decoding.py [--save] [--pillow-simd FOLDER]

Pillow's decoder and bilinear resizing give the pixels of the published programs. Differences from them are in levels, 0
to 255: 0 are the same pixels. simplejpeg is measured where it is installed; Pillow-SIMD, which takes Pillow's place,
where `pip install --target FOLDER pillow-simd` has put it. Times are the least of some rounds, of the processor and not
of the clock, so that what else the machine does matters little. --save writes benchmarks/results/decoding.md.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional as F

RESULT = Path(__file__).parent / "results" / "decoding.md"
PHOTO = Path(__file__).parent.parent / "docs" / "photographs.jpg"


def _pixels(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _resized(pixels, side):
    return F.resize(pixels, [side, side], antialias=True)


def pillow(data, side):
    image = Image.open(io.BytesIO(data))
    image.load()
    return image.resize((side, side), Image.Resampling.BILINEAR)


def pillow_draft(data, side):
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (2 * side, 2 * side))
    return image.resize((side, side), Image.Resampling.BILINEAR)


def pillow_draft_torch(data, side):
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (2 * side, 2 * side))
    return _resized(_pixels(image), side)


def torchvision_io(data, side):
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return _resized(decode_jpeg(encoded, ImageReadMode.RGB), side)


def simplejpeg_pillow(data, side):
    import simplejpeg

    return Image.fromarray(simplejpeg.decode_jpeg(data)).resize(
        (side, side), Image.Resampling.BILINEAR
    )


def simplejpeg_torch(data, side):
    import simplejpeg

    return _resized(torch.from_numpy(simplejpeg.decode_jpeg(data)).permute(2, 0, 1), side)


def simplejpeg_scaled_torch(data, side):
    import simplejpeg

    pixels = simplejpeg.decode_jpeg(data, min_height=2 * side, min_width=2 * side)
    return _resized(torch.from_numpy(pixels).permute(2, 0, 1), side)


WAYS = [pillow, pillow_draft, pillow_draft_torch, torchvision_io]
if find_spec("simplejpeg"):
    WAYS += [simplejpeg_pillow, simplejpeg_torch, simplejpeg_scaled_torch]


def levels(image):
    return _pixels(image).int() if isinstance(image, Image.Image) else image.int()


def jpeg(size):
    file = io.BytesIO()
    photo = Image.open(PHOTO).convert("RGB").crop((0, 0, 560, 420))
    photo.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def measured(ways):
    """Rows of: size, side, way, milliseconds, largest difference, mean difference."""
    rows = []
    for size, rounds in (((500, 375), 10), ((4000, 3000), 3)):
        data = jpeg(size)
        for side in (224, 448):
            seconds = {way: [] for way in ways}
            for _ in range(rounds):
                for way in ways:
                    began = time.process_time()
                    way(data, side)
                    seconds[way].append(time.process_time() - began)
            for way in ways:
                difference = (levels(way(data, side)) - levels(pillow(data, side))).abs().float()
                numbers = 1e3 * min(seconds[way]), int(difference.max()), float(difference.mean())
                rows.append((f"{size[0]} x {size[1]}", side, way.__name__, *numbers))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--pillow-simd", metavar="FOLDER")
    parser.add_argument("--as-json", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.as_json:
        print(json.dumps(measured([pillow, pillow_draft])))
        return
    rows = measured(WAYS)
    if options.pillow_simd:
        environment = {**os.environ, "PYTHONPATH": options.pillow_simd}
        command = [sys.executable, __file__, "--as-json"]
        said = subprocess.run(command, env=environment, capture_output=True, check=True).stdout
        rows += [
            (size, side, f"{way} (SIMD)", *rest) for size, side, way, *rest in json.loads(said)
        ]
        rows.sort(key=lambda row: (len(row[0]), row[1]))
    lines = ["| picture | side | way | ms | largest difference | mean difference |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    lines += [
        f"| {size} | {side} | {way} | {ms:.2f} | {largest} | {mean:.3f} |"
        for size, side, way, ms, largest, mean in rows
    ]
    versions = f"Pillow {PIL.__version__}, torch {torch.__version__}, one thread"
    text = "\n".join(["# decoding", "", versions, "", *lines, ""])
    print(text)
    if options.save:
        RESULT.write_text(text)


if __name__ == "__main__":
    main()
