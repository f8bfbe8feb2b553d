"""Score maps that are there already are evaluated as the published programs would, whoever made them."""

import gc

import cv2
import numpy as np
import pytest
import torch
from oracles.opencv_boxes import box_iou, boxes_of_map

import wsol_ext
from wsol_ext.data import ScoreMapError
from wsol_ext.evaluation import CENTER, evaluate, evaluate_map_files, evaluate_maps
from wsol_ext.metrics import center_map, scale_boxes

BOXED = ("maxboxacc", "maxboxaccv2", "toploc")
NUMBERS = ("maxboxacc", "maxboxaccv2", "toploc", "pxap")


def truth_of(dataset):
    samples = [dataset.annotations(k) for k in range(len(dataset))]
    boxes = [sample["boxes"] for sample in samples]
    masks = [sample["mask"] for sample in samples]
    return boxes, torch.stack([sample["size"] for sample in samples]), masks


def save(folder, dataset, maps, suffix=".npy"):
    for name, score_map in zip(dataset.image_names, maps, strict=True):
        path = folder / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, score_map)


def published(maps, boxes, sizes, thresholds, contours):
    """MaxBoxAcc as the public evaluator's loop has it, at IoU 0.3, 0.5, 0.7, as shares."""
    right = np.zeros((3, len(thresholds)))
    for score_map, gt_boxes in zip(maps, scale_boxes(boxes, sizes), strict=True):
        score_map = cv2.resize(
            score_map.astype(np.float64), (224, 224), interpolation=cv2.INTER_CUBIC
        )
        score_map = (score_map - score_map.min()) / (score_map.max() - score_map.min())
        found = boxes_of_map(score_map, thresholds, contours)
        clipped = [np.minimum(b, (224, 224, 223, 223)) for b in found]
        best = np.array([box_iou(b, gt_boxes.numpy()).max() for b in clipped])
        right += best >= np.array([[0.3], [0.5], [0.7]])
    return (right / len(maps)).max(axis=1)


