"""Six photographs with the objects that `wsol discover` finds in them, and the map of the best one below.

python scripts/picture_discovery.py runs/dinov2_small.safetensors docs/discover.jpg
"""

import argparse
from pathlib import Path

from picture_photographs import photographs, save_sheet

from wsol_ext.discovery import DiscoverySettings, discover_images
from wsol_ext.models import any_backbone
from wsol_ext.models.foreign_weights import read_backbone
from wsol_ext.report import drawing


def main() -> None:
    """Draw each photograph with its boxes, the best one's red, and below it the cut of the best one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", help="the file of the backbone's weights")
    parser.add_argument("out", type=Path, help="the picture to write")
    parser.add_argument("--backbone", default="vit_small_patch14_dinov2")
    options = parser.parse_args()
    backbone = any_backbone(options.backbone, img_size=448, weights=read_backbone(options.weights))
    images = photographs()
    columns = []
    for result in discover_images(backbone, images, DiscoverySettings(objects=3), batch_size=2):
        boxed = heat = images[result.index]
        for place, found in enumerate(result.objects):
            colour = drawing.GREEN if place else drawing.RED
            boxed = drawing.draw_boxes(boxed, found.box[None], colour)
            print(f"{result.index}: {found.score:.0%} {[round(v) for v in found.box.tolist()]}")
        if result.objects:
            heat = drawing.overlay(heat, result.objects[0].score_map)
        columns.append((boxed, heat))
    save_sheet(columns, options.out)


if __name__ == "__main__":
    main()
