"""What the commands have in common: parsing, and mistakes told in one line.

A command's arguments are a dataclass. What an argument may be stands on it and is checked after
parsing, and a :class:`HelpGroup` puts its flag under a heading of the help::

    threads: Annotated[int | None, AtLeast(1), option("N", "one a core")] = None
"""

from __future__ import annotations

import dataclasses
import gc
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_origin

import tyro

from srvae_pyro.checked import AtLeast, Between, check, hints_of, metadata_of, type_of
from srvae_pyro.errors import UserError, flag_of, out_of_memory
from srvae_pyro.formats import EXTENSIONS
from srvae_pyro.system.console import ignore_write_errors_of_streams, is_main, print_error
from srvae_pyro.system.environment import OTHERS, variable

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


@dataclass(frozen=True)
class HelpGroup:
    """For ``Annotated``: the heading of the help that an argument's flag stands under."""

    title: str


def option(metavar: str, default: str, alias: str | None = None) -> Any:
    """For ``Annotated``: an option that may be left out, and what then happens, for the help."""
    hint = f"(default: {default})"
    aliases = [alias] if alias else None
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=hint, aliases=aliases)


def check_arguments(arguments: Any) -> None:
    """Refuse arguments outside the bounds on their annotations, or that their ``check`` refuses.

    Raises:
        UserError: there is one; names its flag.
    """
    for name, hint in hints_of(type(arguments)).items():
        if any(isinstance(bound, AtLeast | Between) for bound in metadata_of(hint)):
            check(flag_of(name), hint, getattr(arguments, name))
    if hasattr(arguments, "check"):
        arguments.check()


def check_folder(out: Path | None) -> None:
    """Refuse an ``--out`` that is a file, or meant as an image's name.

    Raises:
        UserError: it is one.
    """
    if out is not None and out.suffix.lower() in EXTENSIONS and not out.is_dir():
        raise UserError(f"--out is a folder for the images, and {out} an image's name")
    if out is not None and out.is_file():
        raise UserError(f"--out is a folder for the images, and {out} a file: name another")


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
    OTHERS.look()  # so that by the time that PyTorch is imported it is known how much they use
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    with ignore_write_errors_of_streams():

        def command() -> int | None:
            if sys.flags.optimize > 1:
                raise UserError("Pyro needs the docstrings that python -OO leaves out: use -O")
            arguments = parse(kind, prog)
            _expand_home(arguments)
            check_arguments(arguments)
            return main(arguments)

        gc.disable()  # until start(): imports make no garbage, looking for it takes a tenth
        try:
            sys.exit(_run(command, prog, memory))
        finally:
            gc.enable()


def parse(kind: type[T], prog: str = "", words: Sequence[str] | None = None) -> T:
    """The arguments of a command from its command line.

    Args:
        kind: the dataclass of the command's arguments.
        prog: the command's name.
        words: the command line after the name; the process's if None.

    Raises:
        UserError: the command line is wrong.
        SystemExit: its help was asked for, and has been printed.
    """
    grouped = _grouped(kind)
    name = f"python -m srvae_pyro.{prog}"
    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)
    joined = _joined(sys.argv[1:] if words is None else words, kind)

    parsed: Any = told_in_one_line(
        lambda: tyro.cli(grouped, prog=name, args=joined, config=config), name
    )
    if grouped is kind:
        return parsed
    values = dict(vars(parsed))
    groups = [values.pop(title) for title in {group.title for _, group in _groups(kind)}]
    for group in groups:
        values |= vars(group)
    return kind(**values)


def _joined(words: Sequence[str], kind: Any) -> list[str]:
    """The words, with all that a flag of several values is given at its last place.

    Of a flag that is given more than once tyro takes the last alone, without a word.
    """
    several = {
        flag_of(name) for name, hint in hints_of(kind).items() if get_origin(type_of(hint)) is tuple
    }
    parts: list[list[str]] = [[]]
    places: dict[str, list[int]] = {}
    for word in words:
        if word.startswith("--"):
            flag = word.partition("=")[0]
            if flag in several:
                places.setdefault(flag, []).append(len(parts))
            parts.append([])
        parts[-1].append(word)
    for flag, numbers in places.items():
        if len(numbers) > 1:
            together = [value for number in numbers for value in _behind(flag, parts[number])]
            for number in numbers:
                parts[number] = []
            parts[numbers[-1]] = [flag, *together]
    return [word for part in parts for word in part]


def _behind(flag: str, part: Sequence[str]) -> list[str]:
    """The values of words that start with a flag, or with it and a value, as FLAG=VALUE."""
    first, *rest = part
    return rest if first == flag else [first.partition("=")[2], *rest]


def _groups(kind: Any) -> list[tuple[str, HelpGroup]]:
    """The names of a dataclass's fields that have a group, with it."""
    return [
        (name, mark)
        for name, hint in hints_of(kind).items()
        for mark in metadata_of(hint)
        if isinstance(mark, HelpGroup)
    ]


def _grouped(kind: Any) -> Any:
    """The dataclass that tyro parses: with one more for each group, as tyro makes headings of them.

    A string on the annotation is the argument's help, as tyro finds no text after the fields of
    classes that are made here.
    """
    group_of = dict(_groups(kind))
    if not group_of:
        return kind
    hints = hints_of(kind)

    def copied(field: dataclasses.Field[Any]) -> tuple[str, Any, Any]:
        texts = [mark for mark in metadata_of(hints[field.name]) if isinstance(mark, str)]
        metadata = {"help": texts[0] if texts else None}
        again = dataclasses.field(default=field.default, metadata=metadata)
        return field.name, hints[field.name], again

    fields = [copied(field) for field in dataclasses.fields(kind) if field.name not in group_of]
    for title in dict.fromkeys(group.title for group in group_of.values()):
        members = [f for f in dataclasses.fields(kind) if group_of.get(f.name) == HelpGroup(title)]
        group = dataclasses.make_dataclass(title, [copied(field) for field in members])
        fields.append((title, group, dataclasses.field(default_factory=group)))
    grouped = dataclasses.make_dataclass(kind.__name__, fields)
    grouped.__doc__ = kind.__doc__
    return grouped


def _run(command: Callable[[], int | None], prog: str, memory: str) -> int:
    """The exit code of a command, whose errors are told."""
    try:
        return command() or 0
    except UserError as error:
        print_error(f"{prog}: {error.with_flags()}")
        return 2
    except (OSError, MemoryError, RuntimeError) as error:
        if out_of_memory(error):
            print(f"{prog}: memory does not suffice{memory and ': '}{memory}", file=sys.stderr)
        elif isinstance(error, OSError):
            # A full disk, a folder that may not be written to, a path through a file.
            place = f"{error.filename}: " if error.filename else ""
            print(f"{prog}: {place}{error.strerror or error}", file=sys.stderr)
        elif str(error).startswith("DataLoader "):  # its processes were killed, or hang
            reason = str(error).splitlines()[0].rstrip(" .")
            print(
                f"{prog}: reading images ahead failed ({reason}): give fewer --workers, or "
                "--workers 0; a run goes on with --resume",
                file=sys.stderr,
            )
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
    if is_main() and category is UserWarning and args and "srvae_pyro" in str(args[0]):
        print(f"warning: {message}", file=sys.stderr)
