"""Super-resolution scores: distances to the truth, diversity, calibration and its figure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from srvae_pyro.evaluation.fid import as_colours
from srvae_pyro.evaluation.kid import PACKAGES, lite_network, scaled
from srvae_pyro.inference.statistics import standard_error
from srvae_pyro.system.device import exact_float32, stream
from srvae_pyro.upscaling.quality import WINDOW, psnr, ssim

FEATURE_DISTANCE = "EfficientNet-Lite0 features"  # never LPIPS, whose network and weights differ
AT_ONCE = 25  # images


def feature_distance(device: torch.device | str = "cpu") -> FeatureDistance | None:
    """The distance, or None if its network, an optional extra, is not installed."""
    if all(find_spec(package) for package in PACKAGES):
        return FeatureDistance(device)
    return None


class FeatureDistance:
    """Squared differences of features normalised at every place, over the resolutions.

    LPIPS does the same with another network, and weights fitted to what people see: do not compare
    the two.

    References:
        Zhang et al., 2018, arXiv:1801.03924, equation 1 with w = 1.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = device
        self.network = lite_network(device, "the distance of features")

    @torch.no_grad()
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances (B, H, W), float32 on the CPU, of uint8 images (B, C, H, W), C = 1 or 3."""
        with exact_float32():  # the same numbers on every device
            parts = zip(a.split(AT_ONCE), b.split(AT_ONCE), strict=True)
            return torch.cat([self._distances(one, other) for one, other in parts])

    def _distances(self, a: Tensor, b: Tensor) -> Tensor:
        size = a.shape[-2:]
        both = scaled(as_colours(torch.cat([a, b]).to(self.device)))
        total = torch.zeros(len(a), 1, *size, device=both.device)
        for features in self._features(both):
            one, other = F.normalize(features, dim=1).chunk(2)
            apart = (one - other).square().sum(dim=1, keepdim=True)
            total += F.interpolate(apart, size, mode="bilinear", align_corners=False)
        return total[:, 0].cpu()

    def _features(self, x: Tensor) -> Iterator[Tensor]:
        """The network's last features at each resolution."""
        net = self.network
        x = x.contiguous(memory_format=torch.channels_last)
        x = net._swish(net._bn0(net._conv_stem(x)))
        for block in net._blocks:
            if 2 in block._depthwise_conv.stride:
                yield x
                if min(x.shape[-2:]) < 2:  # the network's padding needs two pixels
                    return
            x = block(x)
        yield x


WEIGHTS = (65.481, 128.553, 24.966)  # of R, G and B in [0, 1], so that Y is from 16 to 235


def mean_and_error(
    values: Tensor | None, photographs: Tensor | None = None
) -> tuple[float | None, float | None]:
    """The mean of one value an image, (N), and its standard error, clustered by photographs."""
    if values is None:
        return None, None
    return values.double().mean().item(), standard_error(values, photographs)


class _Means:
    """Means of one value an image, (N), by field, with standard errors in fields NAME_error."""

    @classmethod
    def of(
        cls, values: Mapping[str, Tensor], prefix: str = "", photographs: Tensor | None = None
    ) -> Self:
        found: dict[str, float | None] = {}
        for field in fields(cls):  # type: ignore[arg-type]  # of a subclass, a dataclass
            name = field.name.removesuffix("_error")
            mean, error = mean_and_error(values.get(prefix + name), photographs)
            found[field.name] = mean if field.name == name else error
        return cls(**found)


@dataclass(frozen=True)
class Scores(_Means):
    """Mean scores of outputs, with standard errors unless there is one image or photograph."""

    psnr: float  # dB, of RGB
    ssim: float | None  # of RGB; None for images under 11 pixels a side
    lr_psnr: float  # dB, of d of the output against y
    psnr_y: float | None  # of the luma without a border of ``factor`` pixels; None if empty
    ssim_y: float | None  # likewise; None if less than 11 pixels a side are left
    psnr_error: float | None = None
    ssim_error: float | None = None
    lr_psnr_error: float | None = None
    psnr_y_error: float | None = None
    ssim_y_error: float | None = None


def y_channel(levels: Tensor) -> Tensor:
    """The luma Y of uint8 RGB or gray (..., C, H, W), float64 (..., 1, H, W).

    BT.601 in studio range by MATLAB's ``rgb2ycbcr``, not rounded, as in BasicSR.
    """
    rgb = levels.expand(*levels.shape[:-3], 3, -1, -1).double()
    weights = rgb.new_tensor(WEIGHTS)[:, None, None] / 255
    return 16 + (rgb * weights).sum(dim=-3, keepdim=True)


def image_scores(a: Tensor, b: Tensor, border: int) -> dict[str, Tensor]:
    """Scores (B) of outputs, uint8 (B, C, H, W), as far as images are large enough.

    Y's leave out ``border`` pixels at each side, the factor, as in NTIRE 2017.
    """
    scores = _scores(a, b)
    if min(a.shape[-2:]) > 2 * border:
        inner = slice(border, -border or None)
        pair = (y_channel(x[..., inner, inner]) for x in (a, b))
        scores |= {f"{name}_y": value for name, value in _scores(*pair).items()}
    return scores


