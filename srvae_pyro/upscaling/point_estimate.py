"""The point estimate of a restorer: of images of any size, and as an ONNX file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from srvae_pyro.config import Precision
from srvae_pyro.errors import UserError
from srvae_pyro.models import load
from srvae_pyro.models.restorer import FoldedEstimate, InputKind
from srvae_pyro.pixels import to_unit
from srvae_pyro.runs import find_run
from srvae_pyro.system.device import autocast, to_device
from srvae_pyro.system.files import check_output, replaced, write_whole
from srvae_pyro.upscaling.arguments import ExportArguments
from srvae_pyro.upscaling.tiling import Levels

TILE_BYTES = 3000  # for each pixel of a tile: features in float32 and a convolution's workspace
SMALLEST = 32  # pixels a side of a tile, without its margins
OPSET = 18
SIDES = ((16, 24), (13, 37))  # of the inputs that an exported file is checked with
TOLERANCE = {False: 1e-4, True: 2 / 255}  # of values in [0, 1], by half


def estimated_rows(
    estimate: FoldedEstimate,
    image: Levels,
    memory_gb: float,
    precision: Precision,
    progress: Callable[[int], object],
) -> Iterator[tuple[range, Tensor]]:
    """Rows of an image (c, h, w) of levels, and their estimate in levels, floats (C, f n, f w).

    In tiles with margins as wide as the network sees, so that tiles give what the whole would.

    Raises:
        UserError: not even a small tile fits into the memory allowed.
    """
    _, height, width = image.shape
    margin = estimate.network.margin
    side = int((memory_gb * 1e9 / TILE_BYTES) ** 0.5) - 2 * margin
    if side < min(SMALLEST, max(height, width)):
        least = (SMALLEST + 2 * margin) ** 2 * TILE_BYTES / 1e9
        raise UserError(f"`memory_gb={memory_gb:g}` is too little: use at least {least:.2f}")
    device = estimate.network.first.weight.device
    # A wide tile is one convolution's best shape; of a large image few rows at a time.
    across = width if width * (SMALLEST + 2 * margin) < (side + 2 * margin) ** 2 else side
    down = max((side + 2 * margin) ** 2 // (across + 2 * margin) - 2 * margin, SMALLEST)
    factor = estimate.factor
    for top in range(0, height, down):
        rows = range(top, min(top + down, height))
        first, last = max(top - margin, 0), min(rows.stop + margin, height)
        source = to_unit(image.rows(first, last)[None])
        parts = []
        for left in range(0, width, across):
            right = min(left + across, width)
            start, stop = max(left - margin, 0), min(right + margin, width)
            tile = to_device(source[..., start:stop], device)
            with autocast(precision, device):
                x = estimate(tile.contiguous(memory_format=torch.channels_last))[0]
            x = x[:, factor * (top - first) : factor * (rows.stop - first)]
            parts.append(x[..., factor * (left - start) : factor * (right - start)].float().cpu())
            progress(factor**2 * len(rows) * (right - left))
        yield rows, torch.cat(parts, dim=-1).mul_(255)


class _Convention(nn.Module):
    """NCHW, float32, RGB in [0, 1] on both sides, whatever the precision between."""

    def __init__(self, estimate: FoldedEstimate, half: bool) -> None:
        super().__init__()
        self.estimate = estimate.half() if half else estimate.float()
        self.half_precision = half

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.estimate(image.half() if self.half_precision else image)
        return out.float().clamp(0, 1)


def export(arguments: ExportArguments) -> int:
    """The command ``export``; the exit code."""
    folder = find_run(arguments.run)
    model = load(folder)
    restorer = getattr(model, "restorer", None)
    if restorer is None:
        raise UserError(
            f"{arguments.run} was not trained on damaged inputs: use a run that was trained "
            "with `inputs=damaged`, such as pretrained-photo"
        )
    name = f"{folder.name}-x{arguments.factor}"
    out = arguments.out or Path(f"{name}{'-fp16' if arguments.half else ''}.onnx")
    check_output(out, "--out FILE", is_exported)
    kind = InputKind.named(arguments.input)
    earlier = replaced(out)
    worst = export_onnx(restorer.estimate.folded(kind, arguments.factor), out, arguments.half)
    size = out.stat().st_size / 1e6
    print(f"{out}: {size:.1f} MB, at most {255 * worst:.2g} of 255 levels from PyTorch{earlier}")
    return 0


def is_exported(path: Path) -> bool:
    """Whether a file begins as an ONNX file of PyTorch's."""
    with path.open("rb") as file:
        return b"pytorch" in file.read(64)


def export_onnx(estimate: FoldedEstimate, path: Path, half: bool = False) -> float:
    """Write an ONNX file and check it; the input's batch, height and width are free.

    Args:
        estimate: the network; it is changed if ``half``.
        path: where to.
        half: compute in float16, in a file of half the size; input and output stay float32.

    Returns:
        The largest difference to PyTorch in float32, of values in [0, 1].

    Raises:
        UserError: a package is missing, or the file gives other values.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install 'srvae-pyro[onnx]'") from None
    channels = estimate.network.channels
    images = [torch.rand(index + 1, channels, *side) for index, side in enumerate(SIDES)]
    with torch.no_grad():
        expected = [estimate.float()(image).clamp(0, 1) for image in images]
    module = _Convention(estimate, half).eval()
    with _quietly(), torch.no_grad():
        program = torch.onnx.export(
            module,
            (images[1],),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["input"],
            output_names=["output"],
            dynamic_shapes=({0: "batch", 2: "height", 3: "width"},),
        )
    assert program is not None
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    worst = 0.0
    for image, values in zip(images, expected, strict=True):
        (output,) = session.run(None, {"input": image.numpy()})
        worst = max(worst, float((torch.from_numpy(output) - values).abs().max()))
    if worst > TOLERANCE[half]:
        raise UserError(
            f"the exported file differs from PyTorch by {worst:.2g}: {path} is not written"
        )
    write_whole(path, lambda partial: partial.write_bytes(content))
    return worst


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's log."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
