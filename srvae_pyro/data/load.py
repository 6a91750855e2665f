"""A data set by name."""

from __future__ import annotations

import warnings
from difflib import get_close_matches
from pathlib import Path

from srvae_pyro.data.cifar10 import load_cifar10
from srvae_pyro.data.folder import load_folder
from srvae_pyro.data.imagenet32 import load_imagenet32
from srvae_pyro.data.imagenet32_batches import load_imagenet32_batches
from srvae_pyro.data.photos import load_photos
from srvae_pyro.data.shards import PREFIX, load_shards
from srvae_pyro.data.splits import CheckShape, DataSplits
from srvae_pyro.errors import UserError

__all__ = ["DATA_SETS", "load_data"]

DATA_SETS = ("cifar10", "imagenet32", "imagenet32-batches", "photos")


def load_data(
    name: str,
    root: Path,
    *,
    image_size: int | None = None,
    channels: int = 3,
    seed: int = 0,
    download: bool = True,
    limit: int | None = None,
    strict: bool = False,
    stream: bool | None = None,
    for_training: bool = True,
    exact_names: bool = False,
    check_shape: CheckShape | None = None,
) -> DataSplits:
    """The data set called ``name``, or the folder or the tar shards of that path.

    Args:
        name: one of :data:`DATA_SETS`, a folder (``./photos`` for a folder of that name), or
            ``wds:`` and the path of tar shards, see :func:`~srvae_pyro.data.shards.load_shards`.
        root: where the named data sets are, or are downloaded to.
        image_size: height and width in pixels, where the data set leaves a choice.
        channels: 3 for RGB, 1 for luma (Pillow's "L").
        seed: of what is drawn at random: pictures held out, crops.
        download: fetch what is missing, where that can be done.
        limit: keep the first so many pictures of each split.
        strict: refuse a folder with files that cannot be read, rather than leave them out.
        stream: read a folder's training pictures when they are needed; None: if they would take
            more than half of the memory that is there.
        for_training: refuse a folder without pictures to train on.
        exact_names: see :func:`~srvae_pyro.data.split_folders.find_split_folders`.
        check_shape: called with the pictures' shape (C, H, W) as soon as it is known, before all
            are read; raises what is to be raised if it does not suit.

    Raises:
        UserError: says in one line what is wrong and what to do.
    """
    if channels not in (1, 3):
        raise UserError(f"images have 1 or 3 channels, not {channels}")
    for option, value in (("--image-size", image_size), ("--limit", limit)):
        if value is not None and value < 1:
            raise UserError(f"{option} is at least 1, not {value}")
    root = Path(root).expanduser()
    if name in DATA_SETS and Path(name).is_dir():
        warnings.warn(
            f"--data {name} is the data set of that name; the folder is --data ./{name}",
            stacklevel=2,
        )
    if check_shape and image_size is not None:
        check_shape((channels, image_size, image_size))

    if name == "cifar10":
        data = load_cifar10(
            root, image_size=image_size, channels=channels, download=download, limit=limit
        )
    elif name == "imagenet32":
        data = load_imagenet32(
            root, image_size=image_size, channels=channels, seed=seed, limit=limit
        )
    elif name == "imagenet32-batches":
        data = load_imagenet32_batches(
            root, image_size=image_size, channels=channels, seed=seed, limit=limit
        )
    elif name.startswith(PREFIX):
        data = load_shards(
            name,
            image_size=image_size,
            channels=channels,
            seed=seed,
            limit=limit,
            strict=strict,
            check_shape=check_shape,
        )
    elif name == "photos":
        data = load_photos(image_size=image_size, channels=channels, seed=seed, limit=limit)
    else:
        data = load_folder(
            _folder(name),
            image_size=image_size,
            channels=channels,
            seed=seed,
            limit=limit,
            strict=strict,
            stream=stream,
            for_training=for_training,
            exact_names=exact_names,
            check_shape=check_shape,
        )
    return data.described(limit=limit)


def _folder(name: str) -> Path:
    """The folder called ``name``, or the error that helps to find what was meant."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        tar = " (tar shards: wds:PATH)" if folder.suffix == ".tar" else ""
        raise UserError(f"{name} is a file: --data takes a folder of pictures{tar}")
    close = get_close_matches(name.lower(), DATA_SETS, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise UserError(
        f"no data set and no folder is called {name!r}: {hint}Take {', '.join(DATA_SETS)}, or the "
        "path of a folder of pictures"
    )
