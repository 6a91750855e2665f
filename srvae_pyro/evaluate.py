"""Measure a trained model: ``python -m srvae_pyro.evaluate --help``."""

from srvae_pyro.evaluation.arguments import EvaluateArguments
from srvae_pyro.system.cli import run_command


def main(arguments: EvaluateArguments) -> int:
    from srvae_pyro.evaluation.command import evaluate

    return evaluate(arguments)


if __name__ == "__main__":
    run_command(EvaluateArguments, main, "evaluate", "use a smaller --memory-gb or --batch-size")
