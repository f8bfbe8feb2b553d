"""Trains a network for each image, many at a time, so that no image's clusters depend on what runs beside it.

Training amplifies rounding: a last bit that differs at the first step gives other clusters at the end. So each image's
arithmetic has to be the same to the bit, alone or in company, and that decides how images run together:

- On the CPU a thread takes one image at a time and computes with that thread only. Kernels split their sums by the
  number of threads, and here it is always one; images are many, so the cores are busy all the same.
- On CUDA a fixed number of lanes runs as one network with grouped convolutions. The shapes, hence the kernels, are
  the same for any batch: an image that is done makes room for the next, and lanes without one go on with the old.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

from wsol_ext import ops
from wsol_ext.clustering.network import ClusteringNetworks
from wsol_ext.clustering.settings import ClusteringSettings

__all__ = ["CUDA_LANES", "LaneDescent", "reproducible_convolutions", "train", "train_in_lanes"]

CUDA_LANES = 8


def train(
    images: Tensor, settings: ClusteringSettings, finished: Callable[[int, Tensor], None]
) -> None:
    """Cluster images, each by a network of its own.

    Args:
        images: (B, 3, h, w) uint8, RGB, at the working size.
        settings: of the networks and their training.
        finished: called with an image's index and its clusters, (h, w) int64, channels of the network, as soon as they
            are there: from several threads, but one call at a time.
    """
    segments = ops.slic(images, settings.segments, settings.compactness)
    waiting = deque(range(len(images)))  # popping is atomic
    one_at_a_time, stop = threading.Lock(), threading.Event()

    def report(index: int, clusters: Tensor) -> None:
        with one_at_a_time:
            finished(index, clusters)

    def work(lanes: int) -> None:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(images.device.type, enabled=False),
        ):
            train_in_lanes(images, segments, waiting, settings, lanes, report, stop)

    if images.is_cuda:
        with reproducible_convolutions():
            work(CUDA_LANES)
    elif len(images):
        _on_threads(lambda: work(1), min(len(images), torch.get_num_threads()), stop)


@contextmanager
def reproducible_convolutions() -> Iterator[None]:
    """Let cuDNN compute in float32, always with the same kernels."""
    # Torch's own context manager takes what it is not told as off, cuDNN itself too.
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    ):
        yield


def train_in_lanes(
    images: Tensor,
    segments: Tensor,
    waiting: "deque[int]",
    settings: ClusteringSettings,
    lanes: int,
    finished: Callable[[int, Tensor], None],
    stop: threading.Event,
) -> None:
    """Cluster the waiting images, as many at a time as there are lanes.

    Args:
        images: (B, 3, h, w) uint8.
        segments: (B, h, w) int32, their superpixels.
        waiting: indices of images to cluster; whoever takes one removes it.
        settings: of the networks and their training.
        lanes: images trained at a time.
        finished: called with an image's index and its clusters, (h, w) int64.
        stop: set when all is to be left as it is.
    """
    networks = ClusteringNetworks(settings, lanes, *images.shape[2:]).to(images.device)
    descent = LaneDescent(networks, settings)
    pixels = images.new_zeros((lanes, *images.shape[1:]), dtype=torch.float32)
    pieces = segments.new_zeros((lanes, *segments.shape[1:]))
    running: dict[int, int] = {}  # lane: image
    steps = [0] * lanes
    while not stop.is_set():
        for lane in range(lanes):
            if lane in running or not waiting:
                continue
            try:
                index = waiting.popleft()
            except IndexError:  # another thread was faster
                break
            descent.restart(lane)
            pixels[lane] = images[index].float() / 127.5 - 1
            pieces[lane] = segments[index]
            running[lane], steps[lane] = index, 0
        if not running:
            return
        scores = networks(pixels)
        clusters = scores.detach().max(dim=1).indices
        left = _number_of_labels(clusters, settings.channels).tolist()
        for lane, index in list(running.items()):
            steps[lane] += 1
            if left[lane] < settings.min_labels or steps[lane] == settings.max_steps:
                finished(index, clusters[lane].clone())
                del running[lane]
        if running:
            descent.step(scores, ops.segment_mode(clusters, pieces))


class LaneDescent:
    """Stochastic gradient descent with momentum that can start again in a single lane."""

    def __init__(self, networks: ClusteringNetworks, settings: ClusteringSettings) -> None:
        self.settings, self.lanes = settings, networks.lanes
        self.weights: list[Tensor] = [
            weight for weight in networks.parameters() if weight.requires_grad
        ]
        self.first = [self._lane(weight.detach(), 0).clone() for weight in self.weights]
        self.speeds = [torch.zeros_like(weight) for weight in self.weights]

    def _lane(self, weight: Tensor, lane: int) -> Tensor:
        return weight.unflatten(0, (self.lanes, -1))[lane]

    @torch.no_grad()
    def restart(self, lane: int) -> None:
        """Give a lane the weights that every image begins with."""
        for weight, first, speed in zip(self.weights, self.first, self.speeds, strict=True):
            self._lane(weight, lane).copy_(first)
            self._lane(speed, lane).zero_()

    def step(self, scores: Tensor, targets: Tensor) -> None:
        """Descend by the gradient of each lane's cross-entropy, its mean over the pixels.

        Args:
            scores: (lanes, channels, h, w), with a gradient.
            targets: (lanes, h, w), int64.
        """
        # The loss's gradient, written out: that of torch's cross-entropy is not deterministic on CUDA.
        slope = scores.detach().softmax(dim=1)
        slope.scatter_(1, targets.unsqueeze(1), slope.gather(1, targets.unsqueeze(1)) - 1)
        slope /= targets[0].numel()
        slopes = torch.autograd.grad(scores, self.weights, slope)
        with torch.no_grad():
            torch._foreach_mul_(self.speeds, self.settings.momentum)
            torch._foreach_add_(self.speeds, slopes)
            torch._foreach_add_(self.weights, self.speeds, alpha=-self.settings.learning_rate)


def _number_of_labels(clusters: Tensor, channels: int) -> Tensor:
    """How many labels occur in each of (lanes, h, w)."""
    occurs = torch.zeros((len(clusters), channels), dtype=torch.bool, device=clusters.device)
    return occurs.scatter_(1, clusters.flatten(1), True).sum(dim=1)


def _on_threads(work: Callable[[], None], count: int, stop: threading.Event) -> None:
    """Run work on threads of its own, each of which computes alone; an error or an interrupt stops them all."""
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for future in [pool.submit(work) for _ in range(count)]:
                future.result()
        finally:
            stop.set()
            # A thread's number is its own, but threads that begin later take the last that was set anywhere.
            torch.set_num_threads(threads)
