"""What an image's pixels say about its noise and JPEG compression."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from srvae_pyro.data.degradations import as_jpeg, as_webp
from srvae_pyro.models import InputKind
from srvae_pyro.upscaling.inspection import COSINES, inspected
from srvae_pyro.upscaling.photographs import read_photograph


def photograph(seed: int = 0, side: int = 192) -> Image.Image:
    """Random surfaces as of a photograph, smooth in places: (side, side), RGB."""
    random = np.random.default_rng(seed)
    down, across = np.meshgrid(*[np.fft.fftfreq(side)] * 2, indexing="ij")
    frequency = np.hypot(down, across)
    frequency[0, 0] = 1
    spectra = np.fft.fft2(random.standard_normal((4, side, side)))
    rough, *smooth = np.fft.ifft2(spectra / frequency**1.8).real
    detail = np.where(smooth[0] > 0, rough, 0)  # texture in half of it
    planes = np.stack([s / s.std() + 0.4 * detail / detail.std() for s in smooth], -1)
    return Image.fromarray((128 + 30 * planes).clip(8, 245).astype(np.uint8))


def levels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def noisy(image: Image.Image, deviation: float) -> torch.Tensor:
    noise = np.random.default_rng(1).standard_normal((*image.size[::-1], 3))
    return levels(Image.fromarray((np.array(image) + deviation * noise).clip(0, 255).astype("u1")))


def test_the_cosines_are_orthonormal() -> None:
    np.testing.assert_allclose(COSINES @ COSINES.T, np.eye(8), atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_a_clean_image_has_no_traces(seed: int) -> None:
    found = inspected(levels(photograph(seed)))
    assert (found.table, found.noise) == (0.0, 0.0)


@pytest.mark.parametrize("quality", [30, 50, 75, 90])
def test_a_jpeg_is_known_by_its_pixels(quality: int) -> None:
    jpeg, table = as_jpeg(photograph(), quality, "4:2:0")
    found = inspected(levels(jpeg))
    assert found.table == pytest.approx(table, rel=0.15)
    assert found.subsampled
    # Saved again with finer steps, the first ones count.
    again, finer = as_jpeg(jpeg, 97, "4:4:4")
    known = inspected(levels(again), InputKind(table=finer)).table
    assert known == pytest.approx(found.table, rel=0.1)


def test_a_files_own_tables_count() -> None:
    found = inspected(levels(photograph()), InputKind(table=9.5))
    assert (found.table, found.subsampled) == (9.5, False)
    jpeg, table = as_jpeg(photograph(), 75, "4:4:4")  # its traces are not found exactly
    found = inspected(levels(jpeg), InputKind(table=table))
    assert (found.table, found.subsampled) == (table, False)


@pytest.mark.parametrize("deviation", [4, 8, 15, 25])
def test_noise_is_measured(deviation: float) -> None:
    found = inspected(noisy(photograph(), deviation))
    assert found.noise == pytest.approx(deviation, rel=0.2)
    assert found.table == 0


def test_noise_before_a_jpeg_is_not_called_none() -> None:
    image = Image.fromarray(noisy(photograph(), 20).permute(1, 2, 0).numpy())
    jpeg, table = as_jpeg(image, 85, "4:4:4")
    assert inspected(levels(jpeg), InputKind(table=table)).noise is None
    clean, table = as_jpeg(photograph(), 85, "4:4:4")
    assert inspected(levels(clean), InputKind(table=table)).noise == 0


def test_what_cannot_be_seen_is_unknown() -> None:
    white = torch.full((3, 64, 64), 255, dtype=torch.uint8)
    small = levels(photograph())[:, :12, :20]
    for image in (white, small, small[:1]):
        found = inspected(image)
        assert (found.table, found.noise) == (0, None)
    smooth = torch.arange(128, dtype=torch.uint8).expand(3, 128, 128)
    assert not inspected(smooth).table
    assert inspected(white, InputKind(table=3.0)).table == 3
    gray = levels(photograph())[:1]
    assert inspected(gray).noise == 0
    large = levels(photograph(side=600))
    assert inspected(large).noise == 0


def test_other_lossy_formats_are_told_by_their_files(tmp_path: Path) -> None:
    image = photograph()
    faded = image.copy()
    faded.putalpha(100)
    unknown, lossy, clean = InputKind(), InputKind(table=0.0, webp=True), InputKind(table=0.0)
    frames: dict[str, Any] = {"save_all": True, "append_images": [as_webp(image, 20)]}
    cases: list[tuple[str, Image.Image, dict[str, Any], InputKind]] = [
        ("a.webp", image, {"quality": 60}, lossy),
        ("alpha.webp", faded, {"quality": 60}, lossy),
        ("moving.webp", image, {"quality": 60, **frames}, lossy),
        ("lossless.webp", image, {"lossless": True}, replace(clean, noise=0.0)),
        ("moving-lossless.webp", image, {"lossless": True, **frames}, replace(clean, noise=0.0)),
        ("a.avif", image, {"quality": 60}, lossy),
        ("a.jp2", image, {}, unknown),  # it may be lossless
        ("a.png", image, {}, replace(clean, noise=0.0)),
    ]
    for name, pixels, options, kind in cases:
        pixels.save(tmp_path / name, **options)
        assert read_photograph(tmp_path / name, 3).kind == kind, name
    # Of a JPEG that was saved as WebP the pixels say more.
    jpeg, table = as_jpeg(image, 50, "4:2:0")
    jpeg.save(tmp_path / "again.webp", quality=100)
    assert read_photograph(tmp_path / "again.webp", 3).kind.table == pytest.approx(table, rel=0.15)
