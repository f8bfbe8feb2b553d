"""What a command line has wrong is said together, in our words, and nothing false beside it."""

import json
import re

import pytest
from cli.tiny_runs import TINY, tiny_run

from wsol_ext._files import read_yaml
from wsol_ext.cli import evaluate, main, train
from wsol_ext.training import data as training_data

DEVICE = ["--device", "cuda:77"]  # which no machine has
NO_DEVICE = "--device cuda:77 cannot be used: "


@pytest.fixture
def said(capsys):
    """Run the command line and give its lines of error, each of which is said once."""

    def run(*arguments: object) -> list[str]:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert all(line.startswith("wsol: error: ") for line in lines), lines
        assert len(set(lines)) == len(lines), lines
        return [line.removeprefix("wsol: error: ") for line in lines]

    return run


def require_lines(lines: list[str], beginnings: list[str]) -> None:
    """Each line has one of the beginnings, and each of those a line."""
    left = list(lines)
    for beginning in beginnings:
        found = [line for line in left if line.startswith(beginning)]
        assert found, f"{beginning!r} is not among {lines}"
        left.remove(found[0])
    assert not left


MISSPELT = "backbone 'vit_tiny_patch16_22' is not a model that timm knows; did you mean "


@pytest.mark.parametrize(
    ("flags", "beginnings"),
    [
        pytest.param(
            ["--epochs", "0", *DEVICE, "--img-size", "33", "--model-options", '{"mas": 1}'],
            [
                "--epochs is 0, it should be at least 1",
                NO_DEVICE,
                "--img-size is 33, it should be a multiple of the patch",
                "method 'tscam' takes no option mas.",
            ],
            id="a range",
        ),
        pytest.param(
            [
                *("--data-options", '{"lenght": 3, "num_classes": "x"}', "--seed", "99999999999"),
                *("--model", "sat", "--img-size", "33"),
                *("--model-options", '{"area": 3, "gated_blocks": 0, "aera": 1}'),
            ],
            [
                "--seed is 99999999999, it should be 0 to 4294967295",
                "--data-options: the synthetic data set takes no option lenght; did you mean length?",
                "--data-options: the synthetic data set: num_classes is 'x', it should be a whole",
                "--img-size is 33, it should be a multiple of the patch",
                "method 'sat' takes no option aera; did you mean area?",
                "--model-options: area is 3, it should be between 0 and 1",
                "--model-options: gated_blocks is 0, it should be at least 1",
            ],
            id="a seed and options of the data",
        ),
        pytest.param(
            [
                *("--backbone", "vit_tiny_patch16_22", "--stage2-epochs", "3"),
                *("--model-options", '{"mas": 1, "stage": 1}', *DEVICE),
                *("--data-options", '{"lenght": 3}'),
            ],
            [
                NO_DEVICE,
                MISSPELT,
                "method 'tscam' takes no option mas.",
                "--model-options has a stage",
                "--stage2-epochs is 3, it should be 0",
                "--data-options: the synthetic data set takes no option lenght",
            ],
            id="nothing that is known without torch",
        ),
        pytest.param(
            [
                *("--model", "molt", "--img-size", "64", "--backbone", "vit_tiny_patch16_22"),
                "--model-options",
                '{"pyramid": [64, 32], "beta": 2, "clusters": {"size": 1, "width": 0}}',
            ],
            [
                MISSPELT,
                "--model-options: pyramid is [64, 32], it should ascend to the height of the images",
                "--model-options: beta is 2, it should be in [0, 1]",
                "clusters: size is 1, it should be at least 4",
                "clusters: width is 0, it should be at least 1",
            ],
            id="ranges of a method, and a backbone",
        ),
        pytest.param(
            [
                "--backbone-options",
                '{"depth": 0, "embed_dim": 0, "num_heads": 0, "mlp_ratio": -1, "drop_rate": 7, "d": 1}',
                *("--img-size", "33"),
            ],
            [
                "backbone 'vit_tiny_patch16_224' takes no option d.",
                *(
                    f"backbone 'vit_tiny_patch16_224': {name} is {value}, it should be {wanted}"
                    for name, value, wanted in [
                        ("depth", 0, "at least 1"),
                        ("embed_dim", 0, "at least 1"),
                        ("num_heads", 0, "at least 1"),
                        ("mlp_ratio", -1, "a positive number"),
                        ("drop_rate", 7, "in [0, 1]"),
                    ]
                ),
                "--img-size is 33, it should be a multiple of the patch, 16 x 16",
            ],
            id="options of the backbone",
        ),
    ],
)
def test_all_mistakes_of_training_are_said_together(tmp_path, said, flags, beginnings):
    require_lines(said(*tiny_run(tmp_path / "run"), *flags), beginnings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "beginnings"),
    [
        (["--model", "tscan", "--model-options", '{"mass": 0.6}'], ["--model is 'tscan'"]),
        (["--lr", "-1", "--min-lr", "1e-3"], ["--lr is -1.0"]),
        (["--model", "molt", "--img-size", "-1", "--model-options", '{"pyramid": [32]}']
         , ["--img-size is -1"]),
        (["--backbone-options", "{depth", "--img-size", "30"], ["--backbone-options is '{depth'"]),
        (["--backbone-options", '{"patch_size": 0}', "--img-size", "30"],
         ["backbone 'vit_tiny_patch16_224': patch_size is 0"]),
        (["--out", "/dev/null/run", "--device", "cpu"],
         ["--out is /dev/null/run: /dev/null is not a folder"]),
    ],
)  # fmt: skip
def test_nothing_is_said_that_hangs_on_a_mistaken_option(tmp_path, said, flags, beginnings):
    require_lines(said(*tiny_run(tmp_path / "run"), *flags), beginnings)


