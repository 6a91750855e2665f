"""Rows of pictures with a label before each, as the paper's figures have them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

__all__ = ["LabelledRow", "labelled_rows"]

FONT_SIZE = 16
MARGIN = 8


@dataclass(frozen=True)
class LabelledRow:
    """A row of pictures.

    Attributes:
        label: what stands before it; it may have several lines.
        images: (N, c, h, w) in [0, 1], N at most the figure's columns.
        gap: whether some space stands before the row.
    """

    label: str
    images: Tensor
    gap: bool = False


def labelled_rows(rows: list[LabelledRow], side: int = 80) -> Image.Image:
    """The rows one below the other, every picture enlarged without smoothing.

    Args:
        rows: at least one.
        side: pixels of a picture's height, about: pictures become an integer times as large.
    """
    font = ImageFont.load_default(size=FONT_SIZE)
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
        for column, picture in enumerate(_pictures(row.images, height, width)):
            figure.paste(picture, (left + column * (width + 2), top))
    return figure


def _pictures(images: Tensor, height: int, width: int) -> list[Image.Image]:
    images = images.detach().float().cpu().clamp(0, 1).expand(-1, 3, -1, -1)
    images = F.interpolate(images, size=(height, width), mode="nearest")
    levels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return [Image.fromarray(picture.numpy()) for picture in levels]
