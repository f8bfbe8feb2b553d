"""A backbone by every name that timm takes: what is saved loads again, and a download that cannot be is no wait."""

import json
import shutil

import huggingface_hub.constants
import pytest
import timm
import torch
from timm.models import save_for_hf

from wsol_ext.checkpoints import load_model, save_model
from wsol_ext.data import MEAN, STD
from wsol_ext.models import backbones, create_model
from wsol_ext.models.vit import Backbone, without_values

ARGUMENTS = {"embed_dim": 24, "depth": 2, "num_heads": 3, "init_values": 0.5}
PLAIN = "vit_tiny_patch16_224"


@pytest.fixture
def folder(tmp_path):
    """A network that timm saved as it saves for the hub: its weights, and a configuration beside them."""
    torch.manual_seed(1)
    vit = timm.create_model(PLAIN, img_size=32, num_classes=7, global_pool="avg", **ARGUMENTS)
    arguments = {"img_size": 32, **ARGUMENTS}
    save_for_hf(vit, str(tmp_path / "vit"), model_args=arguments, safe_serialization=True)
    return tmp_path / "vit"


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty cache of the hub, which cannot be reached."""

    def unreachable(address, timeout):
        raise OSError(f"no way to {address[0]}")

    monkeypatch.setattr(backbones.socket, "create_connection", unreachable)
    monkeypatch.setattr(backbones.urllib.request, "getproxies", dict)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    return tmp_path / "hub"


def cache(hub_cache, repository, folder):
    """Put a folder into the hub's cache as a download would."""
    place = hub_cache / f"models--{repository.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / "abc")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc")


@pytest.mark.parametrize("pretrained", [False, True])
@pytest.mark.parametrize("method", ["tscam", "trt", "molt"])
@pytest.mark.parametrize("source", ["local-dir", "hf-hub"])
def test_what_a_configuration_made_loads_by_its_architecture_alone(
    folder, hub_cache, tmp_path, source, method, pretrained
):
    cache(hub_cache, "someone/vit", folder)
    name = f"local-dir:{folder}" if source == "local-dir" else "hf-hub:someone/vit"
    model = create_model(method, name, num_classes=3, pretrained=pretrained, img_size=32).eval()
    assert model.config["backbone"] == PLAIN
    assert model.config["backbone_options"].items() >= {**ARGUMENTS, "global_pool": "avg"}.items()
    save_model(model, tmp_path / "model.safetensors")
    shutil.rmtree(folder)
    shutil.rmtree(hub_cache)
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.config == model.config
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(images), model(images))


@pytest.mark.parametrize("name", [PLAIN, f"{PLAIN}.augreg_in21k", "deit_tiny_patch16_224.fb_in1k"])
def test_what_a_registered_name_made_loads_by_it(tmp_path, name):
    options = {key: ARGUMENTS[key] for key in ("embed_dim", "depth", "num_heads")}
    model = create_model("tscam", name, 3, False, 32, options).eval()
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.config["backbone"] == name
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(images), model(images))


def test_weights_of_a_folder_are_loaded_and_its_options_can_be_overridden(folder):
    saved = timm.create_model(f"local-dir:{folder}", pretrained=True)
    backbone = Backbone(f"local-dir:{folder}", img_size=32, drop_path_rate=0.1)
    assert torch.equal(backbone.vit.cls_token, saved.cls_token)
    assert backbone.vit.blocks[-1].drop_path1.drop_prob == pytest.approx(0.1)


def test_weights_in_the_cache_need_no_network(folder, hub_cache):
    trained = timm.get_pretrained_cfg("deit_tiny_patch16_224")
    cache(hub_cache, trained.hf_hub_id, folder)
    options = {**ARGUMENTS, "global_pool": "avg"}
    backbone = Backbone("deit_tiny_patch16_224", img_size=32, **options)
    saved = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert torch.equal(backbone.vit.cls_token, saved.cls_token)


def test_weights_that_are_cached_as_a_pickle_are_left_to_timm(folder, hub_cache):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    cache(hub_cache, "someone/vit", folder)
    arguments = backbones.pretrained_arguments("hf-hub:someone/vit")
    assert arguments == {"model_name": "hf-hub:someone/vit"}


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("deit_tiny_patch16_224", "hub/models--timm--deit_tiny_patch16_224.fb_in1k"),
        ("vit_base_patch16_clip_224.openai", "hub/models--timm--vit_base_patch16_clip_224.openai"),
        ("hf-hub:someone/vit@v2", "hub/models--someone--vit"),
    ],
)
def test_weights_that_cannot_be_had_are_said_to_be_so_with_the_ways_on(hub_cache, name, place):
    with pytest.raises(
        ConnectionError, match="cannot be reached .no way to huggingface.co"
    ) as failed:
        create_model("tscam", name, 3, img_size=32)
    ways = ("--backbone-weights FILE", "--init-from", "--pretrained false")
    for way in (str(hub_cache.parent / place), "HF_HOME", *ways):
        assert way in str(failed.value)


