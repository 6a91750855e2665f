"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["write_json", "write_text", "write_whole"]


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in ``path``'s place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept: image libraries choose the format by it.
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        write(partial)
        os.chmod(partial, 0o666 & ~_umask())  # some writers make private files
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, values: Any) -> None:
    """Write ``values`` as indented JSON, lists of numbers in one line each."""
    text = json.dumps(values, indent=2)
    text = re.sub(r"\[[-+.eE\d,\s]*\]", lambda m: "[" + " ".join(m[0][1:-1].split()) + "]", text)
    write_text(path, text + "\n")


def write_text(path: Path, text: str) -> None:
    """Write ``text``."""

    def write(partial: Path) -> None:
        partial.write_text(text, encoding="utf-8")

    write_whole(path, write)


def _sync_folder(folder: Path) -> None:
    """Have the folder's entries on the disk too, where the system allows it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
