"""Class predictions of other programs."""

import pytest
import torch

from wsol_ext.data.predictions import read_predictions
from wsol_ext.data.tables import AnnotationError

IMAGES, CLASSES = ["jay/1.jpg", "tit/2.jpg"], ["jay", "tit", "auk"]


def read(tmp_path, text):
    path = tmp_path / "predictions.csv"
    path.write_text(text)
    return read_predictions(path, IMAGES, CLASSES)


@pytest.mark.parametrize(
    "text",
    [
        "image,class\njay/1.jpg,auk\njay/1.jpg,tit\njay/1.jpg,jay\ntit/2,tit\ntit/2,jay\ntit/2,2\n",
        "image,class,score\njay/1,jay,-3\njay/1,auk,7\njay/1,1,2\ntit/2,0,.2\ntit/2,1,.5\ntit/2,2,.1\n",
        "image,auk,jay,tit\ntit/2.jpg,0.1,0.3,0.6\njay/1.jpg,0.7,0.1,0.2\n",
    ],
)
def test_each_form_gives_the_classes_best_first(tmp_path, text):
    found = read(tmp_path, text)
    assert found.logits.argsort(dim=1, descending=True)[:, :3].tolist() == [[2, 1, 0], [1, 0, 2]]
    assert found.has_top5
    assert found.complete == (not text.startswith("image,class\n"))


def test_classes_that_are_not_listed_are_never_among_the_best(tmp_path):
    found = read(tmp_path, "image,class\njay/1.jpg,auk\ntit/2.jpg,jay\n")
    best = found.logits.float().topk(5, dim=1).indices
    assert best[:, 0].tolist() == [2, 0]
    assert (best[:, 1:] >= len(CLASSES)).all()
    assert not found.has_top5
    assert not found.complete


def test_probabilities_stay_what_they_are(tmp_path):
    found = read(tmp_path, "image,jay,tit,auk\njay/1,0.5,0.25,0.25\ntit/2,0,1,0\n")
    probabilities = found.logits.softmax(dim=1)[:, :3]
    torch.testing.assert_close(probabilities, torch.tensor([[0.5, 0.25, 0.25], [0, 1, 0]]).double())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,label\na,b\n", r"csv:1: 'label' is no class of the data; the header should be"),
        ("class,image\n", r"csv:1: the header is 'class,image', it should be image,class;"),
        ("image,jay,tit\n", r"csv:1: classes are missing or twice there"),
        ("image,class\njay/1.jpg,gull\n", r"csv:2: 'gull' is no class of the data, which has jay"),
        ("image,class,score\njay/1.jpg,jay,high\n", r"csv:2: the score is 'high'"),
        ("image,class\njay/1.jpg,jay\njay/1.jpg,0\n", r"csv:3: jay/1.jpg has class 0 already"),
        ("image,class\njay/1.jpg,jay\n", r"csv: has no line for 1 of 2 images: tit/2.jpg"),
    ],
)
def test_mistakes_name_the_file_and_the_line(tmp_path, text, words):
    with pytest.raises(AnnotationError, match=words):
        read(tmp_path, text)


def test_images_of_other_splits_are_counted(tmp_path):
    with pytest.warns(UserWarning, match=r"1 name is of no image of the data: train/9\.jpg"):
        read(tmp_path, "image,class\njay/1.jpg,jay\ntit/2.jpg,jay\ntrain/9.jpg,jay\n")
