"""What layers compute from their parameters alone, once for as long as these cannot change."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

__all__ = ["cached", "cached_weights"]

Key = tuple[Hashable, str, torch.dtype | None]
_scope: ContextVar[dict[Key, Tensor] | None] = ContextVar("scope", default=None)


@contextmanager
def cached_weights() -> Iterator[None]:
    """A scope in which normalised and merged weights are computed once; bypassed under autograd.

    The caller promises that no parameter changes before the scope ends; this is not checked.
    Nothing outlives the scope, and outside of one everything is computed at each call. Scopes nest;
    each thread has its own. Also a decorator, and used as ``torch.nn.utils.parametrize.cached`` is.
    """
    if _scope.get() is not None:
        yield
        return
    token = _scope.set({})
    try:
        yield
    finally:
        _scope.reset(token)


def cached(
    owner: Hashable, name: str, compute: Callable[[], Tensor], device: torch.device
) -> Tensor:
    """The value of ``compute()``, taken from the open scope if it has been computed there before.

    Args:
        owner: the module, or tuple of modules, whose parameters the value is computed from.
        name: tells the values of one owner apart.
        compute: computes the value.
        device: device of the parameters; the value depends on its autocast.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return compute()
    scope = _scope.get()
    if scope is None:
        return compute()
    kind = device.type
    cast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    key = (owner, name, cast)
    if key not in scope:
        scope[key] = compute()
    return scope[key]
