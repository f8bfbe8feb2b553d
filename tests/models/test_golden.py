"""Every method against the authors' own program: outputs, losses, and the gradient of every parameter."""

import pytest
import torch
from golden_arrays import Golden, golden_files, relative_error

from wsol_ext.checkpoints import load_published
from wsol_ext.models import create_model
from wsol_ext.ops import adaptive_token_mask

METHODS = {
    "tscam": ("tscam", {}),
    "trt": ("trt", {"mass": 0.6}),
    "trt_fuse": ("trt", {"mass": 0.6}),
    "scm": ("scm", {}),
    "sat": ("sat", {"area": 0.25}),
}

# The authors' gradients are exact to 1e-15 of the largest; what is smaller there is rounding.
_VANISHES = 1e-12


@pytest.fixture(
    params=[
        pytest.param((name, *path.values), id=f"{name}-{path.id}", marks=path.marks)
        for name in METHODS
        for path in golden_files(name)
    ]
)
def case(request):
    name, path = request.param
    golden = Golden(path)
    method, options = METHODS[name]
    model = load_published(method, golden.group("state/"), num_heads=3, **options)
    return name, golden, model


def every_map(model, images):
    with torch.no_grad():
        return model.localize(images, torch.arange(model.num_classes).expand(len(images), -1))


def our_name(name):
    """The name we give a parameter of the golden record."""
    for theirs, ours in (
        ("camfuse_block.cam_tr.", "cam_block."),
        ("camfuse_block.", ""),
        ("score_layer.", "score_block."),
        ("loc_", "spatial_"),
    ):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    name = name.replace(".fuse._loss_rate", ".strength").replace(".thred", ".threshold")
    own = ("head.", "score_norm.", "score_head.", "layers.")
    return name if name.startswith(own) else f"backbone.vit.{name}"


def test_published_weights_give_the_authors_logits_and_maps(case):
    _, golden, model = case
    logits, maps = every_map(model, golden["in/images"])
    expected = golden["out/maps"]
    if expected.dim() == 3:  # one map, whatever the class
        expected = expected.unsqueeze(1).expand_as(maps)
    assert relative_error(logits, golden["out/logits"]) < 1e-4
    assert relative_error(maps, expected) < 1e-4
    with torch.no_grad():
        assert relative_error(model(golden["in/images"]), golden["out/logits"]) < 1e-4


def test_training_gives_the_authors_loss_and_every_gradient(case):
    _, golden, model = case
    model.train().requires_grad_(True)  # the record has the gradients of what stage 2 freezes, too
    terms = model.training_loss(golden["in/images"], golden["in/labels"])
    terms["loss"].backward()
    assert terms["loss"].item() == pytest.approx(golden["train/loss"].item(), rel=1e-4)
    assert relative_error(terms["logits"], golden["train/logits"]) < 1e-4
    expected = {our_name(name): gradient for name, gradient in golden.group("grad/").items()}
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    largest = max(float(gradient.norm()) for gradient in expected.values())
    for name, gradient in expected.items():
        if float(gradient.norm()) < _VANISHES * largest:
            assert float(found[name].norm()) < 1e-6 * largest, name
        else:
            assert relative_error(found[name], gradient) < 1e-3, name


@pytest.mark.parametrize("path", golden_files("sat"))
def test_sat_gives_the_authors_three_loss_terms(path):
    golden = Golden(path)
    model = load_published("sat", golden.group("state/"), num_heads=3, area=0.25).train()
    terms = model.training_loss(golden["in/images"], golden["in/labels"])
    area = (golden["train/area"].mean() - 0.25).abs().item()
    normalization = golden["train/norm"].mean().item()
    cross_entropy = golden["train/loss"].item() - area - normalization
    assert terms["area"].item() == pytest.approx(area, rel=1e-4)
    assert terms["normalization"].item() == pytest.approx(normalization, rel=1e-4)
    assert terms["cross_entropy"].item() == pytest.approx(cross_entropy, rel=1e-4)


@pytest.mark.parametrize("path", golden_files("trt_fuse"))
def test_trt_gives_the_authors_token_mask_context_map_and_class_maps(path):
    golden = Golden(path)
    model = load_published("trt", golden.group("state/"), num_heads=3, mass=0.6)
    images = golden["in/images"]
    with torch.no_grad():
        grid = model.backbone.grid(images)
        first = model._classify(images)
        patches = model._branch(first.branch_tokens, grid)
        classes = torch.arange(model.num_classes).expand(len(images), -1)
        cam, cam_logits = model.cam_head.maps(patches, classes), model.cam_head.logits(patches)
    assert torch.equal(first.keep, golden["out/token_mask"].bool())
    assert torch.equal(first.keep, adaptive_token_mask(first.attention, 0.6))
    assert relative_error(cam, golden["out/cam"]) < 1e-4
    assert relative_error(cam_logits, golden["out/cam_logits"]) < 1e-4
    _, maps = every_map(model, images)
    context = golden["out/context_map"].unsqueeze(1)
    assert relative_error(maps, context * golden["out/cam"]) < 1e-4


def test_a_published_checkpoint_of_either_stage_loads_as_that_stage():
    for name, stage in (("trt", 1), ("trt_fuse", 2)):
        small = golden_files(name)[0].values[0]
        state = Golden(small).group("state/")
        model = load_published("trt", {f"module.{n}": w for n, w in state.items()}, num_heads=3)
        assert model.stage == model.config["stage"] == stage


@pytest.mark.parametrize("share_weights", [False, True])
@pytest.mark.parametrize("path", golden_files("tscam"))
def test_a_level_of_molt_is_tscam(path, share_weights):
    golden = Golden(path)
    tscam = load_published("tscam", golden.group("state/"), num_heads=3)
    sizes = {name: value for name, value in tscam.config.items() if name != "method"}
    side = sizes.pop("img_size")
    molt = create_model(
        "molt",
        **sizes,
        pretrained=False,
        img_size=2 * side if share_weights else side,
        pyramid=[side, 2 * side] if share_weights else [side],
        share_weights=share_weights,
        clusters=None,
    ).eval()
    molt.transformers[0].load_state_dict(tscam.state_dict())
    classes = torch.arange(tscam.num_classes).expand(len(golden["in/images"]), -1)
    with torch.no_grad():
        logits, maps = molt.transformers[0].localize(golden["in/images"], classes)
        if not share_weights:
            found = molt.localize_parts(golden["in/images"], classes)
            assert torch.equal(found.parts[str(side)].maps, maps)
            torch.testing.assert_close(found.whole.logits, logits.log_softmax(dim=1))
    assert relative_error(logits, golden["out/logits"]) < 1e-4
    assert relative_error(maps, golden["out/maps"]) < 1e-4
