"""CIFAR-10 as a data set."""

from __future__ import annotations

from pathlib import Path

import torch

from srvae_pyro.data.options import DEFAULTS, PictureOptions
from srvae_pyro.data.splits import DataSplits, only_size, to_channels
from srvae_pyro.data.training_pictures import MemoryPictures
from srvae_pyro.errors import UserError
from srvae_pyro.system.files import holding

__all__ = ["load_cifar10"]

VALIDATION = 10_000  # the last of the 50,000 training images


def load_cifar10(root: Path, options: PictureOptions = DEFAULTS) -> DataSplits:
    """CIFAR-10: 40,000 images of 3x32x32 to train on, 10,000 to validate, 10,000 to test.

    Validation is the last 10,000 of the published training images.

    References:
        Krizhevsky, Learning multiple layers of features from tiny images, 2009.

    Args:
        root: folder of ``cifar-10-batches-py`` or of ``cifar-10-python.tar.gz``; a download is
            written there.
        options: heeds ``image_size`` (32 or None), ``channels``, ``limit`` and ``download``.

    Raises:
        UserError: it is not there and cannot be downloaded.
    """
    # Importing torchvision takes more than a second, which only this data set should cost.
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    only_size("cifar10", options, 32)
    if root.name == CIFAR10.base_folder:
        root = root.parent
    # CIFAR-10 comes as pickles, which could run code. torchvision unpickles only files whose MD5
    # are those of the published ones, so an exchanged file is refused, not run.
    try:
        train_set = CIFAR10(root, train=True)
    except RuntimeError:
        archive = str(root / CIFAR10.filename)
        if not options.download and not check_integrity(archive, CIFAR10.tgz_md5):
            raise _unavailable(root, "download is off") from None
        try:
            root.mkdir(parents=True, exist_ok=True)
            with holding(root, wait=True):  # a second process finds what the first has downloaded
                train_set = CIFAR10(root, train=True, download=True)
        except (OSError, RuntimeError, EOFError) as error:
            raise _unavailable(root, str(error)) from error
    test_set = CIFAR10(root, train=False)

    images = torch.from_numpy(train_set.data).permute(0, 3, 1, 2)
    test_images = torch.from_numpy(test_set.data).permute(0, 3, 1, 2)
    train, val, test = (
        to_channels(part[: options.limit], options.channels)
        for part in (images[:-VALIDATION], images[-VALIDATION:], test_images)
    )
    return DataSplits(
        "cifar10",
        MemoryPictures(train),
        val,
        test,
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
