"""Pictures that a model makes for a visitor, as files with a caption each."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from srvae_pyro.drawing.grids import save_picture
from srvae_pyro.errors import UserError
from srvae_pyro.inference.operations import Sampling
from srvae_pyro.models import SRVAE, ImageModel
from srvae_pyro.page.visits import Work

__all__ = ["Shown", "generate", "interpolate", "recombine", "reconstruct"]

Shown = list[tuple[str, str]]  # each picture's file, and its caption

BATCH = 4  # pictures between two moments at which a visitor can stop


def generate(work: Work, model: ImageModel, count: int, sampling: Sampling) -> tuple[Shown, Shown]:
    """New pictures; picture i of a seed is, to the byte, the one that ``generate`` writes.

    Returns:
        Each x, and each y of a srVAE.

    Raises:
        UserError: such pictures cannot be had.
        StoppedError: the visitor wants no more.
    """
    if count < 1:
        raise UserError("how many pictures must be at least 1")
    xs: Shown = []
    ys: Shown = []
    for start in range(0, count, BATCH):
        work.at(start / count, f"picture {start + 1} of {count}")
        size = min(BATCH, count - start)
        options: Sampling = {**sampling, "batch_size": size}
        sites = model.generate(size, first=start, **options)
        for index in range(size):
            number = start + index
            name = f"{number:05d}.png"
            xs.append(_saved(work, name, sites["x"][index], f"picture {number + 1}"))
            if "y" in sites:
                name = f"{number:05d}-y.png"
                ys.append(_saved(work, name, sites["y"][index], f"y of picture {number + 1}"))
    return xs, ys


def reconstruct(work: Work, model: ImageModel, x: Tensor, sampling: Sampling) -> Shown:
    """An image x (1, C, H, W) and what the model makes of its latents."""
    work.at(0, "the reconstruction")
    pictures = [("picture", x)]
    rebuilt = model.reconstruct(x, **sampling)["x"]
    if not isinstance(model, SRVAE):
        return _all_saved(work, [*pictures, ("reconstruction", rebuilt)])
    pictures += [("y, made of it", model.guide.d(x)), ("reconstruction from y and z", rebuilt)]
    work.at(0.5, "by way of u alone")
    sites = model.generative_reconstruct(x, **sampling)
    pictures += [("y drawn from its u", sites["y"]), ("x by way of u alone", sites["x"])]
    return _all_saved(work, pictures)


def interpolate(
    work: Work, model: ImageModel, a: Tensor, b: Tensor, steps: int, sampling: Sampling
) -> Shown:
    """From an image a (1, C, H, W) to b, which stand before and after what lies between."""
    work.at(0, f"{steps} steps")
    x = model.interpolate(a, b, steps, **sampling)["x"]
    way = [(f"step {i + 1} of {steps}", picture) for i, picture in enumerate(x)]
    return _all_saved(work, [("first picture", a), *way, ("second picture", b)])


def recombine(work: Work, model: SRVAE, a: Tensor, b: Tensor, sampling: Sampling) -> Shown:
    """u of one image (1, C, H, W) with z of another, beside each with its own z.

    What is drawn for both has the same noise, so that what differs comes of u or z.
    """
    work.at(0, "four pictures")
    u, z = torch.cat([a, a, b, b]), torch.cat([a, b, a, b])
    names = [(of_u, of_z) for of_u in ("1st", "2nd") for of_z in ("1st", "2nd")]
    pictures = [("first picture", a), ("second picture", b)]
    for i, (of_u, of_z) in enumerate(names):
        work.at(i / len(names), f"u of {of_u}, z of {of_z}")
        x = model.recombine(u[i : i + 1], z[i : i + 1], **sampling)["x"]
        pictures.append((f"u of {of_u}, z of {of_z}", x))
    return _all_saved(work, pictures)


def _all_saved(work: Work, pictures: list[tuple[str, Tensor]]) -> Shown:
    """Images (1, C, H, W) as files, in this order."""
    named = enumerate(pictures, 1)
    return [
        _saved(work, f"{i:02d}-{caption.replace(' ', '-').replace(',', '')}.png", x[0], caption)
        for i, (caption, x) in named
    ]


def _saved(work: Work, name: str, picture: Tensor, caption: str) -> tuple[str, str]:
    path: Path = work.folder / name
    save_picture(picture, path)
    return str(path), caption
