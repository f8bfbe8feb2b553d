"""ILSVRC's 50,000 test images under `maxboxaccv2` at 1,000 thresholds: time and memory, beside the public loop.

    python benchmarks/evaluate_many.py METADATA [--images 50000] [--few 2000] [--sample 20] [--save]

METADATA is the public split's folder, `metadata/ILSVRC/test`: names, sizes and boxes are the real ones. Maps are made
of each image's name: smooth ones of 14 x 14, as networks give them, and the wide case, noise on 28 x 28 under 20 boxes
an image. The public loop calls OpenCV once an image and threshold: its time is that of a sample, EXTRAPOLATED, and on
the sample both have to find the same numbers. --save writes benchmarks/results/evaluate_many.md.
"""

import argparse
import multiprocessing
import platform
import resource
import sys
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from oracles.opencv_boxes import box_iou, boxes_of_map

from wsol_ext.compat import wsolevaluation as public
from wsol_ext.evaluation import evaluate_maps

RESULT = Path(__file__).parent / "results" / "evaluate_many.md"
PROTOCOL, IOUS = "maxboxaccv2", (0.3, 0.5, 0.7)
CASES = {
    "smooth": "smooth maps of 14 x 14, the data set's boxes",
    "wide": "noisy maps of 28 x 28, 20 boxes an image",
}
HEADER = [
    *("case", "images", "seconds", "CPU seconds", "peak memory of few / all images, MiB"),
    *("the public loop, seconds, EXTRAPOLATED", "times as long", "the same numbers on the sample"),
]


class Maps:
    """A map an image, made when it is asked for, of the image's name."""

    def __init__(self, names, case):
        self.names, self.case = names, case

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        if index >= len(self.names):
            raise IndexError(index)
        rng = np.random.default_rng(zlib.crc32(self.names[index].encode()))
        side = 14 if self.case == "smooth" else 28
        centres, widths = rng.uniform(0.2, 0.8, (2, 3, 1)), rng.uniform(0.08, 0.35, (2, 3, 1))
        places = (np.arange(side) + 0.5) / side
        rows, columns = np.exp(-(((places - centres) / widths) ** 2))
        bumps = (rng.random((3, 1)) * rows).T @ columns
        return bumps if self.case == "smooth" else bumps + rng.random((side, side))


def dataset(metadata, case, count):
    """Maps, boxes and sizes of the first images of the split."""
    files = public.configure_metadata(metadata)
    names, sizes = public.get_image_ids(files)[:count], public.get_image_sizes(files)
    boxes = public.get_bounding_boxes(files)
    truth = [boxes[name] for name in names]
    if case == "wide":
        rng = np.random.default_rng(0)
        low, high = rng.uniform(0, 0.6, (20, 2)), rng.uniform(0.1, 0.4, (20, 2))
        shares = np.concatenate([low, low + high], axis=1)
        truth = [(shares * [*sizes[name], *sizes[name]]).round() for name in names]
    return Maps(names, case), truth, [sizes[name] for name in names]


def ours(metadata, case, count):
    """Seconds, those of all CPUs, the most memory held, in MiB, and the share of right images at each IoU."""
    maps, boxes, sizes = dataset(metadata, case, count)
    started, cpu_started = time.perf_counter(), time.process_time()
    found = evaluate_maps(maps, boxes, sizes, PROTOCOL)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return seconds, cpu_seconds, peak, [found.metric(PROTOCOL, f"IoU {iou:g}") for iou in IOUS]


def public_loop(metadata, case, count):
    """Seconds, and the share of right images at each IoU, as the public program computes them."""
    maps, boxes, sizes = dataset(metadata, case, count)
    thresholds = list(np.arange(0, 1, 0.001))
    right = np.zeros((len(IOUS), len(thresholds)))
    started = time.perf_counter()
    for score_map, truth, size in zip(maps, boxes, sizes, strict=True):
        score_map = cv2.resize(score_map, (224, 224), interpolation=cv2.INTER_CUBIC)
        score_map = (score_map - score_map.min()) / (score_map.max() - score_map.min())
        resized = np.array([public.resize_bbox(box, size, (224, 224)) for box in truth])
        found = boxes_of_map(score_map, thresholds, "all")
        best = [box_iou(np.minimum(b, (224, 224, 223, 223)), resized).max() for b in found]
        right += np.array(best) >= np.array(IOUS)[:, None]
    return time.perf_counter() - started, (right / count).max(axis=1).tolist()


def in_a_process(function, *arguments):
    """What a function gives in a process of its own, whose memory is that of nothing else."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def row(metadata, case, options):
    _, _, few, _ = in_a_process(ours, metadata, case, options.few)
    seconds, cpu_seconds, peak, _ = in_a_process(ours, metadata, case, options.images)
    loop_seconds, loop_numbers = in_a_process(public_loop, metadata, case, options.sample)
    *_, numbers = in_a_process(ours, metadata, case, options.sample)
    extrapolated = loop_seconds / options.sample * options.images
    return [
        *(CASES[case], f"{options.images:,}", f"{seconds:.1f}"),
        *(f"{cpu_seconds:.1f}", f"{few:.0f} / {peak:.0f}"),
        f"{extrapolated:,.0f} (from {options.sample} images)",
        *(f"{extrapolated / seconds:.0f}x", "yes" if numbers == loop_numbers else "NO"),
    ]


def machine():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    load = Path("/proc/loadavg").read_text().split()[0]
    return (
        f"{model or platform.machine()}, {torch.get_num_threads()} threads; load at the end, others' included, {load}; "
        f"torch {torch.__version__}, OpenCV {cv2.__version__}. {PROTOCOL} of the method and of the centre baseline, at "
        "1,000 thresholds; maps are made within the time, of both."
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("metadata", type=Path)
    parser.add_argument("--images", type=int, default=50000)
    parser.add_argument("--few", type=int, default=2000)
    parser.add_argument("--sample", type=int, default=20)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    count = len(public.get_image_ids(public.configure_metadata(options.metadata)))
    options.images = min(options.images, count)
    rows = [row(options.metadata, case, options) for case in CASES]
    table = "\n".join(f"| {' | '.join(line)} |" for line in (HEADER, ["---"] * len(HEADER), *rows))
    text = f"# evaluate_many\n\n{machine()}\n\n{table}\n"
    print(text)
    if options.save:
        RESULT.write_text(text)


if __name__ == "__main__":
    main()
