"""Data sets, their splits, and augmentation."""

from srvae_pyro.data.folder import check_shards
from srvae_pyro.data.load import DATA_SETS, load_data
from srvae_pyro.data.splits import (
    DataSplits,
    ImageOptions,
    MemoryImages,
    TrainingImages,
    augment,
)

__all__ = [
    "DATA_SETS",
    "DataSplits",
    "ImageOptions",
    "MemoryImages",
    "TrainingImages",
    "augment",
    "check_shards",
    "load_data",
]
