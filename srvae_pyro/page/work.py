"""What the page makes for a visitor: generated images, upscaled photographs, checked uploads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from srvae_pyro.data.image_files import read_image
from srvae_pyro.drawing.grids import save_image
from srvae_pyro.errors import UserError
from srvae_pyro.inference.operations import Sampling
from srvae_pyro.models import SRVAE, ImageModel
from srvae_pyro.page.sessions import Work
from srvae_pyro.pixels import to_unit
from srvae_pyro.upscaling.arguments import UpscaleArguments
from srvae_pyro.upscaling.command import upscale_file, upscaler_for
from srvae_pyro.upscaling.files import Outputs, Writer, names_for, pixels_of
from srvae_pyro.upscaling.photographs import Photograph, as_image, save_photograph, shown
from srvae_pyro.upscaling.tiling import MemoryCanvas
from srvae_pyro.upscaling.upscaler import passes_for, upscaling_model

Shown = list[tuple[str, str]]  # each image's file, and its caption

BATCH = 4  # images between two moments at which a visitor can stop


def generate(work: Work, model: ImageModel, count: int, sampling: Sampling) -> tuple[Shown, Shown]:
    """New images; image i of a seed is, to the byte, the one that ``generate`` writes.

    Returns:
        Each x, and each y of a srVAE.

    Raises:
        UserError: such images cannot be had.
        StoppedError: the visitor wants no more.
    """
    if count < 1:
        raise UserError("how many images must be at least 1")
    xs: Shown = []
    ys: Shown = []
    for start in range(0, count, BATCH):
        work.at(start / count, f"image {start + 1} of {count}")
        size = min(BATCH, count - start)
        options: Sampling = {**sampling, "batch_size": size}
        sites = model.generate(size, first=start, **options)
        for index in range(size):
            number = start + index
            name = f"{number:05d}.png"
            xs.append(_saved(work, name, sites["x"][index], f"image {number + 1}"))
            if "y" in sites:
                name = f"{number:05d}-y.png"
                ys.append(_saved(work, name, sites["y"][index], f"y of image {number + 1}"))
    return xs, ys


def reconstruct(work: Work, model: ImageModel, x: Tensor, sampling: Sampling) -> Shown:
    """An image x (1, C, H, W) and what the model makes of its latents."""
    work.at(0, "the reconstruction")
    images = [("image", x)]
    rebuilt = model.reconstruct(x, **sampling)["x"]
    if not isinstance(model, SRVAE):
        return _all_saved(work, [*images, ("reconstruction", rebuilt)])
    images += [("y, made of it", model.guide.d(x)), ("reconstruction from y and z", rebuilt)]
    work.at(0.5, "by way of u alone")
    sites = model.generative_reconstruct(x, **sampling)
    images += [("y drawn from its u", sites["y"]), ("x by way of u alone", sites["x"])]
    return _all_saved(work, images)


def interpolate(
    work: Work, model: ImageModel, a: Tensor, b: Tensor, steps: int, sampling: Sampling
) -> Shown:
    """From an image a (1, C, H, W) to b, which stand before and after what lies between."""
    work.at(0, f"{steps} steps")
    x = model.interpolate(a, b, steps, **sampling)["x"]
    way = [(f"step {i + 1} of {steps}", image) for i, image in enumerate(x)]
    return _all_saved(work, [("first image", a), *way, ("second image", b)])


def recombine(work: Work, model: SRVAE, a: Tensor, b: Tensor, sampling: Sampling) -> Shown:
    """u of one image (1, C, H, W) with z of another, beside each with its own z.

    What is drawn for both has the same noise, so that what differs comes of u or z.
    """
    work.at(0, "four images")
    u, z = torch.cat([a, a, b, b]), torch.cat([a, b, a, b])
    names = [(of_u, of_z) for of_u in ("1st", "2nd") for of_z in ("1st", "2nd")]
    images = [("first image", a), ("second image", b)]
    for i, (of_u, of_z) in enumerate(names):
        work.at(i / len(names), f"u of {of_u}, z of {of_z}")
        x = model.recombine(u[i : i + 1], z[i : i + 1], **sampling)["x"]
        images.append((f"u of {of_u}, z of {of_z}", x))
    return _all_saved(work, images)


def _all_saved(work: Work, images: list[tuple[str, Tensor]]) -> Shown:
    """Images (1, C, H, W) as files, in this order."""
    named = enumerate(images, 1)
    return [
        _saved(work, f"{i:02d}-{caption.replace(' ', '-').replace(',', '')}.png", x[0], caption)
        for i, (caption, x) in named
    ]


def _saved(work: Work, name: str, image: Tensor, caption: str) -> tuple[str, str]:
    path: Path = work.folder / name
    save_image(image, path)
    return str(path), caption


def check_upload(path: str | os.PathLike[str] | None, megapixels: float) -> Path:
    """The file of an image that was sent, if it may be read.

    By its header, before it is decoded.

    Raises:
        UserError: there is none, or it is too large.
    """
    if path is None:
        raise UserError("drop an image first, or choose a file")
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{shown(Path(file.name))} is kept here no longer: drop it again")
    if (pixels := pixels_of(file)) > megapixels * 1e6:
        raise UserError(
            f"{shown(Path(file.name))} has {pixels / 1e6:.3g} megapixels, and this page takes "
            f"{megapixels:g}: make it smaller or cut out a part"
        )
    return file


@contextmanager
def without_folder(path: Path) -> Iterator[None]:
    """Within it mistakes name the file by its name alone: where it is concerns no visitor."""
    try:
        yield
    except UserError as error:
        text = str(error).replace(f"{shown(path.parent)}/", "").replace(f"{path.parent}/", "")
        raise UserError(text) from None


def size_in_words(model: ImageModel) -> str:
    """Width and height of the images that a model has learnt from, such as ``32x32``."""
    _, height, width = model.config.image_shape
    return f"{width}x{height}"


def image_for(model: ImageModel, path: Path) -> Tensor:
    """An image file as an image (1, C, H, W) of the size that a model has learnt from.

    Its central square, made smaller, if that is a square.

    Raises:
        UserError: it cannot be read, or there is but one size that it may have, and it is another.
    """
    channels, height, width = model.config.image_shape
    with without_folder(path):
        image = read_image(path, channels, height if height == width else None)
    if image.size != (width, height):
        raise UserError(
            f"{shown(Path(path.name))} has {image.width}x{image.height} pixels, and the model "
            f"takes {size_in_words(model)}: bring it to that size"
        )
    levels = np.array(image).reshape(height, width, channels).transpose(2, 0, 1)
    return to_unit(torch.from_numpy(levels.copy()))[None]


# At most for each pixel of an output: a raw copy while it is made, and its file, both with alpha.
PIXEL_BYTES = 8


@dataclass(frozen=True)
class Upscaled:
    """A photograph's outputs.

    Attributes:
        bicubic: the file of its bicubic upscaled image.
        outputs: the files of the outputs, as ``upscale`` writes them.
        words: what they are.
    """

    bicubic: Path
    outputs: Outputs
    words: str


def upscale(work: Work, model: SRVAE, path: Path, arguments: UpscaleArguments) -> Upscaled:
    """Upscale a photograph; the files go to the folder of the work.

    Args:
        work: to which progress is told, after each tile of each output.
        model: the srVAE.
        path: the photograph's file.
        arguments: how; of these the run, the files and the folder do not matter.

    Raises:
        UserError: as ``upscale``.
        StoppedError: the visitor wants no output any more.
    """
    model = upscaling_model(model)
    factor = model.guide.d.factor if arguments.factor is None else arguments.factor
    passes, several = passes_for(model, factor), arguments.samples > 1
    made, words = 0, f"{arguments.samples} outputs" if several else "the output"
    work.at(0, words)
    upscaler = upscaler_for(model, arguments)
    writer = Writer(upscaler, passes, arguments.samples, arguments.gif, tell=lambda _: None)
    total = max(writer.pixels(pixels_of(path)), 1)

    def on_pixels(pixels: int) -> None:
        nonlocal made
        made += pixels
        work.at(made / total, words)

    writer.made = on_pixels
    (name,) = names_for([path])
    with without_folder(path):
        photograph, outputs = upscale_file(writer, path, work.folder / f"{name}-x{factor}")
    bicubic = work.folder / f"{name}-x{factor}-bicubic.png"
    _save_bicubic(photograph, factor, bicubic)
    _, height, width = photograph.levels.shape
    note = f" Left out: {photograph.note}." if photograph.note else ""
    size = f"{width}x{height} upscaled {factor} times to {factor * width}x{factor * height}."
    return Upscaled(bicubic, outputs, f"{size}{note} {consistency_in_words(outputs)}")


def disk_bytes(model: SRVAE, path: Path, arguments: UpscaleArguments) -> int:
    """The most that :func:`upscale` takes of the disk, its passes and its map too."""
    each = model.guide.d.factor**2
    passes = passes_for(model, arguments.factor or model.guide.d.factor)
    made = sum(each**n for n in range(1, passes + 1)) * arguments.samples + 3 * each**passes
    return PIXEL_BYTES * made * pixels_of(path)


def consistency_in_words(outputs: Outputs) -> str:
    """How well the outputs are consistent with their input."""
    values = sorted(set(outputs.consistencies.values()))
    each = "the output" if len(outputs.consistencies) == 1 else "each output, and their mean,"
    if values == ["exact"]:
        return (
            f"Agreement: exact. Made small again, {each} is your photograph, pixel by pixel. Keep "
            "it as PNG: JPEG would lose that."
        )
    to = f" to {values[-1]}" if len(values) > 1 else ""
    return f"Agreement: {values[0]}{to}, the PSNR of {each} made small again (LR-PSNR)."


def _save_bicubic(photograph: Photograph, factor: int, path: Path) -> None:
    """Write the bicubic upscaled image, which looks as the outputs do but for its pixels."""
    image = as_image(MemoryCanvas(photograph.levels), gray=photograph.gray)
    size = (factor * image.width, factor * image.height)
    pixels = np.array(image.resize(size, Image.Resampling.BICUBIC)).reshape(*size[::-1], -1)
    levels = torch.from_numpy(pixels).permute(2, 0, 1)
    save_photograph(path, MemoryCanvas(levels), photograph)
