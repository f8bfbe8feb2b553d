"""What CONTRIBUTING promises: a method and a protocol are one class each, and the command line needs no change."""

import json

import pytest
import torch
from cli.tiny_runs import tiny_run
from torchmetrics import MeanMetric

from wsol_ext.checkpoints import load_published
from wsol_ext.cli import main
from wsol_ext.evaluation import PROTOCOLS, Protocol, register_protocol
from wsol_ext.metrics import scale_boxes
from wsol_ext.models import METHODS, TSCAM, Localized, register_method

QUIET = ["--progress", "false", "--workers", "0", "--device", "cpu"]


class Shifted(TSCAM):
    """TS-CAM, its maps moved up by an option of its own."""

    published_threshold = 0.2
    published_names = None

    def __init__(self, backbone, num_classes, shift=0.0):
        super().__init__(backbone, num_classes)
        self.shift = shift

    def localize(self, images, classes=None):
        logits, maps = super().localize(images, classes)
        return Localized(logits, maps + self.shift)


class ObjectSize(Protocol):
    """The share of the evaluated square that ground-truth boxes cover, and the mean of the maps."""

    headlines = ("size",)
    labels = {"size": "Size of objects"}  # noqa: RUF012

    def __init__(self, interval):
        self.interval, self.maps = interval, MeanMetric()
        super().__init__(MeanMetric())

    @staticmethod
    def frame(boxes, sides, size):
        return boxes / sides * 1000

    def settings(self):
        return {"interval": self.interval}

    def update(self, batch):
        self.maps.update(batch.maps)
        for boxes in scale_boxes(batch.boxes, batch.sizes, self.name):
            self.metric.update((boxes[:, 2:] - boxes[:, :2]).prod(dim=1) / 1000**2)

    def compute(self):
        return {
            "size": float(self.metric.compute()),
            "mean of the maps": float(self.maps.compute()),
        }


@pytest.fixture
def shifted():
    """A method known while the test lasts."""
    yield register_method("shifted")(Shifted)
    del METHODS["shifted"]


@pytest.fixture
def object_size():
    """A protocol known while the test lasts."""
    yield register_protocol("object_size")(ObjectSize)
    del PROTOCOLS["object_size"]


def test_a_method_and_a_protocol_of_ones_own_from_the_command_line(
    shifted, object_size, pictures, tmp_path, capsys
):
    run, found = tmp_path / "run", tmp_path / "run" / "evaluation"
    options = ["--model", "shifted", "--model-options", '{"shift": 100.0}']
    assert main(tiny_run(run, *options, epochs=1)) == 0
    protocols = ["--protocols", "object_size", "maxboxacc", "--interval", "0.05"]
    assert main(["evaluate", str(run), *protocols, "--gallery", "1", *QUIET]) == 0
    results = json.loads((found / "evaluation.json").read_text())
    (result,) = (one for one in results["protocols"] if one["protocol"] == "object_size")
    assert result["settings"] == {"interval": 0.05}
    assert 0 < result["metrics"]["shifted"]["size"] < 1
    assert result["metrics"]["shifted"]["mean of the maps"] == pytest.approx(100, abs=20)
    assert "Size of objects, object_size" in (found / "report.html").read_text()

    boxes = tmp_path / "boxes"
    assert main(["localize", str(run), str(pictures / "test"), "--out", str(boxes), *QUIET]) == 0
    assert len(json.loads((boxes / "boxes.json").read_text())) == 12

    capsys.readouterr()
    assert main(["compare", str(found)]) == 0
    header, _, row, *_ = capsys.readouterr().out.splitlines()
    size = f"{100 * result['metrics']['shifted']['size']:.1f}%"
    cells = dict(zip(header.split(" | "), row.split(" | "), strict=True))
    assert next(value for title, value in cells.items() if "object_size size" in title).startswith(
        size
    )


def test_help_and_errors_name_them(shifted, object_size, capsys):
    for command, name in (("evaluate", "object_size"), ("demo", "shifted")):
        assert main([command, "--help"]) == 0
        assert name in capsys.readouterr().out
    assert main(["info"]) == 0
    assert "shifted" in capsys.readouterr().out
    with pytest.raises(ValueError, match="should be one of .*object_size"):
        scale_boxes([torch.ones(1, 4)], torch.ones(1, 2), "coco")


def test_a_method_without_a_published_program_has_no_published_weights(shifted):
    with pytest.raises(ValueError, match="method is 'shifted', it should be one of tscam"):
        load_published("shifted", {}, num_heads=3)


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="there is a method 'trt' already"):
        register_method("trt")(Shifted)
    with pytest.raises(ValueError, match="there is a protocol 'sat' already"):
        register_protocol("sat")(ObjectSize)
    assert METHODS["trt"] is not Shifted
    assert PROTOCOLS["sat"] is not ObjectSize
