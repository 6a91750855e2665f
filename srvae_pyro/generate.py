"""Draw new images from a trained model: ``python -m srvae_pyro.generate --help``."""

from __future__ import annotations

from srvae_pyro.drawing.arguments import GenerateArguments
from srvae_pyro.system.cli import run_command

__all__ = ["GenerateArguments", "main"]


def main(arguments: GenerateArguments) -> int:
    """Generate as asked; the exit code."""
    from srvae_pyro.drawing.generate import generate

    return generate(arguments)


if __name__ == "__main__":
    run_command(GenerateArguments, main, "generate", "give a smaller --batch-size")
