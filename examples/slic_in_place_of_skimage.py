"""Superpixels by `wsol_ext.ops.slic` where a program calls scikit-image's, and each one's mean colour.

python examples/slic_in_place_of_skimage.py photo.jpg superpixels.png
"""

import argparse

import numpy as np
import torch
from PIL import Image

from wsol_ext import ops


def slic(image, n_segments=200, compactness=10.0):
    """Labels (h, w) of an image (h, w, 3), as `skimage.segmentation.slic(..., start_label=0)` gives them."""
    images = torch.from_numpy(image).permute(2, 0, 1)[None]
    return ops.slic(images, n_segments=n_segments, compactness=compactness)[0].numpy()


def main():
    """Paint each superpixel in its mean colour."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture")
    parser.add_argument("out", help="the picture to write")
    parser.add_argument("--segments", type=int, default=200)
    options = parser.parse_args()
    image = np.array(Image.open(options.picture).convert("RGB"))
    labels = slic(image, options.segments)
    colours = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    means = ops.segment_mean(colours, torch.from_numpy(labels)[None])[0]
    Image.fromarray(means.permute(1, 2, 0).round().byte().numpy()).save(options.out)
    print(f"{labels.max() + 1} superpixels: {options.out}")


if __name__ == "__main__":
    main()
