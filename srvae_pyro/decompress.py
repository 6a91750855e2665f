"""Images out of a file of compress: ``python -m srvae_pyro.decompress --help``."""

from __future__ import annotations

from srvae_pyro.compression.arguments import DecompressArguments
from srvae_pyro.system.cli import run_command
from srvae_pyro.system.files import unwinding

__all__ = ["DecompressArguments", "main"]


def main(arguments: DecompressArguments) -> int:
    """Decompress as asked; the exit code."""
    from srvae_pyro.compression.command import decompress

    with unwinding():
        return decompress(arguments)


if __name__ == "__main__":
    run_command(DecompressArguments, main, "decompress", "try a --device with more of it")
