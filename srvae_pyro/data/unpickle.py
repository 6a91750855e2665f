"""Pickles of NumPy arrays, read without running any code that a pickle may name."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from srvae_pyro.errors import UserError

__all__ = ["read_arrays"]


def read_arrays(path: Path) -> Any:
    """Read a pickle of plain containers, numbers, strings and NumPy arrays.

    A pickle names functions to import and call. Here a name is looked up in a table of the few that
    NumPy's arrays need, and any other is refused before anything is imported or called.

    Raises:
        UserError: the pickle has a forbidden name, or is not intact.
    """
    try:
        with open(path, "rb") as file:
            # latin1: numpy's rule for pickles that Python 2 wrote.
            return _ArrayUnpickler(file, encoding="latin1").load()
    except UserError as error:
        raise UserError(f"{path} {error}") from None
    except MemoryError:
        raise
    except Exception as error:  # arbitrary bytes make the unpickler raise almost anything
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not an intact pickle ({reason}): download it again") from error


def _encode(text: str, encoding: str) -> bytes:
    # How Python 2's protocol spells bytes; arrays need no other codec.
    if encoding not in ("latin1", "latin-1"):
        raise UserError(f"asks for the codec {encoding!r}, which no array needs: do not trust it")
    return text.encode("latin1")


# Taken from what numpy itself writes, so that neither old nor new module names are imported.
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_FROM_BUFFER = np.zeros(1).__reduce_ex__(5)[0]
_SCALAR = np.float64(0).__reduce__()[0]
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = _RECONSTRUCT
    _ALLOWED[f"{_core}.multiarray", "scalar"] = _SCALAR
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _FROM_BUFFER


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise UserError(
                f"asks for {module}.{name}, which no array needs: it may run code, do not trust it"
            )
        return _ALLOWED[module, name]
