"""What every localization method does alike, as a PyTorch citizen and as `LocalizationModel` says."""

from contextlib import contextmanager

import pytest
import torch
from golden_arrays import relative_error

from wsol_ext.checkpoints import load_model, save_model
from wsol_ext.models import METHODS, TRT, TSCAM, create_model

SMALL = {"embed_dim": 24, "depth": 3, "num_heads": 3}
SHALLOW = {**SMALL, "depth": 1}
MODELS = {
    "tscam": ("tscam", {}),
    "trt, stage 1": ("trt", {"stage": 1}),
    "trt, stage 2": ("trt", {"stage": 2}),
    "scm": ("scm", {}),
    "sat": ("sat", {}),
    "trilite": ("trilite", {"class_dropout": 0.0, "region_dropout": 0.0}),
    "molt": ("molt", {"clusters": None}),
    "molt, shared weights": ("molt", {"clusters": None, "share_weights": True}),
}
GRAPHS = [each for each in MODELS if "shared" not in each]  # which has that of its own weights


@pytest.fixture(params=MODELS)
def small_model(request):
    """Makes a small model of the method, the same at every call."""
    method, method_options = MODELS[request.param]

    def make(**options):
        torch.manual_seed(0)
        options = {"num_classes": 5, "img_size": 64, "backbone_options": SMALL, **options}
        if options["backbone_options"] is SHALLOW and method == "trt":
            options["backbone_options"] = {**SMALL, "depth": 2}  # the least it takes
        if method == "molt":  # two levels do what more do
            options["pyramid"] = [options["img_size"] // 2, options["img_size"]]
        return create_model(
            method, "vit_tiny_patch16_224", pretrained=False, **options, **method_options
        )

    return make


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_all_methods_are_here():
    assert {method for method, _ in MODELS.values()} == METHODS.keys()


def test_only_the_asked_maps_are_formed_and_they_are_those_of_all_classes(small_model):
    model = small_model().eval()
    images = torch.randn(2, 3, 64, 64)
    _, every = model.localize(images, torch.arange(5).expand(2, 5))
    _, asked = model.localize(images, torch.tensor([[3, 0], [1, 1]]))
    assert asked.shape == (2, 2, 4, 4)
    torch.testing.assert_close(asked[0, 0], every[0, 3])
    torch.testing.assert_close(asked[1, 1], every[1, 1])


def test_without_classes_the_top_1_is_localized(small_model):
    model = small_model().eval()
    images = torch.randn(3, 3, 64, 64)
    logits, maps = model.localize(images)
    _, expected = model.localize(images, logits.argmax(1, keepdim=True))
    torch.testing.assert_close(maps, expected)


def test_forward_and_localize_agree_on_logits(small_model):
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
        ([[1]], TypeError, r"classes are of type list, they should be an int64 tensor \(B, K\)"),
    ],
)
def test_classes_that_are_not_there_are_refused(small_model, classes, error, message):
    with pytest.raises(error, match=message):
        small_model().localize(torch.randn(1, 3, 64, 64), classes)


def test_labels_that_are_not_there_are_refused(small_model):
    model, images = small_model(backbone_options=SHALLOW), torch.randn(2, 3, 64, 64)
    for labels, error, message in (
        (torch.tensor([0, 5]), ValueError, r"labels hold 0 to 5, they should be in \[0, 5\)"),
        (torch.tensor([0]), ValueError, r"labels have shape \(1,\), they should be \(2,\)"),
        (torch.tensor([0.0, 1.0]), TypeError, "labels are torch.float32, they should be an int64"),
        ([0, 1], TypeError, "labels are list, they should be an int64 tensor"),
    ):
        with pytest.raises(error, match=message):
            model.training_loss(images, labels)


def compiled(function, backend):
    """A function compiled for inputs of every size, to a graph without breaks."""
    torch._dynamo.reset()  # what other tests compiled of the same function
    return torch.compile(function, fullgraph=True, dynamic=True, backend=backend)


@contextmanager
def nothing_compiled():
    torch.compiler.set_stance("fail_on_recompile")
    try:
        yield
    finally:
        torch.compiler.set_stance("default")


@pytest.mark.parametrize("small_model", GRAPHS, indirect=True)
def test_compiles_once_for_batches_and_images_of_every_size(small_model):
    model = small_model(backbone_options=SHALLOW).eval()
    localize = compiled(model.localize, "eager")

    def compare(batch, *size):
        images, classes = torch.randn(batch, 3, *size), torch.randint(5, (batch, 2))
        expected = model.localize(images, classes)
        for found, each in zip(localize(images, classes), expected, strict=True):
            torch.testing.assert_close(found, each)

    with torch.no_grad():
        compare(4, 64, 160)
        with nothing_compiled():
            compare(3, 96, 128)
            compare(5, 160, 96)


