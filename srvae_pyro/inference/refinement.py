r"""Posteriors refined for each image, by gradient steps on its ELBO.

Means and log-variances start at the encoder's, and steps of Adam (Kingma and Ba 2014,
arXiv:1412.6980) raise each image's evidence lower bound. The rise is the amortization gap; what
remains to log p(x) is the cost of diagonal, independent normals.

The gradient is the latents' path alone, with log q's parameters held: its variance is small near
the posterior (Roeder et al. 2017, "Sticking the Landing", arXiv:1703.09194). Means move in units of
the encoder's standard deviations.

References:
    Cremer, Li and Duvenaud, Inference Suboptimality in Variational Autoencoders, 2018,
    arXiv:1801.03558; Kim et al., Semi-Amortized Variational Autoencoders, 2018, arXiv:1802.02550.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from srvae_pyro.distributions import Conditional
from srvae_pyro.errors import UserError
from srvae_pyro.inference.decoding import Decode, ImageNoise
from srvae_pyro.inference.elbo import TermsELBO
from srvae_pyro.inference.importance_weights import images_of
from srvae_pyro.system.device import peak_bytes

__all__ = ["RefinedGuide", "refine", "refined_at_once"]

# The best of rates from 0.02 to 0.8 and epsilons from 1e-8 to 10, with 10 to 50 steps.
LEARNING_RATE = 0.3
EPSILON = 1.0  # nats a standard deviation; q moves in proportion to gradients well below


@dataclass(frozen=True)
class RefinedGuide:
    """A guide of B given images, a program without an encoder."""

    d: Callable[[Tensor], Tensor] | None  # the model's
    lower: dict[str, Tensor]  # the images below x by site, such as y = d(x)
    posteriors: dict[str, dist.TorchDistribution]  # q(z|x), q(u|y) by site, of batch shape (B,)
    improved: Tensor  # whether q is the refined one, not the encoder's, (B,)

    def __getattr__(self, name: str) -> Conditional:
        """``q_z`` and so on, of this guide's images whatever the arguments."""
        site = name.removeprefix("q_")
        if site == name or site not in vars(self).get("posteriors", {}):
            raise AttributeError(name)
        return lambda *_: self.posteriors[site]

    def __getitem__(self, images: slice) -> RefinedGuide:
        parts = {
            name: dist.Normal(q.mean[images], q.stddev[images]).to_event(3)
            for name, q in self.posteriors.items()
        }
        lower = {name: image[images] for name, image in self.lower.items()}
        return RefinedGuide(self.d, lower, parts, self.improved[images])

    def __call__(self, x: Tensor, count: int = 1, size: tuple[int, int] | None = None) -> None:
        """Sample the sites of this guide's images x (B, C, H, W)."""
        with pyro.plate("images", x.shape[-4], dim=-1):
            for name, image in self.lower.items():
                pyro.sample(name, dist.Delta(image, event_dim=3))
            for name, q in self.posteriors.items():
                pyro.sample(name, q)


class PathNormal(dist.Normal):
    """A normal whose draws carry gradients to its parameters, and whose log-density does not."""

    def log_prob(self, value: Tensor) -> Tensor:
        return dist.Normal(self.loc.detach(), self.scale.detach()).log_prob(value)


