"""Where each block of a vision transformer looks: one picture, one map a block, fused attention left on.

python examples/attention_rows.py photo.jpg rows.png
"""

import argparse

import matplotlib.pyplot as plt
import timm
import torch
from PIL import Image

import wsol_ext
from wsol_ext.attention import patch_attention
from wsol_ext.data import eval_transform


def main():
    """Draw the class token's attention in each block."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture")
    parser.add_argument("out", help="the picture to write")
    parser.add_argument("--backbone", default="deit_small_patch16_224", help="any of timm's")
    parser.add_argument("--pretrained", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    model = timm.create_model(options.backbone, pretrained=options.pretrained).eval()
    height, width = model.patch_embed.img_size
    picture = Image.open(options.picture).convert("RGB")
    images = eval_transform((height, width))(picture)[None]
    with torch.inference_mode(), wsol_ext.attention_rows(queries="class") as rows:
        model(images)
    figure, axes = plt.subplots(1, len(rows) + 1, figsize=(2 * (len(rows) + 1), 2.4))
    axes[0].imshow(picture.resize((width, height)))
    for block, (row, axis) in enumerate(zip(rows, axes[1:], strict=True), start=1):
        axis.imshow(
            patch_attention([row], model.num_prefix_tokens, model.patch_embed.grid_size)[0].numpy()
        )
        axis.set_title(f"block {block}")
    for axis in axes:
        axis.set_axis_off()
    figure.savefig(options.out, dpi=100, bbox_inches="tight")
    print(f"{len(rows)} blocks: {options.out}")


if __name__ == "__main__":
    main()
