"""The folder of clusters: what is there is not computed again, and what is broken is."""

import multiprocessing
from dataclasses import replace

import pytest
import torch

from wsol_ext.clustering import ClusterCache, ClusteringSettings, clusters, deep_clusters

TINY = ClusteringSettings(
    size=16, segments=6, compactness=10.0, width=4, channels=8, centres=4, max_steps=3
)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (3, 3, 12, 16), dtype=torch.uint8, generator=generator)


@pytest.fixture
def trained(monkeypatch):
    """How many images were trained, a number for each call."""
    counts, train = [], clusters.train

    def counted(images, *arguments):
        counts.append(len(images))
        train(images, *arguments)

    monkeypatch.setattr(clusters, "train", counted)
    return counts


def test_found_clusters_are_the_same_and_cost_no_training(tmp_path, images, trained):
    cache = ClusterCache(tmp_path / "clusters")
    first = deep_clusters(images[:2], TINY, cache)
    assert trained == [2]
    assert torch.equal(deep_clusters(images[:2], TINY, cache), first)
    assert trained == [2]
    with_new = deep_clusters(images[[2, 1]], TINY, ClusterCache(str(tmp_path / "clusters")))
    assert trained == [2, 1]
    assert torch.equal(with_new[1], first[1])
    assert torch.equal(with_new, deep_clusters(images[[2, 1]], TINY))


def test_other_settings_are_other_files(tmp_path, images, trained):
    cache = ClusterCache(tmp_path)
    deep_clusters(images, TINY, cache)
    deep_clusters(images, replace(TINY, seed=1), cache)
    assert trained == [3, 3]
    assert len(list(tmp_path.glob("*/*.png"))) == 6


@pytest.mark.parametrize("content", [b"", b"not a picture", "cut", "other size"])
def test_broken_file_is_computed_again(tmp_path, images, trained, content):
    cache = ClusterCache(tmp_path)
    expected = deep_clusters(images[:1], TINY, cache)
    path = cache.path(images[0], TINY)
    if content == "other size":
        cache.store(images[0], TINY, torch.zeros(3, 3, dtype=torch.int32))
    else:
        path.write_bytes(path.read_bytes()[:50] if content == "cut" else content)
    assert torch.equal(deep_clusters(images[:1], TINY, cache), expected)
    assert trained == [1, 1]
    assert torch.equal(cache.load(images[0], TINY), expected[0])


@pytest.mark.parametrize("most", [3, 255, 256, 65535])
def test_any_number_of_clusters_is_kept(tmp_path, images, most):
    cache, labels = ClusterCache(tmp_path), torch.zeros((12, 16), dtype=torch.int32)
    labels[3, 4] = most
    cache.store(images[0], TINY, labels)
    assert torch.equal(cache.load(images[0], TINY), labels)


def store_often(cache, image, labels):
    for _ in range(20):
        cache.store(image, TINY, labels)


def test_processes_share_a_folder(tmp_path, images):
    cache = ClusterCache(tmp_path)
    labels = torch.arange(12 * 16, dtype=torch.int32).view(12, 16)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=store_often, args=(cache, images[0], labels)) for _ in "ab"]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        found = cache.load(images[0], TINY)
        assert found is None or torch.equal(found, labels)
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert torch.equal(cache.load(images[0], TINY), labels)
    assert [path.suffix for path in tmp_path.glob("*/*")] == [".png"]
