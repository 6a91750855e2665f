"""Flips and shifts, against the same done image by image."""

import numpy as np
import pytest
import torch
from torch import Tensor

from srvae_pyro.data import augment


def candidates(image: Tensor) -> list[np.ndarray]:
    """Every flip and shift of at most 5% of one image (C, H, W), with its edge repeated."""
    down, right = image.shape[1] // 20, image.shape[2] // 20
    results = []
    for flipped in (image.numpy(), image.numpy()[:, :, ::-1]):
        padded = np.pad(flipped, ((0, 0), (down, down), (right, right)), mode="edge")
        for i, j in np.ndindex(2 * down + 1, 2 * right + 1):
            results.append(padded[:, i : i + image.shape[1], j : j + image.shape[2]])
    return results


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 40, 44), (3, 16, 16)])
def test_every_result_is_a_flip_and_shift(shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (1000, *shape), generator=generator).byte()
    results = augment(images, generator)
    assert results.shape == images.shape
    assert results.dtype == torch.uint8
    assert results.is_contiguous()
    seen: dict[int, int] = {}
    for image, result in zip(images, results, strict=True):
        (which,) = (i for i, other in enumerate(candidates(image)) if np.array_equal(other, result))
        seen[which] = seen.get(which, 0) + 1
    # Each of them turns up, and as often as chance has it.
    kinds = 2 * (2 * (shape[1] // 20) + 1) * (2 * (shape[2] // 20) + 1)
    assert len(seen) == kinds
    expected = 1000 / kinds
    assert all(abs(n - expected) < 5 * expected**0.5 + 1 for n in seen.values())


def test_crops_are_flipped_but_not_shifted() -> None:
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (200, 3, 64, 40), generator=generator).byte()
    results = augment(images, generator, shift=False)
    flipped = (results == images.flip(3)).flatten(1).all(1)
    assert (flipped | (results == images).flatten(1).all(1)).all()
    assert 70 < flipped.sum() < 130
