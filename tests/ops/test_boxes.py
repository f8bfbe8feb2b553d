"""extract_boxes, best_box_iou and box_iou: equal to OpenCV, contour by contour."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from ops.cases.boxes import THRESHOLDS
from ops.contract import FLOATING, PYTHON_ALONE, REST_OF_A_SWEEP
from oracles import opencv_boxes, score_maps
from torch import Tensor

from wsol_ext.ops import _backend, best_box_iou, box_iou, extract_boxes
from wsol_ext.ops.boxes import box_iou_reference, boxes_in_tree_order

GOLDEN = Path(__file__).parents[1] / "golden" / "boxes.npz"
FAMILIES = tuple(score_maps.FAMILIES)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as record:
        return dict(record)


def drawing(backend, *rows: str) -> Tensor:
    """A (1, h, w) map, 1 where a row has a #."""
    scores = [[float(pixel == "#") for pixel in row] for row in rows]
    return torch.tensor(scores, device=backend.device)[None]


def ranges(boxes: Tensor, offsets: Tensor) -> list[list[list[int]]]:
    """The boxes of each (image, threshold)."""
    flat, ends = boxes.tolist(), offsets.tolist()
    assert ends[0] == 0
    assert ends[-1] == len(flat)
    return [flat[begin:end] for begin, end in pairwise(ends)]


def all_boxes(score_map: Tensor, threshold: float = 0.5) -> list[list[int]]:
    (boxes,) = ranges(*extract_boxes(score_map, [threshold], contours="all"))
    return boxes


