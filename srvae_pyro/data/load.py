"""A data set by its name or path."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from srvae_pyro.config import DATA_SETS, SHARDS
from srvae_pyro.data.cropping import crop_images
from srvae_pyro.data.folder import load_folder, load_shards
from srvae_pyro.data.imagenet32 import load_imagenet32, load_imagenet32_batches
from srvae_pyro.data.named import load_cifar10, load_photos
from srvae_pyro.data.splits import DEFAULTS, DataSplits, ImageOptions
from srvae_pyro.errors import UserError
from srvae_pyro.system.files import expanded

# By name; each takes the folder of named data sets and the options.
LOADERS: dict[str, Callable[[Path, ImageOptions], DataSplits]] = {
    "cifar10": load_cifar10,
    "imagenet32": load_imagenet32,
    "imagenet32-batches": load_imagenet32_batches,
    "photos": lambda _root, options: load_photos(options),
}


def load_data(name: str, root: Path, options: ImageOptions = DEFAULTS) -> DataSplits:
    """The data set called ``name``, or the folder or the tar shards of that path.

    Args:
        name: one of :data:`DATA_SETS`, a folder (``./photos`` for a folder of that name), or
            ``wds:`` and the path of tar shards, see :func:`~srvae_pyro.data.folder.load_shards`.
        root: where the named data sets are, or are downloaded to.
        options: which images to read, and as what.

    Raises:
        UserError: says in one line what is wrong and what to do.
    """
    if options.channels not in (1, 3):
        raise UserError(f"images have 1 or 3 channels, not {options.channels}")
    for flag, value in (
        ("--image-size", options.image_size),
        ("--limit", options.limit),
        ("--crops", options.crops),
        ("--eval-crops", options.eval_crops),
    ):
        if value is not None and value < 1:
            raise UserError(f"{flag} must be at least 1, not {value}")
    if options.crops is not None and options.image_size is not None:
        raise UserError(
            "--crops are cut from images at their own size: leave out --image-size, or --crops"
        )
    if options.eval_crops is not None and options.crops is None:
        raise UserError("--eval-crops needs --crops: give both, or neither")
    if not name:
        raise UserError("--data is empty: name a data set or a folder; --data . is the current one")
    root = expanded(root)
    if name in DATA_SETS and Path(name).is_dir():
        warnings.warn(
            f"--data {name} is the data set of that name; for the folder use --data ./{name}",
            stacklevel=2,
        )
    side = options.crops or options.image_size
    if options.check_shape and side is not None:
        options.check_shape((options.channels, side, side))
    if name == "photos" and options.crops is not None:
        raise UserError(
            f"photos has crops of its own: use --image-size {options.crops} instead of --crops, or "
            "--data DIR"
        )
    if name in LOADERS and options.crops is not None:
        data = crop_images(LOADERS[name](root, replace(options, check_shape=None)), options)
    elif name in LOADERS:
        data = LOADERS[name](root, options)
    elif name.startswith(SHARDS):
        data = load_shards(name, options)
    else:
        data = load_folder(_folder(name), options)
    return data.described(limit=options.limit)


def _folder(name: str) -> Path:
    """The folder called ``name``, or an error that suggests what may be meant."""
    folder = expanded(name)
    if folder.is_dir():
        return folder
    if folder.exists():
        tar = " (tar shards: wds:PATH)" if folder.suffix == ".tar" else ""
        raise UserError(f"{name} is a file: --data takes a folder of images{tar}")
    close = get_close_matches(name.lower(), DATA_SETS, n=1)
    hint = f"did you mean {close[0]}? Otherwise use " if close else "use "
    raise UserError(
        f"there is no data set or folder called {name!r}: {hint}{', '.join(DATA_SETS)}, or the "
        "path of a folder of images"
    )
