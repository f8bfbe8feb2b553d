"""Evaluate maps that are there already: a folder of them beside a table of boxes.

python examples/evaluate_ready_maps.py maps pictures/test test_boxes.csv

`wsol evaluate --maps` does the same, with a report; this shows the call on arrays.
"""

import argparse
import csv
from collections import defaultdict
from pathlib import Path

from PIL import Image, ImageOps

import wsol_ext
from wsol_ext.data import ScoreMaps


def main():
    """Print what the public protocols make of the maps, and of the centre baseline."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("maps", type=Path, help="folder of maps, named as the pictures are")
    parser.add_argument("pictures", type=Path)
    parser.add_argument("boxes", type=Path, help="CSV: image,x0,y0,x1,y1")
    options = parser.parse_args()
    boxes = defaultdict(list)
    with open(options.boxes, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            boxes[row["image"]].append([float(row[side]) for side in ("x0", "y0", "x1", "y1")])
    folder = ScoreMaps(
        options.maps
    )  # of jay/001.jpg it reads jay/001.jpg.npy, jay/001.npy and other suffixes
    maps = [folder.read(name) for name in boxes]
    # As they are shown: cameras turn pictures by a mark in the file.
    sizes = [ImageOps.exif_transpose(Image.open(options.pictures / name)).size for name in boxes]
    found = wsol_ext.evaluate_maps(
        maps, list(boxes.values()), sizes, protocols=("maxboxacc", "maxboxaccv2")
    )
    for result in found.protocols:
        for source, metrics in result.metrics.items():
            print(f"{result.name} of {source}: {100 * metrics[result.name]:.1f}%")


if __name__ == "__main__":
    main()
