"""What these methods share: class-score maps by a 3x3 convolution, logits that never form them, and N(.)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ClassMapHead", "min_max"]


class ClassMapHead(nn.Conv2d):
    """Class-score maps S = 3x3 convolution (padding 1) of the patch tokens; logits = mean of S over the grid.

    The mean of a zero-padded 3x3 convolution is linear in nine sums of the input: each tap sees the grid less the
    row or column it leaves through. So logits cost ``classes * 9 C`` multiplications an image, and maps are
    convolved for the asked classes alone.

    Args:
        embed_dim: channels C of a patch token.
        num_classes: number of classes.
    """

    bias: Tensor  # there always is one

    def __init__(self, embed_dim: int, num_classes: int) -> None:
        super().__init__(embed_dim, num_classes, kernel_size=3, padding=1)

    def logits(self, patches: Tensor) -> Tensor:
        """Logits (B, classes) of patch tokens on their grid (B, h, w, C)."""
        # Sums over up to a thousand tokens: float32 whatever the tokens are.
        tokens = patches.float() if patches.dtype in (torch.float16, torch.bfloat16) else patches
        sums = _tap_sums(_tap_sums(tokens, dim=1), dim=2)  # (B, 3, 3, C)
        means = sums / (patches.size(1) * patches.size(2))
        # Reordering the few sums, not the many weights.
        means = means.permute(0, 3, 1, 2).flatten(1)
        return F.linear(means, self.weight.flatten(1).to(means.dtype), self.bias.to(means.dtype))

    def maps(self, patches: Tensor, classes: Tensor) -> Tensor:
        """Score maps (B, K, h, w) of classes (B, K) int64, from patch tokens on their grid (B, h, w, C)."""
        batch, height, width, channels = patches.shape
        count = classes.size(1)
        # One product for all taps; `fold` then adds each tap's plane at its offset (the transpose of a
        # convolution's gather, hence the flip).
        taps = (
            self.weight[classes]
            .flip(3, 4)
            .permute(0, 1, 3, 4, 2)
            .reshape(batch, count * 9, channels)
        )
        planes = taps.to(patches.dtype) @ patches.reshape(
            batch, height * width, channels
        ).transpose(1, 2)
        maps = F.fold(planes, (height, width), kernel_size=3, padding=1)
        return maps + self.bias[classes][:, :, None, None].to(maps.dtype)


def _tap_sums(values: Tensor, dim: int) -> Tensor:
    """Sums over `dim` as the three taps of a zero-padded kernel see them: without the last, all, without the first."""
    total = values.sum(dim=dim)
    return torch.stack(
        (total - values.select(dim, -1), total, total - values.select(dim, 0)), dim=dim
    )


def min_max(maps: Tensor) -> Tensor:
    """N: each map (..., h, w) stretched to [0, 1] over its grid; a constant one becomes zeros."""
    flat = maps.flatten(-2)  # not aminmax, which has no derivative before torch 2.7
    low, high = flat.amin(dim=-1), flat.amax(dim=-1)
    low, high = low[..., None, None], high[..., None, None]
    return (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)