@pytest.mark.parametrize("step", [1, 16], ids=["at the picture's size", "on a coarse grid"])
def test_grad_cam_has_the_published_numbers_in_every_digit(drawn, grad_cam, step):
    maps = grad_cam[0][:, step // 2 :: step, step // 2 :: step]
    boxes, sizes, _ = truth_of(drawn)
    found = evaluate_maps(maps, boxes, sizes, BOXED, interval=0.01)
    thresholds = np.arange(0, 1, 0.01)
    largest = published(maps, boxes, sizes, thresholds, "largest")
    contours = published(maps, boxes, sizes, thresholds, "all")
    assert 0 < largest[1] < 1
    assert found.metric("maxboxacc", "maxboxacc") == largest[1]
    for k, iou in enumerate(("0.3", "0.5", "0.7")):
        assert found.metric("maxboxaccv2", f"IoU {iou}") == contours[k]


def test_files_arrays_and_a_function_have_the_same_numbers(drawn, grad_cam, tmp_path):
    maps, logits = grad_cam
    boxes, sizes, masks = truth_of(drawn)
    save(tmp_path, drawn, maps)
    labels = torch.tensor(drawn.labels)
    of_arrays = evaluate_maps(
        maps, boxes, sizes, NUMBERS, masks=masks, logits=logits, labels=labels, interval=0.01
    )
    classes = "".join(
        f"{name},{','.join(f'{v:.9g}' for v in row)}\n"
        for name, row in zip(drawn.image_names, logits.tolist(), strict=True)
    )
    (tmp_path / "p.csv").write_text(f"image,{','.join(drawn.class_names)}\n{classes}")
    of_files = evaluate_map_files(
        tmp_path, drawn, NUMBERS, predictions=tmp_path / "p.csv", interval=0.01, batch_size=5
    )
    assert [r.metrics for r in of_files.protocols] == [r.metrics for r in of_arrays.protocols]
    assert "loc_top5" in of_arrays.protocols[2].metrics["maps"]
    remaining = iter(torch.from_numpy(maps).split(5))
    alone = evaluate(
        lambda images: next(remaining), drawn, NUMBERS, batch_size=5, interval=0.01, method="maps"
    )
    for protocol in ("maxboxacc", "maxboxaccv2", "pxap"):
        assert alone.metric(protocol, protocol) == of_files.metric(protocol, protocol)
        assert alone.metric(protocol, protocol, CENTER) == of_files.metric(
            protocol, protocol, CENTER
        )
    assert alone.metric("toploc", "gt_known") == of_files.metric("toploc", "gt_known")


def test_maps_of_any_size_stand_side_by_side():
    boxes = [[[8, 16, 48, 40]], [[10, 10, 20, 20]], [[0, 0, 32, 64]]]
    maps = []
    for (height, width), [(x0, y0, x1, y1)] in zip(
        [(64, 64), (30, 40), (64, 128)], boxes, strict=True
    ):
        score_map = np.zeros((height, width), np.uint8)
        score_map[y0:y1, x0:x1] = 200
        maps.append(score_map)
    found = wsol_ext.evaluate_maps(maps, boxes, protocols=["maxboxaccv2"], interval=0.05)
    assert found.metric("maxboxaccv2", "maxboxaccv2") == 1
    assert found.images == 3


def test_without_class_predictions_toploc_has_gt_known_alone(drawn, grad_cam):
    maps, _ = grad_cam
    boxes, sizes, _ = truth_of(drawn)
    (result,) = evaluate_maps(torch.from_numpy(maps), boxes, sizes, ["toploc"]).protocols
    assert list(result.metrics["maps"]) == ["gt_known"]


def test_one_class_an_image_has_top1_and_no_top5(drawn, grad_cam, tmp_path):
    maps, _ = grad_cam
    save(tmp_path, drawn, maps)
    names = drawn.class_names
    right = [names[label] for label in drawn.labels]
    right[0] = names[(drawn.labels[0] + 1) % len(names)]
    lines = [f"{image},{name}\n" for image, name in zip(drawn.image_names, right, strict=True)]
    (tmp_path / "p.csv").write_text("image,class\n" + "".join(lines))
    found = evaluate_map_files(tmp_path, drawn, ["toploc"], predictions=tmp_path / "p.csv")
    metrics = found.protocols[0].metrics["maps"]
    assert metrics["cls_top1"] == pytest.approx(11 / 12)
    assert "cls_top5" not in metrics
    assert "loc_top5" not in metrics


def test_constant_maps_are_evaluated_and_counted(drawn, grad_cam, tmp_path):
    maps = grad_cam[0].copy()
    maps[[2, 7]] = 0.5
    save(tmp_path, drawn, maps)
    with pytest.warns(
        UserWarning, match=f"2 of 12 score maps are constant: {drawn.image_names[2]}, "
    ):
        found = evaluate_map_files(tmp_path, drawn, ["maxboxacc"], interval=0.1)
    assert found.about["constant maps"] == 2
    assert found.images == 12
    boxes, sizes, _ = truth_of(drawn)
    assert evaluate_maps(maps, boxes, sizes, ["maxboxacc"]).about == {"constant maps": 2}


def test_broken_maps_are_counted_and_named_together(drawn, grad_cam, tmp_path):
    maps = grad_cam[0].copy()
    maps[3, 5, 5] = np.nan
    maps[[2, 7]] = 0.5
    save(tmp_path, drawn, maps)
    files = [tmp_path / f"{name}.npy" for name in drawn.image_names]
    files[0].unlink()
    files[9].write_bytes(b"nothing")
    np.save(files[10], np.zeros((3, 4, 4)))
    with pytest.raises(ScoreMapError) as error:
        evaluate_map_files(tmp_path, drawn, ["maxboxacc"], interval=0.1)
    lines = str(error.value).splitlines()
    assert lines[0] == f"{tmp_path}: 1 of 12 images have no score map: {drawn.image_names[0]}"
    assert lines[1] == f"1 of 11 score maps is not finite: {files[3]}: NaN in 1 of 50176 pixels"
    assert lines[2].startswith(f"1 of 11 score maps is unreadable: {files[9]}: ")
    assert lines[3].startswith(f"1 of 11 score maps is of another shape: {files[10]}: ")
    constant = "; ".join(drawn.image_names[k] for k in (2, 7))
    assert lines[4:] == [f"2 of 11 score maps are constant: {constant}"]


def test_arrays_that_do_not_fit_are_counted_and_named_together():
    maps = [np.eye(8), np.full((8, 8), np.nan), np.ones((8, 8)), np.eye(8), np.eye(8)]
    far, good = [[500, 500, 600, 600]], [[0, 0, 4, 4]]
    with pytest.raises(ScoreMapError) as error:
        evaluate_maps(maps, [good, good, good, far, good], protocols="maxboxacc")
    assert str(error.value).splitlines() == [
        "1 of 5 score maps is not finite: maps[1]: NaN in 64 of 64 pixels",
        "1 of 5 images' boxes are wrong: boxes[3]: the box [500, 500, 600, 600] lies outside of its image, "
        "which is 8 x 8 pixels",
        "1 of 5 score maps is constant: maps[2]",
    ]


def test_one_protocol_may_be_given_alone_and_an_unknown_number_is_named():
    found = evaluate_maps([np.eye(8)], [[[0, 0, 8, 8]]], protocols="maxboxacc", interval=0.1)
    assert [result.name for result in found.protocols] == ["maxboxacc"]
    assert repr(found) == "<Evaluation of maps on 1 images: maxboxacc 1.0000>"
    with pytest.raises(ValueError, match="metric is 'maxboxac', .*; did you mean maxboxacc?"):
        found.metric("maxboxacc", "maxboxac")
    with pytest.raises(ValueError, match="protocol is 'toploc', it should be one of maxboxacc"):
        found.metric("toploc", "gt_known")
    with pytest.raises(ValueError, match="source is 'mine', it should be one of maps"):
        found.metric("maxboxacc", "maxboxacc", "mine")
    with pytest.raises(TypeError, match="protocols is 5, it should be names of protocols"):
        evaluate_maps([np.eye(8)], [[[0, 0, 8, 8]]], protocols=5)


def test_missing_maps_are_refused_or_left_out_by_choice(drawn, grad_cam, tmp_path):
    save(tmp_path, drawn, grad_cam[0])
    for k in (0, 5):
        (tmp_path / f"{drawn.image_names[k]}.npy").unlink()
    words = f"2 of 12 images have no score map: {drawn.image_names[0]}, {drawn.image_names[5]}"
    with pytest.raises(ValueError, match=words):
        evaluate_map_files(tmp_path, drawn, ["maxboxacc"], interval=0.1)
    with pytest.warns(UserWarning, match=f"{words}; left out"):
        found = evaluate_map_files(tmp_path, drawn, ["maxboxacc"], interval=0.1, skip_missing=True)
    assert found.images == 10
    assert found.about["images without a map, left out"] == 2
    boxes, sizes, _ = truth_of(drawn)
    kept = [k for k in range(12) if k not in (0, 5)]
    expected = evaluate_maps(
        grad_cam[0][kept], [boxes[k] for k in kept], sizes[kept], ["maxboxacc"], interval=0.1
    )
    assert found.metric("maxboxacc", "maxboxacc") == expected.metric("maxboxacc", "maxboxacc")


def test_maps_of_no_image_are_counted(drawn, grad_cam, tmp_path):
    save(tmp_path, drawn, grad_cam[0])
    np.save(tmp_path / "other.npy", np.eye(3))
    with pytest.warns(UserWarning, match=r"1 score map is of no image of the data: other\.npy"):
        assert evaluate_map_files(tmp_path, drawn, ["toploc"]).images == 12


def test_names_that_fit_nothing_show_what_was_looked_for(drawn, tmp_path):
    np.save(tmp_path / "elsewhere.npy", np.eye(3))
    with pytest.raises(
        ValueError, match=r"the folder has elsewhere\.npy, it should have .*\.npy or"
    ):
        evaluate_map_files(tmp_path, drawn, ["maxboxacc"], skip_missing=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"protocols": ["sat"]}, "protocol sat looks at crops, score maps are of whole images"),
        ({"protocols": ["pxap"]}, "protocol pxap needs masks"),
        ({"boxes": None}, "protocol maxboxaccv2 needs boxes"),
        ({"boxes": [[[0, 0, 1, 1]]]}, "boxes is for 1 images, there are 2 maps"),
        ({"boxes": [[[0, 0, 4, 4]], np.zeros((0, 4))]}, r"boxes\[1\] has shape \(0, 4\)"),
        ({"boxes": [[[0, 0, 4, 4]], [[3, 0, 1, 1]]]}, r"boxes\[1\] is .* x1 >= x0"),
        ({"sizes": [[8, 8]]}, "sizes is for 1 images"),
        ({"maps": [np.eye(8), np.full((8, 8), np.nan)]}, r"maps\[1\]: NaN in 64 of 64 pixels"),
        ({"maps": [np.eye(8), np.zeros((3, 8, 8))]}, r"maps\[1\]: the map has shape \(3, 8, 8\)"),
        ({"maps": [np.eye(8), 1j * np.eye(8)]}, r"maps\[1\]: the map is complex128, it should be"),
        ({"maps": [np.eye(8), "b.npy"]}, r"maps\[1\]: the map is <U5, it should be of real"),
        (
            {"boxes": [[[0.1, 0.2, 0.8, 0.9]]] * 2},
            "boxes: all boxes lie between 0 and 1, .* pixels",
        ),
        ({"boxes": [[[0, 0, 4, 4]], [[0, 0, 4, np.nan]]]}, r"boxes\[1\] is .* should be finite"),
        ({"sizes": (-100, 120)}, r"sizes has \[-100, 120\], it should have widths"),
        ({"maps": [], "boxes": []}, "maps is empty"),
        ({"logits": np.zeros((2, 3))}, "logits and labels should both be given"),
        ({"threshold": 2}, r"threshold is 2, it should be in \[0, 1\)"),
    ],
)
def test_what_does_not_fit_is_named(changes, words):
    given = {"maps": [np.eye(8), np.eye(8)], "boxes": [[[0, 0, 4, 4]], [[0, 0, 4, 4]]]}
    with pytest.raises(ValueError, match=words):
        evaluate_maps(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"maps": "maps"}, "maps is of type str, .*; evaluate_map_files evaluates a folder"),
        ({"maps": {"a.jpg": np.eye(8)}}, "maps is of type dict, it should be an array or a list"),
        ({"maps": (np.eye(8) for _ in range(2))}, "maps is of type generator"),
        ({"boxes": {"a.jpg": [[0, 0, 4, 4]]}}, "boxes is of type dict"),
        ({"boxes": [[[0, 0, 4, 4]], [[0, 0, 4]], [[0, 0], 4]]}, r"boxes\[2\] is no array"),
        ({"sizes": "8x8"}, "sizes is <U3, it should be of real numbers"),
    ],
)
def test_what_is_no_list_of_numbers_is_named(changes, words):
    given = {"maps": [np.eye(8)] * 3, "boxes": [[[0, 0, 4, 4]]] * 3}
    with pytest.raises(TypeError, match=words):
        evaluate_maps(**{**given, **changes})


