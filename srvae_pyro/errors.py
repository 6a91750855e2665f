"""Mistakes of the user, told in one line."""

import errno

__all__ = ["UserError", "out_of_memory"]

# What PyTorch, its libraries and C++ say that have no exception of their own for it.
_NO_MEMORY = ("allocate memory", "out of memory", "not enough memory", "ALLOC_FAILED", "bad_alloc")


class UserError(ValueError):
    """A mistake in what the user asked for or supplied.

    Its message is one line that says what to do. The commands print it and end with exit code 2;
    in a program it can be caught as the :class:`ValueError` that it is.
    """


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory does not suffice, the computer's or a GPU's."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, RuntimeError):
        return any(words in str(error) for words in _NO_MEMORY)
    return isinstance(error, MemoryError)
