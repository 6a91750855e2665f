"""What the tests share: tiny models, their runs, random images, and errors of users."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from srvae_pyro.config import Dense, ModelConfig, Residual
from srvae_pyro.errors import UserError
from srvae_pyro.models import make_model
from srvae_pyro.models.base import save_pretrained
from srvae_pyro.pixels import to_levels


def tiny(**changes: Any) -> ModelConfig:
    """The config of a tiny model of 3x16x16 images, with any settings changed."""
    dense, plain = Dense(4, 2), Dense(4, 2, 2)
    settings: dict[str, Any] = {
        "image_shape": (3, 16, 16),
        "latent_channels": 4,
        "components": 2,
        "p_u_network": Dense(4, 1),
        "p_u_components": 3,
        **dict.fromkeys(("q_u", "p_y", "q_z", "p_z_from_y", "p_x_from_z"), dense),
        **dict.fromkeys(("p_z_from_u", "p_z", "p_x"), plain),
        "groups": Residual(4, 1),
        "pyramid": Residual(4, 1),
        "pyramid_channels": 5,
        "init_scale": 0.1,
        "head_scale": 0.1,
        "likelihood_scale": 0.1,
    }
    return ModelConfig(**(settings | changes))


def smallest(**changes: Any) -> ModelConfig:
    """The config of an even smaller model, whose networks have one layer of two channels."""
    settings: dict[str, Any] = {
        "image_shape": (3, 16, 16),
        "latent_channels": 2,
        "components": 2,
        "p_u": "standard",
        "p_u_components": 3,
        **{f.name: Dense(2, 1) for f in fields(ModelConfig) if isinstance(f.default, Dense)},
        **dict.fromkeys(("init_scale", "head_scale", "likelihood_scale"), 0.5),
        "likelihood_start": "images",
    }
    return ModelConfig(**(settings | changes))


def initialized(x: Tensor, **changes: Any) -> Any:
    """A tiny model that was initialised on images but not trained."""
    model = make_model(tiny(**changes))
    model.initialize(x)
    return model


def save_run(folder: Path, **changes: Any) -> Path:
    """Write the folder of a tiny model that was initialised on random images."""
    shape = changes.get("image_shape", (3, 16, 16))
    save_pretrained(initialized(make_images(8, shape), **changes), folder)
    return folder


def random_levels(count: int, shape: tuple[int, int, int] = (3, 16, 16), seed: int = 0) -> Tensor:
    """Random images (B, C, H, W) of uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)


def make_images(count: int = 4, shape: tuple[int, int, int] = (3, 16, 16), seed: int = 0) -> Tensor:
    """Random images (B, C, H, W) on the grid k/255."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *shape), generator=generator) / 255


def write_images(folder: Path, images: Tensor) -> Path:
    """Write images (B, C, H, W) on the grid k/255 as PNG files 00.png, 01.png and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, levels in enumerate(to_levels(images).byte()):
        image = levels.permute(1, 2, 0).squeeze(-1).numpy()
        Image.fromarray(image).save(folder / f"{number:02d}.png")
    return folder


@contextmanager
def refused(match: str) -> Iterator[None]:
    """Expect a UserError of one line that matches."""
    with pytest.raises(UserError, match=match) as error:
        yield
    one_line(error)


def one_line(error: pytest.ExceptionInfo[Any]) -> str:
    """The message of an error, which is one line."""
    message = str(error.value)
    assert "\n" not in message
    return message


class Malicious:
    """What calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def file_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image as a file of a kind that Pillow names."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
