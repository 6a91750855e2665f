"""``srvae-pyro COMMAND`` or ``python -m srvae_pyro COMMAND``; alone it lists the commands."""

import contextlib
import runpy
import sys
from difflib import get_close_matches

from srvae_pyro.system.cli import SHELLS, completion_script

COMMANDS = {
    "train": "train an srVAE or VAE, or resume a run",
    "generate": "draw new images from a trained model",
    "upscale": "upscale photographs with a trained srVAE",
    "export": "export a restoring network to ONNX",
    "figures": "draw the paper's figures for a trained model",
    "evaluate": "measure a trained model",
    "compress": "write images into one file, losslessly",
    "decompress": "read the images back",
    "demo": "open a page that shows a trained model",
}


def main() -> None:
    """Run the command that is named first, with the words after it."""
    name, *words = sys.argv[1:] or ["--help"]
    if name in COMMANDS:
        sys.argv = [f"srvae-pyro {name}", *words]
        runpy.run_module(f"srvae_pyro.{name}", run_name="__main__")
    elif name == "completion" and words and words[0] in SHELLS:
        print(completion_script(words[0], COMMANDS), end="")
    elif name == "completion":
        print(f"srvae-pyro: completion needs a shell: {', '.join(SHELLS)}", file=sys.stderr)
        sys.exit(2)
    elif name not in ("-h", "--help"):
        close = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(COMMANDS)}"
        print(f"srvae-pyro: there is no command {name}; {hint}", file=sys.stderr)
        sys.exit(2)
    else:
        lines = [f"  srvae-pyro {name:10}  {text}" for name, text in COMMANDS.items()]
        with contextlib.suppress(BrokenPipeError):
            print("The super-resolution VAE in Pyro. Commands, each with --help:\n")
            print("\n".join(lines))
            print("\nCompletion in bash (also zsh, fish, powershell):\n")
            print('  eval "$(srvae-pyro completion bash)"')
            print("\nTry them with the pretrained models, of small images and of photographs:\n")
            print("  srvae-pyro generate pretrained")
            print("  srvae-pyro upscale pretrained-photo PHOTO.jpg", flush=True)


if __name__ == "__main__":
    main()
