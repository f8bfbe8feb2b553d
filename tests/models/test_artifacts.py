"""Artifact tokens: which they are, what fills their place, and which models do it."""

import pytest
import torch

from wsol_ext.attention import patch_attention
from wsol_ext.checkpoints import load_model, save_model
from wsol_ext.models import SCM, TRT, TSCAM, create_model
from wsol_ext.models.artifacts import class_attention_map, fill_artifacts, outlier_tokens
from wsol_ext.models.vit import TokenBackbone, without_values

SMALL = {"embed_dim": 24, "depth": 3, "num_heads": 3}
DINOV2 = "vit_small_patch14_dinov2"
MODELS = {
    "tscam": {},
    "scm": {"iterations": [4, 4]},
    "trt": {},
    "molt": {"clusters": None, "pyramid": [56, 112]},
}


def small_model(method, backbone=DINOV2, **options):
    torch.manual_seed(0)
    size = 112 if method == "molt" or "patch16" in backbone else 56
    return create_model(
        method,
        backbone,
        3,
        pretrained=False,
        img_size=size,
        backbone_options=SMALL,
        **{**MODELS[method], **options},
    ).eval()


def images_for(model, count=2):
    torch.manual_seed(1)
    return torch.randn(count, 3, *[model.img_size] * 2)