def test_mistakes_are_said_before_others_are_looked_for(tmp_path, capsys, monkeypatch):
    before = []

    def look(options, problems):
        before.append(capsys.readouterr().err)
        problems.add("--backbone is no backbone")
        raise ConnectionError("the hub is away")

    monkeypatch.setattr(train, "check_further", look)
    assert main([*tiny_run(tmp_path / "run"), "--epochs", "0"]) == 2
    assert before == ["wsol: error: --epochs is 0, it should be at least 1\n"]
    assert capsys.readouterr().err == "wsol: error: --backbone is no backbone\n"


def test_pictures_are_not_looked_over_for_a_mistaken_model(pictures, tmp_path, said, monkeypatch):
    monkeypatch.setattr(training_data, "broken_images", lambda *_: pytest.fail("looked over"))
    (tmp_path / "boxes.csv").write_text("image,x0,y0,x1,y1\nnobody.png,1,2,3,4\n")
    (tmp_path / "junk").mkdir()
    lines = said(
        *("train", "--out", tmp_path / "run", *TINY, *DEVICE, "--batch-size", "99"),
        *("--data", "folder", "--root", pictures, "--boxes", tmp_path / "boxes.csv"),
        *("--model-options", '{"mas": 1}', "--init-from", tmp_path / "junk"),
    )
    require_lines(
        lines,
        [
            NO_DEVICE,
            "method 'tscam' takes no option mas.",
            f"{tmp_path}/junk is no folder of a run",
            "--batch-size is 99, it should be at most the number of training images, 32",
            f"{tmp_path}/boxes.csv:2: there is no image 'nobody.png'",
        ],
    )


def test_all_mistakes_of_evaluation_are_said_together(run_folder, tmp_path, said):
    (tmp_path / "file").touch()
    wrong = ["--split", "tset", "--boxes", "nope.csv", "--clusters", "heavy", *DEVICE]
    both = [
        "--split is 'tset', it should be one of train, val, test; did you mean test?",
        "--boxes is nope.csv: no such file or folder",
        "--clusters is 'heavy', it should be published or light",
        NO_DEVICE,
    ]
    require_lines(said("evaluate", run_folder, *wrong, "--out", tmp_path), both)
    lines = said("evaluate", tmp_path / "gone", *wrong, "--out", tmp_path / "file")
    gone = f"CHECKPOINT is {tmp_path}/gone: there is no such checkpoint or run folder"
    require_lines(lines, [*both, gone, f"--out is {tmp_path}/file, which is not a folder"])
    lines = said(
        *("evaluate", run_folder, "--interval", "nan", "--threshold", "nan", "--out", tmp_path),
        *("--clusters", "light", "--cluster-cache", tmp_path),
        *("--data", "synthetic", "--data-options", '{"lenght": 3}'),
    )
    require_lines(
        lines,
        [
            "--interval is nan, it should be between 0 and 1",
            "--threshold is nan, it should be in [0, 1)",
            "--clusters is for molt, the checkpoint is of tscam",
            "--cluster-cache is for molt, the checkpoint is of tscam",
            "--data-options: the synthetic data set takes no option lenght",
        ],
    )


