"""Ways from a JPEG file to the network's input, beside those of this package.

    python benchmarks/bench_decoding.py [--save] [--pillow-simd FOLDER]

Pillow's decoder and bilinear resizing give the pixels of the published programs. Differences from them are in levels, 0
to 255: 0 are the same pixels. Every way ends in the normalized picture, float32 (3, side, side). simplejpeg is measured
where it is installed; Pillow-SIMD, which takes Pillow's place, where `pip install --target FOLDER pillow-simd` has put
it, in a process of its own. All take turns, and times are of the processor and not of the clock, so that what else the
machine does matters little: the least, and the median. --save writes benchmarks/results/decoding.md.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from unittest.mock import patch

import numpy as np
import PIL
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional as F

RESULT = Path(__file__).parent / "results" / "decoding.md"
PHOTO = Path(__file__).parent.parent / "docs" / "photographs.jpg"
MEAN = 255 * torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
STD = 255 * torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)


def _normalized(pixels):
    return pixels.float().sub_(MEAN).div_(STD)


def _channels_first(pixels):
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _resized(pixels, side):
    return _normalized(F.resize(pixels, [side, side], antialias=True))


def _resized_by_pillow(image, side):
    square = image.resize((side, side), Image.Resampling.BILINEAR)
    return _normalized(_channels_first(np.array(square)))


def pillow(path, side):
    return _resized_by_pillow(Image.open(path), side)


def pillow_draft(path, side):
    image = Image.open(path)
    image.draft("RGB", (2 * side, 2 * side))
    return _resized_by_pillow(image, side)


def pillow_draft_torch(path, side):
    image = Image.open(path)
    image.draft("RGB", (2 * side, 2 * side))
    return _resized(_channels_first(np.array(image)), side)


def torchvision_io(path, side):
    encoded = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
    return _resized(decode_jpeg(encoded, ImageReadMode.RGB), side)


def simplejpeg_torch(path, side):
    import simplejpeg

    return _resized(_channels_first(simplejpeg.decode_jpeg(path.read_bytes())), side)


def simplejpeg_scaled_torch(path, side):
    import simplejpeg

    pixels = simplejpeg.decode_jpeg(path.read_bytes(), min_height=2 * side, min_width=2 * side)
    return _resized(_channels_first(pixels), side)


@lru_cache
def _transform(side):
    from wsol_ext.data import eval_transform

    return eval_transform(side)


def exact(path, side):
    from wsol_ext.data import read_image

    return _transform(side)(read_image(path, upright=True))


def fast(path, side):
    from wsol_ext.data.images import read_reduced

    return _transform(side).of_pixels(read_reduced(path, 2 * side, 2 * side)[0])


def fast_without_simplejpeg(path, side):
    with patch("wsol_ext.data.images.simplejpeg_module", lambda: None):
        return fast(path, side)


PILLOWS = [pillow, pillow_draft]
WAYS = [*PILLOWS, pillow_draft_torch, torchvision_io, exact, fast_without_simplejpeg]
if find_spec("simplejpeg"):
    WAYS += [simplejpeg_torch, simplejpeg_scaled_torch, fast]


def timed(way, path, side):
    began = time.process_time()
    way(path, side)
    return 1e3 * (time.process_time() - began)


class Elsewhere:
    """Runs ways in a process whose Pillow is another one."""

    def __init__(self, folder):
        environment = {**os.environ, "PYTHONPATH": folder}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        command = [sys.executable, __file__, "--answer"]
        self.process = subprocess.Popen(command, env=environment, **pipes)

    def timed(self, way, path, side):
        print(way.__name__, side, path, file=self.process.stdin)
        return float(self.process.stdout.readline())


def answer():
    for line in sys.stdin:
        name, side, path = line.rstrip("\n").split(" ", 2)
        print(timed(globals()[name], Path(path), int(side)), flush=True)


def jpeg(path, size):
    photo = Image.open(PHOTO).convert("RGB").crop((0, 0, 560, 420))
    photo.resize(size, Image.Resampling.BICUBIC).save(path, "JPEG", quality=90)
    return path


def measured(folder, elsewhere):
    """Rows of a table: size, side, way, milliseconds, differences."""
    for size, rounds in (((500, 375), 60), ((4000, 3000), 8)):
        path = jpeg(folder / "photo.jpg", size)
        for side in (224, 448):
            runs = {way.__name__: (timed, way) for way in WAYS}
            if elsewhere:
                runs |= {f"{way.__name__} (SIMD)": (elsewhere.timed, way) for way in PILLOWS}
            milliseconds = {name: [] for name in runs}
            for _ in range(rounds):
                for name, (run, way) in runs.items():
                    milliseconds[name].append(run(way, path, side))
            for name, (_, way) in runs.items():
                difference = STD * (way(path, side) - pillow(path, side)).abs()
                times = f"{min(milliseconds[name]):.2f} | {median(milliseconds[name]):.2f}"
                worst = f"{difference.max():.0f} | {difference.mean():.3f}"
                yield f"| {size[0]} x {size[1]} | {side} | {name} | {times} | {worst} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--pillow-simd", metavar="FOLDER")
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.answer:
        answer()
        return
    elsewhere = Elsewhere(options.pillow_simd) if options.pillow_simd else None
    lines = [
        "| picture | side | way | ms, least | ms, median | largest difference | mean difference |"
    ]
    lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
    with tempfile.TemporaryDirectory() as folder:
        lines += measured(Path(folder), elsewhere)
    versions = f"Pillow {PIL.__version__}, torch {torch.__version__}, one thread"
    text = "\n".join(["# decoding", "", versions, "", *lines, ""])
    print(text)
    if options.save:
        RESULT.write_text(text)


if __name__ == "__main__":
    main()
