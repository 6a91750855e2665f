"""ImageNet32 as PNG folders, and as pickled batches, which are read without running any code."""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from srvae_pyro.data.image_files import find_images, read_images
from srvae_pyro.data.splits import (
    DEFAULTS,
    DataSplits,
    ImageOptions,
    MemoryImages,
    hold_out,
    only_size,
    to_channels,
)
from srvae_pyro.errors import UserError
from srvae_pyro.system.console import Bar

HELD_OUT = 20_000  # training images for validation, in either form
TRAIN_BATCHES = tuple(f"train_data_batch_{i}" for i in range(1, 11))
TEST_BATCH = "val_data"


def find_png_folder(root: Path) -> Path | None:
    for folder in (root, root / "imagenet32", root / "small"):
        if (folder / "train_32x32").is_dir():
            return folder
    return None


def find_batches(root: Path) -> dict[str, Path]:
    """The published batch files (pickles or ``.npz``) at or below ``root``, by their names."""
    names = ("Imagenet32_train", "Imagenet32_val", "Imagenet32_train_npz", "Imagenet32_val_npz")
    folders = [root, root / "imagenet32"]
    folders += [folder / name for folder in folders for name in names]
    files: dict[str, Path] = {}
    for batch in (*TRAIN_BATCHES, TEST_BATCH):
        for folder in folders:
            for file in (folder / batch, folder / f"{batch}.npz"):
                if batch not in files and file.is_file():
                    files[batch] = file
    return files


def read_arrays(path: Path) -> Any:
    """Read a pickle of plain containers and NumPy arrays; any other name in it is refused."""
    try:
        with open(path, "rb") as file:
            # latin1: numpy's rule for pickles that Python 2 wrote.
            return _ArrayUnpickler(file, encoding="latin1").load()
    except UserError as error:
        raise UserError(f"{path} {error}") from None
    except MemoryError:
        raise
    except Exception as error:  # arbitrary bytes make the unpickler raise almost anything
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not an intact pickle ({reason}): download it again") from error


def _encode(text: str, encoding: str) -> bytes:
    # How Python 2's protocol spells bytes; arrays need no other codec.
    if encoding not in ("latin1", "latin-1"):
        raise UserError(f"asks for the codec {encoding!r}, which no array needs: do not trust it")
    return text.encode("latin1")


# Taken from what numpy itself writes, so that neither old nor new module names are imported.
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_FROM_BUFFER = np.zeros(1).__reduce_ex__(5)[0]
_SCALAR = np.float64(0).__reduce__()[0]
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = _RECONSTRUCT
    _ALLOWED[f"{_core}.multiarray", "scalar"] = _SCALAR
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _FROM_BUFFER


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise UserError(
                f"asks for {module}.{name}, which no array needs: it may run code, do not trust it"
            )
        return _ALLOWED[module, name]


def load_imagenet32(root: Path, options: ImageOptions = DEFAULTS) -> DataSplits:
    """ImageNet, 3x32x32, as PNGs (van den Oord et al. 2016, arXiv:1601.06759, section 5)."""
    only_size("imagenet32", options, 32)
    folder = find_png_folder(root)
    if folder is None:
        if find_batches(root):
            raise UserError(
                f"{root} has ImageNet32 as pickled batches, not as PNGs: "
                "use --data imagenet32-batches"
            )
        raise UserError(
            f"no ImageNet32 in {root}: unpack train_32x32.tar and valid_32x32.tar there, or name "
            "their folder with --data-root"
        )
    train, test = find_images(folder / "train_32x32"), find_images(folder / "valid_32x32")
    if len(train) <= HELD_OUT or not test:
        raise UserError(
            f"{folder} has {len(train)} images in train_32x32 and {len(test)} in valid_32x32, "
            "too few for ImageNet32: unpack both archives again"
        )
    kept, (held,) = hold_out(len(train), [HELD_OUT], options.seed)
    train_paths = [train[i] for i in kept[: options.limit]]
    val_paths = [train[i] for i in held[: options.limit]]
    test_paths = test[: options.limit]
    # One tensor of all, then views of it: a copy would take 4 GB more.
    paths = [*train_paths, *val_paths, *test_paths]
    images, _ = read_images(paths, options.channels, what="ImageNet32", strict=True)
    if images.shape[2:] != (32, 32):
        raise UserError(f"the images in {folder} are not 32x32: use --data {folder}")
    parts = images.split([len(train_paths), len(val_paths), len(test_paths)])
    return _splits("imagenet32", folder, parts, "valid_32x32", held, options.seed)


def _splits(
    name: str, source: Path, parts: Sequence[Tensor], test: str, held: np.ndarray, seed: int
) -> DataSplits:
    info = {
        "source": str(source),
        "split": f"{HELD_OUT} random training images for validation; {test} is the test",
        "seed": seed,
        "held_out_indices": {"val": held.tolist()},
    }
    return DataSplits(name, MemoryImages(parts[0]), parts[1], parts[2], info)


IMAGE = 3 * 32 * 32  # bytes, red plane first


def load_imagenet32_batches(root: Path, options: ImageOptions = DEFAULTS) -> DataSplits:
    """ImageNet by another filter (Chrabaszcz et al. 2017, arXiv:1707.08819).

    Likelihoods do not compare with those of the PNGs.
    """
    only_size("imagenet32-batches", options, 32)
    files = find_batches(root)
    if not files and find_png_folder(root):
        raise UserError(
            f"{root} has ImageNet32 as PNGs, not as pickled batches: use --data imagenet32"
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
            f"the batches in {root} have {len(images)} training images, too few for ImageNet32: "
            "unpack its archives again"
        )
    _, (held,) = hold_out(len(images), [HELD_OUT], options.seed)
    val = images[torch.from_numpy(held)]
    train = _without(images, held)
    test = _read(files[TEST_BATCH], options.channels)
    if options.limit is not None:
        # Copies, so that the memory of the rest is given back.
        train, val, test = (part[: options.limit].clone() for part in (train, val, test))
    source = files[TRAIN_BATCHES[0]].parent
    return _splits("imagenet32-batches", source, (train, val, test), "val_data", held, options.seed)


@contextmanager
def _broken(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is not a batch of ImageNet32: download it again") from error


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
            f"{path} is not a batch of ImageNet32 ('data', uint8 of N x 3072): download it again"
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
    for path in Bar(paths, desc="reading ImageNet32", unit="batch", leave=False, in_log=False):
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
