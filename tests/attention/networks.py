"""Small transformers of many libraries with random weights, and their attention matrices by their own unfused code."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import open_clip
import timm
import torch
import torchvision
import transformers
from torch.overrides import TorchFunctionMode

SIZE = 48
TIMM = {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": SIZE, "num_classes": 0}


class Network(NamedTuple):
    """How a network is made, and what is known of it.

    Attributes:
        make: gives the network.
        matrices: of a network and images: its attention matrices (B, H, L, N), unfused.
        prefix_tokens: before the patches.
        has_class_token: among those.
        pooled: whether its last attention is a pool's.
        grid: of patches.
    """

    make: Callable[[], torch.nn.Module]
    matrices: Callable
    prefix_tokens: int
    has_class_token: bool = True
    pooled: bool = False
    grid: tuple[int, int] = (3, 3)


class Softmaxes(TorchFunctionMode):
    """Takes down what goes through a softmax: in timm's unfused attention, the attention matrices."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is torch.Tensor.softmax:
            self.found.append(result)
        return result


class Precise(TorchFunctionMode):
    """Keeps softmax in the network's own precision, which transformers' unfused attention rounds to float32."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is torch.nn.functional.softmax:
            kwargs.pop("dtype", None)
        return function(*args, **kwargs)


def unfused_timm(model, images):
    model = copy.deepcopy(model)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    with Softmaxes() as seen:
        model(images)
    return [each for each in seen.found if each.size(-1) >= 9]


def unfused_class_attention(model, images):
    """Of the layers in which the class token alone asks; the others have no attention between tokens, or mix heads."""
    return [each for each in unfused_timm(model, images) if each.size(-2) == 1]


def unfused_transformers(model, images):
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    with Precise():
        return list(eager(images, output_attentions=True).attentions)


def unfused_multi_head(model, images):
    """Of `torch.nn.MultiheadAttention`, which can be asked for its weights."""
    model, found = copy.deepcopy(model), []
    for module in model.modules():
        if isinstance(module, torch.nn.MultiheadAttention):
            module.register_forward_pre_hook(
                lambda _, args, kwargs: (
                    args,
                    {**kwargs, "need_weights": True, "average_attn_weights": False},
                ),
                with_kwargs=True,
            )
            module.register_forward_hook(lambda _, args, result: found.append(result[1]))
    model(images)
    return found


def unfused_siglip(model, images):
    return unfused_transformers(model, images) + unfused_multi_head(model, images)


def of_timm(name, **options):
    return lambda: timm.create_model(name, **{**TIMM, **options})


def of_transformers(name, **options):
    def make():
        sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3}
        config = getattr(transformers, name.replace("Model", "Config"))(
            **sizes, image_size=SIZE, patch_size=16, intermediate_size=96, **options
        )
        return getattr(transformers, name)._from_config(config, attn_implementation="sdpa")

    return make


def of_torchvision():
    return torchvision.models.VisionTransformer(SIZE, 16, 2, 4, 48, 96)


def of_open_clip(**options):
    return lambda: open_clip.transformer.VisionTransformer(
        SIZE, 16, width=48, layers=2, heads=4, mlp_ratio=2.0, output_dim=8, **options
    )


def timm_network(name, prefix_tokens, has_class_token=True, pooled=False, **options):
    return Network(of_timm(name, **options), unfused_timm, prefix_tokens, has_class_token, pooled)


def transformers_network(name, prefix_tokens, **options):
    return Network(of_transformers(name, **options), unfused_transformers, prefix_tokens)


NETWORKS = {
    "timm deit": timm_network("deit_tiny_patch16_224", 1),
    "timm deit, distilled": timm_network("deit_tiny_distilled_patch16_224", 2),
    "timm dinov2": timm_network("vit_small_patch14_dinov2", 1, img_size=42),
    "timm dinov2, registers": timm_network("vit_small_patch14_reg4_dinov2", 5, img_size=42),
    "timm dinov3": timm_network("vit_small_patch16_dinov3", 5),
    "timm eva02": timm_network("eva02_tiny_patch14_224", 1, img_size=42),
    "timm beit": timm_network("beit_base_patch16_224", 1),
    "timm siglip": timm_network("vit_base_patch16_siglip_224", 0, False, True),
    "timm siglip, averaged": timm_network("vit_base_patch16_siglip_gap_224", 0, False),
    "timm registers alone": timm_network("vit_medium_patch16_reg4_gap_256", 4, False),
    "timm xcit": Network(of_timm("xcit_nano_12_p16_224"), unfused_class_attention, 1, pooled=True),
    "timm cait": Network(of_timm("cait_xxs24_224"), unfused_class_attention, 1, pooled=True),
    "transformers ViT": transformers_network("ViTModel", 1),
    "transformers DeiT": transformers_network("DeiTModel", 2),
    "transformers DINOv2": transformers_network("Dinov2Model", 1),
    "transformers DINOv2, registers": transformers_network(
        "Dinov2WithRegistersModel", 5, num_register_tokens=4
    ),
    "transformers DINOv3": transformers_network("DINOv3ViTModel", 5, num_register_tokens=4),
    "transformers CLIP": transformers_network("CLIPVisionModel", 1),
    "transformers SigLIP": Network(
        of_transformers("SiglipVisionModel"), unfused_siglip, 0, False, True
    ),
    "torchvision": Network(of_torchvision, unfused_multi_head, 1),
    "open_clip": Network(of_open_clip(), unfused_multi_head, 1),
    "open_clip, pooled": Network(
        of_open_clip(attentional_pool=True, attn_pooler_queries=1, attn_pooler_heads=4),
        unfused_multi_head,
        1,
        True,
        True,
    ),
}


def network(name):
    """In float64 and evaluation mode, its weights such that attention is not uniform; and images for it."""
    torch.manual_seed(0)
    model = NETWORKS[name].make().double().eval()
    for weight, values in model.named_parameters():
        small = values.dim() == 1 or any(part in weight for part in ("token", "pos", "probe"))
        torch.nn.init.normal_(values, std=0.5 if small else 0.25)
    side = 42 if "patch14" in name or name in _OF_42 else SIZE
    return model, torch.randn(2, 3, side, side, dtype=torch.float64)


_OF_42 = ("timm dinov2", "timm dinov2, registers", "timm eva02")
