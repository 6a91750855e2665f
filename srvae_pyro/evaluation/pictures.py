"""Grids of pictures."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from srvae_pyro.files import write_whole
from srvae_pyro.inference.decoding import Decoding
from srvae_pyro.models import SRVAE, ImageModel

__all__ = ["grid", "progress_pictures", "save_picture", "side_by_side"]


def grid(images: Tensor, columns: int, scale: int = 2, gap: int = 2) -> Tensor:
    """Pictures (N, C, H, W) in [0, 1] in rows of ``columns``, enlarged: (3, height, width).

    Args:
        images: the pictures.
        columns: pictures a row.
        scale: each pixel becomes a square of so many pixels.
        gap: white pixels between pictures.
    """
    from torchvision.utils import make_grid

    images = images.detach().float().cpu()
    images = F.interpolate(images, scale_factor=scale, mode="nearest")
    return make_grid(images, nrow=columns, padding=gap, pad_value=1.0)


def side_by_side(y: Tensor, x: Tensor) -> Tensor:
    """Each y (N, c, h, w), enlarged to x's size, before its x (N, C, H, W): (2N, C, H, W)."""
    y = F.interpolate(y, size=x.shape[-2:], mode="nearest")
    y = y.expand(-1, x.shape[1], -1, -1)
    return torch.stack([y, x], dim=1).flatten(0, 1)


def progress_pictures(model: ImageModel, x: Tensor) -> dict[str, Tensor]:
    """What a model can do with a few pictures x (B, C, H, W), as pictures by name.

    ``samples``: new pictures (the srVAE's y beside each x); ``modes``: the same with the likeliest
    pixels. ``reconstructions``: x above its reconstruction. ``super-resolution`` (srVAE): y,
    bicubic, two samples, mode, x in rows.
    """
    count = len(x)
    x = x.to(model.device)
    rebuilt = model.reconstruct(x)["x"]
    pictures = {"reconstructions": grid(torch.cat([x, rebuilt]), columns=count)}
    hows: dict[str, Decoding] = {"samples": "sample", "modes": "mode"}
    for name, how in hows.items():
        sites = model.generate(4 * count, decode=how)
        pairs = side_by_side(sites["y"], sites["x"]) if "y" in sites else sites["x"]
        pictures[name] = grid(pairs, columns=16)
    if not isinstance(model, SRVAE):
        return pictures
    y = model.guide.d(x)
    answers = model.super_resolve(y, samples=2)["x"]
    likeliest = model.super_resolve(y, decode="mode")["x"]
    rows = [F.interpolate(y, size=x.shape[-2:], mode="nearest").expand_as(x)]
    if y.shape[-1] < x.shape[-1]:
        bicubic = F.interpolate(y, size=x.shape[-2:], mode="bicubic", antialias=False)
        rows.append(bicubic.clamp(0, 1))
    rows += [*answers, *likeliest, x]
    pictures["super-resolution"] = grid(torch.cat(rows), columns=count)
    return pictures


def save_picture(picture: Tensor, path: Path) -> None:
    """Write a picture (C, H, W) in [0, 1] as PNG, whole or not at all."""
    from torchvision.utils import save_image

    write_whole(path, lambda partial: save_image(picture, partial))
