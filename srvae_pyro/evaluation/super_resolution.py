"""How good super-resolution is, against pictures whose x is known and against interpolation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from srvae_pyro.evaluation.enlarge import answers, enlarging, factor_of, psnr, shrunk
from srvae_pyro.evaluation.terms import RunningMean
from srvae_pyro.inference.noise import ImageNoise
from srvae_pyro.models import ImageModel
from srvae_pyro.networks import cached_weights
from srvae_pyro.parallel import Group
from srvae_pyro.pixels import to_levels, to_unit
from srvae_pyro.runtime import exact_float32
from srvae_pyro.talk import Bar

__all__ = ["BASELINES", "measure", "ssim", "table"]

BASELINES = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
WINDOW = 11  # pixels a side of SSIM's Gaussian window


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of uint8 pictures (B, C, H, W), averaged over colours: (B).

    As published: a Gaussian window of 11x11 pixels and standard deviation 1.5, where it lies within
    the picture. The same number as scikit-image's ``structural_similarity`` with these settings,
    a batch at a time.

    References:
        Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity, 2004,
        IEEE Transactions on Image Processing 13(4), section III.B.
    """
    places = torch.arange(WINDOW, dtype=torch.float64, device=a.device) - WINDOW // 2
    window = torch.exp(-0.5 * (places / 1.5) ** 2)
    window = window / window.sum()

    def local(x: Tensor) -> Tensor:
        flat = F.conv2d(x.flatten(0, 1)[:, None], window.reshape(1, 1, 1, -1))
        return F.conv2d(flat, window.reshape(1, 1, -1, 1)).unflatten(0, x.shape[:2])[:, :, 0]

    a, b = a.double(), b.double()
    mean_a, mean_b = local(a), local(b)
    variances = local(a * a) - mean_a**2 + local(b * b) - mean_b**2
    covariance = local(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    likeness = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return (likeness / ((mean_a**2 + mean_b**2 + c1) * (variances + c2))).mean(dim=(1, 2, 3))


def interpolated(y: Tensor, factor: int, how: Image.Resampling) -> Tensor:
    """uint8 pictures (B, C, h, w) enlarged by Pillow in 8 bits: uint8 (B, C, H, W)."""
    size = (factor * y.shape[-1], factor * y.shape[-2])
    planes = [
        np.asarray(Image.fromarray(plane).resize(size, how)) for plane in y.flatten(0, 1).numpy()
    ]
    return torch.from_numpy(np.stack(planes)).unflatten(0, y.shape[:2])


@torch.no_grad()
@cached_weights()
def measure(
    model: ImageModel,
    images: Tensor,
    *,
    samples: int = 8,
    seed: int = 0,
    numbers: Tensor | None = None,
    batch_size: int = 100,
    progress: bool = False,
    group: Group | None = None,
) -> dict[str, Any]:
    """The quality of super-resolution on uint8 pictures x (N, C, H, W), from y = d(x).

    Every way's answers are in 8 bits. Each number is the mean over the pictures, and over the
    samples where there are several, of one picture's own number; in dB an exact picture counts as
    100 (interpolation of a plain one is exact), so averages stay finite.

    Args:
        model: a srVAE whose y is a downscaled x.
        images: the pictures.
        samples: answers of the model for each, K.
        seed: of the noise; each picture has its own, whatever the batch.
        numbers: the pictures' numbers, to which their noise is tied; 0 and on if not given.
        batch_size: pictures times samples at a time.
        progress: whether to show a bar.
        group: the processes that share the pictures, all of which get the result.

    Returns:
        ``methods``: by name, ``psnr`` and ``lr_psnr`` in dB and ``ssim`` (None for pictures under
        11 pixels a side) of Pillow's nearest, bilinear, bicubic and lanczos; of a ``sample``; of
        ``mean``, the mean of the K samples; of ``mode`` and ``expectation``, decoded so at
        temperature 0. ``lr_psnr`` compares d of the answer with y. ``diversity``: ``std``, the
        standard deviation over the samples averaged over pixels and colours, and ``pairwise_rmse``,
        the root mean squared difference of two samples averaged over pairs and pictures, both in
        levels of 255, None for one sample. And ``images``, ``samples``, ``seed``, ``factor``.

    Raises:
        UserError: the model does not enlarge.
        ValueError: no pictures, samples or batch size.
    """
    srvae = enlarging(model)
    if not len(images) or batch_size < 1 or samples < 1:
        raise ValueError("pictures, samples and batch_size must be at least 1")
    count, group = len(images), group or Group()
    mine = group.share(count)
    numbers = (torch.arange(count) if numbers is None else numbers)[mine]
    images = images[mine]
    factor, means = factor_of(srvae), RunningMean()
    step = max(batch_size // samples, 1)
    with exact_float32(), Bar(total=len(images), unit="image", disable=not progress) as bar:
        for x, own in zip(images.cpu().split(step), numbers.split(step), strict=True):
            y = shrunk(srvae, x)
            unit = to_unit(y)
            drawn = []
            for part in range(samples):
                noise = ImageNoise((seed, part), own.tolist())
                drawn.append(_in_levels(answers(srvae, unit, noise=noise)))
            found = {name: [interpolated(y, factor, how)] for name, how in BASELINES.items()}
            found["sample"] = drawn
            spread = torch.stack(drawn).float()
            found["mean"] = [spread.mean(dim=0).round().to(torch.uint8)]
            mode = answers(srvae, unit, decode="mode", temperature=0.0)
            expectation = answers(srvae, unit, decode="mean", temperature=0.0)
            found["mode"], found["expectation"] = [_in_levels(mode)], [_in_levels(expectation)]
            for name, pictures in found.items():
                for picture in pictures:
                    means.add({f"{name} {k}": v for k, v in _scores(picture, x).items()})
                    means.add({f"{name} lr_psnr": psnr(shrunk(srvae, picture), y)})
            if samples > 1:
                means.add(_diversity(spread))
            bar.update(len(x))
    values = means.read(group.sum)
    return {
        "methods": {
            name: {kind: values.get(f"{name} {kind}") for kind in ("psnr", "ssim", "lr_psnr")}
            for name in found
        },
        "diversity": {kind: values.get(kind) for kind in ("std", "pairwise_rmse")},
        "images": count,
        "samples": samples,
        "seed": seed,
        "factor": factor,
    }


def _in_levels(x: Tensor) -> Tensor:
    return to_levels(x).clamp(0, 255).to(torch.uint8).cpu()


def _scores(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    scores = {"psnr": psnr(a, b)}
    if min(a.shape[-2:]) >= WINDOW:
        scores["ssim"] = ssim(a, b)
    return scores


def _diversity(samples: Tensor) -> dict[str, Tensor]:
    """How samples (S, B, C, H, W) in levels differ, for each picture (B)."""
    pairs = torch.combinations(torch.arange(len(samples)))
    rmse = [(samples[i] - samples[j]).square().mean(dim=(1, 2, 3)).sqrt() for i, j in pairs]
    return {
        "std": samples.std(dim=0).mean(dim=(1, 2, 3)),
        "pairwise_rmse": torch.stack(rmse).mean(dim=0),
    }


def table(result: dict[str, Any]) -> str:
    """What :func:`measure` found, aligned."""
    names = {
        "sample": "srVAE, one sample",
        "mean": f"srVAE, mean of {result['samples']} samples",
        "mode": "srVAE, mode at temperature 0",
        "expectation": "srVAE, expectation at temperature 0",
    }
    lines = [[f"super-resolution x{result['factor']}", "PSNR (dB)", "SSIM", "LR-PSNR (dB)"]]
    for name, scores in result["methods"].items():
        cells = [
            "-" if scores[kind] is None else f"{scores[kind]:.{digits}f}"
            for kind, digits in (("psnr", 2), ("ssim", 4), ("lr_psnr", 2))
        ]
        lines.append([names.get(name, name), *cells])
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    text = [
        line[0].ljust(widths[0])
        + "".join(f"  {cell:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True))
        for line in lines
    ]
    diversity = result["diversity"]
    if diversity["std"] is not None:
        text.append(
            f"samples differ by {diversity['std']:.1f} levels of 255 (standard deviation a pixel), "
            f"two of them by {diversity['pairwise_rmse']:.1f} (root mean square)"
        )
    return "\n".join(text)
