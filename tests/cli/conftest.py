"""A folder of tiny pictures and one run over them that many tests look at."""

import csv
from pathlib import Path

import pytest
from cli.tiny_runs import TINY
from torchvision.transforms.v2.functional import to_pil_image

from wsol_ext.cli import main
from wsol_ext.data import SyntheticDataset


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """root/{train,test}/CLASS/NUMBER.png and root/boxes.csv, four classes."""
    root = tmp_path_factory.mktemp("pictures")
    rows = [["image", "x0", "y0", "x1", "y1"]]
    for split, length in (("train", 32), ("test", 12)):
        dataset = SyntheticDataset(length, img_size=48, split=split)
        for index in range(length):
            sample = dataset[index]
            name = f"{dataset.class_names[sample['label']]}/{index}.png"
            path = root / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            to_pil_image(sample["image"]).save(path)
            if split == "test":
                rows += [[name, *map(int, box)] for box in sample["boxes"].tolist()]
    with open(root / "boxes.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


@pytest.fixture(scope="session")
def run_folder(pictures, tmp_path_factory) -> Path:
    """A finished run on `pictures`."""
    out = tmp_path_factory.mktemp("runs") / "run"
    data = ["--data", "folder", "--root", str(pictures), "--boxes", str(pictures / "boxes.csv")]
    arguments = ["train", "--out", str(out), *TINY, *data, "--epochs", "2", "--batch-size", "16"]
    assert main([*arguments, "--validate-every", "2"]) == 0
    return out


@pytest.fixture(autouse=True)
def _unmeasured(request):
    """The run that many tests look at is as training left it, whatever one of them evaluated."""
    folder = request.getfixturevalue("run_folder") if "run_folder" in request.fixturenames else None
    yield
    if folder is not None:
        (folder / "threshold.json").unlink(missing_ok=True)


@pytest.fixture
def fails(capsys):
    """Run the command line and give its one line of error, behind what it may have said before."""

    def run(*arguments: object, status: int = 2) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == status
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        *said, error = captured.err.strip().splitlines()
        assert error.startswith("wsol: error: "), captured.err
        assert not any(line.startswith("wsol: error: ") for line in said), captured.err
        return error

    return run
