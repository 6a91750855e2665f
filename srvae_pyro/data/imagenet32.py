"""ImageNet32 as the PNG folders of van den Oord et al."""

from __future__ import annotations

from pathlib import Path

from srvae_pyro.data.imagenet32_layout import HELD_OUT, find_batches, find_png_folder
from srvae_pyro.data.options import DEFAULTS, PictureOptions
from srvae_pyro.data.pictures import find_pictures, read_pictures
from srvae_pyro.data.splits import DataSplits, hold_out, only_size
from srvae_pyro.data.training_pictures import MemoryPictures
from srvae_pyro.errors import UserError

__all__ = ["load_imagenet32"]


def load_imagenet32(root: Path, options: PictureOptions = DEFAULTS) -> DataSplits:
    """Downsampled ImageNet, 3x32x32, from ``train_32x32`` and ``valid_32x32`` (PNGs).

    The published validation pictures are the test split; 20,000 training pictures drawn at random
    are held out for validation.

    References:
        van den Oord, Kalchbrenner and Kavukcuoglu, Pixel recurrent neural networks, 2016,
        arXiv:1601.06759, section 5.

    Args:
        root: folder of the two, or of a folder ``imagenet32`` or ``small`` with the two.
        options: heeds ``image_size`` (32 or None), ``channels``, ``seed`` and ``limit``.

    Raises:
        UserError: it is not there, or not whole.
    """
    only_size("imagenet32", options, 32)
    folder = find_png_folder(root)
    if folder is None:
        if find_batches(root):
            raise UserError(
                f"{root} has ImageNet32 as pickled batches, not as PNGs: "
                "take --data imagenet32-batches"
            )
        raise UserError(
            f"no ImageNet32 in {root}: unpack train_32x32.tar and valid_32x32.tar there, or name "
            "their folder with --data-root"
        )
    train, test = find_pictures(folder / "train_32x32"), find_pictures(folder / "valid_32x32")
    if len(train) <= HELD_OUT or not test:
        raise UserError(
            f"{folder} has {len(train)} pictures in train_32x32 and {len(test)} in valid_32x32, "
            "too few for ImageNet32: unpack both archives again"
        )
    kept, (held,) = hold_out(len(train), [HELD_OUT], options.seed)
    train_paths = [train[i] for i in kept[: options.limit]]
    val_paths = [train[i] for i in held[: options.limit]]
    test_paths = test[: options.limit]
    # One tensor of all, then views of it: a copy would take 4 GB more.
    paths = [*train_paths, *val_paths, *test_paths]
    images = read_pictures(paths, options.channels, what="ImageNet32")
    if images.shape[2:] != (32, 32):
        raise UserError(f"the pictures in {folder} are not of 32x32: take --data {folder}")
    counts = [len(train_paths), len(val_paths), len(test_paths)]
    train_images, val_images, test_images = images.split(counts)
    return DataSplits(
        "imagenet32",
        MemoryPictures(train_images),
        val_images,
        test_images,
        {
            "source": str(folder),
            "split": f"{HELD_OUT} random training pictures for validation; valid_32x32 is the test",
            "seed": options.seed,
            "held_out_indices": {"val": held.tolist()},
        },
    )
