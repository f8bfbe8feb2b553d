"""docs/attention_maps.md: its code runs as it stands, but for the weights, which are random."""

from pathlib import Path

import pytest
import timm
import torch
import transformers
from pages import blocks, run_python
from PIL import Image

PAGE = Path(__file__).parents[2] / "docs" / "attention_maps.md"


@pytest.fixture
def without_network(monkeypatch, tmp_path):
    """A picture, and networks of the page's names without their weights."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (90, 60), "red").save("cat.jpg")
    create_model = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: create_model(name))

    def from_pretrained(name):
        assert name == "facebook/dinov2-with-registers-small"
        config = transformers.Dinov2WithRegistersConfig(
            hidden_size=48, num_hidden_layers=2, num_attention_heads=3, patch_size=14
        )
        return transformers.Dinov2WithRegistersModel(config)

    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", from_pretrained)


def test_the_code_of_the_page_runs_and_gives_what_it_says(without_network):
    found = blocks(PAGE, "python")
    assert len(found) == 5
    names = {}
    torch.manual_seed(0)
    for number, block in enumerate(found):
        run_python(block, PAGE, names)
        if number == 0:
            height, width = names["images"].shape[-2:]
            assert names["attention"].shape == (1, height // 16, width // 16)
    grid = (height // 16, width // 16)
    assert names["by_heads"].shape == (1, 6, *grid)
    assert names["summed"].shape == names["rolled"].shape == names["of_a_patch"].shape == (1, *grid)
    assert names["heat"].shape == (1, height, width)
    assert names["rows"][0].shape == (1, 5 + grid[0] * grid[1])
    assert names["model"].patch_embed.proj.weight.grad.abs().sum() > 0
    assert names["attention"].shape == (1, 16, 16)
