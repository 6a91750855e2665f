"""How many bytes a model's code takes, against what its ELBO predicts and other codecs take."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from srvae_pyro.compression.codec import Codec, chain_names
from srvae_pyro.compression.command import container_of, header_of
from srvae_pyro.compression.container import Entry, packed, read_from
from srvae_pyro.data.image_files import open_image
from srvae_pyro.data.splits import evenly_spaced_indices
from srvae_pyro.evaluation.likelihood import Likelihood, evaluate_elbo
from srvae_pyro.evaluation.measures import Measure, Result, Task, columns
from srvae_pyro.models import ImageModel
from srvae_pyro.system.console import Bar

Levels = NDArray[np.uint8]
Encode = Callable[[Levels], bytes]
Decode = Callable[[bytes], Levels]


@dataclass(frozen=True)
class CodeSize:
    name: str
    bytes: int  # of all images
    write_mb_per_second: float  # millions of values a second
    read_mb_per_second: float


@dataclass(frozen=True)
class CodingResult(Result):
    """The sizes of the same images by a model's code and by others."""

    images: int
    values: int  # of all of them, a byte each
    predicted_bytes: float  # by the negative ELBO
    model: CodeSize  # of its file, with header, checksums and what the chains start with
    start_bytes: dict[str, int]  # by chain, to start with, whatever the number of images
    chain_bytes: dict[str, int]  # by chain, all of it
    preview_bytes: int  # of the file, which every y is read from; 0 of a VAE, which has none
    others: list[CodeSize]  # each image a file, then all in one image
    is_of_all: bool = False  # the images that other measures are of

    @property
    def net_bytes(self) -> int:
        """Of the chains, without those to start with."""
        return sum(self.chain_bytes.values()) - sum(self.start_bytes.values())

    def images_per_second(self, mb_per_second: float) -> float:
        return 1e6 * mb_per_second * self.images / self.values

    def to_json(self) -> dict[str, Any]:
        speeds = {
            "written": self.images_per_second(self.model.write_mb_per_second),
            "read": self.images_per_second(self.model.read_mb_per_second),
        }
        values = asdict(self)
        del values["is_of_all"]
        return {**values, "net_bytes": self.net_bytes, "images_per_second": speeds}

    def table(self, others: Mapping[str, Any] | None = None) -> str:
        heads = ["bytes", "bits/dim", "MB/s to write", "to read"]
        rows = [[f"{self.images:,} images", *heads]]

        def row(name: str, count: float, *speeds: float) -> None:
            cells = [f"{count:,.0f}", f"{8 * count / self.values:.3f}"]
            rows.append([name, *cells, *([f"{s:.3f}" for s in speeds] or ["-", "-"])])

        row("uncompressed", self.values)
        if self.is_of_all and (likelihood := (others or {}).get(Likelihood.name)):
            nll = likelihood.bits_per_dim
            row("the nll, by importance sampling", nll * self.values / 8)
        row("the negative ELBO", self.predicted_bytes)
        row("bits back, without initial bits", self.net_bytes)
        row("bits back, with initial bits", sum(self.chain_bytes.values()))
        for size in (self.model, *self.others):
            row(size.name, size.bytes, size.write_mb_per_second, size.read_mb_per_second)
        excess = 100 * (self.net_bytes / self.predicted_bytes - 1)
        starts = " and ".join(f"{n:,} for {name}" for name, n in self.start_bytes.items())
        text = f"{columns(rows, left=1)}\nwithout initial bits {excess:+.2f}% against the negative "
        text += f"ELBO of the same images; initial bytes, whatever their number: {starts}"
        written = self.images_per_second(self.model.write_mb_per_second)
        read = self.images_per_second(self.model.read_mb_per_second)
        text += f"\nevery image was read back exactly; {written:.3g} images/s written, "
        text += f"{read:.3g} read"
        if self.preview_bytes:
            share = self.preview_bytes / self.model.bytes
            text += f"; every y is in the first {self.preview_bytes:,} bytes, {share:.1%}"
        if not any(size.name.startswith("JPEG XL") for size in self.others):
            text += "\nJPEG XL is not installed: pip install 'srvae-pyro[codecs]'"
        return text


@dataclass
class Coding(Measure):
    """The bytes of some of the images by bits-back coding, and by other codecs."""

    name: ClassVar[str] = "compression"
    flag: ClassVar[str] = "compress"
    compress: int | None
    seed: int

    def run(self, task: Task) -> Iterator[CodingResult]:
        if not task.group.main:
            return
        images, indices = task.selection.images, task.selection.indices
        chosen = evenly_spaced_indices(len(images), self.compress)
        result = evaluate_coding(
            task.model, images[chosen], indices[chosen], seed=self.seed, progress=True
        )
        yield replace(result, is_of_all=len(chosen) == len(images))


