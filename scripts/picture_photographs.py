"""Six photographs with a model's map and box: photographs that are free to show, from packages that carry them.

wsol train --config configs/photos_trilite.yaml --root CUB_200_2011
wsol evaluate runs/photos_trilite --protocols maxboxacc
python scripts/picture_photographs.py runs/photos_trilite docs/photographs.jpg
"""

import argparse
from pathlib import Path

import matplotlib.cbook
import numpy as np
import skimage.data
from PIL import Image, ImageOps

from wsol_ext.checkpoints import load_model
from wsol_ext.localize import localize_images
from wsol_ext.report import drawing
from wsol_ext.thresholds import stored_threshold

SIDE, GAP = 210, 6


def photographs() -> list[Image.Image]:
    """In the public domain or CC0, as scikit-image and Matplotlib say of them."""
    arrays = [
        getattr(skimage.data, name)()
        for name in ("chelsea", "coffee", "rocket", "astronaut", "camera")
    ]
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        arrays.append(np.asarray(Image.open(file)))
    return [ImageOps.fit(Image.fromarray(array).convert("RGB"), (448, 448)) for array in arrays]


def save_sheet(columns: list[tuple[Image.Image, ...]], out: Path) -> None:
    """Write pictures of equal columns side by side, each as a square."""
    width, height = (count * (SIDE + GAP) - GAP for count in (len(columns), len(columns[0])))
    sheet = Image.new("RGB", (width, height), "white")
    for column, pictures in enumerate(columns):
        for row, picture in enumerate(pictures):
            place = (column * (SIDE + GAP), row * (SIDE + GAP))
            sheet.paste(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), place)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, quality=88)


def main() -> None:
    """Draw each photograph with its box, and below it its map."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="the folder of a run that was evaluated")
    parser.add_argument("out", type=Path, help="the picture to write")
    options = parser.parse_args()
    model, stored = load_model(options.run), stored_threshold(options.run)
    images = photographs()
    threshold = None if stored is None else stored.threshold
    columns = []
    for result in localize_images(model, images, threshold=threshold):
        image, found = images[result.index], result.objects[0]
        boxed = drawing.draw_boxes(image, found.box[None], drawing.RED)
        columns.append((boxed, drawing.overlay(image, found.score_map)))
    save_sheet(columns, options.out)


if __name__ == "__main__":
    main()
