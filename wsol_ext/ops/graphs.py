"""Spectral cuts of graphs whose nodes are an image's tokens."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from wsol_ext.ops import _backend as backend

__all__ = [
    "MOST_TOKENS",
    "NormalizedCut",
    "normalized_cut",
    "normalized_cut_reference",
]

MOST_TOKENS = backend.constants["most_cut_tokens"]
_ROUNDING, _LARGEST_ANGLE = 1e-14, 1e-3  # csrc/graphs/second_eigenvector.h says what they are


class NormalizedCut(NamedTuple):
    """What `normalized_cut` finds of B images of N tokens.

    Attributes:
        vector: (B, N) float64. TokenCut's object is ``vector > vector.mean(dim=1, keepdim=True)``, or the rest of it.
        eigenvalue: (B,) float64, in [0, 2]; near 0 where the cut divides what hardly hangs together.
        residual: (B,) float64: the length of M u - (1 - eigenvalue) u for the unit vector u = D^1/2 vector.
        determined: (B,) bool: whether the vector is within 1e-3 of the only one that there is.
    """

    vector: Tensor
    eigenvalue: Tensor
    residual: Tensor
    determined: Tensor


def normalized_cut(
    features: Tensor, threshold: float = 0.2, eps: float = 1e-5, *, weighted: bool = False
) -> NormalizedCut:
    """The normalized cut of each image's tokens in two, by the similarity of their features.

    The operator under TokenCut (Wang et al., CVPR 2022) and MaskCut (Wang et al., CVPR 2023). With S_ij the cosine
    similarity of tokens i and j,

        A_ij = 1 where S_ij > threshold, else eps,    D = diag(A 1),

    it is the vector of the second smallest eigenvalue in (D - A) v = lambda D v (Shi and Malik, TPAMI 2000, equation
    6), which published programs take from a dense solver. A is eps 1 1^T + (1 - eps) B with B of bits, and the
    vector is D^-1/2 times the second largest eigenvector of M = D^-1/2 A D^-1/2, whose largest, D^1/2 1, is known: so a
    few products of bits with a vector find it (Lanczos, fully reorthogonalized), and no dense matrix exists.

    Args:
        features: (B, N, C), float32, bfloat16, float16 or float64, of any lengths: patch tokens, or their keys; N from
            2 to 16,384. Read where they lie if channels are contiguous; else copied. A zero vector's similarity is 0.
        threshold: from -1 to below 1; from 0 if weighted.
        eps: between 0 and 1: what holds dissimilar tokens together.
        weighted: A_ij is S_ij above the threshold, not 1. Takes N^2 numbers of memory an image, instead of bits.

    Returns:
        `NormalizedCut`. Vectors are such that v^T D v = 1, and positive where they are largest in magnitude: at the
        first entry within 1e-6 of that. They are those of float64 to 1e-6, and to what rounding leaves where the next
        eigenvalue is near: 256 products at most are made, `residual` says how near they came, and where that leaves
        the vector open, `determined` is False. Where the next eigenvalue is the same, as it is where all tokens are
        alike, any mixture would do: then the vector is NaN. So is all of an image whose features are not finite.

        On the CPU, a pair is similar as float64 has it. On CUDA, and as weights, similarities are computed in float32
        (float64 for float64 features): a pair within its rounding of the threshold may fall on either side.

    Raises:
        TypeError: a dtype that is none of these.
        ValueError: a shape that does not fit, or a threshold or an eps out of range.

    Not differentiable: results require no gradient, and a forward-mode tangent is a NotImplementedError. Autocast casts
    nothing. The same bits for any number of threads, and alone as in a batch.

    Example:
        >>> features = torch.tensor([[[1.0, 0.0], [0.9, 0.1], [0.8, 0.3], [0.0, 1.0], [0.2, 0.9]]])
        >>> cut = normalized_cut(features, threshold=0.5)
        >>> cut.vector > cut.vector.mean(dim=1, keepdim=True)
        tensor([[False, False, False,  True,  True]])
    """
    backend.check_flag("normalized_cut", "weighted", weighted)
    (features,) = backend.constant("normalized_cut", features=features)
    return NormalizedCut(*_normalized_cut(features, threshold, eps, weighted))


def normalized_cut_reference(
    features: Tensor, threshold: float = 0.2, eps: float = 1e-5, *, weighted: bool = False
) -> NormalizedCut:
    """`normalized_cut` in plain PyTorch, by all eigenvectors of dense matrices: its definition, the tests' oracle."""
    features = features.to(backend.accumulator_dtype(features.dtype))
    if features.dtype == torch.float64:
        features = _with_usual_lengths(features)
    lengths = features.double().norm(dim=2, keepdim=True)
    unit = torch.where(lengths > 0, features / lengths, 0).to(features.dtype)
    similarity = unit @ unit.transpose(1, 2)
    edges = similarity.double() if weighted else torch.ones_like(similarity, dtype=torch.float64)
    affinity = torch.where(similarity > threshold, edges, eps)
    root = affinity.sum(dim=2).sqrt()  # (B, N)
    matrix = affinity / (root[:, :, None] * root[:, None, :])
    is_finite = matrix.isfinite().all(dim=(1, 2)) & features.isfinite().all(dim=(1, 2))
    matrix = torch.where(is_finite[:, None, None], matrix, 0)
    values, vectors = torch.linalg.eigh(matrix)
    vector, value = vectors[:, :, -2], values[:, -2]
    residual = ((matrix @ vector[:, :, None])[:, :, 0] - value[:, None] * vector).norm(dim=1)
    gap = value - values[:, -3] if values.size(1) > 2 else torch.full_like(value, math.inf)
    determined = is_finite & (residual.clamp(min=_ROUNDING) <= _LARGEST_ANGLE * gap)

    vector = vector / root
    size = vector.abs()
    first = (size >= (1 - 1e-6) * size.amax(dim=1, keepdim=True)).int().argmax(dim=1, keepdim=True)
    vector = vector * vector.gather(1, first).sign()
    vector = torch.where(determined[:, None], vector, torch.nan)
    eigenvalue, residual = (torch.where(is_finite, x, torch.nan) for x in (1 - value, residual))
    return NormalizedCut(vector, eigenvalue, residual, determined)


