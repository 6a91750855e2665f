"""Mistakes of the user, told in one line."""

__all__ = ["UserError"]


class UserError(ValueError):
    """A mistake in what the user asked for or supplied.

    Its message is one line that says what to do. The commands print it and end with exit code 2;
    in a program it can be caught as the :class:`ValueError` that it is.
    """
