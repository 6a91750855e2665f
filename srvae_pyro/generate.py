"""Draw new images from a trained model: ``python -m srvae_pyro.generate --help``."""

from srvae_pyro.drawing.arguments import GenerateArguments
from srvae_pyro.system.cli import run_command


def main(arguments: GenerateArguments) -> int:
    from srvae_pyro.drawing.generate import generate

    return generate(arguments)


if __name__ == "__main__":
    run_command(GenerateArguments, main, "generate", "use a smaller --batch-size")
