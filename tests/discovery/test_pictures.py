"""From a backbone to features of patches, and from pictures to objects."""

import pytest
import torch
from discovery.drawings import THRESHOLD, blind_backbone, drawing
from PIL import Image

from wsol_ext.discovery import FEATURES, OBJECT, DiscoverySettings, discover_images, patch_features
from wsol_ext.models import any_backbone

BLOCKS = [(1, 2, 4, 7, "red"), (4, 1, 8, 3, "gold"), (2, 5, 5, 7, "teal")]


@pytest.fixture(scope="module")
def backbone():
    return blind_backbone()


# --- features


def test_features_are_those_of_the_last_block(backbone):
    images = torch.randn(2, 3, 64, 32, generator=torch.manual_seed(0))
    vit, block = backbone.vit, backbone.vit.blocks[-1]
    with torch.inference_mode():
        tokens = backbone.embed(images)
        for each in vit.blocks[:-1]:
            tokens = each(tokens)
        queries, keys, values = block.attn.qkv(block.norm1(tokens)).chunk(3, dim=2)
        wanted = {"tokens": vit.norm(block(tokens)), "queries": queries, "keys": keys}
        for name, expected in {**wanted, "values": values}.items():
            found = patch_features(backbone, images, name)
            assert found.shape == (2, 8, 4, 32)
            assert torch.allclose(found.flatten(1, 2), expected[:, 1:], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("eva02_tiny_patch14_224", {"depth": 1}),
        ("vit_small_patch16_dinov3", {"depth": 1, "embed_dim": 48, "num_heads": 2}),
        ("beit_base_patch16_224", {"depth": 1, "embed_dim": 48, "num_heads": 2}),
    ],
)
def test_features_of_other_families(name, options):
    network = any_backbone(name, pretrained=False, img_size=112, **options).eval()
    images = torch.zeros(2, 3, 112, 112)
    grid = network.grid(images)
    with torch.inference_mode():
        for features in FEATURES:
            found = patch_features(network, images, features)
            assert found.shape == (2, *grid, network.embed_dim)
            assert found.isfinite().all()


def test_features_that_there_are_not(backbone):
    images = torch.zeros(1, 3, 64, 64)
    with pytest.raises(ValueError, match="features is 'key', .*did you mean keys"):
        patch_features(backbone, images, "key")
    mixer = any_backbone("mixer_s32_224", pretrained=False).eval()
    with pytest.raises(ValueError, match="MlpMixer has no fused attention over its patches"):
        patch_features(mixer, torch.zeros(1, 3, 224, 224), "keys")


# --- pictures


def test_boxes_are_in_pixels_of_the_picture(backbone):
    pictures = [drawing(block, size=(320, 160)) for block in BLOCKS]
    for method in ("maskcut", "tokencut"):
        settings = DiscoverySettings(method, threshold=THRESHOLD)
        results = list(discover_images(backbone, pictures, settings, batch_size=2))
        for result, (x0, y0, x1, y1, _) in zip(results, BLOCKS, strict=True):
            (found,) = result.objects
            assert result.size == (320, 160)
            assert found.box.tolist() == [40 * x0, 20 * y0, 40 * x1, 20 * y1]
            assert found.category == 0
            assert 0 < found.score <= 1
            assert found.score_map.shape == (8, 8)
    assert OBJECT == "object"


def test_several_objects_come_the_best_first(backbone):
    picture = drawing((1, 1, 3, 3, "red"), (4, 4, 8, 7, "gold"))
    settings = DiscoverySettings(threshold=THRESHOLD, objects=5)
    (result,) = discover_images(backbone, picture, settings)
    boxes = [one.box.tolist() for one in result.objects]
    assert sorted(boxes) == [[8, 8, 24, 24], [32, 32, 64, 56]]
    scores = [one.score for one in result.objects]
    assert scores == sorted(scores, reverse=True)
    cut = DiscoverySettings(threshold=THRESHOLD, objects=5, min_score=(scores[0] + scores[1]) / 2)
    (result,) = discover_images(backbone, picture, cut)
    assert [one.box.tolist() for one in result.objects] == boxes[:1]


def test_lost_gives_one_object(backbone):
    (result,) = discover_images(backbone, drawing(BLOCKS[0]), DiscoverySettings("lost", seeds=10))
    assert len(result.objects) == 1


def test_one_pictures_trouble_is_its_own(backbone, tmp_path):
    (tmp_path / "letter.jpg").write_text("dear all")
    whole, broken = drawing(BLOCKS[0]), tmp_path / "letter.jpg"
    settings = DiscoverySettings(threshold=THRESHOLD)
    plain = Image.new("RGB", (50, 40), "white")
    found = list(discover_images(backbone, [whole, broken, plain, whole], settings, skip={3}))
    assert [len(result.objects) for result in found] == [1, 0, 0]
    assert "letter.jpg: cannot be read as an image" in str(found[1].error)
    assert found[2].error is None  # all alike: a picture of nothing


def test_values_that_are_not_finite_are_an_error():
    network = blind_backbone()
    torch.nn.init.constant_(network.vit.norm.weight, torch.inf)
    (result,) = discover_images(network, drawing(BLOCKS[0]))
    assert result.error == "inputs[0]: the backbone gave values that are not finite"


def test_settings_are_checked_together(backbone):
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the lines are looked at)
        DiscoverySettings("tokenct", "key", 1.0, 0, 2.5, 3)
    lines = str(error.value).splitlines()
    assert len(lines) == 6
    assert "tokencut" in lines[0]
    with pytest.raises(TypeError, match="backbone is of type Linear, it should be a TokenBackbone"):
        discover_images(torch.nn.Linear(1, 1), drawing(BLOCKS[0]))
    with pytest.raises(ValueError, match="decoding is 'quick', it should be exact or fast"):
        discover_images(backbone, drawing(BLOCKS[0]), decoding="quick")
