"""Objects of pictures without any label, by the features of a pretrained transformer alone: TokenCut, MaskCut, LOST."""

from typing import TYPE_CHECKING

from wsol_ext._names import on_first_use
from wsol_ext.discovery.settings import FEATURES, METHODS, DiscoverySettings

if TYPE_CHECKING:
    from wsol_ext.discovery.cuts import PatchObjects, lost, mask_cut, token_cut
    from wsol_ext.discovery.features import patch_features
    from wsol_ext.discovery.pictures import OBJECT, discover_images

__all__ = [
    "FEATURES",
    "METHODS",
    "OBJECT",
    "DiscoverySettings",
    "PatchObjects",
    "discover_images",
    "lost",
    "mask_cut",
    "patch_features",
    "token_cut",
]

__getattr__ = on_first_use(
    __name__,
    {
        "cuts": ["PatchObjects", "lost", "mask_cut", "token_cut"],
        "features": ["patch_features"],
        "pictures": ["OBJECT", "discover_images"],
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)
