"""The folders of a folder that are its splits, by their names."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from pathlib import Path

from srvae_pyro.errors import UserError
from srvae_pyro.formats import EXTENSIONS

__all__ = ["SPLITS", "find_split_folders", "split_named", "warn_of_deeper_splits"]

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
# Train, training_set, Test Images, val2017, valid_32x32.
_FURTHER = r"[-_ ]?(set|data|images|imgs|pictures|\d+|\d+x\d+)?"


def split_named(name: str) -> str | None:
    """The split that a folder called ``name`` holds, in any case; None if it is no split."""
    for split, words in SPLITS.items():
        if re.fullmatch(f"({'|'.join(words)}){_FURTHER}", name.casefold()):
            return split
    return None


def find_split_folders(folder: Path) -> dict[str, Path]:
    """The split folders of ``folder``; a warning names pictures and folders beside them.

    Returns:
        The folder of each split that has one, in the order of :data:`SPLITS`.

    Raises:
        UserError: several folders are for one split.
    """
    folders: dict[str, Path] = {}
    beside = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        split = split_named(entry.name)
        if not split or not entry.is_dir():
            if entry.suffix.lower() in EXTENSIONS or entry.is_dir():
                beside.append(entry.name)
        elif split in folders:
            raise UserError(
                f"{folder} has {folders[split].name}/ and {entry.name}/, both for {split}: move or "
                "rename one"
            )
        else:
            folders[split] = entry
    if folders and beside:
        more = f" and {len(beside) - 1} more" if beside[1:] else ""
        names = " and ".join(f"{place.name}/" for place in folders.values())
        warnings.warn(
            f"{folder}: {beside[0]}{more} beside {names} left out; if that is no split but a "
            "kind of pictures, put all kinds into a folder train/",
            stacklevel=2,
        )
    return {split: folders[split] for split in SPLITS if split in folders}


def warn_of_deeper_splits(folder: Path, paths: Iterable[Path]) -> None:
    """Warn if the pictures of a folder without splits are in split folders further down."""
    places = {path.parent for path in paths}
    for place in sorted(places):
        inside = place.relative_to(folder).parts
        if any(map(split_named, inside)):
            warnings.warn(
                f"{folder}: pictures of {Path(*inside)} are split with all others; name the folder "
                "that holds train/ and test/ to keep them apart",
                stacklevel=2,
            )
            return