def _scores(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    scores = {"psnr": psnr(a, b)}
    if min(a.shape[-2:]) >= WINDOW:
        scores["ssim"] = ssim(a, b)
    return scores


def stacked_means(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([part[name] for part in parts]).mean(dim=0) for name in parts[0]}


ERROR_WINDOW = 16  # pixels a side over which squared errors are averaged, as in NTIRE 2022

# Outputs and images, uint8 (B, C, H, W) each, to distances (B, h, w), place by place.
Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Diversity(_Means):
    """How samples differ; scores are NTIRE's, in per cent, see :func:`diversity_score`."""

    std: float | None = None  # over the samples, averaged over pixels, in levels of 255
    pairwise_rmse: float | None = None  # of two samples, averaged over pairs and images, in levels
    score_mse: float | None = None  # by the squared error over windows of 16x16 pixels
    score_mse_pixels: float | None = None  # by that of single pixels, which noise makes large
    score_features: float | None = None  # by EfficientNet-Lite0's features if installed; not LPIPS
    score_mse_error: float | None = None
    score_mse_pixels_error: float | None = None
    score_features_error: float | None = None


def diversity_score(distances: Tensor) -> Tensor:
    """NTIRE's diversity of samples in per cent, of distances to the truth (S, B, h, w): (B).

    (global best - local best) / global best: of the nearest sample, and of an image composed of the
    nearest sample at each place. 0 if all samples are equal.

    References:
        Lugmayr et al., NTIRE 2021 Learning the Super-Resolution Space Challenge, CVPR Workshops.
    """
    # distances (S, B, h, w) to (B)
    best = distances.mean(dim=(-2, -1)).amin(dim=0)
    local = distances.amin(dim=0).mean(dim=(-2, -1))
    return torch.where(best > 0, (best - local) / best, 0.0) * 100


def squared_errors(a: Tensor, b: Tensor, window: int = ERROR_WINDOW) -> Tensor:
    """Squared errors of (B, C, H, W) averaged over colours and windows as in NTIRE 2022.

    Each pixel is in as many windows: (B, H + window - 1, W + window - 1).
    """
    errors = (a.float() - b.float()).square().mean(dim=1, keepdim=True)
    errors = F.pad(errors, (window - 1,) * 4)
    rows = F.avg_pool2d(errors, (window, 1), stride=1)
    return F.avg_pool2d(rows, (1, window), stride=1)[:, 0]


def differences(
    samples: Tensor, truth: Tensor, distance: Distance | None = None
) -> dict[str, Tensor]:
    """How samples, uint8 (S, B, C, H, W), differ: (B) by the names of :class:`Diversity`."""
    levels = samples.float()
    pairs = torch.combinations(torch.arange(len(samples)))
    rmse = [(levels[i] - levels[j]).square().mean(dim=(1, 2, 3)).sqrt() for i, j in pairs]
    measures: dict[str, Distance] = {
        "score_mse": squared_errors,
        "score_mse_pixels": lambda a, b: squared_errors(a, b, window=1),
    }
    if distance is not None:
        measures["score_features"] = distance
    return {
        "std": levels.std(dim=0).mean(dim=(1, 2, 3)),
        "pairwise_rmse": torch.stack(rmse).mean(dim=0),
    } | {
        name: diversity_score(torch.stack([measure(sample, truth) for sample in samples]))
        for name, measure in measures.items()
    }


RANKED = 39  # samples: of the truth's 40 ranks 20, 32 and 38 are
LEVELS = (50, 80, 95)  # per cent


@dataclass(frozen=True)
class Calibration:
    """How often the truth lies within central intervals of the samples."""

    within: dict[str, float | None]  # share of values by the interval's per cent
    within_error: dict[str, float | None]
    ranks: list[float]  # share of values of each rank among the samples
    certain: float  # share of values that all samples agree on, and rightly
    samples: int
    seed: int  # of the samples, and of the ties

    @classmethod
    def of(
        cls, values: Mapping[str, Tensor], seed: int, photographs: Tensor | None = None
    ) -> Calibration:
        """From ``ranks`` (N, K + 1) and ``certain`` (N), shares of each image's values."""
        ranks = values["ranks"]
        found = {
            str(level): mean_and_error(coverage(ranks, level), photographs) for level in LEVELS
        }
        return cls(
            {level: mean for level, (mean, _) in found.items()},
            {level: error for level, (_, error) in found.items()},
            ranks.mean(dim=0).tolist(),
            values["certain"].mean().item(),
            ranks.shape[1] - 1,
            seed,
        )


def coverage(ranks: Tensor, level: int) -> Tensor:
    """The share of values within the central interval, (...), by ranks' shares (..., K + 1)."""
    count = ranks.shape[-1]
    out, rest = divmod(count * (100 - level), 200)
    if rest:
        raise ValueError(f"{count - 1} samples have no central interval of {level} %")
    return ranks[..., out : count - out].sum(dim=-1)


class Ranks:
    """Ranks of images' values among samples, ties broken at random (Hamill 2001)."""

    def __init__(self, truth: Tensor, indices: Sequence[int], seed: int) -> None:
        self.truth, self.indices, self.seed = truth, indices, seed
        self.below = torch.zeros(truth.shape, dtype=torch.int32)
        self.equal = torch.zeros(truth.shape, dtype=torch.int32)
        self.count = 0

    def add(self, samples: Tensor) -> None:
        self.below += samples < self.truth
        self.equal += samples == self.truth
        self.count += 1

    def ranks(self) -> Tensor:
        """How many samples lie below each value, ties broken: int64 (B, C, H, W), 0 to K."""
        shape = self.truth.shape[1:]
        drawn = [
            stream(self.seed, index, *b"ties").random(tuple(shape), dtype=np.float64)
            for index in self.indices
        ]
        places = torch.from_numpy(np.stack(drawn)) * (self.equal + 1)
        return self.below.long() + places.long()

    def shares(self) -> dict[str, Tensor]:
        """Shares of the ranks, and of the values that are certain, of each image: float64."""
        ranks = self.ranks().flatten(1)
        shares = torch.zeros(len(ranks), self.count + 1, dtype=torch.float64)
        shares.scatter_add_(1, ranks, torch.ones(ranks.shape, dtype=torch.float64))
        certain = (self.equal == self.count).flatten(1).double().mean(dim=1)
        return {"ranks": shares / ranks.shape[1], "certain": certain}


SIDE = 320  # pixels of each panel
LEFT, TOP, BETWEEN, RIGHT, BOTTOM = 64, 64, 96, 24, 64
AXIS_FONT_SIZE = 14
BARS, LINE, CALIBRATED = (120, 150, 190), (40, 80, 150), (190, 60, 40)
MOST = 2.0  # times the calibrated share that the histogram shows at least

Point = tuple[float, float]


def central_shares(ranks: Sequence[float]) -> list[Point]:
    """For each central interval of ranks the share of values that it should have, and has."""
    count = len(ranks)
    outs = range(count // 2, -1, -1)
    return [(1 - 2 * out / count, float(sum(ranks[out : count - out]))) for out in outs]


def calibration_figure(ranks: Sequence[float], title: str) -> Image.Image:
    """The histogram of ranks, and the coverage of central intervals; the ideal is red."""
    size = (LEFT + SIDE + BETWEEN + SIDE + RIGHT, TOP + SIDE + BOTTOM)
    figure = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(figure)
    font = ImageFont.load_default(size=AXIS_FONT_SIZE)
    pen.text((LEFT, TOP / 2), title, "black", font, anchor="lm")

    count = len(ranks)
    top = max(MOST, 1.1 * count * max(ranks))  # in units of the calibrated share
    histogram = _Panel(pen, font, LEFT, f"rank of the truth among {count - 1} samples")
    for rank, share in enumerate(ranks):
        histogram.bar(rank / count, (rank + 1) / count, share * count / top)
    histogram.line([(0, 1 / top), (1, 1 / top)], CALIBRATED)
    histogram.frame({0: "0", 1: f"{count - 1}"}, {0: "0", 1: f"{100 * top / count:.1f} %"})

    shares = central_shares(ranks)
    within = _Panel(pen, font, LEFT + SIDE + BETWEEN, "truth within the samples' central interval")
    within.line([(0, 0), (1, 1)], CALIBRATED)
    within.line(shares, LINE, dots=True)
    ends = {0: "0", 0.5: "50 %", 1: "100 %"}
    within.frame(ends, ends)
    return figure


class _Panel:
    """A square of a figure, in which points are from (0, 0), below left, to (1, 1)."""

    def __init__(
        self,
        pen: ImageDraw.ImageDraw,
        font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
        left: int,
        label: str,
    ) -> None:
        self.pen, self.font, self.left = pen, font, left
        self.write((0.5, 0), label, (0, 40))

    def place(self, point: Point) -> Point:
        return self.left + point[0] * SIDE, TOP + (1 - point[1]) * SIDE

    def write(self, point: Point, text: str, offset: Point, anchor: str = "mm") -> None:
        x, y = self.place(point)
        self.pen.text((x + offset[0], y + offset[1]), text, "black", self.font, anchor=anchor)

    def bar(self, start: float, end: float, height: float) -> None:
        left, top = self.place((start, height))
        right, bottom = self.place((end, 0))
        self.pen.rectangle((left, top, max(right - 1, left), bottom), BARS)

    def line(
        self, points: Sequence[Point], colour: tuple[int, int, int], dots: bool = False
    ) -> None:
        places = [self.place(point) for point in points]
        self.pen.line(places, colour, width=2)
        for x, y in places if dots else ():
            self.pen.ellipse((x - 3, y - 3, x + 3, y + 3), colour)

    def frame(self, across: dict[float, str], up: dict[float, str]) -> None:
        self.pen.rectangle((*self.place((0, 1)), *self.place((1, 0))), outline="black")
        for share, text in across.items():
            self.write((share, 0), text, (0, 16))
        for share, text in up.items():
            self.write((0, share), text, (-8, 0), anchor="rm")
