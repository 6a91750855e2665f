# %% [markdown]
# # Your own d(x) and likelihood
#
# The y of an srVAE need not be a small image: any deterministic d(x) will do. Here y is what a
# camera's sensor sees: one colour at each pixel, in Bayer's pattern. Sampling x given y is then
# demosaicing. Two classes are new: a `Transform`, which is d(x), and an `ImageDistribution` over
# the two colours that each pixel lacks. The rest is the library's.

# %%
import math
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import torch
import torch.nn.functional as F
from pyro.infer import Trace_ELBO
from torch import nn
from torchvision.utils import make_grid

from srvae_pyro import SRVAE, ModelConfig
from srvae_pyro.config import Dense
from srvae_pyro.data import ImageOptions, load_data
from srvae_pyro.distributions import ImageDistribution
from srvae_pyro.models.conditionals import over_images
from srvae_pyro.models.transforms import Transform
from srvae_pyro.pixels import to_levels, to_unit

pyro.set_rng_seed(0)
data = load_data("photos", Path("data"), ImageOptions(image_size=16, limit=2000))
train, test = data.train.in_memory() / 255, data.test[:64] / 255

# %% [markdown]
# ## d(x)
#
# A `Transform` computes on integer levels 0 to 255. Here y has one channel, and the height and
# width of x.


# %%
def seen_colours(height, width):
    """Which colours are seen, (3, H, W): red and green in even rows, green and blue in odd ones."""
    seen = torch.zeros(3, height, width, dtype=torch.bool)
    seen[0, ::2, ::2] = seen[1, ::2, 1::2] = seen[1, 1::2, ::2] = seen[2, 1::2, 1::2] = True
    return seen


class Bayer(Transform):
    """y is a sensor's image."""

    name = "bayer"

    def output_shape(self, shape):
        return 1, *shape[1:]

    def of_levels(self, levels):
        return (levels * seen_colours(*levels.shape[-2:])).sum(-3, keepdim=True)


d = Bayer()
assert d(test).shape == (64, 1, 16, 16)

# %% [markdown]
# The classical demosaicing is bilinear: a missing colour is the average of the nearest pixels that
# have it. It is the baseline here, and the likelihood's locations are relative to it.

# %%
KERNEL = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]).expand(3, 1, 3, 3)


def bilinear(y):
    """Images y (B, 1, H, W) to colours (B, 3, H, W)."""
    seen = seen_colours(*y.shape[-2:]).to(y)
    weights = F.conv2d(seen[None], KERNEL, padding=1, groups=3)
    return F.conv2d(y * seen, KERNEL, padding=1, groups=3) / weights


# %% [markdown]
# ## A likelihood
#
# A missing colour has a logistic distribution, integrated over the width of each level; levels 0
# and 255 include the tails. A colour that was seen keeps its level with probability one. So every x
# that is drawn has d(x) = y: the likelihood is consistent.


# %%
class BayerGiven(ImageDistribution):
    """Discretised logistics where y (..., 1, H, W) lacks a colour.

    Their ``locations`` and ``scales``, (..., 3, H, W), are in levels.
    """

    def __init__(self, y, locations, scales):
        self.y, self.locations, self.scales = y, locations.float(), scales.float()
        self.seen = seen_colours(*y.shape[-2:])
        super().__init__(locations.shape[:-3], locations.shape[-3:], validate_args=False)

    def expand(self, batch_shape, _instance=None):
        parameters = self.y, self.locations, self.scales
        return BayerGiven(*(p.expand(*batch_shape, *p.shape[-3:]) for p in parameters))

    def _log_prob(self, value):
        levels = to_levels(value)
        above = torch.where(levels == 255, 1e6, levels + 0.5)
        below = torch.where(levels == 0, -1e6, levels - 0.5)
        high, low = ((edge - self.locations) / self.scales for edge in (above, below))
        # log(sigmoid(high) - sigmoid(low)), without the difference of nearly equal numbers.
        missing = F.logsigmoid(high) + F.logsigmoid(-low) + torch.log(-torch.expm1(low - high))
        known = torch.where(levels == to_levels(self.y), 0.0, -torch.inf)
        return torch.where(self.seen, known, missing).sum((-3, -2, -1))

    def _with_levels(self, levels):
        return torch.where(self.seen, self.y, to_unit(levels.round().clamp(0, 255)))

    @property
    def uniform_noise(self):
        return self.locations

    def icdf_sample(self, uniform):
        return self._with_levels(self.locations + self.scales * torch.logit(uniform, eps=1e-7))

    @property
    def mode(self):
        return self._with_levels(self.locations)

    @property
    def mean(self):
        # The integral over t in [0, 255] of P(X > t), of the logistic clipped to these levels.
        above_0 = F.softplus(self.locations / self.scales)
        above_255 = F.softplus((self.locations - 255) / self.scales)
        return torch.where(self.seen, self.y, self.scales * (above_0 - above_255) / 255)

    def with_temperature(self, temperature):
        return BayerGiven(self.y, self.locations, self.scales * temperature)


# %% [markdown]
# Does it sum to one? For a pixel whose red was seen there are 256 x 256 possible images, and images
# with another red have probability zero. The samples' mean should be the distribution's `mean`.

