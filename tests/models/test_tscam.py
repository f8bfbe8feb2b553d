"""TS-CAM against the authors' own program, and as a PyTorch citizen."""

import pytest
import torch
from golden_arrays import Golden, golden_files, relative_error

from wsol_ext.checkpoints import load_published
from wsol_ext.models import create_model

SMALL = {"embed_dim": 24, "depth": 3, "num_heads": 3}


def small_model(**options):
    torch.manual_seed(0)
    options = {"num_classes": 5, "img_size": 64, "backbone_options": SMALL, **options}
    return create_model("tscam", "vit_tiny_patch16_224", pretrained=False, **options)


@pytest.fixture(params=golden_files("tscam"))
def golden(request):
    return Golden(request.param)


def test_published_weights_give_the_authors_logits_and_maps(golden):
    model = load_published("tscam", golden.group("state/"), num_heads=3)
    images, every_class = golden["in/images"], torch.arange(model.num_classes)
    with torch.no_grad():
        logits, maps = model.localize(images, every_class.expand(len(images), -1))
    assert relative_error(logits, golden["out/logits"]) < 1e-4
    assert relative_error(maps, golden["out/maps"]) < 1e-4
    with torch.no_grad():
        assert relative_error(model(images), golden["out/logits"]) < 1e-4


def test_training_gives_the_authors_loss_and_every_gradient(golden):
    model = load_published("tscam", golden.group("state/"), num_heads=3).train()
    terms = model.training_loss(golden["in/images"], golden["in/labels"])
    terms["loss"].backward()
    assert terms["loss"].item() == pytest.approx(golden["train/loss"].item(), rel=1e-4)
    assert relative_error(terms["logits"], golden["train/logits"]) < 1e-4
    expected = golden.group("grad/")
    found = {
        name.removeprefix("backbone.vit."): parameter.grad
        for name, parameter in model.named_parameters()
    }
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert relative_error(found[name], gradient) < 1e-3, name


def test_only_the_asked_maps_are_formed_and_they_are_those_of_all_classes():
    model = small_model().eval()
    images = torch.randn(2, 3, 64, 64)
    _, every = model.localize(images, torch.arange(5).expand(2, 5))
    _, asked = model.localize(images, torch.tensor([[3, 0], [1, 1]]))
    assert asked.shape == (2, 2, 4, 4)
    torch.testing.assert_close(asked[0, 0], every[0, 3])
    torch.testing.assert_close(asked[1, 1], every[1, 1])


def test_without_classes_the_top_1_is_localized():
    model = small_model().eval()
    images = torch.randn(3, 3, 64, 64)
    logits, maps = model.localize(images)
    _, expected = model.localize(images, logits.argmax(1, keepdim=True))
    torch.testing.assert_close(maps, expected)


def test_forward_and_localize_agree_on_logits():
    model = small_model().eval()
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(images), model.localize(images)[0])


@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        (torch.tensor([[5]]), ValueError, r"classes hold 5 to 5, they should be in \[0, 5\)"),
        (torch.tensor([[-1]]), ValueError, "classes hold -1"),
        (torch.tensor([1]), ValueError, r"classes have shape \(1,\)"),
        (torch.tensor([[1.0]]), TypeError, "classes have dtype torch.float32"),
    ],
)
def test_classes_that_are_not_there_are_refused(classes, error, message):
    with pytest.raises(error, match=message):
        small_model().localize(torch.randn(1, 3, 64, 64), classes)


def test_compiles_to_one_graph():
    model = small_model().eval()
    images = torch.randn(2, 3, 64, 64)
    compiled = torch.compile(model.localize, fullgraph=True, backend="aot_eager")
    for found, expected in zip(compiled(images), model.localize(images), strict=True):
        torch.testing.assert_close(found, expected)


def test_trains_under_compile_as_without():
    model, images, labels = small_model(), torch.randn(2, 3, 64, 64), torch.tensor([1, 4])
    model.training_loss(images, labels)["loss"].backward()
    expected = model.head.weight.grad.clone()
    model.zero_grad()
    compiled = torch.compile(model.training_loss, fullgraph=True, backend="aot_eager")
    compiled(images, labels)["loss"].backward()
    torch.testing.assert_close(model.head.weight.grad, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_runs_under_autocast(dtype):
    model, images = small_model().eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad(), torch.autocast("cpu", dtype):
        logits, maps = model.localize(images)
    with torch.no_grad():
        expected_logits, expected_maps = model.localize(images, logits.argmax(1, keepdim=True))
    assert relative_error(logits, expected_logits) < 0.05
    assert relative_error(maps, expected_maps) < 0.05


def test_gradient_checkpointing_changes_no_gradient():
    images, labels, grads = torch.randn(2, 3, 64, 64), torch.tensor([1, 4]), []
    for enable in (False, True):
        model = small_model()
        model.set_grad_checkpointing(enable)
        model.training_loss(images, labels)["loss"].backward()
        grads.append(model.backbone.vit.patch_embed.proj.weight.grad)
    torch.testing.assert_close(grads[0], grads[1])
