"""A checksum of what a file is to hold."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

__all__ = ["digest"]


def digest(value: Any) -> str:
    """A hash of tensors, numbers, strings and what is nested of them, types and order included.

    Neither PyTorch's files nor safetensors' have checksums of the tensors in them.

    Raises:
        TypeError: there is something else in it.
    """
    found = hashlib.blake2b(digest_size=16)

    def add(part: Any) -> None:
        if isinstance(part, Tensor):
            found.update(f"tensor {part.dtype} {tuple(part.shape)};".encode())
            flat = part.detach().cpu().contiguous().reshape(-1)
            found.update(flat.view(torch.uint8).numpy().data)
        elif isinstance(part, dict):
            found.update(f"dict {len(part)};".encode())
            for key, item in part.items():
                add(key)
                add(item)
        elif isinstance(part, list | tuple):
            found.update(f"list {len(part)};".encode())
            for item in part:
                add(item)
        elif part is None or isinstance(part, bool | int | float | str):
            found.update(f"{type(part).__name__} {part!r};".encode())
        else:
            raise TypeError(f"{type(part).__name__} is nothing that a checkpoint holds")

    add(value)
    return found.hexdigest()
