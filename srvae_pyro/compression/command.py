"""The commands compress and decompress: reading image files, coding them, the reports."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from srvae_pyro.compression.ans import MismatchError
from srvae_pyro.compression.arguments import CompressArguments, DecompressArguments
from srvae_pyro.compression.codec import Chain, Codec, chain_names, lower_of
from srvae_pyro.compression.container import (
    SIDE,
    Container,
    Entry,
    Header,
    fingerprints_of,
    is_packed,
    names_of,
    read_parts,
    write_parts,
)
from srvae_pyro.compression.exact import differences, machine
from srvae_pyro.data.image_files import find_images
from srvae_pyro.errors import UserError, counted
from srvae_pyro.models import ImageModel, load
from srvae_pyro.models.base import weights_digest
from srvae_pyro.runs import CONFIG, RUNS, find_run, packaged
from srvae_pyro.system.console import Bar, print_line, shown
from srvae_pyro.system.device import choose_device, start
from srvae_pyro.system.files import (
    check_new,
    check_output,
    filling,
    longest_name,
    replaced,
    unwinding,
)
from srvae_pyro.system.hub import is_cached_copy
from srvae_pyro.upscaling.photographs import Photograph, read_photograph, save_photograph
from srvae_pyro.upscaling.tiling import MemoryCanvas


def read_lossless(paths: Sequence[Path], channels: int) -> tuple[list[Tensor], list[Entry]]:
    """The levels of image files and of those in folders, uint8 (C, h, w), and their entries."""

    def refuse(error: OSError) -> None:
        place = shown(Path(error.filename))
        raise UserError(f"cannot read the folder {place} ({error.strerror}): leave it out")

    found = (find_images(path, unread=refuse) if path.is_dir() else [path] for path in paths)
    files = [file for part in found for file in part]
    if not files:
        raise UserError(f"there are no images in {shown(paths[0])}")
    levels, about, with_metadata = [], [], 0
    for file, name in zip(files, names_of([file.stem for file in files]), strict=True):
        photograph = read_photograph(file, channels)
        _check(file, photograph, channels)
        others = photograph.exif, photograph.xmp, photograph.profile, photograph.chunks
        with_metadata += any(others) or bool(photograph.unkept)
        levels.append(photograph.levels)
        height, width = photograph.levels.shape[-2:]
        about.append(Entry(name, height, width, photograph.gray and channels == 3))
    if with_metadata:
        of = counted(with_metadata, "image")
        print_line(f"EXIF, XMP, colour profiles and gamma of {of} are not kept")
    return levels, about


def _check(file: Path, photograph: Photograph, channels: int) -> None:
    lost = photograph.lost
    if photograph.alpha is not None and photograph.alpha.getextrema() != (255, 255):
        lost = "its transparency"
    elif channels == 1 and not photograph.gray:
        lost = "its colours: the model is for gray images"
    elif max(photograph.levels.shape) > SIDE:
        lost = f"its size: a side may have {SIDE} pixels"
    if lost:
        raise UserError(f"{shown(file)} cannot be stored losslessly ({lost}): leave it out")


def header_of(model: ImageModel, codec: Codec, run: str, images: Sequence[Entry]) -> Header:
    made = machine(codec.device)
    digest = weights_digest(model)
    return Header(run, digest, codec.arithmetic, codec.group, (), made, tuple(images))


def container_of(
    header: Header, model: ImageModel, images: Sequence[Tensor], chains: Sequence[Chain]
) -> Container:
    header = replace(header, start_words=tuple(chain.start_words for chain in chains))
    prints = fingerprints_of(images, lower_of(model, images))
    return Container(header, prints, [chain.words for chain in chains])


@unwinding()
def compress(arguments: CompressArguments) -> int:
    assert arguments.out is not None
    folder = find_run(arguments.run)
    check_output(arguments.out, "--out FILE", is_packed)
    device = choose_device(arguments.device)
    start(device, threads=1)  # as it codes in one
    model = load(folder, device)
    images, about = read_lossless(arguments.images, model.config.image_shape[0])
    codec = Codec(model, arguments.group, arguments.arithmetic)
    run = arguments.run if is_cached_copy(folder) else folder.resolve().name
    header = header_of(model, codec, run, about)
    header.check()
    header.to_bytes()  # refuses what cannot be written
    began = time.monotonic()
    with Bar(total=len(images), unit="image") as bar:
        chains = codec.encode(images, bar.update)
    seconds = time.monotonic() - began
    content = container_of(header, model, images, chains)
    if arguments.verify and not content.matches(_decoded(codec, content, preview=False)):
        raise UserError("the file does not decode to the same images: try --device cpu")
    earlier = replaced(arguments.out)
    size = write_parts(arguments.out, content)
    _report(f"{shown(arguments.out)}{earlier}", model, images, chains, size, seconds)
    return 0


@unwinding()
def decompress(arguments: DecompressArguments) -> int:
    assert arguments.out is not None
    content = read_parts(arguments.file, arguments.preview)
    header = content.header
    check_output(arguments.out, "--out DIR")
    files = _files_of(header, arguments.out)
    check_new(arguments.out, files)
    device = choose_device(arguments.device)
    start(device, threads=1)  # as it codes in one
    model = load(_run_of(arguments, header), device)
    if weights_digest(model) != header.model:
        raise UserError(
            f"{shown(arguments.file)} was made with weights other than those of "
            f"{arguments.run or header.run}: name the right run with --run"
        )
    began = time.monotonic()
    codec = Codec(model, header.group, "fp64" if header.arithmetic == "fp64" else "fp32")
    if len(chain_names(model)) != len(header.start_words):
        raise UserError(f"{shown(arguments.file)} does not have the chains that its model makes")
    images = _matching(codec, content, arguments, device)
    seconds = time.monotonic() - began
    with filling(arguments.out, files) as folder:
        for file, image, levels in zip(files, header.images, images, strict=True):
            save_photograph(folder / file, MemoryCanvas(levels[:1] if image.gray else levels))
    report = f"{counted(len(files), 'preview' if arguments.preview else 'image')} in "
    report += shown(arguments.out)
    if arguments.preview:
        report += f" from {content.bytes_read:,} of {content.size:,} bytes"
    print(f"{report}; {_speed(images, seconds)}")
    return 0


def _files_of(header: Header, out: Path) -> list[str]:
    names = [image.name for image in header.images]
    files = names_of(names, longest_name(out) - len(".png"))
    changed = [(old, new) for old, new in zip(names, files, strict=True) if old != new]
    if changed:
        old, new = changed[0]
        more = f", and {len(changed) - 1} more" if changed[1:] else ""
        print_line(f"renamed, as such names cannot be written here: {old} to {new}{more}")
    return [f"{name}.png" for name in files]


def _decoded(codec: Codec, content: Container, preview: bool) -> list[Tensor]:
    sizes = content.header.sizes
    with Bar(total=len(sizes) * len(content.chains), unit="image") as bar:
        if preview:
            return codec.preview(content.chains[0], sizes, bar.update)
        return codec.decode(content.chains, sizes, bar.update)


def _matching(
    codec: Codec, content: Container, arguments: DecompressArguments, device: torch.device
) -> list[Tensor]:
    """The images, if all have their checksums; else this machine computes differently."""
    preview = arguments.preview
    try:
        images = _decoded(codec, content, preview)
    except MismatchError:
        images = []
    except UserError as error:
        raise UserError(f"{shown(arguments.file)} cannot be decompressed: {error}") from None
    if images and content.matches(images, preview):
        return images
    others = differences(content.header.made, machine(device))
    raise UserError(
        f"{shown(arguments.file)} cannot be decompressed on this machine, whose arithmetic differs "
        f"from where it was made ({others or 'with the same versions'}); nothing was written"
    )


def _run_of(arguments: DecompressArguments, header: Header) -> Path:
    """The folder of the model's run; if only the file names it, a run that is here."""
    if arguments.run is not None:
        return find_run(arguments.run)
    name = header.run
    if name in packaged():
        return packaged()[name]
    if not set(name) & set("/\\") and name not in ("", "..") and (RUNS / name / CONFIG).is_file():
        return RUNS / name
    raise UserError(
        f"{shown(arguments.file)} was made with the model {shown(Path(name))}, which is not under "
        f"{RUNS}/: name its run with --run"
    )


def _report(
    out: str,
    model: ImageModel,
    images: Sequence[Tensor],
    chains: Sequence[Chain],
    size: int,
    seconds: float,
) -> None:
    values = sum(image.numel() for image in images)
    print(
        f"{counted(len(images), 'image')}, {values:,} values, in {out}: {size:,} bytes, "
        f"{8 * size / values:.3f} bits/dim"
    )
    rest = size
    for name, chain in zip(chain_names(model), chains, strict=True):
        rest -= chain.bytes
        print(f"  {name}: {chain.bytes:,} bytes, of which {chain.start_bytes:,} are initial")
    print(f"  header and checksums: {rest:,} bytes; {_speed(images, seconds)}")


def _speed(images: Sequence[Tensor], seconds: float) -> str:
    values = sum(image.numel() for image in images)
    return f"{values / seconds / 1e6:.3f} MB/s, {len(images) / seconds:.3g} images/s"
