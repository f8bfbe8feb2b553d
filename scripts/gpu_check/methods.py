"""models: a training step of each method beside the published way, and a localization."""

import copy
from functools import partial
from typing import Any

import bench_training_step
import torch

from gpu_check.timing import measure
from gpu_check.worker import Item
from wsol_ext import create_model

# By the names of the published ways; the others have none that was written out.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: way[1:] for name, way in bench_training_step.WAYS.items()},
    "trilite": ("trilite", {}),
    "molt": ("molt", {}),
}
CLASSES = 200
IMAGES, FEWER = 32, {"molt": 8}  # three networks, and one that is trained on each image


def items(device: str, small: bool) -> dict[str, Item]:
    on = torch.device(device)
    steps = {
        f"models/{name}, training step, {str(dtype).removeprefix('torch.')}": Item(
            partial(training_step, name, dtype, on, small), limit_s=90
        )
        for name in METHODS
        for dtype in (torch.float32, torch.bfloat16)
    }
    return steps | {
        f"models/{name}, localization": Item(partial(localization, name, on, small), limit_s=90)
        for name in METHODS
        if name != "trt, stage 1"
    }


def built(name: str, device: torch.device, small: bool) -> tuple[torch.nn.Module, torch.Tensor]:
    """The model, untrained, and a batch of images."""
    torch.manual_seed(0)
    method, options = METHODS[name]
    if small:
        options = {**options, "img_size": 96, "backbone_options": {"depth": 4, "embed_dim": 96}}
    model = create_model(method, num_classes=CLASSES, pretrained=False, **options).to(device)
    count, size = FEWER.get(name, IMAGES), int(model.config["img_size"])
    return model, torch.randn(2 if small else count, 3, size, size, device=device)


def training_step(
    name: str, dtype: torch.dtype, device: torch.device, small: bool
) -> dict[str, Any]:
    model, images = built(name, device, small)
    model.train()
    labels = torch.randint(CLASSES, (len(images),), device=device)
    published = bench_training_step.WAYS.get(name, [None])[0]

    def step(model: torch.nn.Module, loss_of) -> torch.Tensor:
        model.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = loss_of(model, images, labels)
        loss.backward()
        return loss.detach()

    def ours(model, images, labels):
        return model.training_loss(images, labels)["loss"]

    loss = float(step(model, ours))
    if not loss < float("inf"):
        raise ValueError(f"the loss is {loss}")
    found = {
        "row": {
            "case": f"{name}, {len(images)} images",
            "direction": "training step",
            "rival": "published" if published else "none",
        },
        "loss": loss,
        "ours": measure([lambda: step(model, ours)], device),
    }
    if published:
        theirs = copy.deepcopy(model)
        found["difference"] = abs(float(step(theirs, published)) / loss - 1)
        found["rival"] = measure([lambda: step(theirs, published)], device)
    return found


def localization(name: str, device: torch.device, small: bool) -> dict[str, Any]:
    model, images = built(name, device, small)
    model.eval()
    with torch.inference_mode():
        _, maps = model.localize(images)
        if not maps.isfinite().all():
            raise ValueError("the maps have values that are infinite or NaN")
        found = measure([lambda: model.localize(images)], device)
    row = {"case": f"{name}, {len(images)} images", "direction": "localization", "rival": "none"}
    return {"row": row, "ours": found}
