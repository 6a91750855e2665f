"""Parsing of the commands' arguments, and errors reported in one line.

A command's arguments are a dataclass for cyclopts: the text below a field is its help, and its
annotation has bounds, which are checked after parsing::

    threads: Annotated[int | None, AtLeast(1), option("N", "one a core")] = None

A class with many flags names those that most people need in ``COMMON_FLAGS``: ``--help`` shows
these, ``--help-all`` all.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib
import inspect
import io
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_type_hints

from cyclopts import App, CycloptsError, Group, MissingArgumentError, Parameter, Token, convert

from srvae_pyro.checked import check, hints_of
from srvae_pyro.errors import UserError, flag_of, out_of_memory, with_flags
from srvae_pyro.formats import EXTENSIONS
from srvae_pyro.system.console import ignore_write_errors_of_streams, is_main, print_error
from srvae_pyro.system.environment import OTHERS

T = TypeVar("T")
Shell = Literal["bash", "zsh", "fish", "powershell"]
SHELLS: tuple[str, ...] = get_args(Shell)
HELP_ALL = "--help-all"
NESTED = Parameter(name="*")  # for Annotated: settings whose fields are flags of their own


def option(metavar: str = "", default: str | None = None, **more: Any) -> Parameter:
    """For ``Annotated``: a value's placeholder and default in the help."""
    return Parameter(metavar=metavar or None, show_default=default or _shown_default, **more)


def check_arguments(arguments: Any) -> None:
    """Check arguments by their annotations and their own ``check``."""
    check(arguments)
    if hasattr(arguments, "check"):
        arguments.check()


def check_folder(out: Path | None) -> None:
    """Refuse an ``--out`` that is a file, or meant as an image's name."""
    if out is not None and out.suffix.lower() in EXTENSIONS and not out.is_dir():
        raise UserError(f"--out takes a folder, and {out} is the name of an image")
    if out is not None and out.is_file():
        raise UserError(f"--out takes a folder, and {out} is a file: choose another")


def run_command(
    kind: type[T], main: Callable[[T], int | None], prog: str, memory: str = ""
) -> None:
    """Parse the command line into a ``kind``, run ``main`` on it and exit.

    Errors become one line on standard error and exit code 2, Ctrl-C exit code 130. What cannot be
    printed, on a full disk or to a closed pipe, is dropped. ``memory`` is the advice if memory runs
    out: "use a smaller --batch-size".
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # standard error never fails by itself
        sys.stdout.reconfigure(errors="replace")
    OTHERS.look()  # so that their use is known once PyTorch is imported
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    with ignore_write_errors_of_streams():

        def command() -> int | None:
            if sys.flags.optimize > 1:
                raise UserError("Pyro needs docstrings, which python -OO removes: use -O")
            arguments = parse(kind, prog)
            check_arguments(arguments)
            return main(arguments)

        gc.disable()  # until start(): imports make no garbage
        try:
            sys.exit(_run(command, prog, memory))
        finally:
            gc.enable()


def parse(kind: type[T], prog: str = "", words: Sequence[str] | None = None) -> T:
    """The arguments of a command line, by default the process's; exits after printing help."""
    name = f"python -m srvae_pyro.{prog}"
    words = sys.argv[1:] if words is None else words
    app = make_app(kind, name)
    if (common := getattr(kind, "COMMON_FLAGS", ())) and HELP_ALL not in words:
        app.help = inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0]
        app.help_formatter = _CommonFlags(common)
        app.help_epilogue = f"{HELP_ALL} shows all options."
    try:
        arguments: T | None = app(words, exit_on_error=False, print_error=False)
    except MissingArgumentError as error:
        raise UserError(_missing(kind, name, words, error)) from None
    except CycloptsError as error:
        raise UserError(_refusal(name, error)) from None
    if arguments is None:
        sys.exit(0)
    return arguments


def _refusal(name: str, error: CycloptsError) -> str:
    return f"{str(error).rstrip('.')} (see {name} --help)"


