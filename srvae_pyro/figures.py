"""The paper's figures for any run: ``python -m srvae_pyro.figures --help``."""

from __future__ import annotations

from srvae_pyro.drawing.arguments import FiguresArguments
from srvae_pyro.system.cli import run_command

__all__ = ["FiguresArguments", "main"]


def main(arguments: FiguresArguments) -> int:
    """Draw as asked; the exit code."""
    from srvae_pyro.drawing.figures import draw_figures  # not before: --help is to be fast

    return draw_figures(arguments)


if __name__ == "__main__":
    run_command(FiguresArguments, main, "figures", "give a smaller --count or --samples")
