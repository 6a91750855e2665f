"""``srvae-pyro COMMAND`` or ``python -m srvae_pyro COMMAND``; alone it lists the commands."""

import contextlib
import runpy
import sys
from difflib import get_close_matches
from importlib import import_module
from typing import Literal, cast, get_args, get_type_hints

COMMANDS = {
    "train": "train an srVAE or VAE, and go on with a run",
    "generate": "draw new images from a trained model",
    "upscale": "upscale photographs with a trained srVAE",
    "export": "write a network that upscales as an ONNX file",
    "figures": "draw the paper's figures for a trained model",
    "evaluate": "measure a trained model",
    "compress": "write images into one file, losslessly",
    "decompress": "read them back",
    "demo": "look at a trained model in the browser",
}


Shell = Literal["bash", "zsh", "fish", "powershell"]


def completion(words: list[str]) -> str:
    """The script that completes commands and flags in a shell: ``completion SHELL``."""
    from cyclopts import App

    from srvae_pyro.system.cli import make_app

    shells = get_args(Shell)
    if len(words) != 1 or words[0] not in shells:
        print(f"srvae-pyro: completion needs a shell: {', '.join(shells)}", file=sys.stderr)
        sys.exit(2)
    app = App(name="srvae-pyro", version_flags=())
    for name in COMMANDS:
        arguments = get_type_hints(import_module(f"srvae_pyro.{name}").main)["arguments"]
        app.command(make_app(arguments, name))
    return app.generate_completion(shell=cast(Shell, words[0]))


def main() -> None:
    """Run the command that is named first, with the words after it."""
    name, *words = sys.argv[1:] or ["--help"]
    if name in COMMANDS:
        sys.argv = [f"srvae-pyro {name}", *words]
        runpy.run_module(f"srvae_pyro.{name}", run_name="__main__")
    elif name == "completion":
        print(completion(words), end="")
    elif name not in ("-h", "--help"):
        close = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(COMMANDS)}"
        print(f"srvae-pyro: no command is called {name}; {hint}", file=sys.stderr)
        sys.exit(2)
    else:
        lines = [f"  srvae-pyro {name:10}  {text}" for name, text in COMMANDS.items()]
        with contextlib.suppress(BrokenPipeError):
            print("The super-resolution VAE in Pyro. Commands, each with --help:\n")
            print("\n".join(lines))
            print("\nCompletion in bash (also zsh, fish, powershell):\n")
            print('  eval "$(srvae-pyro completion bash)"')
            print("\nTrained models to try them with, of small images and of photographs:\n")
            print("  srvae-pyro generate pretrained")
            print("  srvae-pyro upscale pretrained-photo PHOTO.jpg", flush=True)


if __name__ == "__main__":
    main()
