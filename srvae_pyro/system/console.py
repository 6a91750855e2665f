"""Printing to a terminal or a log: rank 0 alone prints, and a failure to print ends no run."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from srvae_pyro.system.environment import in_group, number

LINE_EVERY = 60.0  # seconds, of a bar's lines in a log


def is_main() -> bool:
    """Whether this process is rank 0 of torchrun's, or the only one."""
    return not in_group() or number("RANK", 0) == 0


def print_line(text: str) -> None:
    """Print a line above the bar at once, in rank 0 alone; failures are ignored."""
    if is_main():
        stream = ignore_write_errors(sys.stdout)
        tqdm.write(text, file=stream)
        stream.flush()


def print_error(text: str) -> None:
    """Print a line on standard error, in one process of each machine: they may differ in files."""
    if not in_group() or number("LOCAL_RANK", 0) == 0:
        print(text, file=ignore_write_errors(sys.stderr))


def shown(path: Path) -> str:
    """A file's name as it can be printed, whatever bytes it is made of."""
    name = os.fsencode(path).decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)


class _IgnoreWriteErrors:
    """A text stream that drops what it cannot write, on a full disk or to a closed pipe."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        if self.stream is not None:
            with contextlib.suppress(OSError, ValueError):  # ValueError: it has been closed
                self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        if self.stream is not None:
            with contextlib.suppress(OSError, ValueError):
                self.stream.flush()

    def isatty(self) -> bool:
        try:
            return self.stream is not None and self.stream.isatty()
        except ValueError:
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class _Log(_IgnoreWriteErrors):
    """A stream in which nothing is written over."""

    def write(self, text: str) -> int:
        return super().write(text.replace("\r", ""))


def ignore_write_errors(stream: TextIO | None) -> Any:
    """``stream``, without errors of writing; None drops everything."""
    return stream if isinstance(stream, _IgnoreWriteErrors) else _IgnoreWriteErrors(stream)


@contextlib.contextmanager
def ignore_write_errors_of_streams() -> Iterator[None]:
    """Within it printing cannot fail, nor when the process ends."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = ignore_write_errors(sys.stdout), ignore_write_errors(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in before:
            try:
                if stream is not None:
                    stream.flush()
            except (OSError, ValueError):
                _give_up(stream)


def _give_up(stream: Any) -> None:
    """Discard a stream's buffer, which Python would flush at exit."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class Bar(tqdm):
    """tqdm on a terminal; in a log, if ``in_log``, a plain line each minute; in rank 0 alone."""

    LOG_FORMAT = "{desc}{percentage:.0f}%, {n_fmt} of {total_fmt}, {elapsed}<{remaining}{postfix}"

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        *,
        log_format: str = LOG_FORMAT,
        in_log: bool = True,
        disable: bool = False,
        **options: Any,
    ) -> None:
        file = ignore_write_errors(options.pop("file", None) or sys.stderr)
        self.plain = not file.isatty()
        disable = disable or not is_main() or (self.plain and not in_log)
        if self.plain:
            file = _Log(file.stream)
            options |= {
                "bar_format": log_format,
                "mininterval": LINE_EVERY,
                "maxinterval": LINE_EVERY,
                "delay": LINE_EVERY,  # nothing of what ends before
                "leave": False,
            }
        super().__init__(iterable, file=file, disable=disable, **options)

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        super().set_postfix_str(s, refresh=refresh and not self.plain)

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        if file.isatty():
            show: Callable[[str], None] = tqdm.status_printer(file)
            return show

        def line(text: str) -> None:
            if text:  # else it is to be wiped out
                file.write(text + "\n")
                file.flush()

        return line
