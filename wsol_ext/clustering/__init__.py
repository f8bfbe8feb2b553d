"""Deep image clustering: regions of a photograph without any label, by a small network trained on it alone."""

from wsol_ext.clustering.cache import ClusterCache
from wsol_ext.clustering.clusters import deep_clusters
from wsol_ext.clustering.settings import PRESETS, ClusteringSettings

__all__ = ["PRESETS", "ClusterCache", "ClusteringSettings", "deep_clusters"]
