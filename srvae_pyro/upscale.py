"""Upscale photographs by a trained srVAE: ``python -m srvae_pyro.upscale --help``."""

from srvae_pyro.system.cli import run_command
from srvae_pyro.upscaling.arguments import UpscaleArguments


def main(arguments: UpscaleArguments) -> int:
    from srvae_pyro.upscaling.command import upscale

    return upscale(arguments)


if __name__ == "__main__":
    run_command(UpscaleArguments, main, "upscale", "use a smaller --memory-gb or --tile")
