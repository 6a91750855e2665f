"""Mistakes of the user, reported in one line."""

import errno
import re
from collections.abc import Mapping

# Messages of PyTorch, its libraries and C++, which have no exception for it.
_NO_MEMORY = ("allocate memory", "out of memory", "not enough memory", "ALLOC_FAILED", "bad_alloc")


class UserError(ValueError):
    """A mistake in what the user requested, as one line that says what to do.

    Settings stand between backticks by their Python names: ``"`memory_gb` must be above 0"``,
    ``"pass `image_size=64`"``. Commands print flags instead and end with exit code 2.
    """


def with_flags(message: str, labels: Mapping[str, str] | None = None) -> str:
    """An error's or warning's first line for a command line: ``--memory-gb must be above 0``.

    Settings that have a label, as on a page, are named by it.
    """

    def named(quoted: re.Match[str]) -> str:
        name, value = quoted.groups()
        if "." in name:  # a setting as config.json names it, for --set
            return quoted[0].strip("`")
        shown = f'"{labels[name]}"' if labels and name in labels else flag_of(name)
        return shown if value in (None, "True") else f"{shown} {value}"

    # A UserError raised within a Pyro program has the shapes of the trace on further lines.
    return re.sub(r"`([a-z][\w.]*)(?:=([^`]*))?`", named, message.splitlines()[0])


def flag_of(name: str) -> str:
    """The flag of an argument, such as ``--kl-start`` of ``kl_start``."""
    return f"--{name.replace('_', '-')}"


def and_more(count: int) -> str:
    """What follows the first of ``count`` things: " and 3 more", or nothing for one."""
    return f" and {count - 1} more" if count > 1 else ""


def left_out_of(count: int) -> str:
    """How a warning about so many images begins, which names the first."""
    return f"left out {count:,} images, the first" if count > 1 else "left out"


def counted(count: int, noun: str) -> str:
    """A number of things: "1 image", "1,000 images"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def out_of_memory(error: BaseException) -> bool:
    """Whether the computer's or a GPU's memory was exhausted."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, RuntimeError):
        return any(words in str(error) for words in _NO_MEMORY)
    return isinstance(error, MemoryError)
