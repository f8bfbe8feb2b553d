"""The head: the exact convolution's logits and maps, without convolving all classes."""

import pytest
import torch
from torch.nn import functional as F

from wsol_ext.models.class_maps import ClassMapHead


def full_maps(head, patches):
    return F.conv2d(patches.permute(0, 3, 1, 2), head.weight, head.bias, padding=1)


@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (2, 1), (3, 7), (14, 14)])
def test_logits_are_the_mean_of_the_convolution(grid):
    head, patches = ClassMapHead(6, 4).double(), torch.randn(2, *grid, 6, dtype=torch.float64)
    torch.testing.assert_close(head.logits(patches), full_maps(head, patches).mean((2, 3)))


@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (2, 1), (3, 7)])
def test_maps_are_those_of_the_convolution(grid):
    head, patches = ClassMapHead(6, 4).double(), torch.randn(2, *grid, 6, dtype=torch.float64)
    classes = torch.tensor([[3, 0, 3], [1, 2, 0]])
    expected = full_maps(head, patches).gather(1, classes[:, :, None, None].expand(-1, -1, *grid))
    torch.testing.assert_close(head.maps(patches, classes), expected)


def test_gradients_are_those_of_the_convolution():
    head, patches = (
        ClassMapHead(6, 4).double(),
        torch.randn(2, 3, 5, 6, dtype=torch.float64, requires_grad=True),
    )
    weights = torch.randn(2, 4, dtype=torch.float64)
    inputs = (patches, head.weight, head.bias)
    found = torch.autograd.grad((head.logits(patches) * weights).sum(), inputs)
    expected = torch.autograd.grad((full_maps(head, patches).mean((2, 3)) * weights).sum(), inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_an_empty_batch_gives_empty_logits_and_maps():
    head, patches = ClassMapHead(6, 4), torch.zeros(0, 3, 5, 6)
    assert head.logits(patches).shape == (0, 4)
    assert head.maps(patches, torch.zeros(0, 2, dtype=torch.int64)).shape == (0, 2, 3, 5)
