import pytest
import torch

from wsol_ext.metrics import pad_boxes, scale_boxes

SIZES = torch.tensor([[500, 335], [333, 500]])
BOXES = [
    torch.tensor([[60.0, 27.0, 385.0, 331.0]]),
    torch.tensor([[0.0, 0.0, 333.0, 500.0], [10.0, 20.0, 30.0, 40.0]]),
]


def published(box, size, protocol):
    """One box, as the programs compute it in Python floats."""
    sides = [float(side) for side in (*size, *size)]
    if protocol.startswith("maxboxacc"):
        return [int(v * 224.0 / side) for v, side in zip(box, sides, strict=True)]
    resize, shift = (256, 16) if protocol == "sat" else (224, 0)
    scaled = [v / side * resize - shift for v, side in zip(box, sides, strict=True)]
    return [int(max(v, 0)) for v in scaled[:2]] + [int(min(v, 223)) for v in scaled[2:]]


@pytest.mark.parametrize("protocol", ["maxboxacc", "maxboxaccv2", "toploc", "sat"])
def test_boxes_are_scaled_as_each_program_does(protocol):
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(50, 1000, (200, 2), generator=generator)
    corners = (
        torch.rand(200, 3, 2, 2, generator=generator).sort(dim=2).values * sizes[:, None, None]
    )
    boxes = corners.flatten(2).round()
    scaled = scale_boxes(list(boxes), sizes, protocol)
    expected = [
        [published(box, size, protocol) for box in image]
        for image, size in zip(boxes.tolist(), sizes.tolist(), strict=True)
    ]
    assert [image.tolist() for image in scaled] == expected


def test_border_is_kept_by_maxboxacc_and_limited_by_toploc():
    assert scale_boxes(BOXES, SIZES, "maxboxacc")[1][0].tolist() == [0, 0, 224, 224]
    assert scale_boxes(BOXES, SIZES, "toploc")[1][0].tolist() == [0, 0, 223, 223]


def test_padding_is_left_out():
    padded = pad_boxes(BOXES)
    assert padded.tolist()[0][1] == [-1, -1, -1, -1]
    for listed, from_padded in zip(
        scale_boxes(BOXES, SIZES), scale_boxes(padded, SIZES), strict=True
    ):
        assert torch.equal(listed, from_padded)


def test_image_without_boxes_keeps_its_place():
    scaled = scale_boxes([torch.zeros(0, 4), BOXES[0]], SIZES)
    assert [len(boxes) for boxes in scaled] == [0, 1]


@pytest.mark.parametrize("protocol", ["maxboxacc", "toploc", "sat"])
def test_width_and_height_scale_as_squares_of_each(protocol):
    wide = scale_boxes(BOXES, SIZES, protocol, size=(320, 200))
    squares = [scale_boxes(BOXES, SIZES, protocol, size=side) for side in (320, 200)]
    for boxes, of_width, of_height in zip(wide, *squares, strict=True):
        assert boxes[:, ::2].equal(of_width[:, ::2])
        assert boxes[:, 1::2].equal(of_height[:, 1::2])


def test_size_without_pixels_is_an_error():
    with pytest.raises(ValueError, match=r"^scale_boxes: size is \(0, 5\), it should be positive"):
        scale_boxes(BOXES, SIZES, size=(0, 5))


def test_another_size_scales_alike():
    assert scale_boxes(
        [torch.tensor([[0.0, 10.0, 50.0, 100.0]])], torch.tensor([[100, 100]]), "maxboxacc", size=64
    )[0].tolist() == [[0, 6, 32, 64]]


@pytest.mark.parametrize(
    ("boxes", "sizes", "protocol", "message"),
    [
        (
            BOXES,
            SIZES,
            "coco",
            "protocol is 'coco', it should be one of maxboxacc, maxboxaccv2, toploc, sat",
        ),
        (BOXES, SIZES[:1], "toploc", r"sizes has shape \(1, 2\), it should be \(2, 2\)"),
        (BOXES, SIZES * 0, "toploc", "sizes has values that are not positive"),
        (
            [torch.zeros(4)],
            SIZES[:1],
            "toploc",
            r"boxes\[0\] has shape \(4,\), it should be \(G, 4\)",
        ),
        (
            torch.zeros(1, 4),
            SIZES[:1],
            "toploc",
            r"boxes has shape \(1, 4\), it should be \(B, G, 4\)",
        ),
        (
            [torch.tensor([[0, 0, torch.nan, 1]])],
            SIZES[:1],
            "toploc",
            "boxes has values that are not finite",
        ),
    ],
)
def test_bad_arguments_are_named(boxes, sizes, protocol, message):
    with pytest.raises(ValueError, match=message):
        scale_boxes(boxes, sizes, protocol)
