"""Maps of attention on the grid of patches, of the models of four libraries."""

import pytest
import timm
import torch
import transformers
from attention.networks import NETWORKS, network

from wsol_ext import attention_map
from wsol_ext.attention import patch_attention

ROLLS = [name for name in NETWORKS if name not in ("timm xcit", "timm cait")]


def asked(known, matrix):
    """Rows (B, H, N) of a matrix (B, H, L, N): of the class token or a pool, else of the mean patch query."""
    if known.has_class_token or matrix.size(2) == 1:
        return matrix[:, :, 0]
    return matrix[:, :, known.prefix_tokens :].log().mean(dim=2).softmax(dim=-1)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_map_is_the_last_row_without_what_comes_before_the_patches(name):
    known, (model, images) = NETWORKS[name], network(name)
    with torch.no_grad():
        found = attention_map(model, images)
        by_heads = attention_map(model, images, layers=[0, -1], average=False)
        matrices = known.matrices(model, images)
    rows = [asked(known, matrix)[..., known.prefix_tokens :] for matrix in matrices]
    torch.testing.assert_close(
        found, rows[-1].mean(dim=1).unflatten(-1, known.grid), rtol=0, atol=1e-6
    )
    if rows[0].shape == rows[-1].shape:
        both = (rows[0] + rows[-1]).unflatten(-1, known.grid)
        torch.testing.assert_close(by_heads, both, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ROLLS)
def test_rollout_is_the_product_of_the_matrices_with_their_identities(name):
    known, (model, images) = NETWORKS[name], network(name)
    with torch.no_grad():
        found = attention_map(model, images, rollout=True)
        *blocks, last = (matrix.mean(dim=1) for matrix in known.matrices(model, images))
    product = last
    if not known.pooled:
        blocks.append(last)
        product = torch.eye(last.size(-1), dtype=last.dtype).expand_as(last)
    for matrix in reversed(blocks):
        product = product @ (matrix + torch.eye(matrix.size(-1), dtype=matrix.dtype)) / 2
    asking = product[:, 0]
    if not (known.pooled or known.has_class_token):
        asking = product[:, known.prefix_tokens :].mean(dim=1)
    expected = asking[:, known.prefix_tokens :].unflatten(-1, known.grid)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_rollout_takes_many_tokens_in_parts_and_is_differentiable():
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=144, depth=2, embed_dim=24, num_heads=2
    )
    images = torch.randn(1, 3, 144, 144, requires_grad=True)
    found = attention_map(model.eval(), images, rollout=True)
    assert found.shape == (1, 9, 9)
    (grad,) = torch.autograd.grad(found[0, 4, 4], images)
    assert grad.abs().sum() > 0


def test_images_that_are_not_square_and_arguments_of_the_model():
    config = transformers.ViTConfig(
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=48,
    )
    model = transformers.ViTModel(config).eval()
    images = torch.randn(1, 3, 32, 64)
    assert attention_map(model, images, interpolate_pos_encoding=True).shape == (1, 2, 4)


def test_queries_of_ones_own():
    model, images = network("timm dinov3")
    with torch.no_grad():
        one = attention_map(model, images, queries=7)
        several = attention_map(model, images, queries=[0, 7])
    assert several.shape == (2, 2, 3, 3)
    torch.testing.assert_close(several[:, 1], one)


# --- where the patches are


class Tokens(torch.nn.Module):
    """Patches, the tokens beside them as `arrange` has it, and two blocks of attention."""

    def __init__(self, arrange, **tokens):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.arrange = torch.nn.Conv2d(3, 8, 4, 4), arrange
        self.qkv = torch.nn.ModuleList(torch.nn.Linear(8, 24) for _ in range(2))
        for name, count in tokens.items():
            setattr(self, name, torch.nn.Parameter(torch.randn(1, count, 8)))

    def forward(self, images, matrices=None):
        x = self.arrange(self, self.embed(images).flatten(2).mT)
        for layer in self.qkv:
            q, k, v = (each.unsqueeze(1) for each in layer(x).chunk(3, dim=-1))
            if matrices is not None:
                matrices.append((8**-0.5 * q @ k.mT).softmax(dim=-1)[:, 0])
            x = x + torch.nn.functional.scaled_dot_product_attention(q, k, v)[:, 0]
        return x


IMAGES = torch.linspace(-1, 1, 2 * 3 * 8 * 12).sin().reshape(2, 3, 8, 12)


def beside(*names):
    """Tokens in this order, `x` the patches."""

    def arrange(model, x):
        parts = {
            "x": x,
            **{name: value.expand(2, -1, -1) for name, value in model._parameters.items()},
        }
        return torch.cat([parts[name] for name in names], dim=1)

    return arrange