@pytest.mark.filterwarnings("error")
def test_arrays_may_be_views_of_any_order_and_read_only():
    drawn = np.random.default_rng(0).random((3, 7, 9), np.float32)
    boxes = np.array([[[8, 16, 48, 40]]] * 3, np.uint8)
    options = {"sizes": (300, 280), "protocols": ["maxboxacc", "toploc"], "interval": 0.1}
    expected = evaluate_maps(drawn, boxes, **options).protocols[0].metrics["maps"]
    backwards, read_only = drawn[:, ::-1, ::-1].copy(), drawn.copy()
    read_only.flags.writeable = boxes.flags.writeable = False
    for maps in (backwards[:, ::-1, ::-1], drawn.astype(">f4"), read_only):
        for truth in (boxes, boxes.astype(">f8"), boxes[::-1], boxes.astype(np.uint16)):
            found = evaluate_maps(maps, truth, **options)
            assert found.protocols[0].metrics["maps"] == expected


def test_boxes_that_reach_beyond_their_image_are_clipped_with_one_warning():
    maps = np.random.default_rng(0).random((2, 7, 9))
    words = r"boxes\[0\]: the boxes \[\[10, 20, 300, 300\]\] reach beyond their image of 100 x 120"
    with pytest.warns(UserWarning, match=words) as warned:
        found = evaluate_maps(maps, [[[10, 20, 300, 300]]] * 2, (100, 120), ["maxboxacc"])
    assert len(warned) == 1
    clipped = evaluate_maps(maps, [[[10, 20, 100, 120]]] * 2, (100, 120), ["maxboxacc"])
    assert found.protocols[0].metrics == clipped.protocols[0].metrics
    assert found.metric("maxboxacc", "maxboxacc") > 0


