"""TriLite against its authors' own program, and that it trains its heads alone."""

import pytest
import torch
from golden_arrays import Golden, golden_files, relative_error

from wsol_ext.checkpoints import load_published
from wsol_ext.models import create_model

OURS = {
    "global_classifier": "class_head",
    "triHead.patch_classifier": "region_head",
    "triHead.activation_head": "region_conv",
    "triHead.bn_head": "region_norm",
}


@pytest.fixture(params=golden_files("trilite"))
def golden(request):
    return Golden(request.param)


def published(golden):
    state = golden.group("state/")
    return load_published("trilite", state, num_heads=3, class_dropout=0.0, region_dropout=0.0)


# Positions are stored for 4 x 4 patches; the large images have 6 x 6.
@pytest.mark.parametrize(("record", "images"), [("out", "images"), ("large", "large_images")])
def test_published_weights_give_the_authors_logits_regions_and_map_at_both_sizes(
    golden, record, images
):
    model = published(golden)
    with torch.no_grad():
        found = model.regions(model.features(golden[f"in/{images}"]))
        logits, maps = model.localize(golden[f"in/{images}"])
    for name, value in {
        "logits": found.logits,
        "region_logits": found.scores,
        "foreground_logits": found.foreground_logits,
        "background_logits": found.background_logits,
        "map": found.maps,
    }.items():
        assert relative_error(value, golden[f"{record}/{name}"]) < 1e-4, name
    assert torch.equal(logits, found.logits)
    assert torch.equal(maps[:, 0], found.maps)


def test_training_gives_the_authors_losses_statistics_and_every_gradient(golden):
    model = published(golden).train()
    terms = model.training_loss(golden["in/images"], golden["in/labels"])
    terms["loss"].backward()
    for name, expected, weight in (
        ("loss", "loss", 1),
        ("cross_entropy", "loss_class", 1),
        ("foreground", "loss_foreground", 1),
        ("background", "loss_background", 100),
    ):
        found = terms[name].item() / weight
        assert found == pytest.approx(golden[f"train/{expected}"].item(), rel=1e-4), name
    assert relative_error(model.region_norm.running_mean, golden["train/running_mean"]) < 1e-4
    assert relative_error(model.region_norm.running_var, golden["train/running_var"]) < 1e-4
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    expected = {our_name(name): gradient for name, gradient in golden.group("grad/").items()}
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        assert relative_error(gradients[name], gradient) < 1e-3, name


def our_name(theirs):
    for their_layer, our_layer in OURS.items():
        theirs = theirs.replace(their_layer, our_layer)
    return theirs


def test_under_a_million_weights_are_trained_and_the_backbone_stays_in_evaluation_mode():
    model = create_model("trilite", "vit_small_patch14_dinov2", 200, pretrained=False).train()
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) < 1_000_000
    assert not any(module.training for module in model.backbone.modules())
    assert model.region_norm.training
    assert model.img_size == 448


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -1.0}, "alpha is -1.0, it should be 0 or more"),
        ({"class_dropout": 1.0}, r"class_dropout is 1.0, it should be in \[0, 1\)"),
        ({"region_dropout": -0.1}, "region_dropout is -0.1"),
        ({"class_lr": 0.0}, "class_lr is 0.0, it should be above 0"),
    ],
)
def test_options_outside_their_ranges_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        create_model("trilite", "vit_tiny_patch16_224", 3, False, 32, {"depth": 1}, **options)
