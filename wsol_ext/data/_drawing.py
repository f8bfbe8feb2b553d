"""The strokes of the synthetic pictures: float32 RGB arrays in [0, 1], drawn into in place."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

Rng = np.random.Generator


def ground(rng: Rng, size: int) -> np.ndarray:
    """A ground of two muted colours mixed by smooth noise, with a fine grain: (size, size, 3)."""
    first, second = _muted(rng), _muted(rng)
    mixture = _noise(rng, size, 4) + 0.4 * _noise(rng, size, size // 4)
    mixture = (mixture - mixture.min()) / np.ptp(mixture)
    return first + (second - first) * mixture[..., None]


def add_clutter(rng: Rng, image: np.ndarray, colours: Sequence[tuple[int, int, int]]) -> None:
    """A twig, a ring or a stone somewhere: in a muted colour, or a thin one in any species' colour."""
    size = len(image)
    x, y = _rotated(size, rng.uniform(0, size), rng.uniform(0, size), rng.uniform(0, np.pi))
    kind = rng.integers(3)
    if kind == 0:  # a twig
        distance = np.maximum(np.abs(x) - size * rng.uniform(0.1, 0.3), np.abs(y) - size * 0.012)
    elif kind == 1:  # a ring
        distance = np.abs(np.hypot(x, y) - size * rng.uniform(0.05, 0.09)) - size * 0.012
    else:  # a stone
        distance = _ellipse(x, y, size * rng.uniform(0.05, 0.12), size * rng.uniform(0.04, 0.08))
    vivid = kind < 2 and rng.random() < 0.35
    colour = (
        np.array(colours[int(rng.integers(len(colours)))], np.float32) / 255
        if vivid
        else _muted(rng)
    )
    _paint(image, colour, _cover(distance))


def add_bird(rng: Rng, image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """A bird, wholly inside the picture, whose head has that colour; its mask, (size, size) uint8."""
    size = len(image)
    length = size * rng.uniform(0.17, 0.28)  # half of the body's length
    height = length / rng.uniform(1.3, 2.0)
    angle = rng.uniform(-0.6, 0.6)
    facing = rng.choice([-1.0, 1.0])
    head = height * rng.uniform(0.5, 0.6)
    reach = max(length * 1.5, length * 0.95 + head * 1.7)  # to the tail's end or the beak's tip
    half_width = reach * abs(np.cos(angle)) + height * abs(np.sin(angle))
    half_height = reach * abs(np.sin(angle)) + height * abs(np.cos(angle))
    x, y = _rotated(
        size, _off_centre(rng, half_width, size), _off_centre(rng, half_height, size), angle
    )
    x *= facing

    body = _ellipse(x, y, length, height)
    tail = _triangle(x + length * 0.7, y, -length * 0.8, height * 0.55)
    skull = np.hypot(x - length * 0.95, y + height * 0.35) - head
    beak = _triangle(x - length * 0.95 - head * 0.7, y + height * 0.35, head * 1.0, head * 0.45)

    vivid = np.array(colour, np.float32) / 255
    plumage = _muted(rng)
    tint = (rng.uniform(0.6, 0.85) * (_noise(rng, size, 5) > -0.35))[..., None].astype(np.float32)
    texture = plumage * _pattern(rng, x, y, length)[..., None]
    texture = texture + (vivid - texture) * tint
    _paint(image, texture * 0.8, _cover(tail))
    _paint(image, texture, _cover(body))
    _paint(image, np.array([0.95, 0.75, 0.35], np.float32) * rng.uniform(0.6, 1.0), _cover(beak))
    _paint(image, vivid * np.float32(rng.uniform(0.85, 1.05)), _cover(skull))
    eye = np.hypot(x - length * 0.95 - head * 0.25, y + height * 0.35 + head * 0.2) - head * 0.2
    _paint(image, np.full(3, 0.05, np.float32), _cover(eye))
    return (np.minimum.reduce([body, tail, skull, beak]) < 0).astype(np.uint8)


def box_of(mask: np.ndarray) -> Tensor:
    """The box around a mask's pixels, (1, 4) float32: x0, y0, x1, y1, where x1 and y1 are one past the last pixel."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return torch.tensor([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], dtype=torch.float32)


def _off_centre(rng: Rng, half: float, size: int) -> float:
    """A place between the borders, more often near one than in the middle."""
    low, high = min(half + 1, size / 2), max(size - half - 1, size / 2)
    return low + (high - low) * rng.beta(0.6, 0.6)


def _muted(rng: Rng) -> np.ndarray:
    grey = rng.uniform(0.2, 0.8)
    return (grey + rng.uniform(-0.1, 0.1, 3)).astype(np.float32)


def _noise(rng: Rng, size: int, cells: int) -> np.ndarray:
    """Smooth noise about 0: random values at (cells, cells) places, interpolated between."""
    weights = _interpolation(size, cells)
    values = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    return weights @ values @ weights.T


@lru_cache(maxsize=64)
def _interpolation(size: int, cells: int) -> np.ndarray:
    place = np.linspace(0, cells - 1, size, dtype=np.float32)
    return (1 - np.abs(place[:, None] - np.arange(cells, dtype=np.float32))).clip(0)


def _pattern(rng: Rng, x: np.ndarray, y: np.ndarray, length: float) -> np.ndarray:
    """Plain, striped or spotted plumage: brightness factors."""
    kind, wave = rng.integers(3), 2 * np.pi / (length * rng.uniform(0.35, 0.6))
    if kind == 0:
        return 1 + 0.2 * y / length
    if kind == 1:
        return 1 + 0.3 * np.sign(np.sin(wave * (x * rng.uniform(0.3, 1) + y)))
    return 1 + 0.3 * np.sign(np.sin(wave * x) * np.sin(wave * y) - 0.2)


@lru_cache(maxsize=8)
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    line = np.arange(size, dtype=np.float32) + 0.5
    return line[None, :], line[:, None]


def _rotated(size: int, x: float, y: float, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of every pixel about (x, y), turned by angle."""
    columns, rows = _grid(size)
    columns, rows = columns - np.float32(x), rows - np.float32(y)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return columns * cos + rows * sin, rows * cos - columns * sin


# Shapes are distances to their outline in pixels, negative inside: exact or near enough to smooth the edge by.


def _ellipse(x: np.ndarray, y: np.ndarray, a: float, b: float) -> np.ndarray:
    return (np.hypot(x / a, y / b) - 1) * min(a, b)


def _triangle(x: np.ndarray, y: np.ndarray, length: float, half_width: float) -> np.ndarray:
    """From half its width at x = 0 to a point at x = length if that is positive; a fan from a point, if negative."""
    along = x / length
    width = half_width * ((1 - along) if length > 0 else (0.3 + 0.7 * along))
    return np.maximum(np.maximum(-along, along - 1) * abs(length), np.abs(y) - width)


def _cover(distance: np.ndarray) -> np.ndarray:
    """How much of each pixel a shape covers: edges one pixel wide."""
    return (0.5 - distance).clip(0, 1)


def _paint(image: np.ndarray, colour: np.ndarray, cover: np.ndarray) -> None:
    image += cover[..., None] * (colour - image)
