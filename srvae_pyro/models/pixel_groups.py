"""Likelihoods by a network for each pixel of a block: p(x|y,z), and p(y|u) from coarse to fine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srvae_pyro.config import Dense, LikelihoodName, ModelConfig, Residual
from srvae_pyro.distributions import (
    ConsistentGroups,
    DiscretizedLogisticMixture,
    Pyramid,
    TruncatedMixture,
)
from srvae_pyro.distributions.block_averages import PAIRS, Block
from srvae_pyro.models.conditionals import (
    LOCATION_SPREAD,
    ImageGivenLatent,
    XGivenYZ,
    init_likelihood,
    init_pixel_head,
    over_images,
)
from srvae_pyro.models.transforms import Transform
from srvae_pyro.networks import (
    Decoder,
    DenseBlock,
    ResidualFeatures,
    ResidualHead,
    ResidualNetwork,
    WeightNormConv2d,
    WeightNormConvTranspose2d,
    init_heads,
)

# One over the usual standard deviations of pixels, and of a block's pixels less their average.
# Weights start alike for all inputs, so unscaled pixels take long to be seen beside the features.
PIXEL_SCALE, DIFFERENCE_SCALE = 4.0, 16.0


class PixelGroups(nn.Module):
    """An image of given rounded block averages y, by a network for each pixel of a block.

    Each network sees y, features (..., F, h, w) of a latent, and the earlier pixels of all blocks
    less their y. ``size.shared`` residual blocks add features of y, computed once for all networks
    and samples. With ``size.estimate`` these also predict a point estimate of the image, which then
    takes y's place in the differences and as the start of the locations. With ``size.scaled`` y
    and the differences are scaled to variances near 1.
    """

    def __init__(
        self,
        config: ModelConfig,
        size: Residual,
        channels: int,
        features: int,
        block: Block = PAIRS,
    ) -> None:
        super().__init__()
        self.block = block
        self.scales = (PIXEL_SCALE, DIFFERENCE_SCALE) if size.scaled else (1.0, 1.0)
        self.shared: ResidualFeatures | None = None
        if size.shared:
            self.shared = ResidualFeatures(channels, size.width, size.shared)
            features += size.width
        self.estimator: ResidualHead | None = None
        if size.estimate:
            self.estimator = ResidualHead(size.width, block.pixels * channels, size.blocks)
            init_heads(self.estimator, LOCATION_SPREAD * config.likelihood_scale)
        self.networks = nn.ModuleList(
            ResidualNetwork(
                features + (1 + before) * channels,
                ConsistentGroups.parameter_channels(config.components, channels, before),
                size.width,
                size.blocks,
            )
            for before in range(block.pixels)
        )
        for before, network in enumerate(self.networks):
            init_pixel_head(network, config, channels, before)

    def group(
        self,
        y: Tensor,
        features: Sequence[Tensor],
        estimates: Sequence[Tensor],
        before: Sequence[Tensor],
    ) -> TruncatedMixture:
        """The distribution of the next group, images (C, h, w), given those before."""
        count = len(before)
        network = self.networks[count]
        of_y, of_difference = self.scales

        def joined(y: Tensor, *rest: Tensor) -> Tensor:
            earlier, expected, seen = rest[:count], rest[count : 2 * count], rest[2 * count :]
            pairs = zip(earlier, expected, strict=True)
            more = (of_difference * (pixel - one) for pixel, one in pairs)
            # About 0, where bfloat16 rounds pixels least; locations start from y or estimates.
            pixels = [*(part.to(y.dtype) for part in seen), of_y * (y - 0.5), *more]
            out: Tensor = network(torch.cat(pixels, dim=1))
            return out

        expected = (estimates or [y] * self.block.pixels)[:count]
        parameters = over_images(joined, y, *before, *expected, *features)
        return ConsistentGroups.pixel(parameters, y, before, estimates, self.block)

    def of_y(self, y: Tensor) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        """Shared features of y, and each group's point estimate; these average to y."""
        shared = self.shared
        if shared is None:
            return (), []
        seen = over_images(lambda y: shared(self.scales[0] * (y - 0.5)), y)
        if self.estimator is None:
            return (seen,), []
        apart = over_images(self.estimator, seen).unflatten(-3, (self.block.pixels, -1))
        estimates = y.unsqueeze(-4) + apart - apart.mean(-4, keepdim=True)
        return (seen,), list(estimates.unbind(-4))

    def estimate(self, y: Tensor) -> Tensor | None:
        """The point estimate of the image given y, (..., C, f h, f w), not on the grid."""
        _, estimates = self.of_y(y)
        return self.block.from_groups(estimates) if estimates else None

    def bind(
        self, y: Tensor, *, validate_args: bool | None = None
    ) -> Callable[[Tensor], ConsistentGroups]:
        """The image as a function of the latent's features, with y processed once."""
        seen, estimates = self.of_y(y)
        estimate = self.block.from_groups(estimates) if estimates else None

        def image(features: Tensor) -> ConsistentGroups:
            group = partial(self.group, y, (features, *seen), estimates)
            return ConsistentGroups(y, group, estimate, self.block, validate_args=validate_args)

        return image

    def forward(
        self, y: Tensor, features: Tensor, *, validate_args: bool | None = None
    ) -> ConsistentGroups:
        return self.bind(y, validate_args=validate_args)(features)


