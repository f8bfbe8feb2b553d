"""What is particular to `normalized_cut`; the rest is in test_contract.py. The oracle is scipy's dense solver."""

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import torch
from ops.cases.inputs import normal
from torch import Tensor

from wsol_ext.ops import normalized_cut

# --- scipy, as the published programs call it


def affinity(features: Tensor, threshold: float, eps: float = 1e-5) -> np.ndarray:
    unit = torch.nn.functional.normalize(features.cpu(), dim=1)
    similarity = (unit @ unit.T).numpy()
    return np.where(similarity > threshold, 1.0, eps)


def seed_of(vector: Tensor) -> int:
    """The first entry of largest magnitude: tokens with the same edges have the same, but for rounding."""
    size = vector.abs()
    return int((size >= (1 - 1e-6) * size.max()).int().argmax())


def solved_by_scipy(graph: np.ndarray) -> tuple[Tensor, list[float]]:
    """The second vector, its seed positive, and the second and third eigenvalue."""
    degrees = np.diag(graph.sum(axis=1))
    values, vectors = scipy.linalg.eigh(degrees - graph, degrees, subset_by_index=[1, 2])
    vector = torch.from_numpy(vectors[:, 0])
    return vector * vector[seed_of(vector)].sign(), values.tolist()


def assert_like_scipy(features: Tensor, threshold: float, tolerance: float = 1e-6) -> None:
    """Of one image (N, C)."""
    vector, (eigenvalue, _) = solved_by_scipy(affinity(features, threshold))
    cut = normalized_cut(features[None], threshold)
    assert cut.determined.tolist() == [True]
    assert cut.eigenvalue.item() == pytest.approx(eigenvalue, abs=1e-12)
    assert cut.residual.item() < 1e-8
    error = torch.linalg.vector_norm(cut.vector[0].cpu() - vector)
    assert error < tolerance * torch.linalg.vector_norm(vector)


def scattered(*shape: int, kinds: int = 3) -> Tensor:
    """Features (..., N, C) of tokens around a few directions, in turn."""
    around = normal(2, kinds, shape[-1])[torch.arange(shape[-2]) % kinds]
    return around + 0.7 * normal(3, *shape)


def clusters(*sizes: int) -> Tensor:
    """Tokens (N, C) that are alike within a cluster, and have nothing in common with others."""
    which = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return torch.eye(len(sizes))[which]


def along_a_path(tokens: int) -> Tensor:
    """Tokens (N, 2) of which each is similar, at a threshold of `cosine_on_a_path`, to its neighbours alone."""
    angles = torch.arange(tokens, dtype=torch.float64) * (np.pi / 2 / tokens)
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def cosine_on_a_path(tokens: int) -> float:
    return float(np.cos(1.5 * np.pi / 2 / tokens))


@pytest.mark.parametrize("threshold", [0.1, 0.4])
@pytest.mark.parametrize("tokens", [20, 70])
def test_vectors_are_those_of_scipy(backend, tokens, threshold):
    assert_like_scipy(scattered(tokens, 16).to(backend.device), threshold)


def test_vectors_of_many_tokens_are_those_of_scipy(backend):
    """More than a GPU's block has threads, or keeps entries of a vector at hand."""
    assert_like_scipy(scattered(backend.pick(1100, 520), 16).to(backend.device), 0.2)


def test_slowly_converging_vectors_are_those_of_scipy(backend):
    """A path: all of its eigenvalues are needed."""
    tokens = backend.pick(220, 33)
    path = along_a_path(tokens).to(backend.device)
    assert_like_scipy(path, cosine_on_a_path(tokens))


@pytest.mark.parametrize("length", [1e-200, 1e200])
def test_features_of_any_length_have_the_same_cut(backend, length):
    features = normal(3, 1, 40, 8).double().to(backend.device)
    expected, found = (normalized_cut(features * scale, 0.2) for scale in (1.0, length))
    torch.testing.assert_close(found.vector.abs(), expected.vector.abs(), rtol=0, atol=1e-9)
    torch.testing.assert_close(found.eigenvalue, expected.eigenvalue, rtol=0, atol=1e-9)


def test_close_eigenvalues_are_taken_apart(backend):
    """Three clusters that only eps connects: the second and third eigenvalue are some 1e-6 apart."""
    features = clusters(20, 21, 23).to(backend.device)
    _, (second, third) = solved_by_scipy(affinity(features, 0.5))
    assert 1e-7 < third - second < 5e-6
    assert_like_scipy(features, 0.5)


def test_pairs_next_to_the_threshold_are_told_apart(backend):
    """All similarities are within 1e-4, half of them above the threshold."""
    tokens = backend.pick(100, 36)
    features = 1 + 3e-3 * scattered(tokens, 25).double()
    unit = torch.nn.functional.normalize(features, dim=1)
    similarities = (unit @ unit.T)[tuple(torch.tril_indices(tokens, tokens, -1))].sort().values
    assert similarities[0] > 1 - 1e-4
    middle = len(similarities) // 2
    assert_like_scipy(features.to(backend.device), float(similarities[middle : middle + 2].mean()))