# %%
red = torch.full((1, 1, 1), 77 / 255)
pixel = BayerGiven(red, torch.tensor([0.0, 90, 251]).reshape(3, 1, 1), torch.full((3, 1, 1), 6.0))
green, blue = torch.meshgrid(to_unit(torch.arange(256)), to_unit(torch.arange(256)), indexing="ij")
images = torch.stack([red[0].expand(256, 256), green, blue], -1)[..., None, None]
total = pixel.log_prob(images).exp().sum()
print(f"sum of the probabilities: {total:.6f}")
assert abs(total - 1) < 1e-4
images[..., 0, :, :] = 78 / 255
assert (pixel.log_prob(images) == -torch.inf).all()
assert torch.allclose(pixel.sample((20_000,)).mean(0), pixel.mean, atol=0.002)

# %% [markdown]
# ## In the library's srVAE
#
# p(x|y,z) is a module that returns the distribution. `over_images` runs a network on images with
# any leading dimensions, such as several samples. The model is first made with the library's own
# `grayscale`, whose y has one channel too, so that the networks fit; then d and p_x are replaced.


# %%
class XGivenYZ(nn.Module):
    """p(x|y,z): convolutions of the bilinear image, the seen colours and z."""

    is_consistent = True

    def __init__(self, latent, width=32):
        super().__init__()
        sizes = (6 + latent, width), (width, width), (width, 6)
        first, middle, last = (nn.Conv2d(*size, 3, padding=1) for size in sizes)
        self.network = nn.Sequential(first, nn.ELU(), middle, nn.ELU(), last)
        nn.init.zeros_(last.weight)  # it starts as the bilinear image

    def parameters_of(self, y, z):
        start, detail = bilinear(y), F.interpolate(z, size=y.shape[-2:])
        seen = y * seen_colours(*y.shape[-2:])
        change, log_scales = self.network(torch.cat([start, seen, detail], 1)).chunk(2, 1)
        return torch.cat([255 * (start + change), 10 * log_scales.exp()], 1)

    def forward(self, y, z):
        locations, scales = over_images(self.parameters_of, y, z).chunk(2, -3)
        return BayerGiven(y, locations, scales)


names = ("q_u", "p_y", "q_z", "p_z_from_y", "p_z_from_u", "p_z", "p_x_from_z", "p_x")
small = dict.fromkeys(names, Dense(growth=8, steps=1, attention=False))
shape = {"image_shape": (3, 16, 16), "latent_channels": 4}
net = SRVAE(ModelConfig(**shape, d="grayscale", p_u="standard", components=5, **small))
net.guide.d = d
net.model.p_x = XGivenYZ(latent=4)
net.initialize(train[:64])
assert net.is_consistent

# %% [markdown]
# `Trace_ELBO()(model, guide)` is a module with the parameters of both, for an ordinary training
# loop. Gradients are clipped: one wrong guess with a small scale has a large one.

# %%
BITS = test[0].numel() * math.log(2)  # from nats an image to bits/dim
negative_elbo = Trace_ELBO()(net.model, net.guide)
optimizer = torch.optim.Adam(negative_elbo.parameters(), lr=3e-3)
losses = []
for _ in range(200):
    batch = train[torch.randint(len(train), (16,))]
    loss = negative_elbo(batch) / len(batch)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(negative_elbo.parameters(), max_norm=2000)
    optimizer.step()
    losses.append(loss.item() / BITS)

plt.figure(figsize=(6, 3), layout="tight")
plt.plot(losses)
plt.xlabel("step")
plt.ylabel("negative ELBO, bits/dim")
plt.show()
assert sum(losses[-10:]) < sum(losses[:10])

# %% [markdown]
# ## Demosaiced images
#
# The library's operations work with the new parts. Every sample has d(x) = y. The expectation is
# compared with the bilinear image in PSNR, over the missing colours of all test crops.

# %%
y = d(test)
samples = net.super_resolve(y, samples=2, seed=0)["x"]
expectation = net.super_resolve(y, decode="mean", seed=0)["x"][0]
assert all(torch.equal(d(sample), y) for sample in samples)

columns = {
    "y": y.expand(-1, 3, -1, -1),
    "bilinear": bilinear(y),
    "expectation": expectation,
    "a sample": samples[0],
    "another": samples[1],
    "x": test,
}
errors = (torch.stack(list(columns.values())) - test)[:, :, ~seen_colours(16, 16)]
psnr = dict(zip(columns, -10 * errors.square().mean((1, 2)).log10(), strict=True))
for name in ("bilinear", "expectation", "a sample"):
    print(f"{name:12} {psnr[name]:.2f} dB")
assert psnr["expectation"] > max(psnr["bilinear"], psnr["a sample"])

rows = torch.cat([images[:12] for images in columns.values()])
plt.figure(figsize=(9, 5), layout="tight")
plt.imshow(make_grid(rows, nrow=12, padding=1, pad_value=1).permute(1, 2, 0).numpy())
plt.title("rows: " + ", ".join(columns), fontsize=10)
plt.axis("off")
plt.show()

# %% [markdown]
# Importance sampling works with them too:

# %%
log_p = net.log_likelihood(test[:8], samples=10)
print(f"nll {-log_p.mean() / BITS:.2f} bits/dim")

# %% [markdown]
# Parts that are assigned like this are not in the model's settings: a saved model could not be
# rebuilt. [Extend it](../extend.md) says how to register them under a name.
