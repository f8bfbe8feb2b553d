"""Deep image clustering of a batch: against one call an image, and against the published way.

The published way: one image at a time, torch's modules and optimizer with all threads, and a Python loop over the
superpixels with numpy at each step.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from wsol_ext import ops
from wsol_ext.clustering import PRESETS, deep_clusters
from wsol_ext.clustering.network import ClusteringNetworks

LIGHT = PRESETS["light"]
FEW_STEPS = replace(PRESETS["published"], size=96, max_steps=2)


def photographs(count, device):
    """Smooth noise at a photograph's size."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 6, 8, generator=generator)
    images = F.interpolate(coarse, size=(300, 400), mode="bicubic").clamp(0, 1)
    return images.to(device)


def published(images, settings):
    """The clusters of each image."""
    longer = max(images.shape[2:])
    grid = [round(side * settings.size / longer) for side in images.shape[2:]]
    found = []
    for image in images:
        work = F.interpolate(image[None], size=grid, mode="bilinear", antialias=True).clamp(0, 1)
        segments = ops.slic(work, settings.segments, settings.compactness)[0].flatten()
        pieces = [np.flatnonzero(segments.cpu().numpy() == k) for k in segments.unique().tolist()]
        network = ClusteringNetworks(settings, 1, *grid).to(images.device)
        optimizer = torch.optim.SGD(
            network.parameters(), lr=settings.learning_rate, momentum=settings.momentum
        )
        for _ in range(settings.max_steps):
            optimizer.zero_grad()
            scores = network(2 * work - 1)
            labels = scores.argmax(dim=1).flatten().cpu().numpy()
            if len(np.unique(labels)) < settings.min_labels:
                break
            targets = labels.copy()
            for piece in pieces:
                values, counts = np.unique(labels[piece], return_counts=True)
                targets[piece] = values[counts.argmax()]
            targets = torch.from_numpy(targets).to(images.device).view(1, *grid)
            F.cross_entropy(scores, targets).backward()
            optimizer.step()
        found.append(labels)
    return found


@pytest.mark.parametrize(
    ("name", "settings", "count"),
    [("light", LIGHT, 8), ("published at size 96, 2 steps", FEW_STEPS, 2)],
)
def test_batch_against_the_published_way(versus, pick, device, name, settings, count):
    images = photographs(pick(count, 1), device)
    versus(
        f"{name}, {count} images: published way",
        lambda: published(images, settings),
        lambda: deep_clusters(images, settings),
        rounds=3,
        on_gpu=False,  # an image a thread
    )


def test_batch_against_one_at_a_time(versus, pick, device):
    images = photographs(pick(8, 1), device)
    versus(
        "light, 8 images: one call an image",
        lambda: [deep_clusters(image[None], LIGHT) for image in images],
        lambda: deep_clusters(images, LIGHT),
        rounds=3,
        on_gpu=False,
    )
