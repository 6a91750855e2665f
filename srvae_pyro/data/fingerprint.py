"""A hash to know a data set's files again by, wherever they are."""

from __future__ import annotations

import hashlib

import numpy as np

from srvae_pyro.data.stream import Source

__all__ = ["fingerprint_of", "is_of_files"]

_KIND = "files-"
_SIZES, _CONTENTS = 100_000, 256  # files of which the size, and the beginning, are looked at
_BEGINNING = 2**16  # bytes


def fingerprint_of(source: Source) -> str:
    """A hash of the names of all, sizes of most and contents of some of a source's files.

    It does not depend on where they are, how they are split, or whether they are streamed, and
    millions of files take seconds. Up to 256 small files it has everything of them.
    """
    digest = hashlib.blake2b(source.fingerprint(), digest_size=16)
    digest.update(source.file_sizes(_spread(len(source), _SIZES)).astype("<i8").tobytes())
    for number in _spread(len(source), _CONTENTS).tolist():
        digest.update(source.beginning(number, _BEGINNING))
    return _KIND + digest.hexdigest()


def is_of_files(fingerprint: str) -> bool:
    """Whether that is how :func:`fingerprint_of` writes one; others are of pixels."""
    return fingerprint.startswith(_KIND)


def _spread(count: int, most: int) -> np.ndarray:
    """At most so many of the numbers 0..count-1, evenly spaced, the same always."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))
