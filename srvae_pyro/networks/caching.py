"""What layers compute from their parameters alone, once for as long as these cannot change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

__all__ = ["cached", "cached_weights"]

Key = tuple[int, str, torch.dtype | None]
# Each value with its owner, so that another object cannot get the number of one that is gone.
_scope: ContextVar[dict[Key, tuple[object, Tensor]] | None] = ContextVar("scope", default=None)


@contextmanager
def cached_weights() -> Iterator[None]:
    """Within it, normalised and merged weights are computed once, where no gradient is asked for.

    Whoever opens it says that no parameter changes before it ends, by whatever means: nothing is
    checked, and nothing outlives it. Outside of it everything is computed each time. Scopes nest;
    each thread has its own. A decorator too. In the way of ``torch.nn.utils.parametrize.cached``.
    """
    if _scope.get() is not None:
        yield
        return
    token = _scope.set({})
    try:
        yield
    finally:
        _scope.reset(token)


def cached(owner: object, name: str, compute: Callable[[], Tensor], device: torch.device) -> Tensor:
    """What ``compute`` gives, from the scope if it is there.

    Args:
        owner: whose parameters it is computed from.
        name: tells an owner's values apart.
        compute: computes it.
        device: of the parameters, whose autocast matters.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return compute()
    scope = _scope.get()
    if scope is None:
        return compute()
    kind = device.type
    cast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    key = (id(owner), name, cast)
    if key not in scope:
        scope[key] = owner, compute()
    return scope[key][1]
