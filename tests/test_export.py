"""Programs of models in files: what they give, what they carry, and what cannot be exported."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from pages import blocks

from wsol_ext import create_model
from wsol_ext._files import sha256_of
from wsol_ext.checkpoints import save_model
from wsol_ext.cli import main
from wsol_ext.data import SyntheticDataset, eval_transform
from wsol_ext.export import _torch_exports, export_model, exported_program, metadata
from wsol_ext.localize import boxes_of_maps
from wsol_ext.thresholds import StoredThreshold, store_threshold

pytestmark = pytest.mark.skipif(not _torch_exports(), reason="torch 2.6, which cannot export")
PAGE = Path(__file__).parents[1] / "docs" / "export.md"
SMALL = {"embed_dim": 24, "num_heads": 3}
MODELS = {
    "tscam": ("tscam", {"artifacts": "fill"}),
    "trt": ("trt", {"stage": 2}),
    "scm": ("scm", {}),
    "sat": ("sat", {}),
    "trilite": ("trilite", {}),
    "molt": ("molt", {"clusters": None, "pyramid": [32, 64]}),
}
ONE_LEVEL = {"molt one level": ("molt", {"clusters": None, "pyramid": [64]})}


def small_model(name, **options):
    method, own = {**MODELS, **ONE_LEVEL}[name]
    torch.manual_seed(0)
    backbone = {**SMALL, "depth": 2 if method == "trt" else 1}
    options = {"num_classes": 5, "img_size": 64, "backbone_options": backbone, **options, **own}
    return create_model(method, "vit_tiny_patch16_224", pretrained=False, **options).eval()


def session_of(path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its words for what the tests provoke
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(session, **inputs):
    arrays = session.run(
        ["logits", "maps"], {name: tensor.numpy() for name, tensor in inputs.items()}
    )
    return tuple(map(torch.from_numpy, arrays))


def close(found, expected):
    for each, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(each, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_onnx_gives_what_the_model_gives_for_any_batch_and_any_classes(name, tmp_path):
    model = small_model(name)
    export_model(model, tmp_path / "model.onnx", classes="given")
    session = session_of(tmp_path / "model.onnx")
    for batch, count in ((1, 1), (5, 3)):
        images, classes = torch.randn(batch, 3, 64, 64), torch.randint(5, (batch, count))
        with torch.no_grad():
            close(run(session, images=images, classes=classes), model.localize(images, classes))


@pytest.mark.parametrize("name", MODELS)
def test_torch_export_gives_what_the_model_gives_for_any_batch_and_any_image(name):
    model = small_model(name)
    program = exported_program(model, dynamic=True).module()
    for batch, *size in ((1, 64, 64), (3, 48, 96)):
        images = torch.randn(batch, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(program(images), tuple(model.localize(images)))


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_program_refuses_an_empty_batch(dynamic, tmp_path):
    export_model(small_model("tscam"), tmp_path / "model.pt2", dynamic=dynamic)
    program = torch.export.load(tmp_path / "model.pt2").module()
    with pytest.raises(RuntimeError, match="images are an empty batch, there should be at least"):
        program(torch.zeros(0, 3, 64, 64))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model and its program, for images of every size, its classes named, in a file."""
    model = small_model("tscam")
    model.class_names = ["jay", "owl", "tit", "wren", "zebra finch"]
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    export_model(model, path, dynamic=True, threshold=0.35)
    return model, path


def test_onnx_of_any_image_size_gives_what_the_model_gives(exported):
    model, path = exported
    session = session_of(path)
    for batch, *size in ((1, 64, 64), (3, 32, 96), (2, 80, 48)):
        images = torch.randn(batch, 3, *size)
        with torch.no_grad():
            close(run(session, images=images), model.localize(images))


def test_onnx_of_no_image_has_no_results_or_is_refused(exported):
    try:
        found = run(session_of(exported[1]), images=torch.zeros(0, 3, 64, 64))
    except onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException:  # of older releases
        return
    assert [len(each) for each in found] == [0, 0]


def test_inputs_and_outputs_have_names_and_an_image_is_of_no_fixed_batch(exported):
    session = session_of(exported[1])
    (images,), (logits, maps) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.shape) == ("images", ["batch", 3, "height", "width"])
    assert (logits.name, logits.shape) == ("logits", ["batch", 5])
    assert (maps.name, maps.shape[:2]) == ("maps", ["batch", 1])