def image_given_latent(
    config: ModelConfig, channels: int, dense: Dense, stages: int
) -> ImageGivenLatent | PyramidGivenLatent:
    """The network that ``config.latent_likelihood`` names."""
    pyramid = config.latent_likelihood == "pyramid"
    return (PyramidGivenLatent if pyramid else ImageGivenLatent)(config, channels, dense, stages)


class PyramidGivenLatent(nn.Module):
    """p(y|u), or the one-level VAE's p(x|z), by networks for each level.

    A dense block of the latent gives the coarsest image's parameters by a 1x1 convolution and,
    doubled in size at each level, the features for the next finer image's :class:`PixelGroups`.
    """

    def __init__(self, config: ModelConfig, channels: int, dense: Dense, stages: int) -> None:
        super().__init__()
        self.channels = channels
        out = DiscretizedLogisticMixture.parameter_channels(config.components, channels)
        self.trunk = DenseBlock(
            config.latent_channels, dense.growth, dense.steps, attention=dense.attention
        )
        self.coarsest = WeightNormConv2d(self.trunk.out_channels, out, 1, head=True)
        init_likelihood(self.coarsest, config, channels)
        seen = config.pyramid_channels
        self.lifts, self.levels = nn.ModuleList(), nn.ModuleList()
        for level in range(stages):
            if level == 0:
                self.lifts.append(WeightNormConv2d(self.trunk.out_channels, seen, 1))
            else:
                wide = self.trunk.out_channels if level == 1 else seen
                self.lifts.append(WeightNormConvTranspose2d(wide, seen))
            self.levels.append(PixelGroups(config, config.pyramid, channels, seen))

    def features(self, trunk: Tensor) -> list[Tensor]:
        """Each level's features of the latent, (..., F, h, w)."""
        features: list[Tensor] = []
        for level, lift in enumerate(self.lifts):
            source = features[-1] if level > 1 else trunk
            features.append(F.elu(over_images(lift, source)))
        return features

    def finer(self, level: int, features: Tensor, coarser: Tensor) -> ConsistentGroups:
        """The distribution of the image of twice the size of ``coarser``, (..., C, h, w)."""
        groups: ConsistentGroups = self.levels[level](
            coarser,
            features,
            validate_args=False,  # expectations are off the grid
        )
        return groups

    def forward(self, latent: Tensor) -> Pyramid:
        trunk = over_images(self.trunk, latent)
        parameters = over_images(self.coarsest, trunk)
        return Pyramid(
            DiscretizedLogisticMixture.from_channels(parameters, self.channels),
            [partial(self.finer, *level) for level in enumerate(self.features(trunk))],
        )


class GroupsGivenYZ(nn.Module):
    """p(x|y,z) that is zero unless d(x) = y, for block averages, group after group.

    A decoder brings z to y's size, as features for :class:`PixelGroups`.

    Example:
        >>> import torch
        >>> from srvae_pyro.config import Dense, Residual
        >>> from srvae_pyro.models.transforms import make_transform
        >>> config = ModelConfig(
        ...     latent_channels=4, components=2, p_x_from_z=Dense(8, 2), groups=Residual(4, 1)
        ... )
        >>> d = make_transform("average2")
        >>> p_x = GroupsGivenYZ(config, d, 3, 3)
        >>> y = d(torch.rand(5, 3, 32, 32))
        >>> likelihood = p_x(y, torch.randn(5, 4, 8, 8))
        >>> x = likelihood.sample()
        >>> x.shape, torch.equal(d(x), y), likelihood.log_prob(x).shape
        (torch.Size([5, 3, 32, 32]), True, torch.Size([5]))
    """

    is_consistent: ClassVar[bool] = True

    def __init__(
        self, config: ModelConfig, d: Transform, channels: int, lower_channels: int
    ) -> None:
        super().__init__()
        assert d.block is not None
        self.d = d
        first = ConsistentGroups.parameter_channels(config.components, channels, 0)
        detail = d.block.pixels * config.p_x_z_channels or first
        stages = config.stages - (d.factor.bit_length() - 1)
        self.from_z = Decoder(config.latent_channels, detail, config.p_x_from_z, stages, head=False)
        self.groups = PixelGroups(config, config.groups, channels, detail, d.block)

    def bind(self, y: Tensor) -> Callable[[Tensor], ConsistentGroups]:
        """p(x|y, .) as a function of z, with y processed once."""
        groups = self.groups.bind(y)
        return lambda z: groups(over_images(self.from_z, z))

    def estimate(self, y: Tensor) -> Tensor | None:
        """The point estimate of x given y, (..., C, H, W), if there is one."""
        return self.groups.estimate(y)

    def forward(self, y: Tensor, z: Tensor) -> ConsistentGroups:
        return self.bind(y)(z)


# p(x|y,z) by the likelihood's name. A class has ``is_consistent`` if all its x have d(x) = y.
X_GIVEN_YZ: dict[LikelihoodName, type[nn.Module]] = {
    "independent": XGivenYZ,
    "groups": GroupsGivenYZ,
}


def is_consistent(config: ModelConfig) -> bool:
    """Whether all x that the config's likelihood allows for a y have d(x) = y."""
    return getattr(X_GIVEN_YZ[config.likelihood], "is_consistent", False)
