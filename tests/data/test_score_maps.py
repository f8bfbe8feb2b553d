"""Score maps of other programs: what is read, by which names, and what is refused."""

import numpy as np
import pytest
import torch
from cli.malice import save_pickle
from PIL import Image
from safetensors.torch import save_file

from wsol_ext.data import ScoreMapError, ScoreMaps, read_score_map

VALUES = np.array([[0, 51, 102], [153, 204, 255]])


def save_png(path, values, dtype=np.uint8):
    Image.fromarray(values.astype(dtype)).save(path)


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("map.npy", lambda path: np.save(path, VALUES.astype(np.float32))),
        ("half.npy", lambda path: np.save(path, VALUES.astype(np.float16))),
        ("swapped.npy", lambda path: np.save(path, VALUES.astype(">i4"))),
        ("map.npz", lambda path: np.savez_compressed(path, cam=VALUES.astype(np.uint8))),
        ("map.png", lambda path: save_png(path, VALUES)),
        ("map.pt", lambda path: torch.save(torch.tensor(VALUES, dtype=torch.bfloat16), path)),
        ("map.pth", lambda path: torch.save({"cam": torch.tensor(VALUES)}, path)),
        ("map.safetensors", lambda path: save_file({"cam": torch.tensor(VALUES)}, path)),
    ],
)
def test_values_come_as_the_file_has_them(tmp_path, name, save):
    save(str(tmp_path / name))
    score_map = read_score_map(tmp_path / name)
    assert score_map.is_floating_point()
    assert score_map.tolist() == VALUES.tolist()


def test_sixteen_bits_of_a_png_are_kept(tmp_path):
    save_png(tmp_path / "map.png", VALUES * 257, np.uint16)
    assert read_score_map(tmp_path / "map.png").tolist() == (VALUES * 257).tolist()


def test_float64_stays_float64(tmp_path):
    np.save(tmp_path / "map.npy", VALUES / 3)
    assert torch.equal(read_score_map(tmp_path / "map.npy"), torch.tensor(VALUES / 3))


@pytest.mark.parametrize("shape", [(1, 2, 3), (2, 3, 1), (1, 1, 2, 3), (1, 2, 3, 1)])
def test_sides_of_one_around_the_map_do_not_matter(tmp_path, shape):
    np.save(tmp_path / "map.npy", VALUES.reshape(shape))
    assert read_score_map(tmp_path / "map.npy").tolist() == VALUES.tolist()


@pytest.mark.parametrize(
    ("name", "save", "words"),
    [
        (
            "a.npy",
            lambda p: np.save(p, np.zeros((3, 7, 7))),
            "shape (3, 7, 7), it should be (h, w)",
        ),
        ("a.npy", lambda p: np.save(p, np.zeros((0, 7))), "shape (0, 7)"),
        ("a.npy", lambda p: np.save(p, np.zeros((2, 2), complex)), "should be of real numbers"),
        ("a.npy", lambda p: np.save(p, np.array([[np.nan, 1]])), "NaN in 1 of 2 pixels"),
        ("a.npy", lambda p: np.save(p, np.array([[np.inf, 1]])), "infinite in 1 of 2 pixels"),
        ("a.npy", lambda p: np.save(p, np.array([[-2e300, 1]])), "values up to 2e+300 in size"),
        ("a.npy", lambda p: p.write_bytes(b"nothing"), "a.npy: "),
        ("a.npz", lambda p: np.savez(p, a=VALUES, b=VALUES), "2 arrays (a, b), it should hold one"),
        ("a.npz", lambda p: p.write_bytes(b"nothing"), "not a zip file"),
        ("a.png", lambda p: Image.new("RGB", (3, 2)).save(p), "are RGB, they should be grey"),
        ("a.png", lambda p: p.write_bytes(b"nothing"), "cannot identify"),
        (
            "a.pt",
            lambda p: torch.save({"a": torch.ones(2, 2), "b": torch.ones(2, 2)}, p),
            "2 tensors",
        ),
        ("a.pt", lambda p: torch.save([1, 2], p), "something other than tensors by name"),
        ("a.txt", lambda p: p.write_text("0 1"), "its suffix should be one of .npy"),
    ],
)
def test_what_is_no_map_of_finite_numbers_is_named(tmp_path, name, save, words):
    save(tmp_path / name)
    with pytest.raises(ScoreMapError) as error:
        read_score_map(tmp_path / name)
    assert words in str(error.value)
    assert str(tmp_path / name) in str(error.value)


