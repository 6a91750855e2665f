"""Data sets in memory, their splits, augmentation, and the deterministic y = d(x)."""

from srvae_pyro.data.augment import augment
from srvae_pyro.data.grid import to_levels, to_unit
from srvae_pyro.data.load import DATA_SETS, load_data
from srvae_pyro.data.shards import check_shards
from srvae_pyro.data.splits import DataSplits
from srvae_pyro.data.transforms import Downscale, Grayscale, Sketch, Transform, make_transform

__all__ = [
    "DATA_SETS",
    "DataSplits",
    "Downscale",
    "Grayscale",
    "Sketch",
    "Transform",
    "augment",
    "check_shards",
    "load_data",
    "make_transform",
    "to_levels",
    "to_unit",
]