def small_maps(family: str, seed: int, count: int) -> list[np.ndarray]:
    """Maps of one size."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 40, size=2)
    return [score_maps.score_map(family, rng, height, width) for _ in range(count)]


# --- values: OpenCV's


def golden_slice(backend) -> tuple[slice, slice]:
    """The images and thresholds of the golden record to look at: all, but for the slow emulator."""
    return backend.pick((slice(None),) * 2, (slice(4, 60, 25), slice(10, 100, 45)))


def test_largest_box_is_the_golden_one(backend, golden):
    images, cuts = golden_slice(backend)
    maps = torch.from_numpy(golden["maps"][images]).to(backend.device)
    boxes = extract_boxes(maps, golden["thresholds"][cuts]).cpu().numpy()
    height, width = maps.shape[1:]
    clipped = np.minimum(boxes, (width, height, width - 1, height - 1))
    np.testing.assert_array_equal(clipped, golden["largest_box"][images, cuts])


@pytest.mark.parametrize("contours", ["largest", "all"])
def test_best_iou_is_the_golden_one(backend, golden, contours):
    images, cuts = golden_slice(backend)
    maps, gt_boxes = (
        torch.from_numpy(golden[name][images]).to(backend.device) for name in ("maps", "gt_boxes")
    )
    thresholds = torch.from_numpy(golden["thresholds"][cuts]).to(backend.device)
    iou = best_box_iou(maps, thresholds, gt_boxes, contours).cpu().numpy()
    expected = golden[f"{contours}_best_iou"][images, cuts]
    np.testing.assert_allclose(iou, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("contours", ["largest", "all"])
@pytest.mark.parametrize("family", ["smooth", "noise", "constant"])
def test_a_map_that_images_share_is_each_ones(backend, family, contours):
    count, side = 5, backend.pick(32, 12)
    score_map = score_maps.score_map(family, np.random.default_rng(4), side, side)
    shared = torch.from_numpy(score_map).to(backend.device).expand(count, -1, -1)
    low, sides = torch.randint(side // 2, (2, count, 3, 2), generator=torch.manual_seed(0))
    boxes = torch.cat([low, low + sides], dim=2).to(backend.device)
    boxes[1] = -1  # without ground truth
    iou = best_box_iou(shared, THRESHOLDS, boxes, contours)
    assert shared.stride(0) == 0
    assert torch.equal(iou, best_box_iou(shared.contiguous(), THRESHOLDS, boxes, contours))
    assert best_box_iou(shared[:0], THRESHOLDS, boxes[:0], contours).shape == (0, len(THRESHOLDS))


def test_number_of_contours_is_the_golden_one(backend, golden):
    images, cuts = golden_slice(backend)
    maps = torch.from_numpy(golden["maps"][images]).to(backend.device)
    _, offsets = extract_boxes(maps, golden["thresholds"][cuts], contours="all")
    expected = golden["all_box_count"][images, cuts]
    np.testing.assert_array_equal(offsets.diff().view(expected.shape).cpu(), expected)


def assert_equal_to_opencv(
    backend, maps: list[np.ndarray], gt_boxes: np.ndarray, where: str = ""
) -> None:
    batch = torch.from_numpy(np.stack(maps)).to(backend.device)
    gt_batch = torch.from_numpy(gt_boxes).to(backend.device).expand(len(maps), -1, -1)
    largest = extract_boxes(batch, THRESHOLDS).cpu().numpy()
    most_pixels = extract_boxes(batch, THRESHOLDS, contours="most_pixels").tolist()
    every = ranges(*extract_boxes(batch, THRESHOLDS, contours="all"))
    best = {
        contours: best_box_iou(batch, THRESHOLDS, gt_batch, contours).cpu().numpy()
        for contours in ("largest", "all")
    }
    for i, score_map in enumerate(maps):
        place = f"{where} map {i} of {score_map.shape[0]} x {score_map.shape[1]} pixels"
        found = opencv_boxes.contours_of_map(score_map, THRESHOLDS)
        expected = {
            contours: [opencv_boxes.boxes_of_contours(of_cut, contours) for of_cut in found]
            for contours in ("largest", "all")
        }
        np.testing.assert_array_equal(largest[i], np.concatenate(expected["largest"]), place)
        pixels = [opencv_boxes.most_pixels_box(score_map, t) for t in THRESHOLDS]
        assert most_pixels[i] == pixels, place
        for t, of_cut in enumerate(expected["all"]):
            assert sorted(every[i * len(THRESHOLDS) + t]) == sorted(of_cut.tolist()), place
        for contours, iou in best.items():
            wanted = [
                opencv_boxes.best_iou(boxes, gt_boxes, *score_map.shape)
                for boxes in expected[contours]
            ]
            np.testing.assert_allclose(iou[i], wanted, rtol=0, atol=1e-6, err_msg=place)


@pytest.mark.parametrize(
    ("family", "first_seed"),
    [
        pytest.param(family, seed, marks=REST_OF_A_SWEEP if seed else ())
        for family in FAMILIES
        for seed in range(0, 50, 10)
    ],
)
def test_small_maps_are_as_opencv_has_them(backend, family, first_seed):
    seeds, count = backend.pick((10, 20), (2, 2))
    gt_boxes = np.array([[1, 2, 7, 6], [4, 0, 30, 9]])
    for seed in range(first_seed, first_seed + seeds):
        where = f"{family}, seed {seed},"
        assert_equal_to_opencv(backend, small_maps(family, seed, count), gt_boxes, where)


@pytest.mark.parametrize("family", FAMILIES)
def test_full_size_maps_are_as_opencv_has_them(backend, family):
    rng = np.random.default_rng(0)
    size = backend.pick(224, 40)
    maps = [score_maps.score_map(family, rng, size, size) for _ in range(backend.pick(2, 1))]
    assert_equal_to_opencv(backend, maps, np.array([[20, 30, 180, 200]]))


@pytest.mark.parametrize("family", FAMILIES)
def test_boxes_in_tree_order_are_in_that_of_opencv(family):
    for seed in range(4):
        maps = small_maps(family, seed, 3)
        found = ranges(*boxes_in_tree_order(torch.from_numpy(np.stack(maps)), THRESHOLDS))
        expected = [
            boxes for each in maps for boxes in opencv_boxes.boxes_of_map(each, THRESHOLDS, "all")
        ]
        assert found == [boxes.tolist() for boxes in expected], f"{family}, seed {seed}"


def test_boxes_in_tree_order_are_the_cpu_s_and_of_scores():
    with pytest.raises(ValueError, match="boxes_in_tree_order: score_maps is on meta"):
        boxes_in_tree_order(torch.zeros(1, 4, 4, device="meta"), 0.5)
    with pytest.raises(ValueError, match="boxes_in_tree_order: score_maps has values from 0 to 2"):
        boxes_in_tree_order(torch.tensor([[[0.0, 2.0]]]), 0.5)


def test_tall_map_of_many_runs_is_as_opencv_has_it(backend):
    """Its runs lie in more shared memory than a CUDA block has without asking."""
    score_map = score_maps.score_map("coarse_noise", np.random.default_rng(0), 1200, 4)
    assert_equal_to_opencv(backend, [score_map], np.array([[0, 20, 3, 200]]))


def test_every_binary_map_of_four_by_three_pixels_is_as_opencv_has_it(backend):
    step = backend.pick(1, 61)
    patterns = np.arange(0, 2**12, step)[:, None] >> np.arange(12) & 1
    maps = patterns.reshape(-1, 4, 3).astype(np.float32)
    batch = torch.from_numpy(maps).to(backend.device)
    largest = extract_boxes(batch, [0.5])[:, 0].tolist()
    most_pixels = extract_boxes(batch, [0.5], contours="most_pixels")[:, 0].tolist()
    every = ranges(*extract_boxes(batch, [0.5], contours="all"))
    for i, score_map in enumerate(maps):
        assert [largest[i]] == opencv_boxes.boxes_of_map(score_map, [0.5])[0].tolist()
        assert most_pixels[i] == opencv_boxes.most_pixels_box(score_map, 0.5)
        expected = opencv_boxes.boxes_of_map(score_map, [0.5], "all")[0].tolist()
        assert sorted(every[i]) == sorted(expected)


# --- behaviour, by name


def test_box_of_ring_is_its_outer_contour_and_its_hole_has_one_too(backend):
    ring = drawing(backend, "......", ".####.", ".#..#.", ".#..#.", ".####.", "......")
    assert extract_boxes(ring, [0.5]).tolist() == [[[1, 1, 5, 5]]]
    assert all_boxes(ring) == [[1, 1, 5, 5], [1, 1, 5, 5]]


def test_hole_counts_as_area(backend):
    """The thin ring encloses more than the solid block that has more pixels."""
    maps = drawing(
        backend,
        "#######...",
        "#.....#...",
        "#.....#...",
        "#.....#.##",
        "#.....#.##",
        "#######.##",
    )
    assert extract_boxes(maps, [0.5]).tolist() == [[[0, 0, 7, 6]]]
    assert extract_boxes(maps, [0.5], contours="most_pixels").tolist() == [[[0, 0, 7, 6]]]
    assert all_boxes(maps) == [[0, 0, 7, 6], [8, 3, 10, 6], [0, 0, 7, 6]]


def test_most_pixels_do_not_count_the_hole(backend):
    """The thin ring encloses more, the solid block has more pixels."""
    maps = drawing(
        backend,
        "######......",
        "#....#.#####",
        "#....#.#####",
        "#....#.#####",
        "#....#.#####",
        "######.#####",
    )
    assert extract_boxes(maps, [0.5]).tolist() == [[[0, 0, 6, 6]]]
    assert extract_boxes(maps, [0.5], contours="most_pixels").tolist() == [[[7, 1, 12, 6]]]


def test_of_equally_many_pixels_the_component_that_starts_first_wins(backend):
    maps = drawing(backend, "...##", "#....", "#....")
    assert extract_boxes(maps, [0.5], contours="most_pixels").tolist() == [[[3, 0, 5, 1]]]


def test_gap_in_a_ring_lets_its_area_out(backend):
    maps = drawing(
        backend,
        "#######....",
        "#.....#.###",
        "#.....#.###",
        "#.....#.###",
        "#.......###",
        "#######.###",
    )
    assert extract_boxes(maps, [0.5]).tolist() == [[[8, 1, 11, 6]]]


def test_diagonal_neighbours_are_one_component_but_do_not_let_background_through(backend):
    diamond = drawing(backend, "..#..", ".#.#.", "#...#", ".#.#.", "..#..")
    assert all_boxes(diamond) == [[0, 0, 5, 5], [0, 0, 5, 5]]


def test_nested_components_each_have_contours(backend):
    nested = drawing(
        backend,
        "#######",
        "#.....#",
        "#.###.#",
        "#.#.#.#",
        "#.###.#",
        "#.....#",
        "#######",
    )
    assert all_boxes(nested) == [[0, 0, 7, 7], [2, 2, 5, 5], [0, 0, 7, 7], [2, 2, 5, 5]]


def test_single_pixel_has_a_box_of_one(backend):
    assert extract_boxes(drawing(backend, "...", "..#"), [0.5]).tolist() == [[[2, 1, 3, 2]]]


def test_of_equal_areas_the_component_that_starts_last_wins(backend):
    maps = drawing(backend, "#..##", ".....", "##...")
    assert extract_boxes(maps, [0.5]).tolist() == [[[0, 2, 2, 3]]]
    assert all_boxes(maps) == [[0, 0, 1, 1], [3, 0, 5, 1], [0, 2, 2, 3]]


def test_open_background_at_the_border_is_no_hole(backend):
    assert all_boxes(drawing(backend, "#.#", "###")) == [[0, 0, 3, 2]]


@pytest.mark.parametrize("contours", ["largest", "most_pixels", "all"])
def test_nothing_above_the_cut_is_one_box_of_zeros(backend, contours):
    maps = torch.zeros(2, 4, 5, device=backend.device)
    boxes = extract_boxes(maps, [0.0, 0.5], contours=contours)
    if contours == "all":
        boxes, offsets = boxes
        assert offsets.tolist() == [0, 1, 2, 3, 4]
    assert boxes.view(-1, 4).tolist() == [[0, 0, 0, 0]] * 4
    if contours == "most_pixels":
        return
    gt_boxes = torch.tensor([[[0, 0, 1, 0]], [[3, 3, 4, 4]]], device=backend.device)
    iou = best_box_iou(maps, [0.0, 0.5], gt_boxes, contours)
    assert iou.tolist() == [[0.5, 0.5], [0.0, 0.0]]


def test_threshold_is_relative_to_the_maps_maximum(backend):
    scores = torch.tensor([[[0.0, 0.2, 0.4, 0.2]]], device=backend.device)
    assert extract_boxes(scores, [0.4, 0.6]).tolist() == [[[1, 0, 4, 1], [2, 0, 3, 1]]]


def test_cut_is_rounded_down_in_float64(backend):
    """0.29 * 100 is 28.999999999999996 in float64, 29 in float32."""
    scores = torch.tensor([[[29.5 / 255, 100.5 / 255]]], device=backend.device)
    assert extract_boxes(scores, [0.29]).tolist() == [[[0, 0, 2, 1]]]


def test_repeated_and_unsorted_thresholds_keep_their_places(backend):
    scores = torch.tensor([[[0.2, 0.6, 1.0]]], device=backend.device)
    boxes = extract_boxes(scores, [0.7, 0.1, 0.7, 0.3])[0]
    assert boxes.tolist() == [[2, 0, 3, 1], [0, 0, 3, 1], [2, 0, 3, 1], [1, 0, 3, 1]]
    every = ranges(*extract_boxes(scores, [0.7, 0.1, 0.7, 0.3], contours="all"))
    assert every == [[box] for box in boxes.tolist()]


def test_padding_is_no_ground_truth(backend):
    scores = torch.ones(2, 4, 4, device=backend.device)
    gt_boxes = torch.tensor([[[-1] * 4, [0, 0, 3, 3]], [[-1] * 4, [-1] * 4]], device=backend.device)
    for contours in ("largest", "all"):
        assert best_box_iou(scores, [0.5], gt_boxes, contours).tolist() == [[1.0], [0.0]]
    assert best_box_iou(scores, [0.5], gt_boxes[:, :0]).tolist() == [[0.0], [0.0]]


def test_only_the_predicted_box_is_clipped(backend):
    scores = torch.ones(1, 4, 5, device=backend.device)
    gt_boxes = torch.tensor([[[0, 0, 5, 4]]], device=backend.device)
    iou = best_box_iou(scores, [0.5], gt_boxes)
    torch.testing.assert_close(iou.cpu(), torch.tensor([[20 / 30]]))


# --- what may come in


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.float64])
def test_gt_boxes_of_any_dtype(backend, dtype):
    scores = torch.ones(1, 4, 5, device=backend.device)
    gt_boxes = torch.tensor([[[0, 0, 4, 3]]], dtype=dtype, device=backend.device)
    assert best_box_iou(scores, [0.5], gt_boxes).tolist() == [[1.0]]


def test_thresholds_may_be_in_any_form(backend):
    scores = torch.rand(1, 6, 7, generator=torch.Generator().manual_seed(0)).to(backend.device)
    expected = extract_boxes(scores, [0.25, 0.5])
    for form in (
        (0.25, 0.5),
        np.array([0.25, 0.5]),
        np.array([0.25, 0.5], np.float32),
        *(torch.tensor([0.25, 0.5], dtype=d, device=backend.device) for d in FLOATING),
    ):
        assert extract_boxes(scores, form).equal(expected)
    for form in (0.25, np.float32(0.25), torch.tensor(0.25, device=backend.device)):
        assert extract_boxes(scores, form).equal(expected[:, :1])


@pytest.mark.parametrize("contours", ["largest", "most_pixels", "all"])
def test_clipped_boxes_end_before_the_last_pixel(backend, contours):
    scores = torch.ones(1, 4, 5, device=backend.device)
    boxes = extract_boxes(scores, 0.5, contours, clip=True)
    boxes = boxes[0] if contours == "all" else boxes
    assert boxes.view(-1, 4).tolist() == [[0, 0, 4, 3]]


def test_gt_boxes_may_be_lists_of_an_image_each(backend):
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(3, 6, 7, generator=generator).to(backend.device)
    padded = torch.tensor([[[0, 0, 3, 3], [1, 2, 4, 5]], [[-1] * 4] * 2, [[2, 2, 5, 5], [-1] * 4]])
    expected = best_box_iou(scores, 0.5, padded.to(backend.device))
    lists = [[[0, 0, 3, 3], [1, 2, 4, 5]], [], [[2, 2, 5, 5]]]
    for form in (
        lists,
        [torch.tensor(boxes).view(-1, 4) for boxes in lists],
        [np.array(boxes, np.float64).reshape(-1, 4) for boxes in lists],
        padded.numpy(),
    ):
        assert best_box_iou(scores, 0.5, form).equal(expected)


def test_order_of_all_boxes_is_the_same_on_every_backend(backend):
    """Outer contours by their component's first pixel, then holes by theirs."""
    rng = np.random.default_rng(8)
    score_map = score_maps.score_map("coarse_noise", rng, 12, 13)
    maps = torch.from_numpy(score_map)[None].to(backend.device)
    boxes = ranges(*extract_boxes(maps, [0.0, 0.3], contours="all"))
    for threshold, found in zip([0.0, 0.3], boxes, strict=True):
        (expected,) = opencv_boxes.boxes_of_map(score_map, [threshold], "all")
        tops = [box[1] for box in found]
        descents = sum(below < above for above, below in pairwise(tops))
        assert len(found) == len(expected)
        assert descents <= 1


