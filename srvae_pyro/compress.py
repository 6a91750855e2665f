"""Images into a file by bits-back coding: ``python -m srvae_pyro.compress --help``."""

from srvae_pyro.compression.arguments import CompressArguments
from srvae_pyro.system.cli import run_command


def main(arguments: CompressArguments) -> int:
    from srvae_pyro.compression.command import compress

    return compress(arguments)


if __name__ == "__main__":
    run_command(CompressArguments, main, "compress", "use a smaller --group, or fewer images")
