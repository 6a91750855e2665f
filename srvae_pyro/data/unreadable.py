"""The error for a picture file that cannot be read."""

from __future__ import annotations

from srvae_pyro.formats import Unread

__all__ = ["UnreadableError"]


class UnreadableError(Exception):
    """A picture cannot be read.

    Attributes:
        reason: why, in a few words.
        advice: what to do; empty if there is nothing in particular.
    """

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason)
        self.reason, self.advice = reason, advice

    @classmethod
    def of_format(cls, unread: Unread) -> UnreadableError:
        """The error for a file of a format that is not read."""
        return cls(f"it is {unread.name}", unread.advice)
