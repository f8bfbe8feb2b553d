"""Grad-CAM of a small network: maps that another program made."""

import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from wsol_ext.data import SyntheticDataset, eval_transform


class SmallNetwork(nn.Module):
    """Two convolutions, a pooling, a classifier."""

    def __init__(self, classes):
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 8, 5, 4, 2), nn.ReLU()),
            *(nn.Conv2d(8, 16, 5, 4, 2), nn.ReLU()),
        )
        self.head = nn.Linear(16, classes)

    def forward(self, images):
        return self.head(self.features(images).mean(dim=(2, 3)))


@pytest.fixture(scope="session")
def drawn():
    """Twelve drawn pictures with boxes and masks."""
    return SyntheticDataset(12, img_size=48, split="test", transform=eval_transform(224))


@pytest.fixture(scope="session")
def grad_cam(drawn):
    """Grad-CAM's maps of the true classes, (12, 224, 224) float32, and the network's logits."""
    torch.manual_seed(0)
    network = SmallNetwork(len(drawn.class_names)).eval()
    images = torch.stack([drawn[k]["image"] for k in range(len(drawn))])
    with GradCAM(model=network, target_layers=[network.features[-1]]) as cam:
        maps = cam(input_tensor=images, targets=[ClassifierOutputTarget(k) for k in drawn.labels])
    with torch.inference_mode():
        return np.asarray(maps), network(images)
