"""The point estimate as an ONNX file, in the convention of programs that upscale images."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from srvae_pyro.errors import UserError
from srvae_pyro.models.restorer import FoldedEstimate
from srvae_pyro.system.files import write_whole

OPSET = 18
SIDES = ((16, 24), (13, 37))  # of the inputs that an exported file is checked with
TOLERANCE = {False: 1e-4, True: 2 / 255}  # of values in [0, 1], by half


class _Convention(nn.Module):
    """NCHW, float32, RGB in [0, 1] on both sides, whatever the precision between."""

    def __init__(self, estimate: FoldedEstimate, half: bool) -> None:
        super().__init__()
        self.estimate = estimate.half() if half else estimate.float()
        self.half_precision = half

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.estimate(image.half() if self.half_precision else image)
        return out.float().clamp(0, 1)


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

    def write(partial: Path) -> None:
        partial.write_bytes(content)

    write_whole(path, write)
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