def evaluate_coding(
    model: ImageModel, images: Tensor, indices: Tensor, *, seed: int = 0, progress: bool = False
) -> CodingResult:
    """Code uint8 images (N, C, H, W), read them back, and write them by the installed codecs.

    ``seed`` and ``indices`` (N) give the noise of the ELBO.

    Raises:
        RuntimeError: the code does not decode to the same images.
        UserError: the model cannot code them.
    """
    device = next(model.parameters()).device
    elbo = evaluate_elbo(model, images, device, seed=seed, indices=indices)
    codec, each = Codec(model), list(images)
    names = chain_names(model)
    with Bar(total=(1 + len(names)) * len(images), unit="image", disable=not progress) as bar:
        began = time.monotonic()
        chains = codec.encode(each, bar.update)
        entries = [Entry(f"{i:06d}", *image.shape[-2:]) for i, image in enumerate(each)]
        header = header_of(model, codec, "run", entries)
        file = packed(container_of(header, model, each, chains))
        written = time.monotonic()
        content = read_from(io.BytesIO(file))
        again = codec.decode(content.chains, content.header.sizes, bar.update)
        read = time.monotonic()
    if not torch.equal(torch.stack(again), images):
        raise RuntimeError("the code does not decode to the same images")
    values = images.numel()
    chain_bytes = [chain.bytes for chain in chains]
    start_bytes = [chain.start_bytes for chain in chains]
    size = _size("bits back, one file", len(file), values, written - began, read - written)
    preview = read_from(io.BytesIO(file), preview=True).bytes_read if len(names) > 1 else 0
    return CodingResult(
        len(images),
        values,
        len(images) * elbo.nats / math.log(2) / 8,
        size,
        dict(zip(names, start_bytes, strict=True)),
        dict(zip(names, chain_bytes, strict=True)),
        preview,
        _others(images),
    )


WEBP_SIDE = 16383  # the most pixels of a side


def _others(images: Tensor) -> list[CodeSize]:
    arrays = [_array(image) for image in images]
    sizes = []
    for name, (encode, decode) in _codecs().items():
        for what, inputs in (("a file each", arrays), ("one image", [_mosaic(images)])):
            if name == "WebP" and max(inputs[0].shape[:2]) > WEBP_SIDE:
                continue
            began = time.monotonic()
            files = [encode(array) for array in inputs]
            written = time.monotonic()
            again = [decode(file) for file in files]
            read = time.monotonic()
            if not all(map(_same, again, inputs)):
                raise RuntimeError(f"{name} did not keep the images")
            count = sum(len(file) for file in files)
            seconds = (written - began, read - written)
            sizes.append(_size(f"{name}, {what}", count, images.numel(), *seconds))
    return sizes


def _same(again: Levels, image: Levels) -> bool:
    """Whether they are equal; WebP returns three colours for gray."""
    return np.array_equal(again[..., 0] if again.ndim > image.ndim else again, image)


def _codecs() -> dict[str, tuple[Encode, Decode]]:
    """The installed codecs by name, at their smallest settings."""
    codecs = {
        "PNG": _pillow("PNG", optimize=True),
        "WebP": _pillow("WebP", lossless=True, quality=100, method=6),
    }
    try:
        from imagecodecs import jpegxl_decode, jpegxl_encode  # may be missing
    except ImportError:
        return codecs

    def encode(levels: Levels) -> bytes:
        return bytes(jpegxl_encode(levels, lossless=True, effort=9))

    return {**codecs, "JPEG XL": (encode, jpegxl_decode)}


def _pillow(kind: str, **options: Any) -> tuple[Encode, Decode]:
    def encode(levels: Levels) -> bytes:
        file = io.BytesIO()
        Image.fromarray(levels).save(file, kind, **options)
        return file.getvalue()

    def decode(content: bytes) -> Levels:
        with open_image(Path("image"), content) as opened:  # which has no limit of pixels
            return np.asarray(opened.image)

    return encode, decode


def _array(image: Tensor) -> Levels:
    """Levels (C, H, W) as (H, W, 3), or as (H, W) of one channel."""
    array: Levels = image.cpu().movedim(0, -1).contiguous().numpy()
    return array[..., 0] if array.shape[-1] == 1 else array


def _mosaic(images: Tensor) -> Levels:
    """All images in one that is about square, padded with black."""
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    missing = images.new_zeros(rows * columns - len(images), *images.shape[1:])
    grid = torch.cat([images, missing]).unflatten(0, (rows, columns))
    return _array(grid.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2))


def _size(name: str, count: int, values: int, write: float, read: float) -> CodeSize:
    return CodeSize(name, count, values / max(write, 1e-9) / 1e6, values / max(read, 1e-9) / 1e6)
