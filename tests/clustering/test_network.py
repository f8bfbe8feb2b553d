"""The networks of all lanes against one network written with plain modules."""

import torch
from torch import nn
from torch.nn import functional as F

from wsol_ext.clustering import ClusteringSettings
from wsol_ext.clustering.network import ClusteringNetworks, bilinear_matrix
from wsol_ext.clustering.training import LaneDescent

SETTINGS = ClusteringSettings(
    size=16, segments=6, compactness=10.0, width=4, channels=10, centres=5, rounds=2
)


def conv_norm_relu(inputs, outputs):
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(outputs, track_running_stats=False), nn.ReLU()]


class PlainNetwork(nn.Module):
    """The method's network for one image, in float64."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(*conv_norm_relu(3, 4), *conv_norm_relu(4, 4))
        self.down = nn.Sequential(*conv_norm_relu(4, 8), *conv_norm_relu(8, 8))
        self.up = nn.Sequential(*conv_norm_relu(12, 8), *conv_norm_relu(8, 8))
        norm = nn.BatchNorm2d(10, track_running_stats=False)
        self.answer = nn.Sequential(nn.Conv2d(8, 10, 1, bias=False), norm)
        self.before, self.after = nn.Conv2d(10, 10, 1), nn.Conv2d(10, 10, 1)
        self.register_buffer("centres", torch.zeros(10, 5))

    def forward(self, image):
        fine = self.first(image)
        coarse = self.down(F.max_pool2d(fine, 2, ceil_mode=True))
        raised = F.interpolate(coarse, size=image.shape[2:], mode="bilinear", align_corners=False)
        x = self.answer(self.up(torch.cat((fine, raised), dim=1)))
        with torch.no_grad():
            pixels, centres = self.before(x)[0].flatten(1).T, self.centres
            for _ in range(2):
                assignment = (pixels @ centres).softmax(dim=1)
                shares = assignment / (1e-6 + assignment.sum(dim=0))
                centres = F.normalize(pixels.T @ shares, dim=0)
            rebuilt = (centres @ assignment.T).view_as(x)
        return F.relu(x + self.after(F.relu(rebuilt)))


def of_lane(networks, lane, lanes):
    """The weights of a lane, under the plain network's names."""
    state, names = {}, {"unit.before": "before", "unit.after": "after", "unit.": ""}
    for name, value in networks.state_dict().items():
        if name in ("rows", "columns"):
            continue
        for ours, theirs in names.items():
            if name.startswith(ours):
                name = theirs + name[len(ours) :]
                break
        state[name] = value.unflatten(0, (lanes, -1))[lane].squeeze(0).double()
    # (10, 5) of a lane, not (1, 10, 5)
    state["centres"] = state["centres"].view(10, 5)
    return state


def test_scores_and_a_step_are_those_of_plain_modules():
    torch.manual_seed(0)
    lanes, size = 3, (7, 10)
    networks = ClusteringNetworks(SETTINGS, lanes, *size)
    with torch.no_grad():
        for weight in networks.parameters():  # another network in each lane
            weight.add_(0.1 * torch.randn_like(weight))
    images, targets = torch.rand(lanes, 3, *size), torch.randint(10, (lanes, *size))
    plains = []
    for lane in range(lanes):
        plain = PlainNetwork().double()
        plain.load_state_dict(of_lane(networks, lane, lanes))
        plains.append(plain)
    descent = LaneDescent(networks, SETTINGS)
    optimizers = [torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9) for plain in plains]
    for _ in range(3):
        scores = networks(images)
        descent.step(scores, targets)
        for lane, (plain, optimizer) in enumerate(zip(plains, optimizers, strict=True)):
            expected = plain(images[lane : lane + 1].double())
            torch.testing.assert_close(scores[lane].double(), expected[0], rtol=1e-4, atol=1e-4)
            optimizer.zero_grad()
            F.cross_entropy(expected, targets[lane : lane + 1]).backward()
            optimizer.step()
    for lane, plain in enumerate(plains):
        after = of_lane(networks, lane, lanes)
        for name, weight in plain.named_parameters():
            torch.testing.assert_close(
                after[name],
                weight.detach(),
                rtol=1e-3,
                atol=1e-4,
                msg=lambda m, n=name: f"{n}: {m}",
            )


def test_every_lane_begins_alike_and_can_begin_again():
    networks = ClusteringNetworks(SETTINGS, 2, 6, 8)
    first, second = of_lane(networks, 0, 2), of_lane(networks, 1, 2)
    assert all(torch.equal(first[name], second[name]) for name in first)
    descent, images = LaneDescent(networks, SETTINGS), torch.rand(2, 3, 6, 8)
    for _ in range(2):
        descent.step(networks(images), torch.randint(10, (2, 6, 8)))
    descent.restart(1)
    moved, again = of_lane(networks, 0, 2), of_lane(networks, 1, 2)
    assert all(torch.equal(again[name], first[name]) for name in first)
    assert not torch.equal(moved["first.0.weight"], first["first.0.weight"])
    assert all(not speed.unflatten(0, (2, -1))[1].any() for speed in descent.speeds)


def test_matrix_resizes_as_interpolate_does():
    for before, after in ((1, 1), (1, 2), (3, 5), (4, 8)):
        column = torch.rand(before)
        expected = F.interpolate(column.view(1, 1, -1), size=after, mode="linear")[0, 0]
        torch.testing.assert_close(bilinear_matrix(before, after) @ column, expected)
