"""MOLT: the pyramid, the combined map and its refinement."""

import pytest
import torch
from torch.nn import functional as F

from wsol_ext import ops
from wsol_ext.checkpoints import load_model, save_model
from wsol_ext.clustering import ClusterCache, deep_clusters
from wsol_ext.data import denormalize
from wsol_ext.models import create_model
from wsol_ext.models.molt import combine, level_size, refine

FEW_STEPS = {"size": 32, "width": 4, "channels": 8, "centres": 4, "segments": 20, "max_steps": 2}


def molt(img_size=64, **options):
    torch.manual_seed(0)
    return create_model(
        "molt",
        "vit_tiny_patch16_224",
        num_classes=5,
        pretrained=False,
        img_size=img_size,
        backbone_options={"embed_dim": 24, "depth": 2, "num_heads": 3},
        **{"clusters": None, **options},
    ).eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_by_default_the_levels_are_224_336_and_448():
    model = create_model("molt", "vit_tiny_patch16_224", num_classes=2, pretrained=False)
    assert model.levels == [224, 336, 448]
    assert model.config["img_size"] == 448
    assert [t.backbone.vit.patch_embed.grid_size for t in model.transformers] == [
        (14, 14),
        (21, 21),
        (28, 28),
    ]


def test_each_level_is_a_tscam_of_the_resized_images(images):
    model = molt()
    parts = model.localize_parts(images, torch.tensor([[1], [4]])).parts
    assert list(parts) == ["32", "48", "64"] == model.parts
    for level, transformer in zip((32, 48, 64), model.transformers, strict=True):
        resized = F.interpolate(images, (level, level), mode="bilinear", antialias=True)
        logits, maps = transformer.localize(resized, torch.tensor([[1], [4]]))
        torch.testing.assert_close(parts[str(level)].logits, logits)
        torch.testing.assert_close(parts[str(level)].maps, maps)


def test_the_class_prediction_is_that_of_the_mean_probability(images):
    model = molt()
    found = model.localize_parts(images)
    mean = sum(found.parts[name].logits.softmax(1) for name in model.parts) / 3
    torch.testing.assert_close(model(images).softmax(1), mean)
    torch.testing.assert_close(found.whole.logits.exp(), mean)


def test_the_combined_map_is_the_mean_of_normalized_maps_on_the_finest_grid(images):
    found = molt().localize_parts(images, torch.tensor([[1, 2], [4, 0]]))
    expected = torch.zeros(2, 2, 4, 4)
    for level in ("32", "48", "64"):
        up = F.interpolate(found.parts[level].maps, (4, 4), mode="bilinear")
        low, high = up.amin((2, 3), keepdim=True), up.amax((2, 3), keepdim=True)
        expected += (up - low) / (high - low) / 3
    torch.testing.assert_close(found.whole.maps, expected)


def test_each_transformer_learns_from_its_own_loss_alone(images):
    model, labels = molt(), torch.tensor([1, 4])
    terms = model.training_loss(images, labels)
    terms["loss"].backward()
    middle = model.transformers[1]
    found = middle.head.weight.grad.clone()
    middle.zero_grad()
    resized = F.interpolate(images, (48, 48), mode="bilinear", antialias=True)
    own = F.cross_entropy(middle(resized), labels)
    own.backward()
    torch.testing.assert_close(found, middle.head.weight.grad)
    torch.testing.assert_close(terms["cross_entropy_48"], own.detach())


def test_shared_weights_are_one_transformer_at_every_level(images):
    model = molt(share_weights=True)
    assert len(model.transformers) == 1
    parts = model.localize_parts(images).parts
    (only,) = model.transformers
    for level in (32, 48, 64):
        resized = F.interpolate(images, (level, level), mode="bilinear", antialias=True)
        torch.testing.assert_close(parts[str(level)].logits, only(resized))
    assert only.backbone.vit.patch_embed.grid_size == (2, 2)