def _with_usual_lengths(features: Tensor) -> Tensor:
    """Features (B, N, C) in the same directions, whose squares are in the range of float64."""
    return features * backend.power_to_near_one(features.abs().amax(dim=2, keepdim=True))


def _check(features: Tensor, threshold: float, eps: float, weighted: bool) -> None:
    name = "normalized_cut"
    backend.check_tensor(name, "features", features, ("B", "N", "C"), backend.FLOATING)
    _, tokens, channels = features.shape
    if not 2 <= tokens <= MOST_TOKENS or channels == 0:
        raise ValueError(
            f"{name}: features has shape {tuple(features.shape)}, it should have 2 to {MOST_TOKENS} tokens and at "
            "least one channel"
        )
    backend.check_number(name, "threshold", threshold)
    backend.check_number(name, "eps", eps)
    least = 0 if weighted else -1
    if not least <= threshold < 1:
        why = " for a weighted graph" if weighted else ""
        raise ValueError(f"{name}: threshold is {threshold}, it should be in [{least}, 1){why}")
    if not 0 < eps < 1:
        raise ValueError(f"{name}: eps is {eps}, it should be in (0, 1)")


@backend.remembered
def _checked(features: Tensor, threshold: float, eps: float, weighted: bool) -> None:
    _check(features, threshold, eps, weighted)


def _outputs(features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, tokens, _ = features.shape
    numbers = [features.new_empty(batch, dtype=torch.float64) for _ in range(2)]
    vector = features.new_empty(batch, tokens, dtype=torch.float64)
    return vector, numbers[0], numbers[1], features.new_empty(batch, dtype=torch.bool)


def _kernel(
    features: Tensor, threshold: float, eps: float, weighted: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _checked(features, threshold, eps, weighted)
    outputs = _outputs(features)
    if features.size(0) > 0:
        name, is_double = "normalized_cut", features.dtype == torch.float64
        if is_double:
            features = _with_usual_lengths(features)
        features = backend.rows_contiguous(features)
        scratch = backend.scratch(
            name, *features.shape, is_double, weighted, device=features.device
        )
        backend.run(
            name, features, *outputs, scratch, threshold, eps, weighted, device=features.device
        )
    return outputs


def _fake(
    features: Tensor, threshold: float, eps: float, weighted: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _check(features, threshold, eps, weighted)
    return _outputs(features)


_normalized_cut = backend.define(
    "normalized_cut",
    "(Tensor features, float threshold, float eps, bool weighted) -> (Tensor, Tensor, Tensor, Tensor)",
    _kernel,
    _fake,
)
