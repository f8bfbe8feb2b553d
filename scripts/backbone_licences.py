"""The table of pretrained backbones on the documentation's first page: what they learned from, their licences by timm.

python scripts/backbone_licences.py
"""

import timm

BACKBONES = {
    "deit_small_patch16_224.fb_in1k": "ImageNet's labels; what TS-CAM, SCM, SAT and MOLT were published with",
    "deit_base_patch16_224.fb_in1k": "ImageNet's labels; what TRT was published with",
    "vit_small_patch16_224.dino": "ImageNet's pictures, without labels",
    "vit_small_patch14_dinov2.lvd142m": "142 million pictures, without labels; what TriLite was published with",
    "vit_small_patch14_reg4_dinov2.lvd142m": "the same, with registers: no artifact tokens",
    "vit_small_patch16_dinov3.lvd1689m": "1,689 million pictures, without labels; `tscam`, `scm`, `molt`",
    "eva02_small_patch14_224.mim_in22k": "ImageNet-22k's pictures, by CLIP's features; `tscam`, `scm`, `molt`",
    "vit_base_patch16_siglip_224.webli": "pictures with their captions; `tscam`, `scm`, `molt`",
}


def main() -> None:
    """Print it as markdown."""
    print("| `--backbone` | learned from | licence, as timm has it |")
    print("| --- | --- | --- |")
    for name, learned in BACKBONES.items():
        licence = timm.get_pretrained_cfg(name).license
        print(f"| `{name}` | {learned} | {licence or 'not stated'} |")


if __name__ == "__main__":
    main()