@pytest.mark.parametrize("small_model", GRAPHS, indirect=True)
def test_the_top_1_compiles_to_one_graph(small_model):
    model = small_model(backbone_options=SHALLOW).eval()
    images = torch.randn(2, 3, 64, 64)
    localize = torch.compile(model.localize, fullgraph=True, backend="eager")
    for found, expected in zip(localize(images), model.localize(images), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("small_model", GRAPHS, indirect=True)
def test_trains_under_compile_as_without_for_batches_of_every_size(small_model):
    model = small_model(backbone_options=SHALLOW)
    training_loss = compiled(model.training_loss, "aot_eager")

    def compare(batch):
        images, labels = torch.randn(batch, 3, 64, 64), torch.randint(5, (batch,))
        model.zero_grad()
        model.training_loss(images, labels)["loss"].backward()
        expected = gradients(model)
        model.zero_grad()
        training_loss(images, labels)["loss"].backward()
        found = gradients(model)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, msg=name)

    compare(4)  # not 3, as many as there are channels, which torch would take for a rule
    with nothing_compiled():
        compare(2)


def test_a_compiled_model_refuses_classes_that_are_not_there():
    model = create_model("tscam", "vit_tiny_patch16_224", 5, False, 64, SHALLOW).eval()
    localize = torch.compile(model.localize, fullgraph=True, backend="aot_eager")
    for classes in ([[5]], [[-1]]):
        with pytest.raises(RuntimeError, match=r"classes should be in \[0, 5\)"):
            localize(torch.randn(1, 3, 64, 64), torch.tensor(classes))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_runs_under_autocast(small_model, dtype):
    model, images = small_model().eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad(), torch.autocast("cpu", dtype):
        logits, maps = model.localize(images)
    with torch.no_grad():
        expected_logits, expected_maps = model.localize(images, logits.argmax(1, keepdim=True))
    assert relative_error(logits, expected_logits) < 0.05
    assert relative_error(maps, expected_maps) < 0.05


def test_gradient_checkpointing_changes_no_gradient(small_model):
    images, labels, grads = torch.randn(2, 3, 64, 64), torch.tensor([1, 4]), []
    for enable in (False, True):
        model = small_model()
        model.set_grad_checkpointing(enable)
        model.training_loss(images, labels)["loss"].backward()
        grads.append(gradients(model))
    assert grads[0].keys() == grads[1].keys()
    for name, gradient in grads[0].items():
        torch.testing.assert_close(grads[1][name], gradient, msg=name)


def test_images_of_another_size_and_aspect_give_maps_of_their_grid(small_model):
    model = small_model().eval()
    logits, maps = model.localize(torch.randn(2, 3, 32, 96), torch.tensor([[0, 1], [2, 3]]))
    assert logits.shape == (2, 5)
    assert maps.shape == (2, 2, 2, 6)
    assert maps.isfinite().all()


@pytest.mark.parametrize("depth", [2, 5])
def test_any_depth_trains(small_model, depth):
    model = small_model(backbone_options={**SMALL, "depth": depth})
    terms = model.training_loss(torch.randn(2, 3, 64, 64), torch.tensor([1, 4]))
    terms["loss"].backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_a_backbone_with_register_tokens_localizes_on_its_patches(small_model):
    options = {"img_size": 56, "backbone_options": {**SMALL, "reg_tokens": 4, "patch_size": 14}}
    model = small_model(**options).eval()
    _, maps = model.localize(torch.randn(1, 3, 56, 56))
    assert maps.shape == (1, 1, 4, 4)


def test_a_saved_model_comes_back(small_model, tmp_path):
    model, images = small_model().eval(), torch.randn(2, 3, 64, 64)
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    for found, expected in zip(loaded.localize(images), model.localize(images), strict=True):
        assert torch.equal(found, expected)


def test_the_loss_is_the_sum_of_its_terms(small_model):
    terms = small_model().training_loss(torch.randn(2, 3, 64, 64), torch.tensor([1, 4]))
    parts = [term for name, term in terms.items() if name not in ("loss", "logits")]
    torch.testing.assert_close(terms["loss"].detach(), torch.stack(parts).sum())
    assert not terms["logits"].requires_grad