# --- what may not


def ones(backend) -> Tensor:
    return torch.ones(2, 4, 5, device=backend.device)


def test_score_out_of_range_counts_as_the_nearest_good_one_where_values_are_not_checked(backend):
    scores = torch.tensor([[[-3.0, 0.5, 7.0, float("nan")]]], device=backend.device)
    boxes = extract_boxes(scores, [0.0, 0.9], check_values=False)
    assert boxes.tolist() == [[[1, 0, 3, 1], [2, 0, 3, 1]]]


def test_gt_box_that_is_not_finite_is_an_error(backend):
    gt_boxes = torch.zeros(2, 1, 4, device=backend.device)
    gt_boxes[1, 0, 2] = float("inf")
    with pytest.raises(ValueError, match="best_box_iou: gt_boxes has values that are infinite"):
        best_box_iou(ones(backend), [0.5], gt_boxes)
    iou = best_box_iou(ones(backend), [0.5], gt_boxes, check_values=False)
    assert iou[1].tolist() == [0.0]


# --- box_iou


@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize(
    ("a_shape", "b_shape"),
    [
        ((3, 4), (5, 4)),
        ((2, 3, 4), (2, 1, 4)),
        ((2, 1, 3, 4), (3, 5, 4)),
        ((0, 4), (2, 4)),
        ((2, 2, 4), (2, 0, 4)),
    ],
)
def test_box_iou_is_its_definition(backend, inclusive, a_shape, b_shape):
    generator = torch.Generator().manual_seed(0)
    a, b = (
        torch.randint(0, 12, shape, generator=generator).to(backend.device, torch.float32)
        for shape in (a_shape, b_shape)
    )
    for left, right in ((a, b), (a.double(), b), (a.long(), b.half()), (a.int(), b.int())):
        torch.testing.assert_close(
            box_iou(left, right, inclusive), box_iou_reference(left, right, inclusive)
        )