def smooth(height=12, width=16):
    """An attention row (2, h, w) with two wide hills, summing to 1."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    hills = [((y - a) ** 2 + (x - b) ** 2) / 40.0 for a, b in ((4, 5), (8, 11))]
    maps = torch.stack([torch.exp(-each) + 0.05 for each in hills])
    return maps / maps.sum(dim=(1, 2), keepdim=True)


def spots(*places, like):
    mask = torch.zeros_like(like, dtype=torch.bool)
    for place in places:
        mask[place] = True
    return mask


@pytest.fixture
def spotted():
    """A smooth row, the same with spots inside, at the border, in a corner and beside each other, and where."""
    row = smooth()
    mask = spots(
        (0, 2, 9), (0, 0, 7), (0, 11, 15), (1, 6, 3), (1, 6, 4), (1, 7, 3), (1, 3, 0), like=row
    )
    return row, torch.where(mask, 0.3, row), mask


def test_spots_are_found_and_nothing_else(spotted):
    row, with_spots, mask = spotted
    assert torch.equal(outlier_tokens(with_spots), mask)
    assert not outlier_tokens(row).any()


@pytest.mark.parametrize(("place", "neighbours"), [((0, 0), 3), ((0, 2), 5), ((2, 2), 8)])
def test_an_outlier_lies_above_twice_the_mean_of_the_neighbours_that_there_are(place, neighbours):
    torch.manual_seed(0)
    row = torch.rand(5, 5, dtype=torch.float64)
    y, x = place
    near = spots((slice(max(y - 1, 0), y + 2), slice(max(x - 1, 0), x + 2)), like=row)
    near[place] = False
    assert near.sum() == neighbours
    for times in (2.0, 3.0):
        bound = times * row[near].mean()
        for value, expected in ((bound * 1.001, True), (bound * 0.999, False)):
            row[place] = value
            assert bool(outlier_tokens(row, times)[place]) is expected


def test_filled_a_smooth_row_is_what_it_was(spotted):
    row, with_spots, mask = spotted
    filled = fill_artifacts(with_spots, mask)
    assert torch.equal(filled[~mask], row[~mask])
    assert (filled - row).abs().max() < 0.1 * row.max()
    assert (with_spots - row).abs().max() > 10 * row.max()


def test_an_outlier_takes_the_mean_of_its_neighbours_that_are_none():
    row = torch.arange(12.0).view(3, 4)
    mask = spots((0, 0), (1, 1), (1, 2), like=row)
    filled = fill_artifacts(row, mask)
    assert filled[0, 0] == (1 + 4) / 2
    assert filled[1, 1] == (1 + 2 + 4 + 8 + 9 + 10) / 6
    assert filled[1, 2] == (1 + 2 + 3 + 7 + 9 + 10 + 11) / 7


def test_an_outlier_among_outliers_takes_the_mean_of_all_others():
    row = torch.arange(20.0).view(4, 5)
    mask = spots((slice(3), slice(3)), like=row)
    filled = fill_artifacts(row, mask)
    assert filled[1, 1] == row[~mask].mean() == filled[0, 0]
    assert filled[1, 2] == row[:3, 3].mean()


def test_without_outliers_a_map_is_the_same_to_the_bit():
    rows = [smooth().flatten(1) * scale for scale in (0.3, 0.7, 0.01)]
    rows = [torch.cat((torch.full((2, 1), 0.5), row), dim=1) for row in rows]
    filled = class_attention_map(rows, 1, (12, 16), "fill")
    assert torch.equal(filled, patch_attention(rows, 1, (12, 16)))


def test_a_picture_of_outliers_alone_keeps_its_row(spotted):
    _, row, mask = spotted
    mask[0] = True
    filled = fill_artifacts(row, mask)
    assert torch.equal(filled[0], row[0])
    assert not torch.equal(filled[1], row[1])


@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (2, 2)])
def test_the_smallest_grids_are_filled_too(grid):
    row = torch.full((1, *grid), 0.01)
    row[0, 0, 0] = 0.9
    alone = grid == (1, 1)
    assert outlier_tokens(row).sum() == (0 if alone else 1)
    filled = fill_artifacts(row, outlier_tokens(row))
    assert filled[0, 0, 0] == pytest.approx(0.9 if alone else 0.01)


def test_each_row_is_filled_by_itself_before_they_are_added():
    rows, mask = torch.full((2, 1, 26), 0.02), torch.tensor([7, 19])
    rows[0, 0, mask[0]], rows[1, 0, mask[1]] = 0.5, 0.4
    torch.testing.assert_close(
        class_attention_map(rows, 1, (5, 5), "fill"), torch.full((1, 5, 5), 0.04)
    )


def test_what_overflows_in_one_picture_stays_there(spotted):
    _, with_spots, mask = spotted
    with_spots[0, 5, 5] = float("nan")
    found = outlier_tokens(with_spots)
    assert torch.equal(found[1], mask[1])
    filled = fill_artifacts(with_spots, found)
    assert filled[0, 5, 5].isnan()
    assert filled[1].isfinite().all()


def test_gradients_reach_what_stays_and_only_that(spotted):
    _, row, mask = spotted
    row = row.double().requires_grad_()
    weights = torch.randn(row.shape, dtype=torch.float64)
    (weights * fill_artifacts(row, mask)).sum().backward()
    assert (row.grad[mask] == 0).all()
    far = ~mask & ~torch.nn.functional.max_pool2d(mask.float(), 3, 1, 1).bool()
    assert torch.equal(row.grad[far], weights[far])
    # Beside the corner stands one of three that fill it.
    torch.testing.assert_close(row.grad[0, 10, 14], (weights[0, 10, 14] + weights[0, 11, 15] / 3))


# --- models


@pytest.mark.parametrize("method", MODELS)
@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        (DINOV2, "fill"),
        ("vit_base_patch14_dinov2.lvd142m", "fill"),
        ("vit_small_patch14_reg4_dinov2", "keep"),
        ("deit_tiny_patch16_224", "keep"),
        ("vit_tiny_patch16_224", "keep"),
    ],
)
def test_auto_is_to_fill_on_dinov2_without_registers(method, backbone, expected):
    with without_values():
        given = {name: small_model(method, backbone, artifacts=name) for name in ("fill", "keep")}
        given["auto"] = small_model(method, backbone, artifacts="auto")
        given["none"] = small_model(method, backbone)
    for name, model in given.items():
        resolved = expected if name in ("auto", "none") else name
        assert {each.artifacts for each in getattr(model, "tscams", [model])} == {resolved}
        assert model.config.get("artifacts", "none") == name


def test_auto_keeps_on_dinov3_which_has_registers():
    model = create_model("tscam", "vit_small_patch16_dinov3", 3, False, 48, SMALL)
    assert model.artifacts == "keep"
    assert TokenBackbone(DINOV2, False, 56, **SMALL).has_artifacts  # however it is read


@pytest.mark.parametrize("method", MODELS)
def test_another_value_is_refused_in_words(method):
    with pytest.raises(ValueError, match="artifacts is 'fil', it should be .*; did you mean fill?"):
        small_model(method, artifacts="fil")
    with pytest.raises(ValueError, match="takes no option artifact; did you mean artifacts"):
        small_model(method, artifact="fill")


def test_the_constructors_refuse_another_value_too():
    backbone = small_model("trt").backbone
    for method in (TSCAM, SCM, TRT):
        with pytest.raises(ValueError, match="artifacts is 'all', it should be one of auto, fill"):
            method(backbone, 3, artifacts="all")


@pytest.mark.parametrize("method", MODELS)
def test_maps_are_of_filled_rows(method, monkeypatch):
    fill, keep = (small_model(method, artifacts=name) for name in ("fill", "keep"))
    images, classes = images_for(fill), torch.tensor([[0], [2]])
    with torch.no_grad():
        filled, kept = (m.localize(images, classes).maps for m in (fill, keep))
        assert filled.isfinite().all()
        monkeypatch.setattr(
            "wsol_ext.models.artifacts.outlier_tokens", lambda rows: rows.new_zeros(rows.shape) > 0
        )
        assert torch.equal(fill.localize(images, classes).maps, kept)
        monkeypatch.setattr(
            "wsol_ext.models.artifacts.outlier_tokens",
            lambda rows: rows == rows.amax((-2, -1), True),
        )
        assert not torch.allclose(fill.localize(images, classes).maps, kept)


def test_trt_keeps_no_patch_for_a_spot(monkeypatch):
    fill, keep = (small_model("trt", artifacts=name, mass=0.5) for name in ("fill", "keep"))
    images, spot = images_for(fill), 6
    row_of = type(fill.backbone).run_block_with_row

    def with_spot(self, index, tokens):
        tokens, row = row_of(self, index, tokens)
        row = torch.full_like(row, 0.02)
        row[:, 1 + spot] = 0.3
        row[:, 1 + 8 : 1 + 16] = 0.04  # an object in the lower half
        return tokens, row

    monkeypatch.setattr(type(fill.backbone), "run_block_with_row", with_spot)
    with torch.no_grad():
        kept, filled = keep._classify(images), fill._classify(images)
    assert kept.keep[:, spot].all()
    assert not filled.keep[:, :8].any()
    assert filled.keep[:, 8:].sum(dim=1).tolist() == [6, 6]
    torch.testing.assert_close(filled.attention.sum(dim=1), torch.ones(2))
    assert (filled.attention[:, spot] < 0.06).all()


@pytest.mark.parametrize("method", MODELS)
def test_a_model_that_fills_trains_and_compiles_to_one_graph(method):
    model = small_model(method, artifacts="fill")
    images = images_for(model)
    terms = model.training_loss(images, torch.tensor([0, 2]))
    terms["loss"].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    compiled = torch.compile(model.localize, fullgraph=True, backend="eager")
    with torch.no_grad():
        for found, expected in zip(compiled(images), model.localize(images), strict=True):
            torch.testing.assert_close(found, expected)


def test_a_map_that_is_filled_is_exported_with_a_batch_of_any_size():
    model = small_model("tscam", artifacts="fill")

    class Maps(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):
            return self.model.attended_patches(images)[1]

    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(Maps(), (images_for(model, 3),), dynamic_shapes=({0: batch},))
    images = images_for(model, 5)
    torch.testing.assert_close(exported.module()(images), Maps()(images))


def test_a_transformer_that_is_read_as_a_whole_can_be_filled():
    options = {**SMALL, "embed_dim": 48}
    maps = [
        create_model("tscam", "vit_small_patch16_dinov3", 3, False, 48, options, artifacts=each)
        for each in ("keep", "fill")
    ]
    maps[1].load_state_dict(maps[0].state_dict())
    images = torch.randn(2, 3, 48, 48)
    rows = maps[0].backbone(images, rows_of=range(3))[1]
    expected = class_attention_map(rows, maps[0].backbone.prefix_tokens, (3, 3), "fill")
    torch.testing.assert_close(maps[1].attended_patches(images)[1], expected)


@pytest.mark.parametrize("method", MODELS)
@pytest.mark.parametrize("options", [{}, {"artifacts": "keep"}])
def test_a_saved_model_comes_back(method, options, tmp_path):
    model = small_model(method, **options)
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.config == model.config
    assert ("artifacts" in loaded.config) == bool(options)
    images = images_for(model)
    for found, expected in zip(loaded.localize(images), model.localize(images), strict=True):
        assert torch.equal(found, expected)


def test_what_is_kept_of_training_images_depends_on_it_where_it_is_part_of_it():
    assert small_model("scm").feature_options() == {"artifacts": "fill"}
    assert small_model("scm", artifacts="keep").feature_options() == {}
    assert small_model("tscam").feature_options() == {}
