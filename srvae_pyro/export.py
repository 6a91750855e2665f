"""Write a point estimate as an ONNX file: ``python -m srvae_pyro.export --help``."""

from __future__ import annotations

from srvae_pyro.system.cli import run_command
from srvae_pyro.upscaling.arguments import ExportArguments


def main(arguments: ExportArguments) -> int:
    """Export as asked; the exit code."""
    from srvae_pyro.upscaling.point_estimate import export

    return export(arguments)


if __name__ == "__main__":
    run_command(ExportArguments, main, "export", "use a smaller --factor")
