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
    """Draw the class token's attention in each block, or the mean patch query's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture")
    parser.add_argument("out", help="the picture to write")
    parser.add_argument(
        "--backbone",
        default="deit_small_patch16_224",
        help="a vision transformer of timm's, with one grid of patches",
    )
    parser.add_argument("--pretrained", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    model = timm.create_model(options.backbone, pretrained=options.pretrained).eval()
    height, width = model.patch_embed.img_size
    picture = Image.open(options.picture).convert("RGB")
    images = eval_transform((height, width))(picture)[None]
    prefix_tokens = model.num_prefix_tokens
    queries = "mean" if getattr(model, "cls_token", None) is None else "class"
    seen = wsol_ext.attention_rows(queries, prefix_tokens=prefix_tokens)
    with torch.inference_mode(), seen as rows:
        model(images)
    figure, axes = plt.subplots(1, len(rows) + 1, figsize=(2 * (len(rows) + 1), 2.4))
    axes[0].imshow(picture.resize((width, height)))
    for block, (row, axis) in enumerate(zip(rows, axes[1:], strict=True), start=1):
        axis.imshow(patch_attention([row], prefix_tokens, model.patch_embed.grid_size)[0].numpy())
        axis.set_title(f"block {block}" if block <= len(model.blocks) else "pool")
    for axis in axes:
        axis.set_axis_off()
    figure.savefig(options.out, dpi=100, bbox_inches="tight")
    print(f"{len(model.blocks)} blocks, queries {queries!r}: {options.out}")


if __name__ == "__main__":
    main()