def test_onnx_is_of_standard_operators_in_one_file(exported):
    import onnx

    path = exported[1]
    graph = onnx.load(path, load_external_data=False).graph
    assert {node.domain for node in graph.node} <= {"", "ai.onnx"}
    assert [each.name for each in path.parent.iterdir()] == ["model.onnx"]
    onnx.checker.check_model(str(path), full_check=True)


def test_boxes_of_onnx_maps_are_the_models_own(exported):
    model, path = exported
    dataset = SyntheticDataset(length=12, img_size=96, transform=eval_transform(64))
    images = torch.stack([dataset[index]["image"] for index in range(12)])
    sizes = torch.tensor([[96, 96]]).expand(12, 2)
    with torch.no_grad():
        logits, maps = model.localize(images)
    found_logits, found = run(session_of(path), images=images)
    assert torch.equal(found_logits.argmax(1), logits.argmax(1))
    for threshold in (0.35, 0.7, 0.9):
        expected = boxes_of_maps(maps[:, 0], sizes, threshold)
        assert torch.equal(boxes_of_maps(found[:, 0], sizes, threshold), expected)
    assert len(expected.unique(dim=0)) > 3  # not all the same


def metadata_in(path):
    return json.loads(session_of(path).get_modelmeta().custom_metadata_map["wsol_ext"])


def test_a_file_says_what_using_it_takes(exported, tmp_path):
    model, path = exported
    expected = metadata(model, dynamic=True, threshold=0.35)
    assert metadata_in(path) == expected
    assert expected["class_names"] == model.class_names
    assert (expected["img_size"], expected["dynamic"]) == ([64, 64], True)
    assert expected["mean"] == [0.485, 0.456, 0.406]
    assert (expected["threshold"], expected["classes"]) == (0.35, "top1")
    export_model(model, tmp_path / "model.pt2", threshold=0.35)
    beside = {"wsol_ext.json": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=beside).module()
    assert json.loads(beside["wsol_ext.json"]) == {**expected, "dynamic": False}
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(program(images), tuple(model.localize(images)))


def test_without_a_threshold_it_is_the_methods(exported):
    assert metadata(exported[0])["threshold"] == 0.1
    assert metadata(small_model("trilite"))["threshold"] == "otsu"


def test_given_classes_that_are_not_there_are_refused():
    program = exported_program(small_model("sat"), classes="given").module()
    with pytest.raises(RuntimeError, match=r"classes should be in \[0, 5\)"):
        program(torch.randn(1, 3, 64, 64), torch.tensor([[5]]))


def test_a_model_in_training_is_exported_in_evaluation_mode_and_trains_on():
    model = small_model("trilite").train()
    program = exported_program(model).module()
    assert model.training
    assert model.region_norm.training
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(program(images), tuple(model.eval().localize(images)))


def test_maps_that_clusters_refine_are_not_exported_but_what_they_refine_is(tmp_path):
    model = small_model("molt")
    model.set_clusters("light")
    with pytest.raises(ValueError, match="clusters, which are found by training on each picture"):
        export_model(model, tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"path": "model.bin"}, ValueError, r"path is .*model.bin, it should end in .onnx or .pt2"),
        ({"path": "m.pt2", "format": "onnx"}, ValueError, "it should end in .onnx"),
        ({"format": "onx"}, ValueError, "format is 'onx', it should be one of onnx, pt2; did you"),
        ({"classes": "all"}, ValueError, "classes is 'all', it should be one of top1, given"),
        ({"model": torch.nn.Linear(2, 2)}, TypeError, "model is of type Linear, it should be a Lo"),
    ],
)
def test_mistaken_arguments_are_named(arguments, error, message, tmp_path):
    given = {"model": small_model("sat"), "path": "model.onnx", **arguments}
    with pytest.raises(error, match=message):
        export_model(given.pop("model"), tmp_path / given.pop("path"), **given)
    assert not list(tmp_path.iterdir())


