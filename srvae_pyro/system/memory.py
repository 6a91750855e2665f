"""How much memory a computation takes."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["peak_bytes"]


class _LiveBytes(TorchDispatchMode):
    """Adds up the tensors that operations return, for as long as they are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.total = 0
        self.peak = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to see to that PyTorch would import torch._dynamo, which takes a second

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                key = storage._cdata
                if key not in self.live:
                    self.live[key] = storage.nbytes()
                    self.total += self.live[key]
                    weakref.finalize(storage, self._freed, key)
        self.peak = max(self.peak, self.total)
        return out

    def _freed(self, key: int) -> None:
        self.total -= self.live.pop(key, 0)


def peak_bytes(run: Callable[[], Any]) -> int:
    """The most that tensors made within ``run()`` take at once, in bytes.

    Without what libraries use inside an operation.
    """
    with _LiveBytes() as counter:
        run()
    return counter.peak
