"""Images into a file by bits-back coding: ``python -m srvae_pyro.compress --help``."""

from __future__ import annotations

from srvae_pyro.compression import LESS_MEMORY
from srvae_pyro.compression.arguments import CompressArguments
from srvae_pyro.system.cli import run_command
from srvae_pyro.system.files import unwinding

__all__ = ["CompressArguments", "main"]


def main(arguments: CompressArguments) -> int:
    """Compress as asked; the exit code."""
    from srvae_pyro.compression.command import compress

    with unwinding():
        return compress(arguments)


if __name__ == "__main__":
    run_command(CompressArguments, main, "compress", LESS_MEMORY)
