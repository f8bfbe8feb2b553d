"""Boxes over pictures."""

import numpy as np
import torch
from PIL import Image

from wsol_ext.report import drawing


def test_boxes_are_drawn_inside_of_the_picture():
    grey = Image.new("RGB", (80, 60), (128, 128, 128))
    boxes = torch.tensor([[0.0, 0.0, 80.0, 60.0], [-9.0, -9.0, 99.0, 99.0]])
    for box in boxes:
        pixels = np.asarray(drawing.draw_boxes(grey, box[None], drawing.RED))
        red = (pixels == drawing.RED).all(axis=2)
        for side in (red[1:4, 4:-4], red[-4:-1, 4:-4], red[4:-4, 1:4], red[4:-4, -4:-1]):
            assert side.all()
        # Around them the dark rim.
        assert (pixels[0] == 0).all()
        assert (pixels[:, -1] == 0).all()


def test_box_well_inside_is_drawn_where_it_is():
    grey = Image.new("RGB", (80, 60), (128, 128, 128))
    drawn = drawing.draw_boxes(grey, torch.tensor([[20.0, 10.0, 60.0, 50.0]]), drawing.RED)
    assert [drawn.getpixel(at) for at in ((20, 30), (60, 30), (40, 10), (40, 50))] == [
        drawing.RED
    ] * 4
    assert drawn.getpixel((40, 30)) == drawn.getpixel((5, 5)) == (128, 128, 128)
