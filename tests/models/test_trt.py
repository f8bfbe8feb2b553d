"""TRT: what its stages hand on and freeze, and what its options refuse."""

import pytest
import torch
from torch.nn import functional as F

from wsol_ext import create_model
from wsol_ext.checkpoints import initialize_from, load_model, save_model

SMALL = {"embed_dim": 24, "depth": 4, "num_heads": 3, "drop_path_rate": 0.1}


def trt(stage, num_classes=5, backbone_options=None, **options):
    return create_model(
        "trt",
        "vit_tiny_patch16_224",
        num_classes,
        pretrained=False,
        img_size=64,
        backbone_options={**SMALL, **(backbone_options or {})},
        stage=stage,
        **options,
    )


def test_stage_2_takes_over_stage_1_and_starts_its_branch_from_the_last_block():
    first, second = trt(1), trt(2)
    second.continue_from(first)
    weights = second.state_dict()
    for name, weight in first.state_dict().items():
        assert torch.equal(weights[name], weight), name
    for name, weight in first.backbone.vit.blocks[-1].state_dict().items():
        assert torch.equal(weights[f"cam_block.{name}"], weight), name
    for name, weight in first.backbone.vit.norm.state_dict().items():
        assert torch.equal(weights[f"cam_norm.{name}"], weight), name
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(second.eval()(images), first.eval()(images))


def test_the_branch_can_start_from_what_stage_1_began_with(tmp_path):
    first = trt(1, branch_from="pretrained")
    begun = {name: w.clone() for name, w in first.backbone.vit.blocks[-1].state_dict().items()}
    trained = [p for p in first.parameters() if p.requires_grad]
    first.training_loss(torch.randn(2, 3, 64, 64), torch.tensor([0, 1]))["loss"].backward()
    assert {id(p) for p in trained} == {id(p) for p in first.parameters() if p.grad is not None}
    torch.optim.AdamW(trained, lr=0.1).step()
    save_model(first, tmp_path / "stage1.safetensors")

    second = trt(2, branch_from="pretrained")
    second.continue_from(load_model(tmp_path / "stage1.safetensors"))
    for name, weight in second.cam_block.state_dict().items():
        assert torch.equal(weight, begun[name]), name
        assert not torch.equal(weight, first.backbone.vit.blocks[-1].state_dict()[name]), name
    assert torch.equal(second.cam_norm.weight, torch.ones(24))
    assert not torch.equal(first.backbone.vit.norm.weight, torch.ones(24))
    assert all(p.requires_grad for n, p in second.named_parameters() if n.startswith("cam_"))


def test_weights_to_start_from_are_those_that_the_branch_starts_from(tmp_path):
    save_model(trt(1), tmp_path / "other.safetensors")
    model = trt(1, branch_from="pretrained")
    initialize_from(model, tmp_path / "other.safetensors")
    for name, weight in model.backbone.vit.blocks[-1].state_dict().items():
        assert torch.equal(model.cam_block.state_dict()[name], weight), name


def test_the_score_block_starts_from_the_last_backbone_block():
    model = trt(1)
    for name, weight in model.backbone.vit.blocks[-1].state_dict().items():
        assert torch.equal(model.score_block.state_dict()[name], weight), name


def test_stage_2_trains_its_branch_alone():
    model = trt(2)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in model.named_parameters() if n.startswith("cam_")}
    model.train()
    training = {name.split(".")[0] for name, m in model.named_modules() if name and m.training}
    assert training == {"cam_block", "cam_norm", "cam_head"}
    model.training_loss(torch.randn(2, 3, 64, 64), torch.tensor([0, 1]))["loss"].backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name in trained), name


def test_stage_2_leaves_what_it_froze_bit_identical():
    model = trt(2)
    frozen = {n: t.clone() for n, t in model.state_dict().items() if not n.startswith("cam_")}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model.train().training_loss(torch.randn(2, 3, 64, 64), torch.tensor([0, 1]))[
            "loss"
        ].backward()
        optimizer.step()
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in frozen.items())


def test_the_map_keeps_the_attention_mass_and_hands_out_what_the_kept_patches_hold():
    model = trt(1, mass=0.5).eval()
    images = torch.randn(2, 3, 64, 64)
    first = model._classify(images)
    _, maps = model.localize(images)
    flat = maps[:, 0].flatten(1)
    torch.testing.assert_close(flat.sum(1), torch.ones(2))
    assert first.keep.any(1).all()
    assert torch.equal(flat[~first.keep], first.attention[~first.keep])
    held = (first.attention * first.keep).sum(1, keepdim=True)
    expected = (held * first.weights / first.weights.sum(1, keepdim=True))[first.keep]
    torch.testing.assert_close(flat[first.keep], expected)


def test_where_one_patch_holds_more_than_the_mass_nothing_is_kept_and_the_map_is_the_attention():
    model = trt(1, mass=1e-3).eval()  # in training, each pass drops paths of its own
    images = torch.randn(2, 3, 64, 64)
    first = model._classify(images)
    assert not first.keep.any()
    _, maps = model.localize(images)
    torch.testing.assert_close(maps[:, 0].flatten(1), first.attention)
    loss = model.train().training_loss(images, torch.tensor([0, 1]))["loss"]
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_stage_2_loss_is_the_cross_entropy_of_the_mean_class_maps():
    model, images = trt(2).eval(), torch.randn(2, 3, 64, 64)
    tokens = model.backbone.embed(images)
    for index in range(2):  # the branch reads what the last two blocks have not seen
        tokens = model.backbone.run_block(index, tokens)
    patches = model.cam_norm(model.cam_block(tokens))[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    logits = F.conv2d(patches, model.cam_head.weight, model.cam_head.bias, padding=1).mean((2, 3))
    terms = model.training_loss(images, torch.tensor([3, 1]))
    torch.testing.assert_close(terms["logits"], logits.detach())
    torch.testing.assert_close(terms["loss"], F.cross_entropy(logits, torch.tensor([3, 1])))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stage": 3}, "stage is 3, it should be 1 or 2"),
        ({"stage": 1, "mass": 0.0}, r"mass is 0.0, it should be in \(0, 1\]"),
        ({"stage": 1, "mass": 1.5}, "mass is 1.5"),
        ({"stage": 1, "branch_from": "pretraind"}, "branch_from is 'pretraind'.*pretrained"),
        ({"stage": 1, "backbone_options": {"depth": 1}}, "has 1 block, trt needs at least 2"),
        (
            {"stage": 1, "backbone_options": {"attn_drop_rate": 0.1}},
            "attention dropout of 0.1, it should be 0 for trt",
        ),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        trt(**options)


def test_a_stage_continues_only_from_the_one_before_and_of_its_sizes():
    with pytest.raises(ValueError, match="stage 2 continues from one of stage 1"):
        trt(1).continue_from(trt(1))
    with pytest.raises(ValueError, match="stage 2 continues from one of stage 1"):
        trt(2).continue_from(trt(2))
    with pytest.raises(ValueError, match="branch_from is 'pretrained', it should be 'stage1', as"):
        trt(2, branch_from="pretrained").continue_from(trt(1))
    with pytest.raises(ValueError, match="of other sizes: head.bias; head.weight"):
        trt(2).continue_from(trt(1, num_classes=6))
