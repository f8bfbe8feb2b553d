"""SCM: layers that shape the maps in training, and are gone at inference."""

import itertools

import pytest
import torch

from wsol_ext import create_model
from wsol_ext.checkpoints import initialize_from, save_model

SMALL = {"embed_dim": 24, "depth": 3, "num_heads": 3}


def scm(method="scm", **options):
    torch.manual_seed(0)
    return create_model(
        method,
        "vit_tiny_patch16_224",
        5,
        pretrained=False,
        img_size=64,
        backbone_options=SMALL,
        **options,
    )


def test_at_inference_it_is_tscam_with_a_normalized_attention():
    model, tscam = scm().eval(), scm("tscam").eval()
    weights = {n: w for n, w in model.state_dict().items() if not n.startswith("layers.")}
    tscam.load_state_dict(weights)
    images, classes = torch.randn(2, 3, 64, 64), torch.tensor([[0, 3], [4, 1]])
    logits, maps = model.localize(images, classes)
    expected_logits, _ = tscam.localize(images, classes)
    torch.testing.assert_close(logits, expected_logits)
    patches = tscam.backbone(images)[0][:, 1:].unflatten(1, (4, 4))
    attention = maps / tscam.head.maps(patches, classes)
    torch.testing.assert_close(attention[:, 0], attention[:, 1])
    torch.testing.assert_close(attention[:, 0].flatten(1).amin(1), torch.zeros(2))
    torch.testing.assert_close(attention[:, 0].flatten(1).amax(1), torch.ones(2))


@pytest.mark.parametrize("call", ["forward", "localize"])
def test_the_exported_and_the_compiled_model_have_no_diffusion_in_them(call):
    model, images = scm().eval(), torch.randn(2, 3, 64, 64)
    operators = []

    def look(graph, _inputs):
        operators.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    compiled = torch.compile(getattr(model, call), backend=look, fullgraph=True)
    with torch.no_grad():
        compiled(images)
    assert len(operators) > 10
    assert not any("spatial_diffusion" in operator for operator in operators)
    if call == "forward":
        program = torch.export.export(model, (images,))
        targets = [str(node.target) for node in program.graph.nodes]
        assert any("linear" in target for target in targets)
        assert not any("spatial_diffusion" in target for target in targets)
        used = {spec.target for spec in program.graph_signature.input_specs if spec.target}
        assert any(name.startswith("head.") for name in used)


def test_each_layer_adds_to_both_maps():
    model = scm().eval()
    with torch.no_grad():
        steps = model.calibrate(torch.randn(2, 3, 64, 64))
    assert len(steps) == 5
    for before, after in itertools.pairwise(steps):
        new = after.attention - before.attention
        torch.testing.assert_close(new.flatten(1).amin(1), torch.zeros(2))
        torch.testing.assert_close(new.flatten(1).amax(1), torch.ones(2))
        expected = before.semantics * (1 + new.unsqueeze(1))
        torch.testing.assert_close(after.semantics, expected, rtol=1e-4, atol=1e-5)


def test_every_strength_and_threshold_is_trained():
    model = scm()
    model.training_loss(torch.randn(2, 3, 64, 64), torch.tensor([0, 3]))["loss"].backward()
    for layer in model.layers:
        assert layer.strength.grad.abs() > 0
        assert layer.threshold.grad.abs() > 0


def test_an_image_of_one_colour_trains_without_a_nan():
    model = scm()
    model.training_loss(torch.ones(2, 3, 64, 64), torch.tensor([0, 3]))["loss"].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_a_list_sets_how_many_layers_there_are():
    model = scm(iterations=[4, 2])
    assert [layer.iterations for layer in model.layers] == [4, 2]
    with pytest.raises(ValueError, match=r"iterations is \[\], it should have an entry"):
        scm(iterations=[])


def test_it_starts_from_all_that_tscam_learned(tmp_path):
    tscam, model = scm("tscam"), scm()
    torch.nn.init.normal_(tscam.head.weight)
    save_model(tscam, tmp_path / "tscam.safetensors")
    anew = initialize_from(model, tmp_path / "tscam.safetensors")
    assert {name.split(".")[0] for name in anew} == {"layers"}
    weights = model.state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in tscam.state_dict().items())
