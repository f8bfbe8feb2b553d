"""Grad-CAM maps of a convolutional network to boxes (`pip install grad-cam`).

python examples/gradcam_to_boxes.py photos maps
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pytorch_grad_cam import GradCAM
from torchvision.models import ResNet18_Weights, resnet18

from wsol_ext.data import eval_transform
from wsol_ext.localize import boxes_of_maps, list_images


def main():
    """Write each picture's map as NAME.npy, for `wsol evaluate --maps` too, and print its box."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder of pictures")
    parser.add_argument("maps", type=Path, help="folder to write the maps to")
    parser.add_argument("--threshold", type=float, default=0.2, help="share of a map's maximum")
    parser.add_argument("--pretrained", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    model = resnet18(weights=ResNet18_Weights.DEFAULT if options.pretrained else None).eval()
    cam = GradCAM(model, target_layers=[model.layer4[-1]])
    transform = eval_transform(224)
    for path in list_images([options.photos]):
        picture = Image.open(path).convert("RGB")
        score_map = cam(transform(picture)[None], targets=None)[0]  # of the class that is named
        place = (options.maps / path.relative_to(options.photos)).with_suffix(".npy")
        place.parent.mkdir(parents=True, exist_ok=True)
        np.save(place, score_map)
        box = boxes_of_maps(
            torch.from_numpy(score_map)[None], torch.tensor([picture.size]), options.threshold
        )
        print(f"{path}: {box[0].round().int().tolist()}")


if __name__ == "__main__":
    main()
