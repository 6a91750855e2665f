"""ImageNet32 as the batch files of Chrabaszcz et al."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from srvae_pyro.data.imagenet32_layout import (
    HELD_OUT,
    TEST_BATCH,
    TRAIN_BATCHES,
    find_batches,
    find_png_folder,
)
from srvae_pyro.data.options import DEFAULTS, PictureOptions
from srvae_pyro.data.splits import DataSplits, hold_out, only_size, to_channels
from srvae_pyro.data.training_pictures import MemoryPictures
from srvae_pyro.data.unpickle import read_arrays
from srvae_pyro.errors import UserError
from srvae_pyro.system.console import Bar

__all__ = ["load_imagenet32_batches"]

IMAGE = 3 * 32 * 32  # bytes, red plane first


def load_imagenet32_batches(root: Path, options: PictureOptions = DEFAULTS) -> DataSplits:
    """Downsampled ImageNet, 3x32x32, from ``train_data_batch_1`` to ``_10`` and ``val_data``.

    Not the images of :func:`load_imagenet32`: they were downsampled by another filter, so
    likelihoods on the two cannot be compared. ``val_data`` is the test split; 20,000 training
    images drawn at random are held out for validation.

    References:
        Chrabaszcz, Loshchilov and Hutter, A downsampled variant of ImageNet as an alternative to
        the CIFAR datasets, 2017, arXiv:1707.08819.

    Args:
        root: folder of the files, or of ``Imagenet32_train`` and ``Imagenet32_val``.
        options: heeds ``image_size`` (32 or None), ``channels``, ``seed`` and ``limit``.

    Raises:
        UserError: it is not there, not whole, or a pickle that holds more than arrays.
    """
    only_size("imagenet32-batches", options, 32)
    files = find_batches(root)
    if not files and find_png_folder(root):
        raise UserError(
            f"{root} has ImageNet32 as PNGs, not as pickled batches: take --data imagenet32"
        )
    missing = [name for name in (*TRAIN_BATCHES, TEST_BATCH) if name not in files]
    if missing:
        raise UserError(
            f"no {', '.join(missing[:3])}{' ...' if missing[3:] else ''} of ImageNet32 in {root}: "
            "unpack its archives there, or name their folder with --data-root"
        )
    images = _read_all([files[name] for name in TRAIN_BATCHES], options.channels)
    if len(images) <= HELD_OUT:
        raise UserError(
            f"the batches in {root} have {len(images)} training pictures, too few for ImageNet32: "
            "unpack its archives again"
        )
    _, (held,) = hold_out(len(images), [HELD_OUT], options.seed)
    val = images[torch.from_numpy(held)]
    train = _without(images, held)
    test = _read(files[TEST_BATCH], options.channels)
    if options.limit is not None:
        # Copies, so that the memory of the rest is given back.
        train, val, test = (part[: options.limit].clone() for part in (train, val, test))
    return DataSplits(
        "imagenet32-batches",
        MemoryPictures(train),
        val,
        test,
        {
            "source": str(files[TRAIN_BATCHES[0]].parent),
            "split": f"{HELD_OUT} random training pictures for validation; val_data is the test",
            "seed": options.seed,
            "held_out_indices": {"val": held.tolist()},
        },
    )


@contextmanager
def _broken(path: Path) -> Iterator[None]:
    """Turn what a damaged .npz file raises into an error that names the file."""
    try:
        yield
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is no batch of ImageNet32: download it again") from error


def _read(path: Path, channels: int) -> Tensor:
    """Images of one batch, uint8 (N, C, 32, 32)."""
    if path.suffix == ".npz":
        with _broken(path), np.load(path, allow_pickle=False) as arrays:
            levels = arrays["data"]
    else:
        batch = read_arrays(path)
        levels = batch.get("data") if isinstance(batch, dict) else None
    if (
        not isinstance(levels, np.ndarray)
        or levels.dtype != np.uint8
        or levels.ndim != 2
        or levels.shape[1] != IMAGE
        or not len(levels)
    ):
        raise UserError(
            f"{path} is no batch of ImageNet32 ('data', uint8 of N x 3072): download it again"
        )
    return to_channels(torch.from_numpy(levels.reshape(-1, 3, 32, 32)), channels)


def _bytes(path: Path) -> int:
    """Size of a batch file in bytes, uncompressed."""
    if path.suffix != ".npz":
        return path.stat().st_size
    with _broken(path), zipfile.ZipFile(path) as archive:
        return sum(entry.file_size for entry in archive.infolist())


def _read_all(paths: list[Path], channels: int) -> Tensor:
    """All batches in one tensor, without ever holding them twice (4 GB)."""
    # Only reading tells how many images there are. The files' sizes are a bound, and the system
    # provides memory only as it is written to.
    room = sum(_bytes(path) for path in paths) // IMAGE
    images = torch.empty(room, channels, 32, 32, dtype=torch.uint8)
    filled = 0
    for path in Bar(
        paths,
        desc="reading ImageNet32",
        unit="batch",
        leave=False,
        in_log=False,
    ):
        batch = _read(path, channels)
        images[filled : filled + len(batch)] = batch
        filled += len(batch)
    return images[:filled]


def _without(images: Tensor, held: np.ndarray) -> Tensor:
    """``images`` without those at ``held``, in place: images from the end fill the gaps."""
    count = len(images) - len(held)
    gaps = held[held < count]
    tail = np.setdiff1d(np.arange(count, len(images)), held)
    images[torch.from_numpy(gaps)] = images[torch.from_numpy(tail)]
    return images[:count]
