"""Stop after the current step on SIGINT, SIGTERM, SIGHUP, or a batch system's warning signals."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from srvae_pyro.system.console import say

__all__ = ["Interrupt"]


class Interrupt:
    """A context that notes the first signal to end, and then is true, instead of acting on it.

    A second Ctrl-C or SIGTERM acts as usual. The other signals may be repeated: a terminal that
    goes away sends SIGHUP more than once, a system with a time limit SIGXCPU every second.

    Attributes:
        signal: the first one's number; None before it.
    """

    URGENT = (signal.SIGINT, signal.SIGTERM)
    # SIGUSR1 and 2 are Slurm's --signal and Grid Engine's; not every system has all of them.
    GENTLE = tuple(
        getattr(signal, name)
        for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
        if hasattr(signal, name)
    )

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self.signal is not None

    def __enter__(self) -> Interrupt:
        # Only the main thread may set handlers.
        if threading.current_thread() is threading.main_thread():
            for number in (*self.URGENT, *self.GENTLE):
                handler = signal.getsignal(number)
                # Keep what nohup ignores, and handlers that were not set from Python.
                if handler is None or (number in self.GENTLE and handler == signal.SIG_IGN):
                    continue
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore(*self._previous)

    def _restore(self, *numbers: int) -> None:
        for number in numbers:
            if number in self._previous:
                signal.signal(number, self._previous.pop(number))

    def _note(self, number: int, frame: FrameType | None) -> None:
        first = self.signal is None
        if first:
            self.signal = number
        if number in self.URGENT:
            self._restore(*self.URGENT)
        if first:
            again = "; once more to stop at once" if number in self.URGENT else ""
            say(f"stopping after this step{again}")
