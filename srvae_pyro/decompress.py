"""Images out of a file of compress: ``python -m srvae_pyro.decompress --help``."""

from srvae_pyro.compression.arguments import DecompressArguments
from srvae_pyro.system.cli import run_command


def main(arguments: DecompressArguments) -> int:
    from srvae_pyro.compression.command import decompress

    return decompress(arguments)


if __name__ == "__main__":
    run_command(DecompressArguments, main, "decompress", "try a --device with more memory")
