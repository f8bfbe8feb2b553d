"""What SCM's layers make of the attention map: F^0 to F^4 of a few pictures, before training and after.

wsol demo --model scm --out runs/demo_scm
python scripts/picture_calibration.py runs/demo_scm docs/scm_calibration.png
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from wsol_ext import create_model
from wsol_ext.checkpoints import find_checkpoint, load_model
from wsol_ext.data import SyntheticDataset, eval_transform


def untrained(trained):
    """The model as training found it, but for the seed."""
    torch.manual_seed(0)
    config = dict(trained.config)
    return create_model(**config, pretrained=False).eval()


def main():
    """Draw a row for each picture: the picture, then the maps before and after training."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="an SCM run on drawn birds, or its model.safetensors")
    parser.add_argument("out", type=Path, help="the picture to write")
    parser.add_argument("--pictures", type=int, default=4, help="how many")
    options = parser.parse_args()
    trained = load_model(find_checkpoint(options.run), method="scm")
    side = trained.config["img_size"]
    plain = SyntheticDataset(options.pictures, img_size=side, split="test")
    seen = SyntheticDataset(
        options.pictures, img_size=side, split="test", transform=eval_transform(side)
    )
    images = torch.stack([sample["image"] for sample in seen])
    with torch.no_grad():
        rows = [
            [step.attention for step in model.calibrate(images)]
            for model in (untrained(trained), trained)
        ]
    steps = len(rows[0])
    figure, axes = plt.subplots(
        options.pictures,
        1 + 2 * steps,
        figsize=(1.1 * (1 + 2 * steps), 1.2 * options.pictures + 0.5),
        squeeze=False,
    )
    for picture, line in enumerate(axes):
        line[0].imshow(plain[picture]["image"].permute(1, 2, 0))
        for part, (when, maps) in enumerate(zip(("before", "after"), rows, strict=True)):
            for step in range(steps):
                axis = line[1 + part * steps + step]
                axis.imshow(maps[step][picture], cmap="viridis")
                if picture == 0:
                    axis.set_title(f"$F^{step}$ {when}", fontsize=8)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.tight_layout(pad=0.4)
    figure.savefig(options.out, dpi=100)


if __name__ == "__main__":
    main()