def test_truncated_map_is_named(tmp_path):
    np.save(tmp_path / "map.npy", np.zeros((64, 64)))
    data = (tmp_path / "map.npy").read_bytes()
    (tmp_path / "map.npy").write_bytes(data[: len(data) // 2])
    with pytest.raises(ScoreMapError, match=r"map\.npy"):
        read_score_map(tmp_path / "map.npy")


def test_pickles_are_never_run(tmp_path):
    evidence = save_pickle(tmp_path / "a.pt")
    (tmp_path / "b.npy").write_bytes((tmp_path / "a.pt").read_bytes())
    np.save(tmp_path / "c.npy", np.array([[{}]]), allow_pickle=True)
    for name in ("a.pt", "b.npy", "c.npy"):
        with pytest.raises(ScoreMapError, match=name):
            read_score_map(tmp_path / name)
    assert not evidence.exists()


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, VALUES) if name.endswith(".npy") else save_png(path, VALUES)


def test_maps_are_named_by_the_image_with_or_without_its_suffix(tmp_path):
    make(tmp_path, "jay/1.npy", "jay/2.jpg.npy", "3.png", "tit/1.png")
    maps = ScoreMaps(tmp_path)
    ids = ["jay/1.jpg", "jay/2.jpg", "3.jpg", "tit/1.jpg", "1.jpg"]
    assert maps.missing(ids) == ["1.jpg"]
    assert [maps.find(name)[0].relative_to(tmp_path).as_posix() for name in ids[:4]] == [
        *("jay/1.npy", "jay/2.jpg.npy", "3.png", "tit/1.png")
    ]
    assert maps.unused(ids[:3]) == [tmp_path / "tit/1.png"]


def test_suffix_of_the_image_goes_before_none(tmp_path):
    make(tmp_path, "1.npy", "1.png.npy")
    assert ScoreMaps(tmp_path).find("1.png") == [tmp_path / "1.png.npy"]


def test_image_of_several_maps_is_named(tmp_path):
    make(tmp_path, "1.npy", "1.png", "2.npy")
    with pytest.raises(ScoreMapError, match=r"1 image has several maps: 1\.npy and 1\.png"):
        ScoreMaps(tmp_path).check(["1.jpg", "2.jpg"])


def test_map_of_several_images_is_named(tmp_path):
    make(tmp_path, "1.npy")
    with pytest.raises(
        ScoreMapError, match=r"1\.npy of 1\.jpg and 1\.png\): keep the images' suff"
    ):
        ScoreMaps(tmp_path).check(["1.jpg", "1.png"])


def test_hidden_files_and_results_of_ours_are_no_maps(tmp_path):
    make(tmp_path, "1.npy", ".2.npy", ".hidden/3.npy", "evaluation/4.png")
    (tmp_path / "evaluation/.wsol-results").write_text("evaluate\n")
    assert ScoreMaps(tmp_path).files == [tmp_path / "1.npy"]


def test_folder_without_maps_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no score map, a file of \.npy"):
        ScoreMaps(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder of score maps"):
        ScoreMaps(tmp_path / "nowhere")


def test_maps_with_and_without_the_images_suffix_are_two(tmp_path):
    make(tmp_path, "1.jpg.npy", "1.npy", "2.npy")
    with pytest.raises(ScoreMapError, match=r"1 image has several maps: 1\.jpg\.npy and 1\.npy"):
        ScoreMaps(tmp_path).check(["1.jpg", "2.jpg"])
    ScoreMaps(tmp_path).check(["1.jpg", "1", "2.jpg"])  # one each
