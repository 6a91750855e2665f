"""The likelihood of 8-bit images: a mixture of discretised logistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pyro.distributions.util import broadcast_shape
from torch import Tensor
from torch.distributions import constraints

from srvae_pyro.distributions.image_distribution import ImageDistribution, at_least_float32
from srvae_pyro.distributions.truncated import likeliest
from srvae_pyro.pixels import LAST_LEVEL

BIN_WIDTH = 1.0 / LAST_LEVEL
HALF_BIN = 0.5 * BIN_WIDTH
MIN_LOG_SCALE = -7.0
# Half-width of an edge bin: divided by scales of e^-40 to e^40 it is finite, its sigmoid exactly 1.
UNBOUNDED = 1e20
FARTHEST = 1e19  # locations are clamped to it


WIDEST = 15.0  # of log-scales in expectations, which hardly change beyond


class DiscretizedLogisticMixture(ImageDistribution):
    r"""A mixture of logistics over images, each integrated over the bins of the 256 levels.

    The colours x_1, x_2, x_3 of a pixel share the mixture component k,

    .. math::
        p(x) = \sum_k \pi_k \prod_c \big[\sigma((x_c + b_c^+ - \mu_{kc}) / s_{kc})
               - \sigma((x_c - b_c^- - \mu_{kc}) / s_{kc})\big],

    where :math:`b^+ = b^- = 1/510`, except that :math:`b^+` is infinite at x = 1 and :math:`b^-` at
    x = 0, and each colour's location is linear in those before it:

    .. math::
        \mu_1 = m_1, \quad \mu_2 = m_2 + a_1 x_1, \quad \mu_3 = m_3 + a_2 x_1 + a_3 x_2.

    Values are floats on the grid k / 255 of [0, 1]. Computed in float32 or better.

    References:
        Salimans et al., PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture
        Likelihood and Other Modifications, 2017, arXiv:1701.05517; Gatopoulos et al.,
        Super-resolution Variational Auto-Encoders, 2020, arXiv:2006.05218, section 3.3.

    Args:
        logits: unnormalised log-weights of the components, (..., K, H, W).
        means: the locations' constant parts m, (..., K, C, H, W), where C is 1 or 3.
        log_scales: logarithms of the scales s, (..., K, C, H, W), from -40 to 40.
        coefficients: the three a, already in [-1, 1], (..., K, 3, H, W); None if C is 1.

    Example:
        >>> parameters = torch.randn(2, 100, 8, 8)
        >>> likelihood = DiscretizedLogisticMixture.from_channels(parameters)
        >>> likelihood.batch_shape, likelihood.event_shape
        (torch.Size([2]), torch.Size([3, 8, 8]))
        >>> x = likelihood.sample()
        >>> likelihood.log_prob(x).shape
        torch.Size([2])
    """

    arg_constraints = {  # noqa: RUF012 (declared by the base class, and never changed)
        "logits": constraints.independent(constraints.real, 3),
        "means": constraints.independent(constraints.real, 4),
        "log_scales": constraints.independent(constraints.real, 4),
        "coefficients": constraints.independent(constraints.interval(-1.0, 1.0), 4),
    }

    def __init__(
        self,
        logits: Tensor,
        means: Tensor,
        log_scales: Tensor,
        coefficients: Tensor | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        if logits.dim() < 3 or means.dim() < 4:
            raise ValueError(
                "expected logits (..., K, H, W) and means (..., K, C, H, W), "
                f"got {tuple(logits.shape)} and {tuple(means.shape)}"
            )
        components, channels, height, width = means.shape[-4:]
        if channels not in (1, 3):
            raise ValueError(f"means have {channels} colour channels (dimension -3): use 1 or 3")
        if (coefficients is None) != (channels == 1):
            got = "none were given" if coefficients is None else "they were given"
            wanted = "needs no coefficients" if channels == 1 else "needs coefficients"
            raise ValueError(f"a mixture with {channels} colour channel(s) {wanted}, but {got}")
        event = means.shape[-4:]
        expected = {
            "logits": (logits, (components, height, width)),
            "log_scales": (log_scales, event),
        }
        if coefficients is not None:
            expected["coefficients"] = (coefficients, event)
        for name, (parameter, shape) in expected.items():
            if parameter.shape[-len(shape) :] != shape:
                raise ValueError(
                    f"{name} have shape {tuple(parameter.shape)}, which does not end in "
                    f"{tuple(shape)} as means of shape {tuple(means.shape)} require"
                )
        batch_shape = torch.Size(
            broadcast_shape(
                logits.shape[:-3],
                means.shape[:-4],
                log_scales.shape[:-4],
                () if coefficients is None else coefficients.shape[:-4],
            )
        )
        self.logits = at_least_float32(logits).expand(*batch_shape, *logits.shape[-3:])
        self.means = at_least_float32(means).expand(batch_shape + event)
        self.log_scales = at_least_float32(log_scales).expand(batch_shape + event)
        self.coefficients: Tensor | None = None
        if coefficients is None:
            self.arg_constraints = {
                name: constraint
                for name, constraint in type(self).arg_constraints.items()
                if name != "coefficients"
            }
        else:
            self.coefficients = at_least_float32(coefficients).expand(batch_shape + event)
        super().__init__(batch_shape, event[1:], validate_args=validate_args)

    @staticmethod
    def parameter_channels(components: int, channels: int = 3) -> int:
        """Channels that :meth:`from_channels` takes: 100 for 10 components and 3 colours."""
        return components * _channels_per_component(channels)

    @classmethod
    def from_channels(
        cls,
        parameters: Tensor,
        channels: int = 3,
        *,
        most_log_scale: float | None = None,
        validate_args: bool | None = None,
    ) -> DiscretizedLogisticMixture:
        """Read the parameters from the channels of a network's output.

        In order: K logits, K*C means, K*C log-scales, and for three colours K*3 coefficients before
        tanh, each (component, colour). Log-scales are clamped from -7 to ``most_log_scale``.

        Args:
            parameters: the network's output, (..., parameter_channels(K, channels), H, W).
        """
        per_component = _channels_per_component(channels)
        if parameters.dim() < 3:
            raise ValueError(
                f"expected parameters (..., channels, H, W), got {tuple(parameters.shape)}"
            )
        total = parameters.shape[-3]
        if total == 0 or total % per_component != 0:
            raise ValueError(
                f"{total} parameter channels are not a multiple of {per_component}, which each "
                f"component of a mixture over {channels} colour channel(s) takes"
            )
        components = total // per_component
        # Dense pixels: scoring reads whole planes, which channels_last would scatter.
        parameters = at_least_float32(parameters).contiguous()
        rest = (total - components) // (components * channels)
        logits, *others = parameters.split([components, *[components * channels] * rest], dim=-3)
        means, log_scales, *raw = (other.unflatten(-3, (components, channels)) for other in others)
        return cls(
            logits,
            means,
            log_scales.clamp(MIN_LOG_SCALE, most_log_scale),
            raw[0].tanh() if raw else None,
            validate_args=validate_args,
        )

    def expand(
        self, batch_shape: torch.Size | tuple[int, ...], _instance: Any = None
    ) -> DiscretizedLogisticMixture:
        new = self._get_checked_instance(DiscretizedLogisticMixture, _instance)
        batch_shape = torch.Size(batch_shape)
        event = self.means.shape[-4:]
        new.logits = self.logits.expand(batch_shape + self.logits.shape[-3:])
        new.means = self.means.expand(batch_shape + event)
        new.log_scales = self.log_scales.expand(batch_shape + event)
        new.coefficients = None
        if self.coefficients is None:
            new.arg_constraints = self.arg_constraints
        else:
            new.coefficients = self.coefficients.expand(batch_shape + event)
        super(DiscretizedLogisticMixture, new).__init__(
            batch_shape, self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    def _log_prob(self, value: Tensor) -> Tensor:
        # With d = (x - mu) / s, half-widths h+ = b+ / s and h- = b- / s, a bin's mass is exactly
        #   sigmoid(d + h+) * sigmoid(h- - d) * (1 - exp(-(h+ + h-))),
        # whose logarithm has no difference of nearly equal numbers.
        pixels = value.unsqueeze(-4)  # (..., 1, C, H, W)
        top = pixels > 1 - HALF_BIN
        bottom = pixels < HALF_BIN
        half_above = torch.full_like(pixels, HALF_BIN).masked_fill_(top, UNBOUNDED).unbind(-3)
        half_below = torch.full_like(pixels, HALF_BIN).masked_fill_(bottom, UNBOUNDED).unbind(-3)
        inner = (~(top | bottom)).to(value.dtype).unbind(-3)
        x = pixels.unbind(-3)

        inverse_scale = torch.exp(-self.log_scales)
        log_width = torch.log(-torch.expm1(-BIN_WIDTH * inverse_scale)).unbind(-3)
        means = self.means.clamp(-FARTHEST, FARTHEST).unbind(-3)
        coefficients = () if self.coefficients is None else self.coefficients.unbind(-3)
        score = self.logits
        for c, precision in enumerate(inverse_scale.unbind(-3)):
            d = (x[c] - _location(means[c], coefficients, x[:c])) * precision  # (..., K, H, W)
            score = score + F.logsigmoid(torch.addcmul(d, precision, half_above[c]))
            score = score + F.logsigmoid(torch.addcmul(-d, precision, half_below[c]))
            score = torch.addcmul(score, log_width[c], inner[c])
        log_mass = score.logsumexp(-3) - self.logits.logsumexp(-3)
        return log_mass.sum((-2, -1))

    @property
    def uniform_noise(self) -> Tensor:
        """Of the shape (..., 1 + C, H, W): the first chooses a component, the others colours."""
        channels, height, width = self.event_shape
        return self.means.new_empty(()).expand(*self.batch_shape, 1 + channels, height, width)

    @torch.no_grad()
    def icdf_sample(self, uniform: Tensor) -> Tensor:
        choice, *rest = uniform.split(1, dim=-3)
        shares = self.logits.softmax(-3)
        component = (choice >= shares.cumsum(-3)[..., :-1, :, :]).sum(-3)
        means, log_scales, coefficients = self._of_component(component)
        # Away from 0 and 1, whose logits are infinite, and evenly so.
        tail = torch.finfo(uniform.dtype).eps / 4
        x: list[Tensor] = []
        for mean, log_scale, part in zip(means, log_scales, rest, strict=True):
            noise = part.squeeze(-3).clamp(tail, 1 - 2 * tail).logit()
            x.append(_to_grid(_location(mean, coefficients, x) + log_scale.exp() * noise))
        # One NaN weight makes all shares NaN.
        return torch.stack(x, -3).masked_fill(shares[..., :1, :, :].isnan(), torch.nan)

    @property
    def mode(self) -> Tensor:
        """The likeliest level of the likeliest component, colour by colour.

        Its location, or 0 or 1, which have the tails; not always the mode of the mixture.
        """

        def level(location: Tensor, log_scale: Tensor) -> Tensor:
            low, high = location.new_zeros(()), location.new_full((), LAST_LEVEL)
            precision = torch.exp(-log_scale) / LAST_LEVEL
            return likeliest(low, high, LAST_LEVEL * location, precision) / high

        return self._of_likeliest(level)

    @property
    def location(self) -> Tensor:
        """The likeliest component's location, colour by colour, each put on the grid."""
        return self._of_likeliest(lambda location, log_scale: _to_grid(location))

    @property
    def mean(self) -> Tensor:
        """The expectation of the logistics clipped to [0, 1], which is not on the grid.

        In closed form for each component, with colours' locations at the earlier colours'
        expectations. Exact up to rounding for the first colour, and for others without clipping.
        """
        dtype = self.means.dtype
        # In float64, because wide scales multiply the difference of nearly equal numbers.
        coefficients = () if self.coefficients is None else self.coefficients.double().unbind(-3)
        expectations: list[Tensor] = []
        for mean, log_scale in zip(
            self.means.double().unbind(-3), self.log_scales.double().unbind(-3), strict=True
        ):
            # Wider ones have the same expectation, by which the difference of areas would vanish.
            scale = log_scale.clamp_max(WIDEST).exp()
            location = _location(mean, coefficients, expectations)
            # The integral over t in [0, 1] of P(X > t) = sigmoid((location - t) / scale).
            area = F.softplus(location / scale) - F.softplus((location - 1) / scale)
            expectations.append(scale * area)
        weights = self.logits.double().softmax(-3).unsqueeze(-3)
        return (weights * torch.stack(expectations, -3)).sum(-4).to(dtype)

    def with_temperature(self, temperature: float) -> DiscretizedLogisticMixture:
        """The mixture with logits divided and scales multiplied by a positive temperature."""
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, not {temperature}")
        return DiscretizedLogisticMixture(
            self.logits / temperature,
            self.means,
            self.log_scales + math.log(temperature),
            self.coefficients,
            validate_args=self._validate_args,
        )

    def _of_likeliest(self, on_grid: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """``on_grid`` of each colour's location and log-scale, given those before."""
        component = self.logits.argmax(-3)  # NaN first
        means, log_scales, coefficients = self._of_component(component)
        x: list[Tensor] = []
        for mean, log_scale in zip(means, log_scales, strict=True):
            x.append(on_grid(_location(mean, coefficients, x), log_scale))
        lost = self.logits.take_along_dim(component.unsqueeze(-3), -3).isnan()
        return torch.stack(x, -3).masked_fill(lost, torch.nan)

    def _of_component(
        self, component: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Per-colour means, log-scales and coefficients of one component a pixel, (..., H, W)."""
        index = component.unsqueeze(-3).unsqueeze(-3)  # (..., 1, 1, H, W)

        def choose(parameter: Tensor) -> tuple[Tensor, ...]:
            shape = component.shape[:-2] + parameter.shape[-4:]
            colours = index.expand(*component.shape[:-2], 1, *parameter.shape[-3:])
            return parameter.expand(shape).gather(-4, colours).squeeze(-4).unbind(-3)

        coefficients = () if self.coefficients is None else choose(self.coefficients)
        return choose(self.means), choose(self.log_scales), coefficients


def _location(mean: Tensor, coefficients: Sequence[Tensor], earlier: Sequence[Tensor]) -> Tensor:
    """The location of the colour after the ``earlier`` ones, from its constant part."""
    if len(earlier) == 1:
        return torch.addcmul(mean, coefficients[0], earlier[0])
    if len(earlier) == 2:
        location = torch.addcmul(mean, coefficients[1], earlier[0])
        return torch.addcmul(location, coefficients[2], earlier[1])
    return mean


def _to_grid(x: Tensor) -> Tensor:
    """The nearest level in [0, 1]."""
    # A tensor as divisor, because GPUs multiply by the rounded reciprocal of a plain number.
    return (x * LAST_LEVEL).round().clamp(0, LAST_LEVEL) / x.new_full((), LAST_LEVEL)


def _channels_per_component(channels: int) -> int:
    if channels not in (1, 3):
        raise ValueError(f"images have 1 or 3 colour channels, not {channels}")
    return 3 if channels == 1 else 10