def _missing(kind: Any, name: str, words: Sequence[str], error: MissingArgumentError) -> str:
    """What to say if a value is missing: for the run or images an example of the command."""
    example: str = getattr(kind, "EXAMPLE", "")
    missing = error.argument.names[0] if error.argument else ""
    if not example or error.keyword or missing not in ("--run", "--images"):
        return _refusal(name, error)
    model = example.split()[0]
    if missing == "--images":
        if Path(words[0]).suffix.lower() not in EXTENSIONS and not Path(words[0]).is_file():
            return f"name at least one image after the model: {name} {example}"
        example = shlex.join([model, *words])
    what = "a model first" if "images" in hints_of(kind) else "a run"
    return f"name {what}, such as {model}: {name} {example}"


def make_app(kind: type[T], name: str) -> App:
    """The parser of a command's arguments, which returns them."""
    app = App(
        name=name,
        help=kind.__doc__,
        help_flags=("--help", "-h", HELP_ALL),
        version_flags=(),
        group_parameters=Group("options", sort_key=0),
        default_parameter=Parameter(
            negative=(), consume_multiple=True, converter=_convert, show_default=_shown_default
        ),
        result_action="return_value",
    )
    app["--help"].show = False

    def command(arguments: T) -> T:
        return arguments

    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        # Optional arguments are flags.
        field.kw_only = not (field.default is field.default_factory is dataclasses.MISSING)
    command.__annotations__ = {"arguments": Annotated[kind, Parameter(name="*")]}
    with suppress(TypeError):  # an argument without a default
        command.__defaults__ = (kind(),)
    app.default(command)
    return app


def _shown_default(value: Any) -> str | None:
    """A flag's default in the help; none of a switch."""
    return None if value is False else str(value)


def completion_script(shell: str, commands: Iterable[str]) -> str:
    """The script that completes ``srvae-pyro``, its commands and their flags in a shell."""
    app = App(name="srvae-pyro", version_flags=())
    for name in commands:
        main = importlib.import_module(f"srvae_pyro.{name}").main
        app.command(make_app(get_type_hints(main)["arguments"], name))
    return app.generate_completion(shell=cast(Shell, shell))


class _CommonFlags:
    """A help formatter of positional arguments and a few flags, by their fields' names.

    The rest is cyclopts' own formatter's, named as a string so that it is imported only for help.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.flags = set(map(flag_of, names))

    @cached_property
    def default(self) -> Any:
        return App(help_formatter="default").help_formatter

    def render_usage(self, *usage: Any) -> None:
        self.default.render_usage(*usage)

    def __call__(self, console: Any, options: Any, panel: Any) -> None:
        entries = [e for e in panel.entries if e.positional_label or self.flags & set(e.names)]
        if entries:
            self.default(console, options, panel.copy(entries=entries))


def _convert(kind: Any, tokens: Sequence[Token]) -> Any:
    """cyclopts' conversion, with home folders: shells do not expand that of --out=~/x."""
    for token in tokens if int in (kind, *get_args(kind)) else ():
        if "." in token.value:
            raise ValueError(f"{token.value} is not a whole number")  # it would be rounded
    return convert(kind, [t.evolve(value=os.path.expanduser(t.value)) for t in tokens])


def _run(command: Callable[[], int | None], prog: str, memory: str) -> int:
    try:
        return command() or 0
    except UserError as error:
        print_error(f"{prog}: {with_flags(str(error))}")
        return 2
    except (OSError, MemoryError, RuntimeError) as error:
        if out_of_memory(error):
            print(f"{prog}: out of memory{memory and ': '}{memory}", file=sys.stderr)
        elif isinstance(error, OSError):
            # A full disk, a folder that may not be written to, a path through a file.
            place = f"{error.filename}: " if error.filename else ""
            print(f"{prog}: {place}{error.strerror or error}", file=sys.stderr)
        elif str(error).startswith("DataLoader "):  # its processes were killed, or hang
            reason = str(error).splitlines()[0].rstrip(" .")
            print(
                f"{prog}: reading images ahead failed ({reason}): use fewer --workers, or "
                "--workers 0; --resume continues the run",
                file=sys.stderr,
            )
        else:
            raise
        return 2
    except KeyboardInterrupt:
        print(f"{prog}: stopped", file=sys.stderr)
        return 130


def _show_warning(message: Warning | str, category: type[Warning], *args: object) -> None:
    """Show our own warnings in one line, and no other library's."""
    if is_main() and category is UserWarning and args and "srvae_pyro" in str(args[0]):
        print(f"warning: {with_flags(str(message))}", file=sys.stderr)