def test_box_iou_not_inclusive_is_torchvisions(backend):
    corners = torch.rand(9, 2, 2, generator=torch.Generator().manual_seed(1)).sort(dim=1).values
    boxes = corners.flatten(1).to(backend.device)
    torch.testing.assert_close(
        box_iou(boxes, boxes, inclusive=False), torchvision.ops.box_iou(boxes, boxes)
    )


def test_box_iou_counts_both_end_pixels(backend):
    a = torch.tensor([[0, 0, 1, 1], [2, 2, 2, 2]], device=backend.device)
    b = torch.tensor([[1, 1, 2, 2]], device=backend.device)
    torch.testing.assert_close(box_iou(a, b).cpu(), torch.tensor([[1 / 7], [1 / 4]]))


def test_box_iou_of_large_integers_takes_float64(backend):
    a = torch.tensor([[2**24, 0, 2**24 + 1, 0]], device=backend.device)
    b = torch.tensor([[2**24 + 1, 0, 2**24 + 2, 0]], device=backend.device)
    iou = box_iou(a, b, dtype=torch.float64)
    assert iou.dtype == torch.float64
    torch.testing.assert_close(iou.cpu(), torch.tensor([[1 / 3]], dtype=torch.float64))
    assert box_iou(a.double(), b.double(), dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 33])
