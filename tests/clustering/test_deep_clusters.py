"""The clusters: of any company the same, and from any caller."""

import threading
from collections import deque
from dataclasses import replace

import pytest
import torch

from wsol_ext import ops
from wsol_ext.clustering import ClusteringSettings, deep_clusters, training

TINY = ClusteringSettings(
    size=24, segments=12, compactness=10.0, width=4, channels=12, centres=6, max_steps=6
)


def pictures(count, height=30, width=40, seed=0):
    """Smooth noise with a disc."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 5, generator=generator)
    images = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    centre = torch.rand(count, 2, 1, 1, generator=generator) * torch.tensor([height, width]).view(
        2, 1, 1
    )
    disc = (y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2 < 60
    images = torch.where(disc.unsqueeze(1), 1 - images, images)
    return (images.clamp(0, 1) * 255).round().byte()


def test_clusters_depend_on_nothing_but_the_image():
    images = pictures(16)
    together = deep_clusters(images, TINY)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    assert torch.equal(deep_clusters(images[order], TINY), together[order])
    for index in (0, 7, 15):
        assert torch.equal(deep_clusters(images[index : index + 1], TINY)[0], together[index])
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert torch.equal(deep_clusters(images[:5], TINY), together[:5])
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert len({tuple(clusters.flatten().tolist()) for clusters in together}) == 16


def test_cudnn_is_on_and_reproducible_while_images_are_clustered():
    cudnn = torch.backends.cudnn

    def settings():
        return cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32

    before = settings()
    with training.reproducible_convolutions():
        assert settings() == (True, False, True, False)
    assert settings() == before


def test_labels_are_consecutive_on_the_working_grid():
    clusters = deep_clusters(pictures(3), TINY)
    assert clusters.shape == (3, 18, 24)
    assert clusters.dtype == torch.int32
    for labels in clusters:
        count = int(labels.max()) + 1
        assert labels.unique().tolist() == list(range(count))
        assert count > 1


@pytest.mark.parametrize(
    ("size", "grid"),
    [((1, 9), (3, 24)), ((1, 200), (1, 24)), ((31, 2), (24, 2)), ((13, 13), (24, 24))],
)
def test_odd_sizes(size, grid):
    images = pictures(2, *size)
    clusters = deep_clusters(images, TINY)
    assert clusters.shape == (2, *grid)
    assert torch.equal(deep_clusters(images[1:], TINY)[0], clusters[1])


def test_image_of_one_colour_is_clustered_too():
    image = torch.full((1, 3, 20, 20), 90, dtype=torch.uint8)
    clusters = deep_clusters(image, TINY)
    count = int(clusters.max()) + 1
    assert clusters.unique().tolist() == list(range(count))
    assert count <= TINY.channels
    assert torch.equal(deep_clusters(image.expand(2, -1, -1, -1), TINY)[1], clusters[0])


def test_empty_batch():
    assert deep_clusters(torch.zeros((0, 3, 12, 24)), TINY).shape == (0, 12, 24)


def test_floating_noise_changes_nothing():
    images = pictures(2)
    noisy = (images.double() / 255 + 1e-5).clamp(0, 1)
    expected = deep_clusters(images, TINY)
    assert torch.equal(deep_clusters(noisy, TINY), expected)
    assert torch.equal(deep_clusters(images.to(memory_format=torch.channels_last), TINY), expected)


def test_every_mode_of_the_caller_gives_the_same():
    images = pictures(2)
    expected = deep_clusters(images, TINY)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        inside = deep_clusters(images.clone(), TINY)
        assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(inside, expected)
    with torch.no_grad():
        assert torch.equal(deep_clusters(images, TINY), expected)
    with_gradient = (images.float() / 255).requires_grad_()
    clusters = deep_clusters(with_gradient, TINY)
    assert torch.equal(clusters, expected)
    assert torch.is_grad_enabled()


def test_random_state_is_neither_read_nor_touched():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    expected = deep_clusters(pictures(1), TINY)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(deep_clusters(pictures(1), TINY), expected)


def test_another_seed_gives_other_clusters():
    images = pictures(2)
    assert not torch.equal(
        deep_clusters(images, TINY), deep_clusters(images, replace(TINY, seed=1))
    )


def clustered_in_lanes(images, settings, lanes, steps=None):
    """Clusters by lanes of one network, as on CUDA; `steps` collects the number of labels at each."""
    found = {}
    segments = ops.slic(images, settings.segments, settings.compactness)
    training.train_in_lanes(
        images,
        segments,
        deque(range(len(images))),
        settings,
        lanes,
        found.__setitem__,
        threading.Event(),
    )
    return found


def test_each_image_stops_at_its_own_step(monkeypatch):
    """With as many labels asked for as some images keep, those stop early and cost nothing more."""
    images = pictures(6)
    settings = replace(TINY, size=40, max_steps=12, min_labels=7)
    counts, number_of_labels = {}, training._number_of_labels
    current = threading.local()

    class Counting(training.LaneDescent):
        def restart(self, lane):
            current.steps = counts.setdefault(len(counts), [])
            super().restart(lane)

    def counted(clusters, channels):
        left = number_of_labels(clusters, channels)
        current.steps.append(int(left[0]))
        return left

    monkeypatch.setattr(training, "LaneDescent", Counting)
    monkeypatch.setattr(training, "_number_of_labels", counted)
    found = clustered_in_lanes(images, settings, 1)
    lengths = [len(steps) for steps in counts.values()]
    assert len(set(lengths)) > 1, lengths
    for index, steps in counts.items():
        assert all(left >= 7 for left in steps[:-1])
        assert steps[-1] < 7 or len(steps) == 12
        assert len(found[index].unique()) == steps[-1]


def test_lanes_are_refilled_and_agree_with_each_other():
    """The CUDA way on the CPU: four lanes, nine images, among them the same one at several places."""
    images = pictures(9)
    images[4] = images[8] = images[0]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = clustered_in_lanes(images, replace(TINY, size=40, min_labels=7), 4)
    finally:
        torch.set_num_threads(threads)
    assert sorted(found) == list(range(9))
    assert torch.equal(found[0], found[4])
    assert torch.equal(found[0], found[8])
    assert not torch.equal(found[0], found[1])


def test_an_error_stops_every_thread(monkeypatch):
    def broken(*_):
        raise RuntimeError("no mode")

    monkeypatch.setattr(ops, "segment_mode", broken)
    before, threads = threading.active_count(), torch.get_num_threads()
    with pytest.raises(RuntimeError, match="no mode"):
        deep_clusters(pictures(4), TINY)
    assert threading.active_count() == before
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([[1]], TypeError, "images is a list"),
        (torch.zeros((1, 3, 4, 4), dtype=torch.int64), TypeError, "dtype torch.int64"),
        (torch.zeros((3, 4, 4)), ValueError, r"shape \(3, 4, 4\)"),
        (torch.zeros((1, 1, 4, 4)), ValueError, r"shape \(1, 1, 4, 4\)"),
        (torch.zeros((1, 3, 0, 4)), ValueError, r"shape \(1, 3, 0, 4\)"),
        (torch.full((1, 3, 4, 4), 1.5), ValueError, r"outside \[0, 1\]"),
        (torch.full((1, 3, 4, 4), torch.nan), ValueError, r"outside \[0, 1\]"),
    ],
)
def test_bad_images_are_named(images, error, message):
    with pytest.raises(error, match=f"deep_clusters: images .*{message.removeprefix('images ')}"):
        deep_clusters(images, TINY)


def test_bad_settings_are_named():
    images = torch.zeros((1, 3, 4, 4))
    with pytest.raises(
        ValueError, match="settings is 'heavy', it should be one of published, light"
    ):
        deep_clusters(images, "heavy")
    with pytest.raises(TypeError, match="settings is 3"):
        deep_clusters(images, 3)
