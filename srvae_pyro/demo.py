"""Open a page that shows what a model does: ``python -m srvae_pyro.demo --help``."""

from importlib.util import find_spec

from srvae_pyro.errors import UserError
from srvae_pyro.page.arguments import DemoArguments
from srvae_pyro.system.cli import run_command


def main(arguments: DemoArguments) -> int:
    if find_spec("gradio") is None:
        raise UserError("the page needs gradio: pip install 'srvae-pyro[demo]'")
    from srvae_pyro.page.app import serve

    return serve(arguments)


if __name__ == "__main__":
    run_command(DemoArguments, main, "demo", "use a smaller --memory-gb or --megapixels")