def test_an_image_that_overflows_spoils_no_other(small_model):
    model = small_model().eval()
    images = torch.randn(3, 3, 64, 64)
    expected = model.localize(images[[0, 2]])
    images[1] = float("nan")
    logits, maps = model.localize(images)
    torch.testing.assert_close(logits[[0, 2]], expected.logits)
    torch.testing.assert_close(maps[[0, 2]], expected.maps)
    assert logits[1].isnan().all()
    assert maps[1].isnan().all()


def test_the_loss_of_an_image_that_overflows_is_nan_and_no_error(small_model):
    images = torch.randn(3, 3, 64, 64)
    images[1] = float("nan")
    assert small_model().training_loss(images, torch.tensor([1, 4, 0]))["loss"].isnan()


@pytest.mark.parametrize("small_model", GRAPHS, indirect=True)
def test_exports_with_a_batch_of_any_size(small_model):
    model = small_model(backbone_options=SHALLOW).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(
        model, (torch.randn(3, 3, 64, 64),), dynamic_shapes=({0: batch},)
    ).module()
    images = torch.randn(5, 3, 64, 64)
    torch.testing.assert_close(exported(images), model(images))


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("tscam", {"area": 0.3}, "method 'tscam' takes no option area. It takes artifacts"),
        ("sat", {"area": "x"}, "method 'sat': area is 'x', it should be a number"),
        ("sat", {"gated_blocks": 1.5}, "gated_blocks is 1.5, it should be a whole number"),
        ("scm", {"iterations": 5}, "iterations is 5, it should be a list of whole numbers"),
        ("molt", {"pyramid": "x"}, "it should be a list of whole numbers or none"),
        ("molt", {"levels": [1]}, "no option levels. It takes artifacts, beta, clusters, pyr"),
        (
            "trt",
            {"backbone_options": {"nope": 1}},
            "backbone 'vit_tiny_patch16_224' takes no option",
        ),
        ("trt", {"num_classes": 2.5}, "num_classes is 2.5, it should be a whole number"),
        ("trt", {"img_size": "big"}, "img_size is big, it should be a positive number of pixels"),
    ],
)
def test_arguments_that_no_model_has_are_refused_in_words(method, options, message):
    arguments = {"num_classes": 3, "pretrained": False, "img_size": 64, **options}
    with pytest.raises(ValueError, match=message):
        create_model(method, "vit_tiny_patch16_224", **arguments)


def test_labels_are_smoothed_as_asked(small_model):
    model, images, labels = small_model().eval(), torch.randn(2, 3, 64, 64), torch.tensor([1, 3])
    if hasattr(model, "alpha"):
        model.alpha = 0.0  # trilite's third term is about the label that is not to be seen
    plain = model.training_loss(images, labels)["loss"]
    classes = [torch.full((2,), each) for each in range(5)]
    every = [model.training_loss(images, each)["loss"] for each in classes]
    model.label_smoothing = 0.4
    smoothed = model.training_loss(images, labels)["loss"]
    # Cross-entropy is linear in the target, and what else these optimize does not see the labels.
    torch.testing.assert_close(smoothed, 0.6 * plain + 0.4 * torch.stack(every).mean())


def test_a_classifier_is_taken_over_as_far_as_it_fits_or_refused(small_model):
    model = small_model()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    weight, bias = torch.randn(5, 24), torch.randn(5)
    if not isinstance(model, TSCAM | TRT):
        with pytest.raises(ValueError, match="has no place for a pretrained classifier"):
            model.take_classifier(weight, bias)
        return
    for other in ((torch.randn(6, 24), torch.randn(6)), (torch.randn(5, 32), bias)):
        with pytest.raises(ValueError, match=r"of \d classes and width \d+, the model of 5 and 24"):
            model.take_classifier(*other)
    model.take_classifier(weight, bias)
    taken = {"head.bias": bias, **({"head.weight": weight} if isinstance(model, TRT) else {})}
    for name, found in model.state_dict().items():
        assert torch.equal(found, taken.get(name, before[name])), name


def test_a_frozen_backbone_gets_no_gradient_and_stays_in_evaluation_mode(small_model):
    model = small_model(
        freeze_backbone=True, backbone_options={**SMALL, "drop_path_rate": 0.5}
    ).train()
    model.training_loss(torch.randn(2, 3, 64, 64), torch.tensor([1, 4]))["loss"].backward()
    frozen = model.backbone_weights()
    for name, parameter in model.named_parameters():
        if name in frozen:
            assert parameter.grad is None, name
    assert any(p.grad is not None for p in model.parameters())
    assert not any(m.training for backbone in model.backbones() for m in backbone.modules())
    assert model.config["freeze_backbone"] is True
