"""Generate, interpolate and more: each operation is a program, drawn by Pyro's Predictive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Unpack

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Predictive
from torch import Tensor, nn

from srvae_pyro.config import ModelConfig
from srvae_pyro.distributions import ImageDistribution
from srvae_pyro.distributions.image_distribution import image_grid
from srvae_pyro.errors import UserError
from srvae_pyro.inference.decoding import Decode, FromNoise, ImageNoise, Noise, noise_of, turn
from srvae_pyro.inference.importance import LikelihoodOptions, log_likelihood
from srvae_pyro.inference.sampling import Sampling
from srvae_pyro.networks import cached_weights
from srvae_pyro.system.device import seeded, to_device

__all__ = ["Operations", "Sampling", "check_images", "draw", "slerp"]


def check_images(
    x: Tensor, name: str, channels: int, multiple: int, size: Sequence[int] | None = None
) -> None:
    """Refuse images that are not floating point (B, C, H, W) of a fitting size, in [0, 1]."""
    if x.dim() != 4 or x.shape[1] != channels:
        alone = f"; one image is {name}[None]" if x.dim() == 3 else ""
        raise UserError(
            f"{name} has shape {tuple(x.shape)}: give images (B, {channels}, h, w){alone}"
        )
    if not len(x):
        raise UserError(f"{name} has no images: give at least 1")
    height, width = x.shape[-2:]
    if height % multiple or width % multiple or not height or not width:
        raise UserError(
            f"{name} of {height}x{width}: its height and width must be multiples of {multiple}"
        )
    if size is not None and [height, width] != list(size):
        raise UserError(
            f"{name} of {height}x{width}: the mixture prior takes {size[0]}x{size[1]} only"
        )
    if not x.is_floating_point() or not bool(((x >= 0) & (x <= 1)).all()):
        raise UserError(f"{name} must be floating point within [0, 1]; divide uint8 levels by 255")
    if not bool(image_grid.check(x).all()):
        raise UserError(f"{name} must have values k/255: use (255 * {name}).round() / 255")


@torch.no_grad()
@cached_weights()
def draw(
    program: Callable[..., Any],
    *inputs: Tensor,
    count: int | None = None,
    samples: int | None = None,
    indices: Sequence[int] | None = None,
    batch_size: int = 64,
    seed: int | None = None,
    **sampling: Any,
) -> dict[str, Tensor]:
    """The sites of a program on images, a batch at a time.

    The images are the samples of Pyro's ``Predictive``, so that its two trial runs cost one image
    each. ``sampling`` are fields of :class:`~srvae_pyro.inference.sampling.Sampling`.

    Args:
        program: a Pyro program for any leading batch shape, within
            :func:`~srvae_pyro.models.base.images_plate`.
        inputs: its arguments, (B, ...) each.
        count: B without inputs.
        samples: S, draws for each image; if not given one, without a dimension of its own.
        indices: that the images' noise is tied to; 0 to B - 1 if not given.
        batch_size: images (times samples) at a time, but at least all samples of one image.
        seed: random seed; PyTorch's generator is used if not given.

    Returns:
        By site (B, ...), or (S, B, ...) if ``samples`` is given.
    """
    how = Sampling(**sampling)
    y_temperature = how.y_temperature
    count = len(inputs[0]) if count is None else count
    if count < 1 or batch_size < 1 or (samples is not None and samples < 1):
        raise UserError("the number of images, samples and batch_size must be at least 1")
    indices = range(count) if indices is None else indices
    plates = 1 if samples is None else 2  # to the right of the images' dimension
    shape = (1,) * plates
    chunks = []
    step = max(batch_size // (samples or 1), 1)

    def on_inputs() -> Any:
        blanks = [dist.Delta(torch.zeros_like(x[:1]), event_dim=x.dim() - 1) for x in inputs]
        observed = [pyro.sample(f"input {i}", blank) for i, blank in enumerate(blanks)]
        if samples is None:
            return program(*observed)
        with pyro.plate("samples", samples, dim=-2):
            return program(*observed)

    for start in range(0, count, step):
        batch = {f"input {i}": x[start : start + step] for i, x in enumerate(inputs)}
        batch = {name: x.reshape(-1, *shape, *x.shape[1:]) for name, x in batch.items()}
        noise: Noise | None = None
        aside: AbstractContextManager[None] = nullcontext()
        if seed is not None:
            own = indices[start : start + step]
            noise = ImageNoise(seed, own, dim=-4 - plates)
            # For trial runs, and sites that Decode leaves to Pyro.
            aside = seeded(seed, *own, *b"pyro")
        size = min(step, count - start)
        temperatures = (how.temperature, how.image_temperature)
        with Decode(how.decode, *temperatures, noise, y_temperature), aside:
            sites = Predictive(on_inputs, batch, num_samples=size, parallel=True)()
        if y_temperature is not None and "y" not in sites:
            raise UserError("`y_temperature` needs an srVAE: this model has no y")
        chunks.append({name: value.squeeze(plates) for name, value in sites.items()})
    joined = {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
    if samples is None:
        return joined
    return {name: value.transpose(0, 1).contiguous() for name, value in joined.items()}


class Operations(nn.Module):
    """The operations of both models, with ``batch_size`` and the fields of :class:`Sampling`.

    Each takes images on the grid k/255 and returns the model's sites by name, such as x and z.
    """

    model: Any  # programs, whose attributes are conditionals
    guide: Any
    config: ModelConfig
    multiple: int  # what the sides of images are multiples of

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def check_precision(self) -> None:
        """Refuse weights of less than 32 bits, as of a model that was made smaller to be saved."""
        dtype = next(self.parameters()).dtype
        if dtype in (torch.float16, torch.bfloat16):
            raise UserError(f"weights in {dtype} are for saving: use model.float() and autocast")

    def prepared(self, x: Tensor) -> Tensor:
        """Images on the model's device, in float32, or float64 if its parameters are."""
        parameter = next(self.parameters())
        double = parameter.dtype == torch.float64
        return to_device(x.to(torch.float64 if double else torch.float32), parameter.device)

    def draw(
        self, program: Callable[..., Any], *inputs: Tensor, **options: Any
    ) -> dict[str, Tensor]:
        """As the function :func:`draw`, on the model's device."""

        def prepared(*batch: Tensor) -> Any:
            return program(*map(self.prepared, batch))

        return draw(prepared, *inputs, **options)

    def check_images(self, *images: Tensor, names: Sequence[str] = "x") -> None:
        """Refuse images (B, C, H, W) that do not fit the networks."""
        self.check_precision()
        channels, *size = self.config.image_shape
        fixed = None if self.config.any_size else size
        for name, x in zip(names, images, strict=True):
            check_images(x, name, channels, self.multiple, fixed)
        shapes = [tuple(x.shape) for x in images]
        if len(set(shapes)) > 1:
            raise UserError(f"images of {shapes[0]} and {shapes[1]} do not pair up")

    def generate(self, count: int, *, first: int = 0, **sampling: Any) -> dict[str, Tensor]:
        """New images x (count, C, H, W) and the other sites.

        With a seed, image i of all has the same noise in any call; ``first`` is the first one's i.
        """
        self.check_precision()
        return draw(self.model, count=count, indices=range(first, first + count), **sampling)

    def reconstruct(self, x: Tensor, **sampling: Any) -> dict[str, Tensor]:
        """Images x (B, C, H, W) decoded from their own latents."""
        raise NotImplementedError

    def interpolate(self, a: Tensor, b: Tensor, steps: int, **sampling: Any) -> dict[str, Tensor]:
        """From images a to images b by way of their latents.

        Latents are interpolated spherically as standard normal noise: u behind the flow, z of the
        srVAE as (z - mean) / std of p(z|y,u); of a mixture prior the latent itself. Everything
        else is drawn anew, y too, so the ends resemble a and b without being reconstructions.

        Args:
            a: images (B, C, H, W).
            b: as many.
            steps: images on the way, both ends counted.
            sampling: ``temperature`` is of the latents of a and b; pair i has the same pixel noise
                all along.

        Returns:
            By site: x (steps, B, C, H, W) and the others.
        """
        if steps < 2:
            raise UserError(f"an interpolation has at least 2 steps, not {steps}")
        if "samples" in sampling:
            raise UserError("an interpolation has one image for each step: leave out `samples`")
        self.check_images(a, b, names="ab")
        temperature, seed = sampling.pop("temperature", 1.0), sampling.get("seed")
        ends = []
        for end, x in enumerate((a, b)):
            noise = None if seed is None else ImageNoise((seed, end, *b"end"), range(len(x)))
            with Decode(temperature=temperature, noise=noise):
                ends.append(self._noise(self.prepared(x)))
        path = torch.linspace(0, 1, steps).tolist()
        between = {
            name: torch.stack([slerp(ends[0][name], ends[1][name], t) for t in path]).flatten(0, 1)
            for name in ends[0]
        }
        # The lowest latent's, from which all other sizes follow.
        height, width = next(iter(between.values())).shape[-2:]

        def program(*noise: Tensor) -> None:
            with FromNoise(dict(zip(between, noise, strict=True))):
                self.model(size=(height, width))

        indices = list(range(len(a))) * steps
        sites = draw(program, *between.values(), indices=indices, **sampling)
        return {name: value.unflatten(0, (steps, len(a))) for name, value in sites.items()}

    @torch.no_grad()
    @turn()
    @cached_weights()
    def _noise(self, x: Tensor) -> dict[str, Tensor]:
        """The noise by site that gives the latents of x, drawn from the guide."""
        guide = pyro.poutine.trace(self.guide).get_trace(x)
        lowest = guide.nodes[self.model.levels[0][0]]["value"]
        replayed = pyro.poutine.replay(self.model, trace=guide)
        model = pyro.poutine.trace(replayed).get_trace(x, size=tuple(lowest.shape[-2:]))
        sites = {name: model.nodes[name] for name in model.stochastic_nodes}
        return {
            name: noise_of(site["fn"], site["value"])
            for name, site in sites.items()
            if not isinstance(site["fn"], ImageDistribution) and name != "images"
        }

    def log_likelihood(
        self, x: Tensor, samples: int = 500, **options: Unpack[LikelihoodOptions]
    ) -> Tensor:
        """log p(x) by importance sampling, nats, (B,), a lower bound in expectation.

        In float64 on the CPU. :mod:`srvae_pyro.inference.importance` also has diagnostics.
        """
        self.check_images(x)
        return log_likelihood(self, self.prepared(x), samples, **options)


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Spherical interpolation between events (..., C, H, W), t from 0 at a to 1 at b.

    It keeps the typical norm of normal noise (White 2016, arXiv:1609.04468).
    """
    flat_a, flat_b = a.flatten(-3), b.flatten(-3)
    cosine = torch.cosine_similarity(flat_a, flat_b, dim=-1).clamp(-1, 1)[..., None, None, None]
    angle = torch.arccos(cosine)
    sine = torch.sin(angle)
    straight = sine < 1e-4  # parallel: the limit is a straight line
    safe = torch.where(straight, torch.ones_like(sine), sine)
    weight_a = torch.where(straight, 1 - t * torch.ones_like(sine), ((1 - t) * angle).sin() / safe)
    weight_b = torch.where(straight, t * torch.ones_like(sine), (t * angle).sin() / safe)
    return weight_a * a + weight_b * b