class _Watched:
    """One map for all images; counts the tensors that are held as the last of them is asked for."""

    def __init__(self, count):
        self.count, self.held = count, 0

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index == self.count - 1:
            self.held = sum(type(each) is torch.Tensor for each in gc.get_objects())
        return np.eye(8)


def test_no_tensor_is_kept_of_an_image():
    def held(count):
        maps = _Watched(count)
        evaluate_maps(
            maps, [[[0, 0, 4, 4]]] * count, (8, 8), "maxboxacc", interval=0.5, batch_size=8
        )
        return maps.held

    assert held(136) - held(8) < 64


def test_baseline_is_that_of_any_evaluation():
    maps = center_map(224, 224).expand(3, -1, -1)
    boxes = [[[10, 20, 150, 180]], [[50, 50, 170, 200]], [[0, 0, 40, 40]]]
    found = evaluate_maps(maps, boxes, protocols=["maxboxacc"], interval=0.01)
    own, beside = (found.metric("maxboxacc", "maxboxacc", source) for source in ("maps", CENTER))
    assert own == beside > 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.3, 0.7])
def test_a_constant_map_is_nothing_whatever_its_upsampling_rounds_to(dtype, value):
    maps = [np.full((9, 7), value, dtype), np.full((14, 14), value, dtype)]
    found = evaluate_maps(maps, [[[0, 0, 99, 79]]] * 2, (100, 80), ["maxboxacc"])
    assert found.metric("maxboxacc", "maxboxacc") == 0
