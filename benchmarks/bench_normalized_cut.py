"""normalized_cut against the published way: torch's matmul, a dense matrix, and a solver of eigenproblems.

TokenCut's is scipy's `eigh` for two eigenvectors of (D - A, D). The other solvers are given D^-1/2 A D^-1/2, which is
symmetric: scipy's `eigsh`, torch's `eigh`, for all eigenvectors, and torch's `lobpcg`. Each begins with the
similarities, as ours does.
Features are those of a drawn scene, whose graph takes Lanczos as many steps as photographs do (those of
tests/golden/tokencut.npz). The errors are of the vector, against scipy's `eigh`, relative to its length.
Estimates for GPUs are of what runs there, which scipy does not; of torch's `eigh` they have the bytes alone.

Both sides have one thread, or as many as torch has; then either waits until the other's are asleep: those of scipy's
OpenBLAS spin for some 30 ms after their last work.
"""

import functools

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse.linalg
import torch

from wsol_ext import ops

THRESHOLD, EPS = 0.2, 1e-5
CHANNELS = 384


def scene(side, device, images=1):
    """Tokens of a round object before a background, each with structure of its own, and noise."""
    generator = torch.Generator().manual_seed(side)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    y, x = torch.meshgrid(*(torch.linspace(-1, 1, side) for _ in range(2)), indexing="ij")
    inside = ((y - 0.1) ** 2 + (x + 0.2) ** 2 < 0.3).float().flatten()[:, None]
    smooth = torch.nn.functional.interpolate(
        normal(images, CHANNELS, 5, 5), (side, side), mode="bicubic"
    )
    smooth = smooth.flatten(2).transpose(1, 2)
    kinds = normal(2, CHANNELS)
    kind = inside * kinds[0] + (1 - inside) * kinds[1]
    return (0.8 * kind + 1.2 * smooth + normal(images, side * side, CHANNELS)).to(device)


def affinity(features):
    unit = torch.nn.functional.normalize(features, dim=1)
    similarity = unit @ unit.T
    return torch.where(similarity > THRESHOLD, 1.0, EPS).double()


def symmetric(features):
    graph = affinity(features)
    root = graph.sum(dim=1).sqrt()
    return graph / root[:, None] / root, root


def scipy_eigh(features):
    graph = affinity(features).numpy(force=True)
    degrees = np.diag(graph.sum(axis=1))
    _, vectors = scipy.linalg.eigh(degrees - graph, degrees, subset_by_index=[1, 2])
    return torch.from_numpy(vectors[:, 0])


def scipy_eigsh(features):
    matrix, root = symmetric(features)
    values, vectors = scipy.sparse.linalg.eigsh(matrix.numpy(force=True), k=2, which="LA")
    return torch.from_numpy(vectors[:, values.argmin()]) / root.cpu()


def torch_eigh(features):
    matrix, root = symmetric(features)
    return torch.linalg.eigh(matrix)[1][:, -2] / root


def torch_lobpcg(features):
    matrix, root = symmetric(features)
    torch.manual_seed(0)  # of its first guess
    return torch.lobpcg(matrix, k=2, largest=True, niter=-1)[1][:, 1] / root


@pytest.fixture(params=["one thread", "all threads"])
def threads(request, device):
    """The case's threads, by name, and how long libraries take to let go of them."""
    if request.param == "all threads":
        yield request.param, 0.2 if torch.get_num_threads() > 1 and device.type == "cpu" else 0
        return
    if device.type != "cpu":
        pytest.skip("the device has its own")
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    with threadpool_limits(1):  # scipy's
        torch.set_num_threads(1)
        yield request.param, 0
        torch.set_num_threads(before)


# Where a solver takes seconds, fewer rounds.
SIDES = pytest.mark.parametrize(("side", "rounds"), [(14, 15), (28, 9), (37, 5), (60, 1)])
BARS = {  # on one thread
    (scipy_eigh, 37): "50x",
    (scipy_eigh, 60): "150x",
    (scipy_eigsh, 37): "5x",
    (scipy_eigsh, 60): "5x",
}


@functools.cache
def exact(side):
    return scipy_eigh(scene(side, "cpu")[0])


def error(vector, side):
    vector, expected = vector.cpu(), exact(side)
    vector = vector * (vector @ expected).sign() * (expected.norm() / vector.norm())
    return float((vector - expected).norm() / expected.norm())


@SIDES
@pytest.mark.parametrize("solver", [scipy_eigh, scipy_eigsh, torch_eigh, torch_lobpcg])
def test_against_dense_solvers(versus, device, threads, solver, side, rounds):
    features = scene(side, device)
    name, settle = threads
    versus(
        f"{solver.__name__}, {side * side} tokens, {name}",
        lambda: solver(features[0]),
        lambda: ops.normalized_cut(features, THRESHOLD, EPS),
        bar=BARS.get((solver, side), "") if name == "one thread" else "",
        rounds=rounds,
        baseline_on_gpu=solver not in (scipy_eigh, scipy_eigsh),
        settle=settle,
        error=lambda: (
            error(solver(features[0]), side),
            error(ops.normalized_cut(features, THRESHOLD, EPS).vector[0], side),
        ),
    )


@pytest.mark.parametrize(("side", "rounds"), [(14, 15), (37, 9), (60, 5)])
def test_similarities_alone(versus, device, threads, side, rounds):
    """The product of the features, which torch makes in float32, and of a symmetric matrix both halves."""
    features = scene(side, device)
    unit = torch.nn.functional.normalize(features[0], dim=1)
    name, _ = threads
    versus(
        f"matmul alone, {side * side} tokens, {name}",
        lambda: unit @ unit.T,
        lambda: ops.normalized_cut(features, THRESHOLD, EPS),
        rounds=rounds,
    )


@pytest.mark.parametrize("side", [14, 28])
def test_batch_against_eigh_one_by_one(versus, device, threads, pick, side):
    features = scene(side, device, images=pick(16, 2))
    name, settle = threads
    versus(
        f"scipy_eigh, {len(features)} x {side * side} tokens, {name}",
        lambda: [scipy_eigh(image) for image in features],
        lambda: ops.normalized_cut(features, THRESHOLD, EPS),
        rounds=3,
        baseline_on_gpu=False,
        settle=settle,
    )
