"""Pictures of one block each, and a transformer that tells blocks from what is around them: nobody trained it."""

from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from wsol_ext.models import any_backbone

PATCH, SIDE = 8, 64
ARCHITECTURE = "vit_tiny_patch16_224"
OPTIONS = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": PATCH}
THRESHOLD = 0.9


def blind_backbone(**options):
    """A random transformer that does not know where a patch is: patches that look alike have the same token."""
    torch.manual_seed(0)
    arguments = {**OPTIONS, **options}
    backbone = any_backbone(ARCHITECTURE, pretrained=False, img_size=SIDE, **arguments).eval()
    torch.nn.init.zeros_(backbone.vit.pos_embed)
    return backbone


def weights_of(backbone, path: Path) -> Path:
    """Its weights as a file of timm's layout."""
    save_file(backbone.vit.state_dict(), path)
    return path


def drawing(*blocks, size=(SIDE, SIDE)) -> Image.Image:
    """A grey picture with blocks of colours (x0, y0, x1, y1, colour), in patches of its 8 x 8."""
    picture = Image.new("RGB", size, (90, 90, 90))
    width, height = size[0] * PATCH // SIDE, size[1] * PATCH // SIDE
    for x0, y0, x1, y1, colour in blocks:
        box = (x0 * width, y0 * height, x1 * width, y1 * height)
        picture.paste(Image.new("RGB", (box[2] - box[0], box[3] - box[1]), colour), box)
    return picture
