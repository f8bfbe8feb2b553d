import numpy as np
import pytest
import torch

from wsol_ext.metrics import boundary_recall, explained_variation, undersegmentation_error


def random_partitions(images, height, width, segments, seed):
    """Labels of (images, height, width), blocky so that segments have an inside."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(segments, (images, -(-height // 3), -(-width // 3)), generator=generator)
    return coarse.repeat_interleave(3, 1).repeat_interleave(3, 2)[:, :height, :width].contiguous()


def variation_by_hand(values, labels):
    """Explained variation of one image (C, h, w), written out."""
    values, mean = values.astype(np.float64), values.astype(np.float64).mean(axis=(1, 2))
    explained = total = 0.0
    for y, x in np.ndindex(labels.shape):
        own = values[:, labels == labels[y, x]].mean(axis=1)
        explained += ((own - mean) ** 2).sum()
        total += ((values[:, y, x] - mean) ** 2).sum()
    return explained / total


def recall_by_hand(labels, truth, tolerance):
    height, width = labels.shape

    def is_boundary(partition, y, x):
        return any(
            partition[y, x] != partition[j, i]
            for j, i in ((y, x + 1), (y + 1, x))
            if j < height and i < width
        )

    found = [place for place in np.ndindex(labels.shape) if is_boundary(labels, *place)]
    wanted = [place for place in np.ndindex(labels.shape) if is_boundary(truth, *place)]
    hits = [any(max(abs(y - j), abs(x - i)) <= tolerance for j, i in found) for y, x in wanted]
    return sum(hits) / len(hits) if hits else 1.0


def leaks_by_hand(labels, truth):
    leaks = 0
    for region in np.unique(truth):
        for segment in np.unique(labels[truth == region]):
            inside = ((labels == segment) & (truth == region)).sum()
            leaks += min(inside, (labels == segment).sum() - inside)
    return leaks / labels.size


def test_metrics_equal_their_definitions_written_out():
    labels, truth = random_partitions(4, 11, 14, 9, seed=0), random_partitions(4, 11, 14, 4, seed=1)
    values = torch.randn(4, 3, 11, 14, generator=torch.Generator().manual_seed(2))
    measured = (explained_variation(values, labels), undersegmentation_error(labels, truth))
    for image in range(4):
        arrays = labels[image].numpy(), truth[image].numpy()
        expected = (variation_by_hand(values[image].numpy(), arrays[0]), leaks_by_hand(*arrays))
        assert [each[image].item() for each in measured] == pytest.approx(expected, rel=1e-12)
        for tolerance in range(4):
            recall = boundary_recall(labels, truth, tolerance)[image].item()
            assert recall == pytest.approx(recall_by_hand(*arrays, tolerance), rel=1e-12)


def test_variation_is_all_explained_by_single_pixels_and_not_at_all_by_one_segment():
    values = torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    assert explained_variation(values, torch.arange(20).view(1, 4, 5)).item() == pytest.approx(1)
    assert explained_variation(values, torch.zeros(1, 4, 5).int()).item() == pytest.approx(0)


def test_variation_of_a_constant_image_is_explained():
    values = torch.full((2, 3, 2, 2), 0.1)
    values[1, 0, 0, 0] = 0.2
    labels = torch.zeros(2, 2, 2, dtype=torch.int32)
    assert explained_variation(values, labels).tolist() == pytest.approx([1, 0])


def test_variation_does_not_see_an_offset():
    values = torch.randn(
        1, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    labels = random_partitions(1, 6, 6, 4, seed=1)
    expected = explained_variation(values, labels).item()
    assert explained_variation(values + 1e6, labels).item() == pytest.approx(expected, rel=1e-8)


def test_recall_counts_true_boundary_pixels_within_the_square():
    truth, labels = torch.zeros(2, 1, 8, 8, dtype=torch.int64)
    truth[0, :, 4:] = 1  # boundary pixels: column 3
    labels[0, :4, 6:] = 1  # columns 5 of the upper rows, and row 3 from column 6
    assert boundary_recall(labels, truth, 1).item() == 0
    # Rows 0 to 3 lie two columns beside it, rows 4 and 5 diagonally below.
    assert boundary_recall(labels, truth, 2).item() == 6 / 8


def test_recall_is_of_the_truth_alone():
    truth, labels = torch.zeros(2, 1, 4, 4, dtype=torch.int64)
    labels[0, 0, 0] = 1
    assert boundary_recall(labels, truth, 0).item() == 1
    assert boundary_recall(truth, labels, 0).item() == 0


def test_leak_counts_in_every_region_by_its_smaller_part():
    truth = torch.tensor([[[0, 0, 0, 0, 1, 1, 1, 2]]])
    labels = torch.tensor([[[0, 0, 0, 1, 1, 1, 1, 1]]])
    # Segment 1 has five pixels: one in region 0, three in 1 (two outside), one in 2.
    assert undersegmentation_error(labels, truth).item() == (1 + 2 + 1) / 8


def test_segments_within_regions_have_no_error():
    truth = random_partitions(2, 9, 9, 3, seed=0)
    labels = 100 * truth + random_partitions(2, 9, 9, 5, seed=1)
    assert undersegmentation_error(labels, truth).tolist() == [0, 0]
    assert boundary_recall(labels, truth, 0).tolist() == [1, 1]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_names_of_segments_do_not_matter(dtype):
    labels, truth = random_partitions(3, 10, 7, 6, seed=0), random_partitions(3, 10, 7, 4, seed=1)
    values = torch.randn(3, 2, 10, 7, generator=torch.Generator().manual_seed(2))
    renamed = (11 * (labels.max() - labels) + 3).to(dtype)
    for measure, first in (
        (explained_variation, values),
        (lambda truth, labels: undersegmentation_error(labels, truth), truth),
        (lambda truth, labels: boundary_recall(labels, truth), truth),
    ):
        expected = measure(first, labels)
        torch.testing.assert_close(measure(first, renamed), expected, rtol=1e-12, atol=0)


def test_negative_and_huge_labels_are_names_too():
    labels = torch.tensor([[[-(2**62), 2**62, 2**62]], [[2**62, 5, -1]]])
    values = torch.tensor([[[[0.0, 1.0, 1.0]]], [[[0.0, 1.0, 5.0]]]])
    assert explained_variation(values, labels).tolist() == pytest.approx([1, 1])
    assert undersegmentation_error(labels, torch.tensor([[[0, 0, 1]]] * 2)).tolist() == [2 / 3, 0]


def test_images_are_measured_apart():
    labels, truth = random_partitions(5, 8, 9, 6, seed=0), random_partitions(5, 8, 9, 4, seed=1)
    values = torch.randn(5, 3, 8, 9, generator=torch.Generator().manual_seed(2))
    for measure, first in ((explained_variation, values), (undersegmentation_error, truth)):
        together = measure(first, labels)
        alone = torch.cat([measure(a[None], b[None]) for a, b in zip(first, labels, strict=True)])
        torch.testing.assert_close(together, alone, rtol=1e-12, atol=0)


def test_empty_batch_gives_an_empty_result():
    labels = torch.zeros(0, 4, 5, dtype=torch.int32)
    assert explained_variation(torch.zeros(0, 3, 4, 5), labels).shape == (0,)
    assert boundary_recall(labels, labels).shape == (0,)
    assert undersegmentation_error(labels, labels).shape == (0,)


def test_bad_arguments_are_named():
    values, labels = torch.zeros(2, 3, 4, 5), torch.zeros(2, 4, 5, dtype=torch.int32)
    with pytest.raises(TypeError, match=r"explained_variation: values is torch\.uint8"):
        explained_variation(values.byte(), labels)
    with pytest.raises(ValueError, match=r"values has shape \(3, 4, 5\)"):
        explained_variation(values[0], labels)
    with pytest.raises(TypeError, match=r"explained_variation: labels is torch\.float32"):
        explained_variation(values, labels.float())
    with pytest.raises(ValueError, match=r"labels has shape \(1, 4, 5\), it should be \(2, 4, 5\)"):
        explained_variation(values, labels[:1])
    with pytest.raises(ValueError, match=r"undersegmentation_error: labels has shape \(4, 5\)"):
        undersegmentation_error(labels[0], labels)
    with pytest.raises(TypeError, match=r"boundary_recall: truth is torch\.bool"):
        boundary_recall(labels, labels.bool())
    with pytest.raises(ValueError, match=r"truth has shape \(2, 4, 4\), it should be \(2, 4, 5\)"):
        boundary_recall(labels, labels[:, :, :4])
    with pytest.raises(ValueError, match="tolerance is -1, it should be at least 0"):
        boundary_recall(labels, labels, -1)
