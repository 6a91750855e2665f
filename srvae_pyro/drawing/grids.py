"""Grids and labelled rows of images, and figures drawn during training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from srvae_pyro.inference.sampling import Decoding
from srvae_pyro.models import ImageModel, super_resolves
from srvae_pyro.pixels import interpolated, to_levels, to_unit
from srvae_pyro.system.files import write_whole


def grid(images: Tensor, columns: int, scale: int = 2, gap: int = 2) -> Tensor:
    """Images (N, C, H, W) in [0, 1] in rows, on white, as an image (3, height, width)."""
    # By hand: torchvision's make_grid does the same, and takes seconds to import.
    images = images.detach().float().cpu().expand(-1, 3, -1, -1)
    images = F.interpolate(images, scale_factor=scale, mode="nearest")
    count = len(images)
    if count == 1:
        return images[0]
    columns = min(columns, count)
    cells = F.pad(images, (gap, 0, gap, 0, 0, 0, 0, -count % columns), value=1.0)
    rows = cells.unflatten(0, (-1, columns)).permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)
    return F.pad(rows, (0, gap, 0, gap), value=1.0)


def side_by_side(y: Tensor, x: Tensor) -> Tensor:
    """Each y (N, c, h, w), upscaled, before its x (N, C, H, W): (2N, C, H, W)."""
    y = F.interpolate(y, size=x.shape[-2:], mode="nearest")
    y = y.expand(-1, x.shape[1], -1, -1)
    return torch.stack([y, x], dim=1).flatten(0, 1)


def save_image(image: Tensor, path: Path) -> None:
    """Write an image (C, H, W) in [0, 1] as PNG, whole or not at all."""
    levels = image.detach().mul(255).add_(0.5).clamp_(0, 255).to("cpu", torch.uint8)
    drawn = Image.fromarray(levels.expand(3, -1, -1).permute(1, 2, 0).numpy())
    write_whole(path, drawn.save)


LABEL_FONT_SIZE = 16
MARGIN = 8


@dataclass(frozen=True)
class LabelledRow:
    label: str
    images: Tensor  # (N, c, h, w) in [0, 1]
    gap: bool = False  # some space before the row


def labelled_rows(rows: list[LabelledRow], side: int = 80) -> Image.Image:
    """The rows one below the other, every image an integer times as large, about ``side`` high."""
    font = ImageFont.load_default(size=LABEL_FONT_SIZE)
    height = max(row.images.shape[-2] for row in rows)
    width = max(row.images.shape[-1] for row in rows)
    scale = max(round(side / height), 1)
    height, width = scale * height, scale * width
    columns = max(len(row.images) for row in rows)
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    labels = max(pen.multiline_textbbox((0, 0), row.label, font)[2] for row in rows)
    left = int(labels) + 2 * MARGIN
    tops, bottom = [], MARGIN
    for row in rows:
        bottom += 2 * MARGIN * row.gap
        tops.append(bottom)
        bottom += height + 2
    size = (left + columns * (width + 2) - 2 + MARGIN, bottom - 2 + MARGIN)
    figure = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(figure)
    for row, top in zip(rows, tops, strict=True):
        middle = (left - MARGIN, top + height / 2)
        pen.multiline_text(middle, row.label, "black", font, anchor="rm", align="right")
        for column, image in enumerate(_images(row.images, height, width)):
            figure.paste(image, (left + column * (width + 2), top))
    return figure


def _images(images: Tensor, height: int, width: int) -> list[Image.Image]:
    images = images.detach().float().cpu().clamp(0, 1).expand(-1, 3, -1, -1)
    images = F.interpolate(images, size=(height, width), mode="nearest")
    levels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return [Image.fromarray(image.numpy()) for image in levels]


def progress_figures(model: ImageModel, x: Tensor) -> dict[str, Tensor]:
    """Samples, modes, reconstructions and super-resolution of a few x (B, C, H, W), by name."""
    count = len(x)
    x = x.to(model.device)
    rebuilt = model.reconstruct(x)["x"]
    images = {"reconstructions": grid(torch.cat([x, rebuilt]), columns=count)}
    decodings: dict[str, Decoding] = {"samples": "sample", "modes": "mode"}
    for name, decode in decodings.items():
        sites = model.generate(4 * count, decode=decode)
        pairs = side_by_side(sites["y"], sites["x"]) if "y" in sites else sites["x"]
        images[name] = grid(pairs, columns=16)
    if not super_resolves(model):
        return images
    y = model.guide.d(x)
    outputs = model.super_resolve(y, samples=2)["x"]
    mode = model.super_resolve(y, decode="mode")["x"]
    rows = [F.interpolate(y, size=x.shape[-2:], mode="nearest").expand_as(x)]
    if y.shape[-1] < x.shape[-1]:
        bicubic = interpolated(to_levels(y).to(torch.uint8), x.shape[-1] // y.shape[-1])
        rows.append(to_unit(bicubic.to(x.device)))
    rows += [*outputs, *mode, x]
    images["super-resolution"] = grid(torch.cat(rows), columns=count)
    return images
