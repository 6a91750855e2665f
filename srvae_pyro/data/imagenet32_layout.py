"""The places of ImageNet32's two published forms on disk."""

from __future__ import annotations

from pathlib import Path

__all__ = ["HELD_OUT", "TEST_BATCH", "TRAIN_BATCHES", "find_batches", "find_png_folder"]

HELD_OUT = 20_000  # training images for validation, in either form
TRAIN_BATCHES = tuple(f"train_data_batch_{i}" for i in range(1, 11))
TEST_BATCH = "val_data"


def find_png_folder(root: Path) -> Path | None:
    """The folder at or below ``root`` that holds ``train_32x32``, if one does."""
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