@pytest.mark.not_emulated("a long path")
def test_what_does_not_converge_says_so(backend):
    tokens = 900
    cut = normalized_cut(along_a_path(tokens)[None].to(backend.device), cosine_on_a_path(tokens))
    assert cut.vector.isfinite().all()
    assert cut.residual.item() > 1e-8
    assert not cut.determined.item()


# --- the record of TokenCut's own function


RECORD = Path(__file__).parents[1] / "golden" / "tokencut.npz"


def test_masks_seeds_and_boxes_are_those_of_tokencut(backend):
    with np.load(RECORD) as record:
        count = int(record["count"])
        for n in backend.pick(range(count), [count - 1]):
            entry = {
                name.partition("/")[2]: record[name] for name in record if name.startswith(f"{n}/")
            }
            features = torch.from_numpy(entry["features"]).to(backend.device)
            cut = normalized_cut(features[None], float(entry["threshold"]))
            vector = cut.vector[0].cpu()
            assert cut.determined.item()
            error = torch.linalg.vector_norm(vector - torch.from_numpy(entry["vector"]))
            assert error < 1e-6 * np.linalg.norm(entry["vector"])
            assert cut.eigenvalue.item() == pytest.approx(entry["eigenvalues"][0], abs=1e-10)

            height, width = entry["grid"]
            # Of equal entries, rounding chose the program's seed.
            assert vector[int(entry["program_seed"])].item() == pytest.approx(vector.max().item())
            parts, _ = scipy.ndimage.label((vector > vector.mean()).view(height, width).numpy())
            mask = parts == parts.flat[seed_of(vector)]
            assert np.array_equal(mask, entry["program_mask"])
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert np.array_equal(16 * np.array(box), entry["program_box"])


# --- graphs that determine no vector


def test_tokens_that_are_all_alike_have_no_cut(backend):
    cut = normalized_cut(torch.ones(1, 40, 3, device=backend.device))
    assert cut.vector.isnan().all()
    assert cut.eigenvalue.item() == pytest.approx(1, abs=1e-12)
    assert cut.determined.tolist() == [False]


@pytest.mark.parametrize("sizes", [(12, 12, 12), (5, 5, 5, 5, 5)], ids=str)
def test_equal_second_eigenvalues_have_no_cut(backend, sizes):
    features = clusters(*sizes).to(backend.device)
    _, (second, _) = solved_by_scipy(affinity(features, 0.5))
    cut = normalized_cut(features[None], 0.5)
    assert cut.vector.isnan().all()
    assert cut.eigenvalue.item() == pytest.approx(second, abs=1e-12)
    assert cut.determined.tolist() == [False]


def test_of_two_alike_halves_the_first_is_positive(backend):
    features = torch.stack([clusters(25, 25), clusters(25, 25).flip(0)]).to(backend.device)
    cut = normalized_cut(features)
    assert cut.determined.tolist() == [True, True]
    halves = (cut.vector > 0).unflatten(1, (2, 25))
    assert halves[:, 0].all()
    assert not halves[:, 1].any()


def test_two_tokens_are_always_cut(backend):
    cut = normalized_cut(normal(0, 3, 2, 4).to(backend.device))
    assert cut.determined.all()
    assert (cut.vector[:, 0] > 0).all()
    assert (cut.vector[:, 1] < 0).all()


# --- features of every kind


def test_vectors_have_unit_length_by_degrees(backend):
    features = normal(0, 2, 12, 4).to(backend.device)
    vectors = normalized_cut(features, 0.3).vector.cpu()
    for image, vector in zip(features, vectors, strict=True):
        degrees = torch.from_numpy(affinity(image, 0.3)).sum(dim=1)
        assert (degrees * vector.square()).sum().item() == pytest.approx(1, abs=1e-12)
        assert (degrees * vector).sum().item() == pytest.approx(0, abs=1e-9)


def test_zero_vectors_are_similar_to_nothing(backend):
    features = normal(4, 20, 3)
    features[11] = 0
    for threshold in (0.3, -0.3):
        assert_like_scipy(features.to(backend.device), threshold)


@pytest.mark.parametrize("scale", [1e-18, 1e18])
def test_length_of_features_does_not_matter(backend, scale):
    features = normal(0, 1, 12, 4).to(backend.device)
    torch.testing.assert_close(
        normalized_cut(features * scale).vector, normalized_cut(features).vector
    )


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_reaches_its_image_only(backend, bad):
    features = normal(0, 3, 8, 4).to(backend.device)
    expected = normalized_cut(features)
    features[1, 6, 2] = bad
    cut = normalized_cut(features)
    for found, wanted in zip(cut[:3], expected[:3], strict=True):
        assert found[1].isnan().all()
        assert torch.equal(found[[0, 2]], wanted[[0, 2]])
    assert cut.determined.tolist() == [True, False, True]


def test_image_does_not_depend_on_its_batch(backend):
    features = scattered(3, 35, 5).to(backend.device)
    for found, alone in zip(normalized_cut(features), normalized_cut(features[1:2]), strict=True):
        assert torch.equal(found[1:2], alone)
