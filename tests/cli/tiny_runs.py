"""The flags of a model so small that training takes seconds."""

TINY = [
    *("--backbone", "vit_tiny_patch16_224", "--pretrained", "false", "--img-size", "32"),
    *("--backbone-options", '{"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}'),
    *("--workers", "0", "--progress", "false", "--accelerator", "cpu"),
]


def tiny_run(out, *flags, epochs=2):
    """Arguments of `wsol train` for a tiny model on drawn data."""
    data = ["--data", "synthetic", "--data-options", '{"length": 64, "img_size": 32}']
    size = ["--epochs", str(epochs), "--batch-size", "32", "--lr", "1e-3"]
    return ["train", "--out", str(out), *TINY, *data, *size, *flags]
