"""What the commands have in common: parsing, and mistakes told in one line."""

from __future__ import annotations

import dataclasses
import io
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import tyro

from srvae_pyro.errors import UserError, out_of_memory
from srvae_pyro.formats import EXTENSIONS
from srvae_pyro.talk import complain, steady_streams, talks

__all__ = ["at_least", "check_folder", "option", "run_command"]

T = TypeVar("T")


def option(metavar: str, default: str, alias: str | None = None) -> Any:
    """For ``Annotated``: an option that may be left out, and what then happens, for the help."""
    hint = f"(default: {default})"
    aliases = [alias] if alias else None
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=hint, aliases=aliases)


def at_least(arguments: Any, **least: float) -> None:
    """Refuse numbers below what is given for them by name; None means that none was given.

    Raises:
        UserError: one is.
    """
    for name, bound in least.items():
        value = getattr(arguments, name)
        if value is not None and not value >= bound:
            raise UserError(f"--{name.replace('_', '-')} must be at least {bound}, not {value}")


def check_folder(out: Path | None) -> None:
    """Refuse an ``--out`` that is meant as a picture's name.

    Raises:
        UserError: it is one.
    """
    if out is not None and out.suffix.lower() in EXTENSIONS and not out.is_dir():
        raise UserError(f"--out is a folder for the pictures, and {out} a picture's name")


def run_command(
    kind: type[T], main: Callable[[T], int | None], prog: str, memory: str = ""
) -> None:
    """Parse the command line into a ``kind``, run ``main`` on it and exit.

    A user's mistake, or the system's refusal, becomes one line on standard error and exit code 2;
    Ctrl-C exit code 130. A character that the terminal cannot show becomes a question mark; what
    cannot be printed at all, on a full disk or after a pipe's reader has gone, is dropped.

    Args:
        kind: the dataclass of the command's arguments.
        main: the command; its exit code.
        prog: the command's name.
        memory: what to do where memory does not suffice, such as "give a smaller --batch-size".
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # standard error never fails by itself
        sys.stdout.reconfigure(errors="replace")
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    with steady_streams():
        arguments = tyro.cli(
            kind, prog=f"python -m srvae_pyro.{prog}", config=(tyro.conf.FlagCreatePairsOff,)
        )
        _expand_home(arguments)
        sys.exit(_run(lambda: main(arguments), prog, memory))


def _run(command: Callable[[], int | None], prog: str, memory: str) -> int:
    """The exit code of a command, whose errors are told."""
    try:
        return command() or 0
    except UserError as error:
        # One raised within a Pyro program comes with the shapes of the trace on further lines.
        complain(f"{prog}: {str(error).splitlines()[0]}")
        return 2
    except (OSError, MemoryError, RuntimeError) as error:
        if out_of_memory(error):
            print(f"{prog}: memory does not suffice{memory and ': '}{memory}", file=sys.stderr)
        elif isinstance(error, OSError):
            # A full disk, a folder that may not be written to, a path through a file.
            place = f"{error.filename}: " if error.filename else ""
            print(f"{prog}: {place}{error.strerror or error}", file=sys.stderr)
        else:
            raise
        return 2
    except KeyboardInterrupt:
        print(f"{prog}: stopped", file=sys.stderr)
        return 130


def _expand_home(arguments: Any) -> None:
    """Give every argument its ``~``: of ``--out=~/x`` shells expand none."""

    def expanded(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(expanded(item) for item in value)
        if isinstance(value, str | Path) and str(value).startswith("~"):
            return type(value)(os.path.expanduser(value))
        return value

    for field in dataclasses.fields(arguments):
        setattr(arguments, field.name, expanded(getattr(arguments, field.name)))


def _show_warning(message: Warning | str, category: type[Warning], *args: object) -> None:
    """Our own warnings in one line; other libraries' not at all."""
    if talks() and category is UserWarning and args and "srvae_pyro" in str(args[0]):
        print(f"warning: {message}", file=sys.stderr)
