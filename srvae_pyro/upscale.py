"""Upscale photographs by a trained srVAE: ``python -m srvae_pyro.upscale --help``."""

from __future__ import annotations

from srvae_pyro.system.cli import run_command
from srvae_pyro.upscaling.arguments import UpscaleArguments

__all__ = ["UpscaleArguments", "main"]


def main(arguments: UpscaleArguments) -> int:
    """Upscale as asked; the exit code: 2 if any image failed."""
    from srvae_pyro.upscaling.command import upscale

    return upscale(arguments)


if __name__ == "__main__":
    run_command(UpscaleArguments, main, "upscale", "give a smaller --memory-gb or --tile")