def refine(
    model: Any,
    x: Tensor,
    steps: int,
    *,
    seed: int = 0,
    images: Sequence[int] | None = None,
    learning_rate: float = LEARNING_RATE,
    choice_samples: int = 8,
) -> RefinedGuide:
    """Improve the guide's normals for each image by itself; the model is left as it is.

    The encoder's q is kept if its ELBO, by the same noise, is not lower. Importance samples have
    other noise, so their weights stay unbiased.

    Args:
        model: an ``SRVAE`` or ``VAE``, or anything whose ``model`` and ``guide`` are such programs.
        x: images (B, C, H, W) on the grid k/255, all refined at once.
        steps: of Adam; the rate falls to 0 over them by half a cosine.
        images: indices that the images' noise is tied to; 0 to B - 1 if not given.
        learning_rate: the first step's, of means in standard deviations and of log-variances.
        choice_samples: of the ELBO, to choose between the refined q and the encoder's.

    Example:
        >>> from srvae_pyro import SRVAE
        >>> from srvae_pyro.inference.importance import estimate_log_likelihood
        >>> from srvae_pyro.presets import preset
        >>> net, x = SRVAE(preset("quickstart")[0]), torch.zeros(2, 3, 32, 32)
        >>> guide = refine(net, x, steps=2)
        >>> estimate_log_likelihood(net, x, samples=3, guide=guide).log_likelihood.shape
        torch.Size([2])
    """
    if steps < 0:
        raise UserError(f"refine is a number of gradient steps, at least 0, not {steps}")
    indices = list(range(len(x))) if images is None else list(images)
    # No validation: a NaN costs one image its refinement, not all. No inference mode: it would
    # forbid the steps' gradients.
    with pyro.validation_enabled(False), torch.inference_mode(False), torch.no_grad():
        x = x.clone() if x.is_inference() else x
        first = _encoded(model, x)
        means = {name: q.mean for name, q in first.posteriors.items()}
        spreads = {name: q.stddev for name, q in first.posteriors.items()}
        # Of each latent: the mean's way in standard deviations, and the log-variance's.
        ways = {name: mean.new_zeros(2, *mean.shape) for name, mean in means.items()}
        free = [way.requires_grad_() for way in ways.values()]

        def posteriors(kind: type[dist.Normal]) -> dict[str, dist.TorchDistribution]:
            return {
                name: kind(
                    means[name] + spreads[name] * way[0], spreads[name] * (0.5 * way[1]).exp()
                ).to_event(3)
                for name, way in ways.items()
            }

        adam = torch.optim.Adam(free, lr=learning_rate, eps=EPSILON)
        annealing = torch.optim.lr_scheduler.CosineAnnealingLR(adam, max(steps, 1))
        for step in range(steps):
            noise = ImageNoise((seed, step, *b"refine"), indices)
            with torch.enable_grad():
                guide = replace(first, posteriors=posteriors(PathNormal))
                loss = -_elbo(model, guide, x, noise).sum()
            # The networks' parameters keep their gradients.
            for way, gradient in zip(free, torch.autograd.grad(loss, free), strict=True):
                way.grad = gradient
            adam.step()
            annealing.step()
        last = replace(first, posteriors=posteriors(dist.Normal))
        noises = (ImageNoise((seed, n, *b"choice"), indices) for n in range(choice_samples))
        return _better(model, first, last, x, noises)


def _encoded(model: Any, x: Tensor) -> RefinedGuide:
    """The guide of the encoders' posteriors."""
    guide, batch = model.guide, (len(x),)
    lower, posteriors = {}, {}
    images = images_of(model.model, guide, x)
    for (latent, name), image in zip(model.model.levels, images, strict=True):
        lower[name] = image
        # Of an image that is repeated the networks give one distribution, not B.
        posteriors[latent] = getattr(guide, f"q_{latent}")(image).expand(batch)
    del lower[model.model.levels[-1][1]]
    improved = torch.zeros(batch, dtype=torch.bool, device=x.device)
    return RefinedGuide(getattr(guide, "d", None), lower, posteriors, improved)


def _elbo(model: Any, guide: RefinedGuide, x: Tensor, noise: ImageNoise) -> Tensor:
    """One sample of each image's evidence lower bound, nats, (B,)."""
    with Decode(noise=noise):
        return -TermsELBO().terms(model.model, guide, x).total


def _better(
    model: Any, first: RefinedGuide, last: RefinedGuide, x: Tensor, noises: Iterable[ImageNoise]
) -> RefinedGuide:
    """Of each image the guide with the higher evidence lower bound by the same noise."""
    gains = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for noise in noises:
        gains += (_elbo(model, last, x, noise) - _elbo(model, first, x, noise)).double()
    improved = gains > 0  # false for NaN
    chosen = improved[:, None, None, None]
    posteriors = {}
    for name, q in last.posteriors.items():
        before = first.posteriors[name]
        mean = torch.where(chosen, q.mean, before.mean)
        posteriors[name] = dist.Normal(mean, torch.where(chosen, q.stddev, before.stddev)).to_event(
            3
        )
    return replace(first, posteriors=posteriors, improved=improved)


def refined_at_once(model: Any, x: Tensor, memory_gb: float, most: int = 16) -> int:
    """How many images to refine at a time, by a measurement, within a memory budget."""

    def peak(count: int) -> int:
        images = x[:1].repeat(count, 1, 1, 1)
        return peak_bytes(lambda: refine(model, images, steps=1, choice_samples=1))

    few, more = 2, 4
    peak(1)  # warm the cache of weights, which would count in one of the two only
    least = peak(few)
    one = max((peak(more) - least) / (more - few), 1)
    fit = (memory_gb * 1e9 / 2 - least) / one + few
    if fit < 1:
        need = 2e-9 * (least + one * (1 - few))
        raise UserError(
            f"`memory_gb={memory_gb:g}` is too little to refine: use at least {need:.2g}"
        )
    return min(int(fit), most)