def test_tokens_behind_the_patches_are_no_prefix():
    model = Tokens(beside("cls_token", "x", "detections"), cls_token=1, detections=5)
    matrices = []
    with torch.no_grad():
        found = attention_map(model, IMAGES)
        of_mean = attention_map(model, IMAGES, queries="mean")
        rolled = attention_map(model, IMAGES, queries="mean", rollout=True)
        model(IMAGES, matrices)
    first, last = matrices
    eye = torch.eye(12)
    grid = (2, 3)
    mean = last[:, 1:7].log().mean(dim=1).softmax(dim=-1)
    product = ((last + eye) @ (first + eye))[:, 1:7].mean(dim=1) / 4
    for value, row in ((found, last[:, 0]), (of_mean, mean), (rolled, product)):
        torch.testing.assert_close(value, row[:, 1:7].unflatten(-1, grid))


def test_a_class_token_behind_the_patches():
    model, matrices = Tokens(beside("x", "cls_token"), cls_token=1), []
    with torch.no_grad():
        found = attention_map(model, IMAGES, queries=-1)
        model(IMAGES, matrices)
    torch.testing.assert_close(found, matrices[-1][:, -1, :6].unflatten(-1, (2, 3)))


@pytest.mark.parametrize("name", ["cls", "cls_tok", "classtoken", "global_token", "cls_token_0"])
def test_a_class_token_by_any_of_its_names_asks(name):
    model, matrices = Tokens(beside(name, "x"), **{name: 1}), []
    with torch.no_grad():
        found = attention_map(model, IMAGES)
        model(IMAGES, matrices)
    torch.testing.assert_close(found, matrices[-1][:, 0, 1:].unflatten(-1, (2, 3)))


def test_whose_attention_it_is_where_no_name_tells_is_asked_for():
    for arrange, tokens in (
        (beside("memory", "x"), {"memory": 2}),
        (beside("x", "cls_token"), {"cls_token": 1}),
    ):
        model = Tokens(arrange, **tokens)
        with pytest.raises(ValueError, match="`queries` should be 'class'"):
            attention_map(model, IMAGES)
        assert attention_map(model, IMAGES, queries="mean").shape == (2, 2, 3)
    for rollout in (False, True):
        with pytest.raises(ValueError, match="no token stands before the patches"):
            attention_map(model, IMAGES, queries="class", rollout=rollout)


def test_detection_tokens_of_yolos():
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.YolosConfig(
        **sizes, intermediate_size=24, image_size=[32, 48], num_detection_tokens=5
    )
    model = transformers.YolosModel(config).eval()
    images = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        found = attention_map(model, images)
        model.set_attn_implementation("eager")
        last = model(images, output_attentions=True).attentions[-1].mean(dim=1)
    torch.testing.assert_close(found, last[:, 0, 1:7].unflatten(-1, (2, 3)))


def test_patches_that_are_lost_sight_of_are_asked_for():
    def assign(model, x):
        made = torch.empty(2, 8, 8)
        made[:, :2], made[:, 2:] = model.cls_token, x
        return made

    model, matrices = Tokens(assign, cls_token=2), []
    with pytest.raises(ValueError, match="over 8 tokens.* `prefix_tokens` should say"):
        attention_map(model, IMAGES)
    with pytest.raises(ValueError, match="prefix_tokens is 3, of 8 tokens"):
        attention_map(model, IMAGES, prefix_tokens=3)
    with torch.no_grad():
        found = attention_map(model, IMAGES, prefix_tokens=2)
        model(IMAGES, matrices)
    torch.testing.assert_close(found, matrices[-1][:, 0, 2:].unflatten(-1, (2, 3)))


# --- patch_attention


def test_patch_attention_adds_rows_up_and_drops_what_comes_first():
    rows = torch.arange(2 * 3 * 8.0).reshape(2, 3, 8)
    found = patch_attention(rows, 2, (2, 3))
    assert torch.equal(found, rows.sum(dim=0)[:, 2:].reshape(3, 2, 3))
    for wrong in ([], [torch.ones(1, 7)], [torch.ones(1, 8), torch.ones(1, 9)]):
        with pytest.raises(
            ValueError, match="they should have 8, and there should be at least one"
        ):
            patch_attention(wrong, 2, (2, 3))


# --- what is refused


