"""Deep image clustering: regions of a photograph without any label, by a small network trained on it alone."""

from typing import TYPE_CHECKING

from wsol_ext._names import on_first_use
from wsol_ext.clustering.settings import PRESETS, ClusteringSettings

if TYPE_CHECKING:
    from wsol_ext.clustering.cache import ClusterCache
    from wsol_ext.clustering.clusters import deep_clusters

__all__ = ["PRESETS", "ClusterCache", "ClusteringSettings", "deep_clusters"]

__getattr__ = on_first_use(__name__, {"cache": ["ClusterCache"], "clusters": ["deep_clusters"]})


def __dir__() -> list[str]:
    return sorted(__all__)
