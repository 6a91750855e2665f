"""Pictures of what a model does, drawn while it is trained."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from srvae_pyro.drawing.grids import grid, side_by_side
from srvae_pyro.inference.decoding import Decoding
from srvae_pyro.models import SRVAE, ImageModel

__all__ = ["progress_pictures"]


def progress_pictures(model: ImageModel, x: Tensor) -> dict[str, Tensor]:
    """What a model does with a few images x (B, C, H, W), as pictures (3, h, w) by name.

    ``samples``: new images (the srVAE's y beside each x); ``modes``: the same with the likeliest
    pixels. ``reconstructions``: x above its reconstruction. ``super-resolution`` (srVAE): y,
    bicubic, two samples, mode, x in rows.
    """
    count = len(x)
    x = x.to(model.device)
    rebuilt = model.reconstruct(x)["x"]
    pictures = {"reconstructions": grid(torch.cat([x, rebuilt]), columns=count)}
    decodings: dict[str, Decoding] = {"samples": "sample", "modes": "mode"}
    for name, decode in decodings.items():
        sites = model.generate(4 * count, decode=decode)
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