def test_weights_beside_the_hub_are_looked_for_where_they_are_kept(hub_cache, monkeypatch):
    kept = timm.models.PretrainedCfg(url="https://example.org/weights.pth")
    monkeypatch.setattr(backbones.timm, "get_pretrained_cfg", lambda name: kept)
    with pytest.raises(ConnectionError, match="no way to example.org.*torch/checkpoints"):
        backbones.pretrained_arguments(PLAIN)
    downloaded = hub_cache.parent / "torch" / "checkpoints" / "weights.pth"
    downloaded.parent.mkdir(parents=True)
    downloaded.touch()
    assert backbones.pretrained_arguments(PLAIN) == {"model_name": PLAIN}


def test_an_offline_hub_is_not_asked(hub_cache, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE keeps it from the hub"):
        create_model("tscam", PLAIN, 3, img_size=32)


def test_behind_a_proxy_the_proxy_is_asked(hub_cache, monkeypatch):
    monkeypatch.setattr(backbones.urllib.request, "getproxies", lambda: {"https": "proxy:3128"})
    assert backbones.pretrained_arguments(PLAIN) == {"model_name": PLAIN}


def test_mistakes_are_answered_before_a_download(hub_cache):
    with pytest.raises(ValueError, match="num_heads': 5"):
        Backbone(PLAIN, img_size=32, num_heads=5)


def test_a_model_that_timm_has_no_weights_of_is_named():
    with pytest.raises(ValueError, match="has no pretrained weights in timm: --pretrained false"):
        Backbone("vit_giant_patch14_224", img_size=28, embed_dim=24, depth=1, num_heads=3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "vit_tiny_patch16_225",
            "is not a model that timm knows; did you mean vit_tiny_patch16_224",
        ),
        ("vit_tiny_patch16_224.augreg", "has no tag augreg; did you mean augreg_in21k? It has aug"),
        ("timm/vit_tiny_patch16_224", "hf-hub:timm/vit_tiny_patch16_224 names one"),
        ("http://somewhere", "before a colon there should be local-dir or hf-hub"),
        ("local-dir:nowhere", "nowhere/config.json does not exist"),
    ],
)
def test_names_of_nothing_are_refused_in_words(name, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        create_model("tscam", name, 3, pretrained=False)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "is no configuration of a timm model"),
        ("[]", "is no configuration of a timm model"),
        ("{}", "is no configuration of a timm model"),
        ('{"architecture": "nothing"}', "names an architecture that timm does not know, 'nothing'"),
        ('{"architecture": "resnet18"}', "has no patch tokens"),
        (
            json.dumps({"architecture": PLAIN, "model_args": {"checkpoint_path": "evil.pth"}}),
            "takes no option checkpoint_path",
        ),
    ],
)
def test_a_folder_whose_network_could_not_be_made_again_is_refused(tmp_path, config, message):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=message):
        create_model("tscam", f"local-dir:{tmp_path}", 3, pretrained=False)


def test_models_without_values_may_read_what_timms_older_releases_read():
    with without_values():
        assert torch.empty(3).is_meta
        assert [rate.item() for rate in torch.linspace(0, 1, 3)] == [0, 0.5, 1]


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("vit_small_patch16_dinov3", 32, {}),
        ("vit_small_patch16_dinov3", 48, {}),  # another one than that of the weights
        ("beit_base_patch16_224", 48, {}),
        ("cait_xxs24_224", 32, {"init_values": 0.5}),
    ],
)
def test_weights_of_other_transformers_in_a_folder_are_loaded(tmp_path, name, size, options):
    torch.manual_seed(1)
    arguments = {"img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 3, **options}
    vit = timm.create_model(name, num_classes=7, **arguments).eval()
    save_for_hf(vit, str(tmp_path / "vit"), model_args=arguments, safe_serialization=True)
    config = json.loads((tmp_path / "vit" / "config.json").read_text())
    config["pretrained_cfg"] |= {"mean": MEAN, "std": STD}
    (tmp_path / "vit" / "config.json").write_text(json.dumps(config))
    model = create_model("tscam", f"local-dir:{tmp_path / 'vit'}", 3, True, size).eval()
    images = torch.randn(2, 3, size, size)
    if size == 32:
        assert torch.equal(
            model.backbone.vit.forward_features(images), vit.forward_features(images)
        )
    for own, trained in zip(
        model.backbone.vit.blocks.named_parameters(), vit.blocks.named_parameters(), strict=True
    ):
        assert own[1].shape != trained[1].shape or torch.equal(own[1], trained[1]), own[0]
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.config["backbone"] == name
    assert torch.equal(loaded(images), model(images))