def test_files_that_are_mistaken_are_said_together(run_folder, pictures, tmp_path, said):
    junk, boxes, labels = (tmp_path / name for name in ("junk.safetensors", "b.csv", "l.csv"))
    junk.write_bytes(b"<html>")
    boxes.write_text("image,x0,y0,x1,y1\nnobody.png,1,2,3,4\n")
    labels.write_text("picture,class\n")
    (tmp_path / "empty").mkdir()
    data = ["--data", "folder", "--root", pictures, "--boxes", boxes, "--out", tmp_path / "out"]
    wrong = [f"checkpoint {junk} is", f"{boxes}:2: there is no image 'nobody.png'", NO_DEVICE]
    require_lines(said("evaluate", junk, *data, *DEVICE), wrong)
    lines = said("localize", junk, tmp_path / "empty", "--out", tmp_path / "out", *DEVICE)
    assert len(lines) == 3
    assert lines[0].startswith(NO_DEVICE)
    assert "no image" in lines[1]
    assert lines[2].startswith(wrong[0])
    asked = ["localize", run_folder, pictures / "test", "--out", tmp_path / "out"]
    lines = said(*asked, "--labels", labels, "--top-k", "9", "--clusters", "light")
    require_lines(lines, ["--clusters is for molt", "top_k is 9", f"{labels}:1: the header"])


def test_run_is_read_once(run_folder, pictures, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(evaluate, "read_yaml", lambda path: read.append(path) or read_yaml(path))
    flags = ["--out", str(tmp_path), "--device", "cpu", "--workers", "0", "--progress", "false"]
    assert main(["evaluate", str(run_folder), "--protocols", "toploc", *flags]) == 0
    assert read == [run_folder / "config.yaml"]


def test_all_mistakes_of_localization_are_said_together(run_folder, tmp_path, said):
    (tmp_path / "file").touch()
    asked = ["localize", run_folder, "gone.jpg", *DEVICE, "--threshold", "nan"]
    lines = said(*asked, "--out", tmp_path / "file", "--model", "trt", "--clusters", "heavy")
    common = [
        "IMAGES: gone.jpg: no such file or folder",
        "--threshold is nan, it should be in [0, 1)",
        f"--out is {tmp_path}/file, which is not a folder",
        "--clusters is 'heavy', it should be published or light",
        NO_DEVICE,
    ]
    require_lines(
        lines,
        [*common, f"checkpoint {run_folder}/model.safetensors holds a tscam model, not trt"],
    )
    lines = said(*asked, "--out", tmp_path / "file", "--model", "tscan", "--clusters", "heavy")
    require_lines(lines, [*common, "--model is 'tscan', it should be one of "])


def test_demo_is_checked_before_it_begins(tmp_path, said):
    (tmp_path / "file").touch()
    require_lines(
        said("demo", "--seed", "-1", "--out", tmp_path / "file", "--images", "0"),
        [
            "--seed is -1, it should be 0 to 4294967295",
            f"--out is {tmp_path}/file, which is not a folder",
            "--images is 0, it should be at least 1",
        ],
    )


def test_folder_that_cannot_be_made_is_named(said):
    (line,) = said(*tiny_run("/proc/foo/bar"))
    assert line.startswith("--out is /proc/foo/bar, which cannot be written to: ")


def test_value_of_a_file_is_mistaken_in_the_name_of_the_file(tmp_path, said):
    file = tmp_path / "options.yaml"
    file.write_text(
        "epochs: many\nlr: -1\nimg_size: -3\naccelerator: cuda:77\ndata: synthetic\n"
        "data_options: {lenght: 3}\nworkers: -1\n"
    )
    lines = said("train", "--config", file, "--out", tmp_path / "run", "--workers", "-2")
    require_lines(
        lines,
        [
            f"{file}: --epochs is 'many', it should be a whole number",
            f"{file}: --lr is -1.0, it should be a positive number",
            f"{file}: --img-size is -3, it should be 0 or more",
            "--workers is -2, it should be 0 or more",
            f"{file}: {NO_DEVICE}",
            f"{file}: --data-options: the synthetic data set takes no option lenght",
        ],
    )
    file.write_text("accelerator: cuda:77\ndata: synthetic\ndata_options: {length: 64}\n")
    (line,) = said("train", "--config", file, "--out", tmp_path / "run")
    assert line.startswith(f"{file}: {NO_DEVICE}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lr: 1\nepochs: 3\nlr: 2\n", ":3: the key lr stands here again, after line 1"),
        ("model_options:\n  mass: 1\n  'mass': 2\n", ":3: the key mass stands here again, "),
        ("lr: 1\nepochs: [3\n", ":3: is no YAML: "),
        ("lr: 2024-02-30\n", ": is no YAML: "),
        ("lr: !!map [a]\n", ":1: is no YAML: expected a mapping node"),
        ("lr: 1\nepochs: *three\n", ":2: aliases (*name) are not taken"),
        ("[" * 100_000, ": is no YAML: it is nested too deeply"),
    ],
)
def test_yaml_that_is_not_taken_is_named_with_its_line(tmp_path, said, text, words):
    file = tmp_path / "options.yaml"
    file.write_text(text)
    lines = said("train", "--config", file, "--epochs", "many", "--config", tmp_path / "gone.yaml")
    require_lines(
        lines,
        [f"{file}{words}", f"{tmp_path}/gone.yaml: no such file", "--epochs is 'many'"],
    )


