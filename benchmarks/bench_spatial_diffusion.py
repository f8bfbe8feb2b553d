"""spatial_diffusion against the published way: Newton-Schulz on dense matrices, and autograd through it.

Features are patch tokens, as in a ViT. With a detached start, both take the gradient of the authors' program. The
errors are the largest against the definition in float64, relative to the largest value: of the result, or, where there
is a backward, of the gradient of the features.
"""

import pytest
import torch

from wsol_ext import create_model, ops
from wsol_ext.ops.diffusion import spatial_diffusion_reference

CHANNELS = 200
BARS = {14: "10x"}

# Fewer images where the dense way takes seconds.
GRIDS = pytest.mark.parametrize(
    ("side", "images", "rounds"), [(1, 1, 15), (4, 1, 15), (14, 16, 15), (24, 2, 5), (28, 2, 3)]
)
ITERATIONS = pytest.mark.parametrize("iterations", [4, 16])


def inputs(images, side, device):
    torch.manual_seed(0)
    tokens = torch.randn(images, side * side, CHANNELS, device=device)
    features = tokens.transpose(1, 2).unflatten(2, (side, side))
    cam = torch.rand(images, side, side, device=device)
    return features, cam, torch.ones(1, device=device)


def forward(function, tensors, iterations):
    with torch.no_grad():
        return function(*tensors, iterations)


def forward_and_backward(function, tensors, iterations, detach_start=False):
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    function(*leaves, iterations, detach_start=detach_start).square().sum().backward()
    return leaves[0].grad


def forward_and_backward_with_detached_start(function, tensors, iterations):
    return forward_and_backward(function, tensors, iterations, detach_start=True)


@ITERATIONS
@GRIDS
@pytest.mark.parametrize(
    "run", [forward, forward_and_backward, forward_and_backward_with_detached_start]
)
def test_against_newton_schulz(versus, device, run, side, images, rounds, iterations):
    tensors = inputs(images, side, device)

    def errors():
        exact = run(spatial_diffusion_reference, [each.double() for each in tensors], iterations)
        both = (
            run(f, tensors, iterations)
            for f in (spatial_diffusion_reference, ops.spatial_diffusion)
        )
        return tuple(float((found - exact).abs().max() / exact.abs().max()) for found in both)

    name = run.__name__.replace("_and_", " + ").replace("_", " ")
    versus(
        f"{name}, {images} x {CHANNELS} x {side} x {side}, {iterations} iterations",
        lambda: run(spatial_diffusion_reference, tensors, iterations),
        lambda: run(ops.spatial_diffusion, tensors, iterations),
        bar=BARS.get(side, ""),
        rounds=rounds,
        memory=True,
        error=errors,
    )


@pytest.mark.parametrize(("img_size", "batch"), [(224, 8), (384, 4)])
def test_scm_evaluation_against_tscam(versus, device, pick, img_size, batch):
    """What SCM adds to TS-CAM is gone once it is trained."""
    options = {
        "pretrained": False,
        "img_size": img_size,
        "backbone_options": {"depth": pick(12, 2)},
    }
    scm, tscam = (create_model(method, **options).eval().to(device) for method in ("scm", "tscam"))
    images = torch.randn(pick(batch, 1), 3, img_size, img_size, device=device)
    with torch.inference_mode():
        versus(
            f"SCM DeiT-S {img_size}: logits and top-1 map, against TS-CAM's",
            lambda: tscam.localize(images),
            lambda: scm.localize(images),
            bar="costs what TS-CAM does",
        )