class LinearPatches(torch.nn.Module):
    """Patches without a convolution, and one attention over them."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Linear(48, 8)

    def forward(self, images):
        patches = (
            images.unfold(2, 4, 4)
            .unfold(3, 4, 4)
            .permute(0, 2, 3, 1, 4, 5)
            .flatten(3)
            .flatten(1, 2)
        )
        tokens = self.embed(patches).unsqueeze(1)
        return torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)


def test_a_grid_that_no_convolution_tells_is_asked_for():
    images = torch.randn(2, 3, 8, 12)
    with pytest.raises(ValueError, match="LinearPatches makes its patches without a convolution"):
        attention_map(LinearPatches(), images)
    assert attention_map(LinearPatches(), images, grid=(2, 3)).shape == (2, 2, 3)


def test_models_without_attention_over_all_patches_are_refused_in_words():
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224", depths=(1, 1), num_heads=(1, 1), embed_dim=8
    )
    with torch.no_grad(), pytest.raises(RuntimeError, match="Swin, MViT and others"):
        attention_map(swin.eval(), torch.zeros(1, 3, 224, 224))
    eager, images = network("transformers ViT")
    eager.set_attn_implementation("eager")
    with pytest.raises(RuntimeError, match='set_attn_implementation\\("sdpa"\\)'):
        attention_map(eager, images)


PYRAMIDS = {
    "pit_ti_224": {"base_dims": (8, 8, 8), "depth": (1, 1, 1), "heads": (1, 1, 1)},
    "tiny_vit_5m_224": {"embed_dims": (8,) * 4, "depths": (1,) * 4, "num_heads": (1,) * 4},
    "davit_tiny": {"embed_dims": (8,) * 4, "depths": (1,) * 4, "num_heads": (1,) * 4},
    "crossvit_tiny_240": {"embed_dim": (8, 8), "num_heads": (1, 1), "depth": ((1, 1, 0),)},
    "pvt_v2_b0": {"embed_dims": (8,) * 4, "depths": (1,) * 4, "num_heads": (1,) * 4},
}


@pytest.mark.parametrize("name", PYRAMIDS)
def test_pyramids_and_branches_give_no_map_of_some_of_their_layers(name):
    side = 240 if "240" in name else 224
    model = timm.create_model(name, **PYRAMIDS[name]).eval()
    images = torch.randn(1, 3, side, side)
    words = "no one grid" if "crossvit" in name else "pyramids, branches|within windows|queries for"
    with torch.no_grad():
        with pytest.raises(ValueError, match=words):
            attention_map(model, images, rollout=True)
        if name not in (
            "davit_tiny",
            "nextvit_small",
            "pvt_v2_b0",
        ):  # their last attention is over its 7 x 7
            with pytest.raises(ValueError, match=words):
                attention_map(model, images)


def test_a_layer_over_the_patches_may_be_chosen_of_a_pyramid():
    model = timm.create_model("pit_ti_224", **PYRAMIDS["pit_ti_224"]).eval()
    with torch.no_grad():
        assert attention_map(model, torch.randn(1, 3, 224, 224), layers=[0]).shape == (1, 27, 27)


def test_attention_over_a_part_of_the_patches_is_told_from_none():
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    masked = transformers.ViTMAEModel(
        transformers.ViTMAEConfig(**sizes, intermediate_size=24)
    ).eval()
    nest = timm.models.Nest(
        img_size=32, embed_dims=(8,) * 3, num_heads=(1,) * 3, depths=(1,) * 3
    ).eval()
    images = torch.zeros(1, 3, 224, 224)
    with torch.no_grad():
        with pytest.raises(ValueError, match="over 50 tokens, not over all of its 14 x 14 patches"):
            attention_map(masked, images)
        with pytest.raises(ValueError, match=r"queries of shape \(1, 1, 16, 4, 8\)"):
            attention_map(nest, images[..., :32, :32])


@pytest.mark.parametrize("name", ["timm xcit", "timm cait"])
def test_rollout_is_refused_where_blocks_have_no_such_attention(name):
    model, images = network(name)
    with pytest.raises(ValueError, match="rollout needs blocks in which all 10 tokens attend"):
        attention_map(model, images, rollout=True)


def test_mistaken_arguments_are_named():
    model, images = network("timm deit")
    for given, keywords, error, words in (
        ((images, images), {}, TypeError, "model is a Tensor"),
        ((model, images[0]), {}, TypeError, "images are .* they should be a float tensor"),
        ((model, images.int()), {}, TypeError, "images are .*int32"),
        ((model, images), {"rollout": True, "queries": 3}, ValueError, "rollout goes through all"),
        ((model, images), {"queries": "clas"}, ValueError, "did you mean class"),
        ((model, images), {"grid": 3}, TypeError, r"grid is 3, .* such as \(14, 14\)"),
        ((model, images), {"grid": (3, 0)}, TypeError, r"grid is \(3, 0\)"),
        ((model, images), {"layers": []}, ValueError, "layers is empty"),
        ((model, images), {"rollout": True, "layers": None}, ValueError, "rollout goes through"),
        (network("timm siglip"), {"queries": 3}, ValueError, r"one query, as a pool .*\[-2\]"),
        ((model, images), {"layers": [5]}, ValueError, "layers has 5, of 2 calls"),
    ):
        with pytest.raises(error, match=words):
            attention_map(*given, **keywords)


def test_dropout_and_a_grid_that_cannot_be():
    vit = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=64, attn_drop_rate=0.1)
    images = torch.randn(2, 3, 64, 64)
    with pytest.raises(ValueError, match="before_dropout=True"):
        attention_map(vit, images)
    assert attention_map(vit, images, before_dropout=True).shape == (2, 4, 4)
    with pytest.raises(ValueError, match="grid is 2 x 2, but attention is over 17 tokens"):
        attention_map(vit.eval(), images, grid=(2, 2))


def test_compiled_models_are_refused():
    compiled = torch.compile(Tokens(beside("cls", "x"), cls=1), backend="eager")
    with pytest.raises(RuntimeError, match="does not work under torch.compile.*_orig_mod"):
        attention_map(compiled, IMAGES)
