"""Train an srVAE or VAE: ``python -m srvae_pyro.train --help``."""

from srvae_pyro.system.cli import run_command
from srvae_pyro.training.arguments import TrainArguments

LESS_MEMORY = (
    "use --accumulate 2 or more, --checkpoint-activations, a smaller --batch-size, or --stream "
    "for images that do not fit"
)


def main(arguments: TrainArguments) -> int:
    from srvae_pyro.training.command import run

    return run(arguments)


if __name__ == "__main__":
    run_command(TrainArguments, main, "train", LESS_MEMORY)
