"""A command line's mistakes in one line, which tyro tells in boxes of several."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from typing import NoReturn, TypeVar

from srvae_pyro.errors import UserError
from srvae_pyro.system.environment import variable

__all__ = ["told_in_one_line"]

T = TypeVar("T")
WIDE = "10000"  # columns: nothing is broken into lines at this width
RULE = re.compile(r"^\W{5,}$", re.MULTILINE)
NUMBERS = {
    "INT": "a whole number",
    "int()": "a whole number",
    "FLOAT": "a number",
    "float": "a number",
}


def told_in_one_line(parse: Callable[[], T], prog: str) -> T:
    """What a call of ``tyro.cli`` returns.

    Args:
        parse: the call; it is repeated where help is to be printed.
        prog: the command as its help names it.

    Raises:
        UserError: the command line is wrong.
        SystemExit: help or the like was asked for, and has been printed.
    """
    told = io.StringIO()
    try:
        with variable("COLUMNS", WIDE), redirect_stderr(told), redirect_stdout(io.StringIO()):
            return parse()
    except SystemExit as end:
        if end.code:
            _refuse(told.getvalue(), prog)
    return parse()  # help, as wide as the terminal is


def _refuse(box: str, prog: str) -> NoReturn:
    """Raise what a box says: a title, what is wrong and what may help, with rules between."""
    lines = [line.strip("│ ") for line in box.splitlines() if line.strip()]
    wrong, *more = (part.strip() for part in RULE.split("\n".join(lines[1:])) if part.strip())
    hint = more[0] if len(more) > 1 else ""
    raise UserError(f"{_in_words(wrong, hint)} (see {prog} --help)")


def _in_words(wrong: str, hint: str) -> str:
    """What is wrong, and by the hint what to do."""
    if found := re.match(r"Error parsing (\S+): (.*)", wrong):
        flag, why = found.groups()
        given = re.search(r"\['(.*)'\]|: '(.*)'$", why)
        kind = why[: given.start()] if given else ""  # the value may be called like one
        number = next((words for name, words in NUMBERS.items() if name in kind), None)
        if given and number:
            return f"{flag} {given[1] or given[2]}: not {number}"
    elif found := re.match(r"invalid choice '(.*)' for argument '(\S+)'\. .*\((.*)\)", wrong):
        value, flag, listed = found.groups()
        choices = sorted(set(re.findall(r"'([^']*)'", listed)) - {"None"})
        return f"{flag} {value}: not one of {', '.join(choices)}"
    elif found := re.match(r"Missing value for argument '(\S+)'", wrong):
        return f"{found[1]} needs a value"
    elif found := re.match(r"Unrecognized options: (.*)", wrong):
        meant = re.search(r"^(--\S+)", hint, re.MULTILINE)
        ask = f"; did you mean {meant[1]}?" if meant else ""
        return f"{found[1].replace(', ', ' ')} is not known here{ask}"
    elif found := re.match(r"Missing from .*\n(\S+)\n(.*)", wrong):
        return f"{found[1]} is missing: {found[2].removesuffix(' (required)')}"
    return " ".join(wrong.split())
