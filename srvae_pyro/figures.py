"""The paper's figures for any run: ``python -m srvae_pyro.figures --help``."""

from srvae_pyro.drawing.arguments import FiguresArguments
from srvae_pyro.system.cli import run_command


def main(arguments: FiguresArguments) -> int:
    from srvae_pyro.drawing.figures import draw_figures

    return draw_figures(arguments)


if __name__ == "__main__":
    run_command(FiguresArguments, main, "figures", "use a smaller --count or --samples")
