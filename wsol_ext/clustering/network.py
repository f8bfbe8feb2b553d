"""The network that clusters one image, many times over: one for each image, run as one.

Every network has a lane. Activations are (lanes, channels, h, w); the weights of all lanes lie in one tensor, lane
after lane, and a convolution of all lanes is a grouped one, which sees them as channels of a single picture. So batch
normalization of that picture takes each lane's statistics over its one image.
"""

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from wsol_ext.clustering.settings import ClusteringSettings

__all__ = [
    "ClusteringNetworks",
    "ClusteringUnit",
    "LaneConv",
    "LaneNorm",
    "TwoConvs",
    "bilinear_matrix",
]


class LaneConv(nn.Module):
    """A convolution with weights of its own in each lane; zero padding keeps the grid.

    Args:
        lanes: how many.
        inputs: channels of a lane before.
        outputs: channels of a lane after.
        kernel: its side, odd.
        generator: what the weights are drawn by, as `torch.nn.Conv2d` draws them; once, for all lanes.
        bias: whether it has one.
    """

    def __init__(
        self,
        lanes: int,
        inputs: int,
        outputs: int,
        kernel: int,
        generator: Generator,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.lanes, self.padding = lanes, kernel // 2
        bound = (inputs * kernel**2) ** -0.5

        def draw(*shape: int) -> nn.Parameter:
            drawn = torch.empty(shape, dtype=torch.float32, device="cpu")
            drawn.uniform_(-bound, bound, generator=generator)
            return nn.Parameter(drawn.repeat(lanes, *[1] * (drawn.dim() - 1)))

        self.weight = draw(outputs, inputs, kernel, kernel)
        self.bias = draw(outputs) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(lanes, inputs, h, w) to (lanes, outputs, h, w)."""
        picture = x.flatten(0, 1).unsqueeze(0)
        out = F.conv2d(picture, self.weight, self.bias, padding=self.padding, groups=self.lanes)
        return out.view(self.lanes, -1, *x.shape[2:])


class LaneNorm(nn.Module):
    """Batch normalization of each lane by its own image's mean and variance, scaled and shifted."""

    def __init__(self, lanes: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(lanes * channels, dtype=torch.float32, device="cpu"))
        self.bias = nn.Parameter(torch.zeros_like(self.weight))

    def forward(self, x: Tensor) -> Tensor:
        """(lanes, channels, h, w) to the same shape."""
        picture = x.flatten(0, 1).unsqueeze(0)
        normed = F.batch_norm(picture, None, None, self.weight, self.bias, training=True)
        return normed.view_as(x)


class TwoConvs(nn.Sequential):
    """Twice a 3x3 convolution, batch normalization and ReLU."""

    def __init__(self, lanes: int, inputs: int, outputs: int, generator: Generator) -> None:
        super().__init__(
            LaneConv(lanes, inputs, outputs, 3, generator),
            LaneNorm(lanes, outputs),
            nn.ReLU(inplace=True),
            LaneConv(lanes, outputs, outputs, 3, generator),
            LaneNorm(lanes, outputs),
            nn.ReLU(inplace=True),
        )


class ClusteringUnit(nn.Module):
    """Draws the features of alike pixels together: the expectation-maximization attention unit (Li et al., ICCV 2019).

    Pixels are softly assigned to l2-normalized centres, and the centres moved to the means of their pixels, for some
    rounds; what the centres make of each pixel is added to its features. As in that paper the rounds belong to no
    gradient, so the first convolution and the first centres stay as drawn.
    """

    centres: Tensor

    def __init__(
        self, lanes: int, channels: int, centres: int, rounds: int, generator: Generator
    ) -> None:
        super().__init__()
        self.rounds = rounds
        self.before = LaneConv(lanes, channels, channels, 1, generator, bias=True)
        self.after = LaneConv(lanes, channels, channels, 1, generator, bias=True)
        drawn = torch.empty((channels, centres), dtype=torch.float32, device="cpu")
        drawn.normal_(generator=generator)
        self.register_buffer("centres", F.normalize(drawn, dim=0).repeat(lanes, 1, 1))
        self.before.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """(lanes, channels, h, w) to the same shape, nonnegative."""
        return F.relu(x + self.after(self.rebuild(x)))

    @torch.no_grad()
    def rebuild(self, x: Tensor) -> Tensor:
        """Each pixel's features as its centres make them, (lanes, channels, h, w), nonnegative."""
        features, centres = self.before(x).flatten(2), self.centres
        for _ in range(self.rounds):
            assignment = (centres.transpose(1, 2) @ features).softmax(dim=1)
            total = assignment.sum(dim=2).unsqueeze(1)
            centres = F.normalize(features @ assignment.transpose(1, 2) / (total + 1e-6), dim=1)
        return (centres @ assignment).relu_().view_as(x)


class ClusteringNetworks(nn.Module):
    """Networks of deep image clustering (Zhou and Wei, IEEE Access 2020), one in each lane, all with the same weights.

    A U-Net of two levels, as many channels as clusters, and a `ClusteringUnit` on those.

    Args:
        settings: sizes and seed.
        lanes: how many networks.
        height: of the images, in pixels.
        width: of the images, in pixels.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, settings: ClusteringSettings, lanes: int, height: int, width: int) -> None:
        super().__init__()
        generator = Generator(device="cpu").manual_seed(settings.seed)
        fine, coarse = settings.width, 2 * settings.width
        self.lanes = lanes
        self.first = TwoConvs(lanes, 3, fine, generator)
        self.down = TwoConvs(lanes, fine, coarse, generator)
        self.up = TwoConvs(lanes, fine + coarse, coarse, generator)
        self.answer = nn.Sequential(
            LaneConv(lanes, coarse, settings.channels, 1, generator),
            LaneNorm(lanes, settings.channels),
        )
        self.unit = ClusteringUnit(
            lanes, settings.channels, settings.centres, settings.rounds, generator
        )
        self.register_buffer("rows", bilinear_matrix(-(-height // 2), height))
        self.register_buffer("columns", bilinear_matrix(-(-width // 2), width))

    def forward(self, images: Tensor) -> Tensor:
        """Scores of the clusters, (lanes, channels, h, w), of normalized images (lanes, 3, h, w)."""
        fine = self.first(images)
        coarse = self.down(F.max_pool2d(fine, 2, ceil_mode=True))
        # As two products with matrices, whose gradient is deterministic on CUDA too; interpolate's is not.
        raised = self.rows @ (coarse @ self.columns.T)
        return self.unit(self.answer(self.up(torch.cat((fine, raised), dim=1))))


def bilinear_matrix(before: int, after: int) -> Tensor:
    """(after, before): what bilinear resizing multiplies a column of `before` pixels by."""
    columns = torch.eye(before, dtype=torch.float32, device="cpu").unsqueeze(0)
    resized = F.interpolate(columns, size=after, mode="linear", align_corners=False)
    return resized[0].T.contiguous()
