"""Programs run one at a time in a process, whatever the threads: Pyro has one stack of handlers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from pyro.poutine.messenger import Messenger

_PROGRAMS = threading.RLock()


@contextmanager
def turn() -> Iterator[None]:
    """Within it no other thread is in a turn; turns of one thread nest. Also a decorator.

    Handlers and plates are on a stack that belongs to the process: a program that runs in another
    thread would be handled by those of this one.
    """
    with _PROGRAMS:
        yield


class Handler(Messenger):
    """A Pyro effect handler with which a turn begins, and that ends with it."""

    def __enter__(self) -> Self:
        _PROGRAMS.acquire()
        try:
            super().__enter__()
        except BaseException:
            _PROGRAMS.release()
            raise
        return self

    def __exit__(self, *raised: Any) -> Any:
        try:
            return super().__exit__(*raised)
        finally:
            _PROGRAMS.release()
