"""Settings refuse what no network can be trained by, and say which field it is."""

import pytest

from wsol_ext.clustering import PRESETS, ClusteringSettings

RIGHT = {"size": 24, "segments": 12, "compactness": 10.0}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 3),
        ("segments", 0),
        ("compactness", 0.0),
        ("compactness", float("inf")),
        ("width", 0),
        ("channels", 0),
        ("channels", 65537),
        ("centres", 0),
        ("rounds", 0),
        ("max_steps", 0),
        ("min_labels", -1),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("seed", -1),
        ("seed", 2**63),
    ],
)
def test_value_out_of_range_is_named(field, value):
    with pytest.raises(ValueError, match=f"ClusteringSettings: {field} is .*, it should be "):
        ClusteringSettings(**(RIGHT | {field: value}))


@pytest.mark.parametrize(
    ("field", "value"), [("size", 24.0), ("width", True), ("compactness", "10"), ("seed", None)]
)
def test_value_of_another_kind_is_named(field, value):
    with pytest.raises(TypeError, match=f"ClusteringSettings: {field} is .*, it should be a"):
        ClusteringSettings(**(RIGHT | {field: value}))


def test_published_is_the_papers():
    published = PRESETS["published"]
    assert (published.width, published.channels, published.centres) == (64, 100, 32)
    assert (published.rounds, published.max_steps, published.min_labels) == (3, 100, 4)
    assert (published.learning_rate, published.momentum) == (0.05, 0.9)
