"""Streams of random numbers: everything random in the package starts from one of them."""

from __future__ import annotations

import numpy as np

__all__ = ["stream", "torch_seed"]


def stream(*integers: int) -> np.random.Generator:
    """A generator whose numbers are unrelated to those of any other integers.

    All bits of all integers count: 128 of them reach the generator, so even many millions of
    streams never coincide, as those of PyTorch's CPU generator do, which takes 32 bits of a seed.

    Args:
        integers: a seed, whatever numbers tell streams of one kind apart, and last what the stream
            is for, in letters: ``stream(seed, epoch, *b"order")``. Each at least 0; zeros at the
            end do not count, so without letters a 0 is as good as nothing.
    """
    # NumPy cuts integers into words of 32 bits and puts these one behind the other.
    words = [max(-(-int(n).bit_length() // 32), 1) for n in integers]
    lengths = words if max(words) > 1 else ()
    return np.random.default_rng(np.random.SeedSequence(integers, spawn_key=lengths))


def torch_seed(*integers: int) -> int:
    """A seed for a generator of PyTorch's, whose state is then carried on: from :func:`stream`.

    For the few that a run has. Where there are many streams take :func:`stream` itself.
    """
    return int(stream(*integers).integers(2**63))
