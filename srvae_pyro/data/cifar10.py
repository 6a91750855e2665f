"""CIFAR-10."""

from __future__ import annotations

from pathlib import Path

import torch

from srvae_pyro.data.splits import DataSplits, only_size, to_channels
from srvae_pyro.errors import UserError

__all__ = ["load_cifar10"]

VALIDATION = 10_000  # the last of the 50,000 training pictures


def load_cifar10(
    root: Path,
    *,
    image_size: int | None = None,
    channels: int = 3,
    download: bool = True,
    limit: int | None = None,
) -> DataSplits:
    """CIFAR-10: 40,000 pictures of 3x32x32 to train on, 10,000 to validate, 10,000 to test.

    Validation is the last 10,000 of the published training pictures.

    References:
        Krizhevsky, Learning multiple layers of features from tiny images, 2009.

    Args:
        root: folder of ``cifar-10-batches-py`` or of ``cifar-10-python.tar.gz``, and where a
            download goes.
        image_size: 32 or nothing.
        channels: 3, or 1 for luma.
        download: fetch it where ``root`` has none.
        limit: keep the first so many of each split.

    Raises:
        UserError: not there and not to be had.
    """
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    only_size("cifar10", image_size, 32)
    if root.name == CIFAR10.base_folder:
        root = root.parent
    # CIFAR-10 comes as pickles, which could run code. torchvision unpickles only files whose MD5
    # are those of the published ones, so an exchanged file is refused, not run.
    try:
        train_set = CIFAR10(root, train=True)
    except RuntimeError:
        if not download and not check_integrity(str(root / CIFAR10.filename), CIFAR10.tgz_md5):
            raise _unavailable(root, "download is off") from None
        try:
            train_set = CIFAR10(root, train=True, download=True)
        except (OSError, RuntimeError, EOFError) as error:
            raise _unavailable(root, str(error)) from error
    test_set = CIFAR10(root, train=False)

    images = torch.from_numpy(train_set.data).permute(0, 3, 1, 2)
    test = torch.from_numpy(test_set.data).permute(0, 3, 1, 2)
    return DataSplits(
        "cifar10",
        to_channels(images[:-VALIDATION][:limit], channels),
        to_channels(images[-VALIDATION:][:limit], channels),
        to_channels(test[:limit], channels),
        {
            "source": str(root),
            "split": f"as published; the last {VALIDATION} training pictures for validation",
        },
    )


def _unavailable(root: Path, reason: str) -> UserError:
    reason = " ".join(reason.split()) or "no network"
    return UserError(
        f"no intact CIFAR-10 in {root} and no download ({reason}): put cifar-10-python.tar.gz "
        "there, name its folder with --data-root, or take --data photos (needs no network) or "
        "--data DIR (your pictures)"
    )
