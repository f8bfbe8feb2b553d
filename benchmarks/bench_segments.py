"""segment_mean and segment_mode against plain PyTorch, and against a loop over superpixels."""

import numpy as np
import pytest
import torch

from wsol_ext import ops

CLASSES = 100
SIZES = pytest.mark.parametrize(
    ("images", "channels", "side", "segments"),
    [
        (1, 1, 1, 1),
        (1, 3, 32, 20),
        (16, 3, 224, 200),
        (16, 3, 224, 2000),
        (4, 100, 224, 200),
        (1, 1, 512, 200),
        (1, 3, 512, 2000),
    ],
)
MODE_SIZES = pytest.mark.parametrize(
    ("images", "side", "segments"),
    [(1, 1, 1), (1, 32, 20), (16, 224, 200), (16, 224, 2000), (1, 512, 200), (1, 512, 2000)],
)


def superpixels(images, side, segments, device):
    """Labels of jittered squares, which are about as ragged as superpixels."""
    generator = torch.Generator().manual_seed(0)
    cells = round(segments**0.5)
    ramp = torch.arange(side, dtype=torch.float32)
    jitter = torch.rand((2, images, side, side), generator=generator) * side / cells / 4
    y = ((ramp[:, None] + jitter[0]) * cells / side).long().clamp(max=cells - 1)
    x = ((ramp + jitter[1]) * cells / side).long().clamp(max=cells - 1)
    return (y * cells + x).int().to(device)


def classes_of(labels):
    """A map of classes in patches, with noise."""
    noise = torch.randint_like(labels, CLASSES)
    patches = labels // 3 % CLASSES
    return torch.where(torch.rand(labels.shape, device=labels.device) < 0.7, patches, noise)


def scattered_mean(values, labels):
    planes, index = values.flatten(2), labels.flatten(1).long()
    count = int(index.max()) + 1
    sums = planes.new_zeros(*planes.shape[:2], count)
    counts = planes.new_zeros(labels.size(0), count)
    counts = counts.scatter_add(1, index, torch.ones_like(planes[:, 0]))
    index = index.unsqueeze(1).expand(planes.shape)
    sums = sums.scatter_add(2, index, planes)
    return (sums / counts.clamp(min=1).unsqueeze(1)).gather(2, index).view_as(values)


def indexed_mean(values, labels):
    """With all channels of a pixel side by side, as index_add likes them."""
    images, channels = values.shape[:2]
    index = labels.flatten(1).long()
    count = int(index.max()) + 1
    index = (index + count * torch.arange(images, device=index.device)[:, None]).flatten()
    rows = values.flatten(2).transpose(1, 2).reshape(-1, channels)
    sums = rows.new_zeros(images * count, channels).index_add(0, index, rows)
    counts = torch.bincount(index, minlength=images * count).clamp(min=1)
    means = (sums / counts[:, None])[index]
    return means.view(images, -1, channels).transpose(1, 2).reshape(values.shape)


def counted_mode(classes, labels):
    segments, count = labels.flatten(1).long(), int(labels.max()) + 1
    first = count * torch.arange(labels.size(0), device=labels.device)[:, None]
    pairs = (segments + first) * CLASSES + classes.flatten(1)
    counts = torch.bincount(pairs.flatten(), minlength=labels.size(0) * count * CLASSES)
    modes = counts.view(labels.size(0), count, CLASSES).argmax(dim=2)
    return modes.gather(1, segments).view_as(classes).to(classes.dtype)


def looped_mode(classes, labels):
    out = np.empty_like(classes)
    for i in range(len(labels)):
        for label in np.unique(labels[i]):
            inside = labels[i] == label
            out[i][inside] = np.bincount(classes[i][inside]).argmax()
    return out


def forward(function, values, labels):
    return function(values, labels)


def forward_and_backward(function, values, labels):
    values = values.detach().requires_grad_()
    # The gradient is the values' own memory: a loss would cost both sides more than either mean.
    return torch.autograd.grad(function(values, labels), values, values.detach())


@SIZES
@pytest.mark.parametrize("run", [forward, forward_and_backward])
@pytest.mark.parametrize("baseline", [scattered_mean, indexed_mean])
def test_segment_mean(versus, device, baseline, run, images, channels, side, segments):
    labels = superpixels(images, side, segments, device)
    values = torch.rand(images, channels, side, side, device=device)
    torch.testing.assert_close(ops.segment_mean(values, labels), baseline(values, labels))
    versus(
        f"segment_mean, {run.__name__.replace('_and_', ' + ')}, {images} x {channels} x {side} x {side}, "
        f"{segments} segments; {baseline.__name__}",
        lambda: run(baseline, values, labels),
        lambda: run(ops.segment_mean, values, labels),
        bar="> 1x",
    )


@MODE_SIZES
def test_segment_mode(versus, device, images, side, segments):
    labels = superpixels(images, side, segments, device)
    classes = classes_of(labels)
    assert torch.equal(ops.segment_mode(classes, labels), counted_mode(classes, labels))
    versus(
        f"segment_mode, {images} x {side} x {side}, {segments} segments; bincount",
        lambda: counted_mode(classes, labels),
        lambda: ops.segment_mode(classes, labels),
        bar="> 1x",
    )


@MODE_SIZES
def test_segment_mode_against_a_loop(versus, images, side, segments):
    """The published kind of loop over superpixels, which runs on the CPU; so does the operator here."""
    labels = superpixels(images, side, segments, torch.device("cpu"))
    classes = classes_of(labels)
    arrays = classes.numpy(), labels.numpy()
    versus(
        f"segment_mode on the CPU, {images} x {side} x {side}, {segments} segments; loop over superpixels",
        lambda: looped_mode(*arrays),
        lambda: ops.segment_mode(classes, labels),
        bar="> 1x",
        rounds=2,
    )