def test_box_iou_of_any_count_is_its_definition(backend, count, dtype):
    """Pairs come in blocks, of which the last may not be whole."""
    corners = torch.rand(2, count, 4, generator=torch.Generator().manual_seed(2)).cumsum(dim=-1)
    boxes = corners.to(backend.device, dtype)
    for a, b in ((boxes, boxes), (boxes, boxes[:, :1]), (boxes[:, :1], boxes[0])):
        torch.testing.assert_close(box_iou(a, b), box_iou_reference(a, b))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_box_iou_of_boxes_that_begin_anywhere_is_its_definition(backend, dtype):
    """A CUDA vector is read only from a multiple of its size."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.rand(1 + 4 * 40, generator=generator, dtype=dtype).to(backend.device)
    a, b = numbers[1:].view(-1, 4), numbers[:-1].view(-1, 4)
    for one, other in ((a, b), (b, a)):
        torch.testing.assert_close(box_iou(one, other), box_iou_reference(one, other))


def test_box_iou_of_empty_boxes_is_zero(backend):
    empty = torch.tensor([[5, 5, 5, 5], [4, 4, 2, 2]], device=backend.device)
    assert box_iou(empty, empty, inclusive=False).tolist() == [[0.0, 0.0], [0.0, 0.0]]


# --- inside PyTorch


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.999])
def test_one_number_is_the_threshold_of_a_tensor_of_it(backend, threshold):
    score_map = torch.rand(1, 9, 9, generator=torch.Generator().manual_seed(0))
    as_tensor = torch.tensor([threshold], dtype=torch.float64)
    expected = extract_boxes(score_map.to(backend.device), as_tensor.to(backend.device))
    with torch.inference_mode():
        found = extract_boxes(score_map.to(backend.device), threshold)
    again = extract_boxes(score_map.to(backend.device).requires_grad_(), threshold)
    assert found.tolist() == again.tolist() == expected.tolist()


@pytest.mark.parametrize("shape", [(5, 5), (5, 8)])
def test_clipped_boxes_end_at_the_last_pixel(backend, shape):
    height, width = shape
    boxes = extract_boxes(torch.ones(1, height, width, device=backend.device), 0.5, clip=True)
    assert boxes.tolist() == [[[0, 0, width - 1, height - 1]]]


def test_scores_out_of_range_are_read_in_a_row_of_good_ones(backend):
    """Rows are read by two ways: of scores that all lie in [0, 1], and of others."""
    score_map = torch.full((1, 3, 40), 0.5, device=backend.device)
    score_map[0, 0, 3:7] = 1.0
    score_map[0, 1, 3:9] = torch.tensor([2.0, torch.inf, 1.0, -0.0, -1.0, torch.nan])
    boxes = extract_boxes(score_map, 0.9, check_values=False)
    assert boxes.tolist() == [[[3, 0, 7, 2]]]
    score_map[0, 1, 3:9] = torch.tensor([1.0, 1.0, 1.0, -0.0, 0.0, 0.5])
    assert extract_boxes(score_map, 0.9).tolist() == [[[3, 0, 7, 2]]]


def test_overlaps_below_vmap_are_those_of_each():
    a, b = torch.rand(3, 4, 4), torch.rand(3, 5, 4)
    assert torch.equal(torch.func.vmap(box_iou)(a, b), box_iou(a, b))


# --- the CPU's way in one step


@pytest.fixture
def taken_at_once(monkeypatch):
    """Of each call in turn whether it was done in one step."""
    taken = []
    at_once = _backend.at_once

    def noted(*arguments):
        result = at_once(*arguments)
        taken.append(result is not None)
        return result

    monkeypatch.setattr(_backend, "at_once", noted)
    return taken


def plain_maps() -> Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(
        np.stack([score_maps.score_map(family, rng, 21, 70) for family in FAMILIES])
    )


@PYTHON_ALONE
@pytest.mark.skipif(
    not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"), reason="torch before 2.10"
)
@pytest.mark.parametrize("thresholds", [0.3, [0.3, 0.0], (0.7,), torch.tensor(0.3).double()])
@pytest.mark.parametrize("clip", [False, True])
def test_plain_arguments_are_done_in_one_step(taken_at_once, monkeypatch, thresholds, clip):
    maps, gt_boxes = plain_maps(), torch.tensor([[3, 2, 30, 9]]).expand(len(FAMILIES), 1, 4)

    def found() -> list[Tensor]:
        return [
            extract_boxes(maps, thresholds, clip=clip),
            extract_boxes(maps, thresholds, "most_pixels", clip=clip),
            *extract_boxes(maps, thresholds, "all", clip=clip),
            best_box_iou(maps, thresholds, gt_boxes),
            best_box_iou(maps, thresholds, gt_boxes, "all"),
        ]

    at_once = found()
    assert taken_at_once == [True] * 5
    monkeypatch.setattr(_backend, "_listeners", (lambda: True,))
    for have, want in zip(at_once, found(), strict=True):
        assert have.dtype == want.dtype
        assert have.stride() == want.stride()
        assert torch.equal(have, want)
    assert taken_at_once[5:] == [False] * 5


@PYTHON_ALONE
def test_what_is_not_plain_goes_the_general_way(taken_at_once):
    maps = plain_maps()
    expected = extract_boxes(maps, 0.3)
    taken_at_once.clear()
    negated, transposed = torch._neg_view(-maps), maps.mT.contiguous().mT
    for other in (negated, transposed):
        assert torch.equal(extract_boxes(other, 0.3), expected)
    with pytest.raises(ValueError, match="score_maps has values from"):
        extract_boxes(maps + 1, 0.3)
    with torch.overrides.BaseTorchFunctionMode():
        extract_boxes(maps, 0.3)
    assert taken_at_once == [False] * 4


@PYTHON_ALONE
@pytest.mark.parametrize("dtype", FLOATING)
def test_one_threshold_cuts_as_many_do(dtype):
    """One alone compares scores, with others they are quantized: at every value of 255, and beside it."""
    steps = torch.arange(256, dtype=torch.float64) / 255
    beside = torch.cat([torch.nextafter(steps, steps - 1), torch.nextafter(steps, steps + 1)])
    beside32 = [torch.nextafter(steps.float(), steps.float() + way).double() for way in (-1, 1)]
    score_map = torch.cat([steps, beside, *beside32]).clamp(0, 1).to(dtype).view(1, 5, 256)
    thresholds = [i / 255 for i in range(255)]
    together = extract_boxes(score_map, thresholds, "most_pixels")[0]
    alone = torch.cat([extract_boxes(score_map, t, "most_pixels")[0] for t in thresholds])
    assert torch.equal(alone, together)
