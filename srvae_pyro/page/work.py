"""What the page makes for a visitor: generated images, upscaled photographs, checked uploads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from srvae_pyro.data.image_files import pixels_of, read_image
from srvae_pyro.data.named import photograph_path
from srvae_pyro.drawing.grids import save_image
from srvae_pyro.errors import UserError
from srvae_pyro.inference.sampling import Sampling
from srvae_pyro.models import SRVAE, ImageModel, super_resolves
from srvae_pyro.page.sessions import Work
from srvae_pyro.pixels import interpolated, to_unit
from srvae_pyro.system.console import shown
from srvae_pyro.upscaling.arguments import UpscaleOptions
from srvae_pyro.upscaling.command import in_words, upscale_file
from srvae_pyro.upscaling.files import Outputs, Writer, names_for
from srvae_pyro.upscaling.photographs import Photograph, save_photograph
from srvae_pyro.upscaling.tiling import MemoryCanvas
from srvae_pyro.upscaling.upscaler import Upscaler

Shown = list[tuple[str, str]]  # each image's file, and its caption

# What stands in for images that a visitor has not dropped: a photograph of scikit-image, a square
# of it (left, top, right, bottom) and the side that it is brought to. The first is to be upscaled.
EXAMPLES = {
    "astronaut.png": ("astronaut.png", (128, 16, 320, 208), 96),
    "first.png": ("astronaut.png", (128, 16, 320, 208), 192),
    "second.png": ("chelsea.png", (72, 0, 372, 300), 192),
}


def write_examples(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, (photograph, box, side) in EXAMPLES.items():
        image = read_image(photograph_path(photograph), 3)
        image.resize((side, side), Image.Resampling.BOX, box).save(folder / name)


BATCH = 4  # images between two moments at which a visitor can stop


def generate(work: Work, model: ImageModel, count: int, sampling: Sampling) -> tuple[Shown, Shown]:
    """New images x, and an srVAE's y; image i of a seed is the one that ``generate`` writes."""
    if count < 1:
        raise UserError("the number of images must be at least 1")
    xs: Shown = []
    ys: Shown = []
    for start in range(0, count, BATCH):
        work.at(start / count, f"image {start + 1} of {count}")
        size = min(BATCH, count - start)
        sites = model.generate(size, first=start, batch_size=size, **vars(sampling))
        for i in range(size):
            index = start + i
            xs.append(_saved(work, f"{index:05d}.png", sites["x"][i], f"image {index + 1}"))
            if "y" in sites:
                y = sites["y"][i]
                ys.append(_saved(work, f"{index:05d}-y.png", y, f"y of image {index + 1}"))
    return xs, ys


def reconstruct(work: Work, model: ImageModel, x: Tensor, sampling: Sampling) -> Shown:
    work.at(0, "the reconstruction")
    images = [("image", x)]
    rebuilt = model.reconstruct(x, **vars(sampling))["x"]
    if not super_resolves(model):
        return _all_saved(work, [*images, ("reconstruction", rebuilt)])
    images += [("y of the image", model.guide.d(x)), ("reconstruction from y and z", rebuilt)]
    work.at(0.5, "by way of u alone")
    sites = model.generative_reconstruct(x, **vars(sampling))
    images += [("y drawn from its u", sites["y"]), ("x by way of u alone", sites["x"])]
    return _all_saved(work, images)


def interpolate(
    work: Work, model: ImageModel, a: Tensor, b: Tensor, steps: int, sampling: Sampling
) -> Shown:
    work.at(0, f"{steps} steps")
    x = model.interpolate(a, b, steps, **vars(sampling))["x"]
    way = [(f"step {i + 1} of {steps}", image) for i, image in enumerate(x)]
    return _all_saved(work, [("first image", a), *way, ("second image", b)])


def recombine(work: Work, model: SRVAE, a: Tensor, b: Tensor, sampling: Sampling) -> Shown:
    """u of one image (1, C, H, W) with z of another, beside each with its own z; equal noise."""
    work.at(0, "four images")
    u, z = torch.cat([a, a, b, b]), torch.cat([a, b, a, b])
    names = [(of_u, of_z) for of_u in ("1st", "2nd") for of_z in ("1st", "2nd")]
    images = [("first image", a), ("second image", b)]
    for i, (of_u, of_z) in enumerate(names):
        work.at(i / len(names), f"u of {of_u}, z of {of_z}")
        x = model.recombine(u[i : i + 1], z[i : i + 1], **vars(sampling))["x"]
        images.append((f"u of {of_u}, z of {of_z}", x))
    return _all_saved(work, images)


def _all_saved(work: Work, images: list[tuple[str, Tensor]]) -> Shown:
    named = enumerate(images, 1)
    return [
        _saved(work, f"{i:02d}-{caption.replace(' ', '-').replace(',', '')}.png", x[0], caption)
        for i, (caption, x) in named
    ]


