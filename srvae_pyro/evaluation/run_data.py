"""The pictures to measure or show a trained model on."""

from __future__ import annotations

from pathlib import Path

from srvae_pyro.config import RunConfig
from srvae_pyro.data import DATA_SETS, DataSplits, load_data
from srvae_pyro.errors import UserError

__all__ = ["load_for"]


def load_for(config: RunConfig, data: str | None, data_root: Path) -> DataSplits:
    """The pictures that a run was trained on, or others, in the size and channels of its model.

    Args:
        config: the run's.
        data: a data set's name or a folder; None: what the run was trained on.
        data_root: where the named data sets are.

    Raises:
        UserError: there are none, or not of that size.
    """
    channels, height, width = config.model.image_shape
    own = data is None
    # Folders and photographs can be brought to any square.
    fits = height == width and (data == "photos" or data not in DATA_SETS)
    loaded = load_data(
        config.data.data if data is None else data,
        data_root,
        image_size=config.data.image_size if own else (height if fits else None),
        channels=channels,
        seed=config.data.seed,
        limit=config.data.limit if own else None,
    )
    if loaded.shape != (channels, height, width):
        raise UserError(
            f"{loaded.name} has pictures of {loaded.shape[1]}x{loaded.shape[2]}, the model is for "
            f"{height}x{width}: give --data of that size"
        )
    return loaded