@pytest.mark.parametrize("text", [json.dumps({"a": 1})[:-1] + ', "a": 2}', "{a: 1, a: 2}"])
def test_option_that_is_named_twice_is_refused(tmp_path, said, text):
    (line,) = said(*tiny_run(tmp_path / "run"), "--model-options", text)
    assert re.match("--model-options: .*the key a stands (there twice|here again)", line)


def test_caches_that_cannot_be_written_are_told_with_the_other_mistakes(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    caches = ["--cache-tokens", str(tmp_path / "file")]
    assert main(["train", "--root", str(tmp_path), "--epochs", "0", *caches]) == 2
    error = capsys.readouterr().err
    assert f"--cache-tokens is {tmp_path / 'file'}, which is not a folder" in error
    assert "--epochs is 0" in error
    caches = ["--cluster-cache", str(tmp_path / "file" / "inside")]
    for command in (["localize", "nowhere", str(tmp_path)], ["evaluate", "nowhere"]):
        assert main([*command, *caches]) == 2
        error = capsys.readouterr().err
        assert f"--cluster-cache is {tmp_path / 'file' / 'inside'}: {tmp_path / 'file'}" in error


def test_what_a_file_is_called_does_not_steer_the_terminal(tmp_path, capsys):
    name = "a\x1b[31m\nwsol: error: b.png"
    assert main(["train", "--root", f"{tmp_path}/{name}"]) == 2
    error = capsys.readouterr().err
    assert "\x1b" not in error
    assert "wsol: error: b.png" not in error.splitlines()


def test_what_a_model_refuses_is_said_of_the_flag_or_the_file_that_gives_it(tmp_path, capsys):
    (tmp_path / "bad.yaml").write_text("img_size: 65")
    options = ["--model", "trt", "--model-options", '{"mass": 1.5}', "--pretrained", "false"]
    run = ["train", "--root", str(tmp_path), "--config", str(tmp_path / "bad.yaml"), *options]
    assert main(run) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'bad.yaml'}: --img-size is 65, it should be a multiple of the pat" in error
    assert "--model-options: mass is 1.5, it should be in (0, 1]" in error


def test_the_folder_of_another_run_hides_no_other_mistake(run_folder, capsys):
    run = tiny_run(run_folder, "--seed", "5", "--model-options", '{"x": 1}')
    assert main(run) == 2
    error = capsys.readouterr().err
    assert "holds a run of another configuration" in error
    assert "method 'tscam' takes no option x" in error