def _saved(work: Work, name: str, image: Tensor, caption: str) -> tuple[str, str]:
    path: Path = work.folder / name
    save_image(image, path)
    return str(path), caption


def check_upload(path: str, megapixels: float) -> Path:
    """The file of an uploaded image, unless its header says that it is too large."""
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{shown(Path(file.name))} is no longer on the server: upload it again")
    if (pixels := pixels_of(file)) > megapixels * 1e6:
        raise UserError(
            f"{shown(Path(file.name))} has {pixels / 1e6:.3g} megapixels, and this page takes at "
            f"most {megapixels:g}: make it smaller or crop it"
        )
    return file


@contextmanager
def without_folder(path: Path) -> Iterator[None]:
    """Errors within it name the file without its folder, which is no visitor's business."""
    try:
        yield
    except UserError as error:
        text = str(error).replace(f"{shown(path.parent)}/", "").replace(f"{path.parent}/", "")
        raise UserError(text) from None


def size_in_words(model: ImageModel) -> str:
    _, height, width = model.config.image_shape
    return f"{width}x{height}"


def image_for(model: ImageModel, path: Path) -> Tensor:
    """An image file as (1, C, H, W) of the model's size, its central square if that is one."""
    channels, height, width = model.config.image_shape
    with without_folder(path):
        image = read_image(path, channels, height if height == width else None)
    if image.size != (width, height):
        raise UserError(
            f"{shown(Path(path.name))} has {image.width}x{image.height} pixels, and the model "
            f"takes {size_in_words(model)}: resize it"
        )
    levels = np.array(image).reshape(height, width, channels).transpose(2, 0, 1)
    return to_unit(torch.from_numpy(levels.copy()))[None]


# At most for each pixel of an output: a raw copy while it is made, and its file, both with alpha.
PIXEL_BYTES = 8


@dataclass(frozen=True)
class Upscaled:
    bicubic: Path
    outputs: Outputs  # as the command upscale writes them
    words: str  # what they are


def upscale(work: Work, model: SRVAE, path: Path, options: UpscaleOptions) -> Upscaled:
    """Upscale a photograph into the folder of the work, reporting progress at each tile."""
    upscaler = Upscaler(model, options)
    writer = Writer(upscaler, report=lambda _: None)
    made, words = 0, f"{options.samples} outputs" if options.samples > 1 else "the output"
    total = max(writer.pixels(pixels_of(path)), 1)
    work.at(0, words)

    def on_pixels(pixels: int) -> None:
        nonlocal made
        made += pixels
        work.at(made / total, words)

    upscaler.progress = on_pixels
    (name,) = names_for([path])
    factor = upscaler.factor
    with without_folder(path):
        photograph, outputs = upscale_file(writer, path, work.folder / f"{name}-x{factor}")
    bicubic = work.folder / f"{name}-x{factor}-bicubic.png"
    _save_bicubic(photograph, factor, bicubic)
    _, height, width = photograph.levels.shape
    summary = f"{width}x{height}"
    if factor > 1:
        summary += f" upscaled by {factor} to {factor * width}x{factor * height}"
    summary += in_words(upscaler.kind_of(photograph), upscaler)
    note = f" Left out: {photograph.note}." if photograph.note else ""
    consistency = consistency_in_words(outputs)
    return Upscaled(bicubic, outputs, f"{summary}.{note}{consistency and f' {consistency}'}")


def disk_bytes(model: SRVAE, path: Path, options: UpscaleOptions) -> int:
    """The most that :func:`upscale` takes of the disk, its passes and its map too."""
    upscaler, pixels = Upscaler(model, options), pixels_of(path)
    made = options.samples * upscaler.pixels(pixels) + 3 * upscaler.factor**2 * pixels
    return PIXEL_BYTES * made


def consistency_in_words(outputs: Outputs) -> str:
    """How well outputs agree with an exact input; empty for a restored one."""
    values = sorted(set(outputs.consistencies.values()))
    each = "output" if len(outputs.consistencies) == 1 else "outputs and their mean"
    if values == ["exact"]:
        return (
            f"Exactly consistent: downscaling the {each} gives the input, pixel by pixel. Keep it "
            "as PNG: JPEG would lose that."
        )
    if values == [""]:
        return ""
    to = f" to {values[-1]}" if len(values) > 1 else ""
    return f"LR-PSNR (PSNR of the downscaled {each} against the input): {values[0]}{to}."


def _save_bicubic(photograph: Photograph, factor: int, path: Path) -> None:
    (levels,) = interpolated(photograph.levels[None], factor)
    save_photograph(path, MemoryCanvas(levels), photograph)
