"""Fingerprints: hashes that recognise a data set's files wherever they are."""

from __future__ import annotations

import hashlib

import numpy as np

from srvae_pyro.data.sources import Source

__all__ = ["fingerprint_of", "is_of_files"]

PREFIX = "files-"
SIZES = 100_000  # files of which at most the sizes are hashed
CONTENTS = 256  # files of which at most the beginnings are hashed
BEGINNING = 2**16  # bytes


def fingerprint_of(source: Source) -> str:
    """Hash of all names, most sizes and some contents of a source's files.

    It does not depend on where the files are, how they are split, or whether they are streamed.
    Millions of files take seconds; up to 256 small files are hashed in full.
    """
    digest = hashlib.blake2b(source.names_hash(), digest_size=16)
    digest.update(source.file_sizes(_evenly_spaced(len(source), SIZES)).astype("<i8").tobytes())
    for index in _evenly_spaced(len(source), CONTENTS).tolist():
        digest.update(source.beginning(index, BEGINNING))
    return PREFIX + digest.hexdigest()


def is_of_files(fingerprint: str) -> bool:
    """Whether :func:`fingerprint_of` made a fingerprint; others are hashes of pixels."""
    return fingerprint.startswith(PREFIX)


def _evenly_spaced(count: int, most: int) -> np.ndarray:
    """At most ``most`` of the indices 0..count-1, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))