def test_the_refined_map_is_drawn_to_the_clusters_of_the_picture(images):
    model = molt(clusters=FEW_STEPS, beta=0.25)
    found = model.localize_parts(images)
    clusters = deep_clusters(denormalize(images), model.clustering)
    assert torch.equal(found.segments, clusters)
    upsampled = F.interpolate(found.parts["combined"].maps, (32, 32), mode="bilinear")
    expected = 0.75 * upsampled + 0.25 * ops.segment_mean(upsampled, clusters)
    torch.testing.assert_close(found.whole.maps, expected)
    torch.testing.assert_close(model.localize(images)[1], expected)


def test_refinement_is_chosen_when_the_model_is_used(images):
    model = molt(clusters=FEW_STEPS)
    assert model.parts == ["32", "48", "64", "combined"]
    model.set_clusters(None)
    assert model.parts == ["32", "48", "64"]
    assert model.localize(images)[1].shape == (2, 1, 4, 4)
    model.set_clusters({**FEW_STEPS, "size": 16})
    assert model.localize(images)[1].shape == (2, 1, 16, 16)


def test_a_compiled_model_refines_as_without_and_says_why_it_is_no_one_graph(images):
    model = molt(32, clusters={**FEW_STEPS, "size": 16}, pyramid=[32])
    images = images[..., :32, :32]
    torch._dynamo.reset()
    with torch.no_grad():
        found = torch.compile(model.localize, backend="eager")(images)
        assert torch.equal(found[1], model.localize(images)[1])
        torch._dynamo.reset()
        whole = torch.compile(model.localize, backend="eager", fullgraph=True)
        with pytest.raises(torch._dynamo.exc.Unsupported, match="deep_clusters"):
            whole(images)


def test_clusters_are_kept_where_the_model_is_told_to(images, tmp_path, monkeypatch):
    model = molt(clusters=FEW_STEPS)
    model.cluster_cache = ClusterCache(tmp_path)
    _, expected = model.localize(images)
    kept = sorted(tmp_path.rglob("*"))
    assert kept
    _, again = model.localize(images)
    assert torch.equal(again, expected)
    assert sorted(tmp_path.rglob("*")) == kept


def test_settings_of_the_clusters_are_saved_with_the_model(images, tmp_path):
    model = molt(clusters=FEW_STEPS, beta=0.75, pyramid=[32, 64])
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.clustering == model.clustering
    assert (loaded.beta, loaded.levels) == (0.75, [32, 64])


def test_combine_of_one_level_normalizes_it():
    maps = torch.tensor([[[[1.0, 3.0, 2.0]]]])
    assert combine([maps]).tolist() == [[[[0.0, 1.0, 0.5]]]]


def test_a_constant_level_adds_nothing_to_the_combined_map():
    fine = torch.eye(24)[None, None]
    levels = [torch.full((1, 1, 7, 9), value) for value in (0.7, 0.9)]
    assert torch.equal(combine([*levels, fine]), fine / 3)


def test_without_beta_refinement_only_upsamples():
    maps, clusters = torch.rand(1, 1, 2, 2), torch.zeros(1, 4, 4, dtype=torch.int32)
    expected = F.interpolate(maps, (4, 4), mode="bilinear")
    torch.testing.assert_close(refine(maps, clusters, beta=0.0), expected)
    flat = refine(maps, clusters, beta=1.0)
    torch.testing.assert_close(flat, expected.mean().expand(1, 1, 4, 4))


def test_levels_are_whole_patches_and_at_least_one():
    assert level_size((100, 20), 0.5, (14, 14)) == (56, 14)
    assert level_size((448, 448), 0.75, (16, 16)) == (336, 336)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 1.5}, r"beta is 1.5, it should be in \[0, 1\]"),
        ({"pyramid": [64, 32]}, r"pyramid is \[64, 32\], it should ascend"),
        ({"pyramid": [32, 48]}, "to the height of the images, img_size, 64"),
        ({"pyramid": []}, r"pyramid is \[\]"),
        ({"clusters": "heavy"}, "clusters is 'heavy', it should be published or light"),
        ({"clusters": {"colour": 1}}, "colour"),
    ],
)
def test_options_outside_of_their_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        molt(**options)
