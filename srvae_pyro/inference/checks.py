"""Whether a tensor is images that a model can take."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from srvae_pyro.errors import UserError

__all__ = ["check_images"]


def check_images(
    x: Tensor, name: str, channels: int, multiple: int, size: Sequence[int] | None = None
) -> None:
    """Refuse images that are not (B, C, H, W), floating point within [0, 1], with B at least 1.

    Args:
        x: the images.
        name: what to call them.
        channels: C.
        multiple: what height and width are multiples of.
        size: height and width, if there is no choice.

    Raises:
        UserError: the shape, type or values do not suit; says what would.
    """
    if x.dim() != 4 or x.shape[1] != channels:
        alone = f"; one image is {name}[None]" if x.dim() == 3 else ""
        raise UserError(
            f"{name} has shape {tuple(x.shape)}: give images (B, {channels}, h, w){alone}"
        )
    if not len(x):
        raise UserError(f"{name} has no images: give at least 1")
    height, width = x.shape[-2:]
    if height % multiple or width % multiple or not height or not width:
        raise UserError(
            f"{name} of {height}x{width}: its height and width must be multiples of {multiple}"
        )
    if size is not None and [height, width] != list(size):
        raise UserError(
            f"{name} of {height}x{width}: the mixture prior takes {size[0]}x{size[1]} only"
        )
    if not x.is_floating_point() or not bool(((x >= 0) & (x <= 1)).all()):
        raise UserError(f"{name} must be floating point within [0, 1]; divide uint8 levels by 255")