def test_a_torch_that_cannot_export_is_named(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.6.0+cu124")
    with pytest.raises(ValueError, match=r"takes torch 2\.7 or newer, this is 2\.6\.0"):
        metadata(small_model("tscam"))


def test_half_precision_is_refused():
    with pytest.raises(ValueError, match=r"weights of torch.bfloat16, they should be float32"):
        exported_program(small_model("sat").bfloat16())


@pytest.mark.parametrize(
    ("threshold", "error", "words"),
    [
        ("low", ValueError, "threshold is 'low', it should be a number, 'otsu' or 'mean'"),
        (1.0, ValueError, r"threshold is 1.0, it should be in \[0, 1\)"),
        ([0.5], TypeError, r"threshold is \[0.5\], it should be a number"),
    ],
)
def test_a_program_is_written_with_no_threshold_that_cuts_nothing(threshold, error, words):
    with pytest.raises(error, match=words):
        metadata(small_model("sat"), threshold=threshold)


def test_a_backbone_of_one_size_is_not_exported_for_others():
    options = {"embed_dim": 32, "depth": 1, "num_heads": 2}
    model = create_model("tscam", "cait_xxs24_224", 5, False, 64, options)
    with pytest.raises(ValueError, match="dynamic .* takes images of 64 x 64 pixels only"):
        metadata(model, dynamic=True)


def test_without_its_packages_onnx_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModuleNotFoundError, match="onnxscript: pip install onnxscript"):
        export_model(small_model("sat"), tmp_path / "model.onnx")
    save_model(small_model("sat"), tmp_path / "sat.safetensors")
    command = ["export", str(tmp_path / "sat.safetensors"), "--out", str(tmp_path / "m.onnx")]
    assert main(command) == 2
    assert "--format is onnx: ONNX takes the packages onnxscript" in capsys.readouterr().err


# --- the command


def test_the_command_writes_a_runs_program_with_its_stored_threshold(tmp_path, capsys):
    model, run_folder = small_model("sat"), tmp_path / "run"
    save_model(model, run_folder / "model.safetensors", ["a", "b", "c", "d", "e"])
    (run_folder / "config.yaml").write_text("model: sat\n")
    digest = sha256_of(run_folder / "model.safetensors")
    stored = StoredThreshold(
        0.55, "maxboxacc", 0.5, "largest", 0.05, 0.5, "synthetic", "test", 9, digest, "0"
    )
    store_threshold(run_folder, stored)
    out = tmp_path / "out" / "sat.pt2"
    assert main(["export", str(run_folder), "--out", str(out), "--classes", "given"]) == 0
    assert f"{out}: sat, images of 64 x 64 pixels, threshold 0.55" in capsys.readouterr().out
    beside = {"wsol_ext.json": ""}
    program = torch.export.load(out, extra_files=beside).module()
    written = out.read_bytes()
    assert main(["export", str(run_folder), "--out", str(out)]) == 2
    assert "which exists: give --overwrite" in capsys.readouterr().err
    assert out.read_bytes() == written
    about = json.loads(beside["wsol_ext.json"])
    assert (about["threshold"], about["class_names"]) == (0.55, ["a", "b", "c", "d", "e"])
    images, classes = torch.randn(1, 3, 64, 64), torch.tensor([[4, 0]])
    with torch.no_grad():
        torch.testing.assert_close(program(images, classes), tuple(model.localize(images, classes)))


def test_the_commands_mistakes_are_said_together(tmp_path, capsys):
    save_model(small_model("sat"), tmp_path / "sat.safetensors")
    flags = ["--out", "sat.bin", "--classes", "best", "--clusters", "none"]
    assert main(["export", str(tmp_path / "sat.safetensors"), *flags]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.removeprefix("wsol: error: ") for line in lines] == [
        "--out is sat.bin, it should end in .onnx or .pt2",
        "--classes is 'best', it should be one of top1, given",
        "--clusters is for methods that refine their maps, the checkpoint is of sat",
    ]


def test_the_command_exports_what_clusters_would_refine_where_told_to(tmp_path, capsys):
    model = small_model("molt one level")
    model.config["clusters"] = "light"
    save_model(model, tmp_path / "molt.safetensors")
    command = ["export", str(tmp_path / "molt.safetensors"), "--out", str(tmp_path / "m.pt2")]
    assert main(command) == 2
    assert "(--clusters none) leaves the map that they refine" in capsys.readouterr().err
    assert main([*command, "--clusters", "none"]) == 0


# --- the page


def test_the_pages_programs_run_and_find_the_models_box(exported, tmp_path, monkeypatch, capsys):
    model, path = exported
    pixels = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.fromarray(pixels).save("bird.png")
    Path("model.onnx").write_bytes(path.read_bytes())
    export_model(model, "model.pt2", classes="given")  # as the page has it
    save_model(model, "runs/mine/model.safetensors")
    programs = [block.code for block in blocks(PAGE, "python")]
    assert len(programs) == 3
    monkeypatch.setattr("wsol_ext.export.export_model", lambda *_, **__: None)  # seen above
    for program in programs:
        exec(program, {})
    with torch.no_grad():
        logits, maps = model.localize(eval_transform(64)(Image.open("bird.png"))[None])
    box = boxes_of_maps(maps[:, 0], torch.tensor([[80, 48]]), 0.35)[0]
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{model.class_names[int(logits.argmax())]} {box.tolist()}"
