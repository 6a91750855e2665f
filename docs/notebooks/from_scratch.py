# %% [markdown]
# # An srVAE in Pyro from scratch
#
# A super-resolution VAE (srVAE) models an image x together with a smaller copy y = d(x): first y,
# from a latent u, then x given y, with a second latent z for the detail. This notebook writes one
# from scratch: toy networks, a model and a guide. Pyro's own tools then train these two programs,
# sample from them, upscale with them and estimate likelihoods.
#
# If Pyro is new to you: `pyro.sample("u", p)` draws from the distribution p and names the draw u.
# Pyro can run a function with such lines and record all draws with their log-probabilities
# (`trace`), run it again with the same draws (`replay`), or fix some of them (`condition`).

# %%
import math
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from torch import nn
from torchvision.utils import make_grid

import srvae_pyro
from srvae_pyro.data import ImageOptions, load_data
from srvae_pyro.distributions import DiscretizedLogisticMixture, RealNVPPrior
from srvae_pyro.inference.elbo import TermsELBO

pyro.set_rng_seed(0)


def show(title, *rows):
    """Rows of images (N, C, H, W) of one size."""
    grid = make_grid(torch.cat(rows), nrow=len(rows[0]), padding=1, pad_value=1)
    plt.figure(figsize=(9, 9 * grid.shape[1] / grid.shape[2] + 0.4), layout="tight")
    plt.imshow(grid.permute(1, 2, 0).numpy())
    plt.title(title, fontsize=10)
    plt.axis("off")
    plt.show()


# %% [markdown]
# ## Images
#
# Crops of five photographs that ship with scikit-image, 16x16 pixels. Test crops are from other
# regions than training crops. d(x) is the average of each 2x2 block, rounded to a level k/255.

# %%
data = load_data("photos", Path("data"), ImageOptions(image_size=16, limit=2000))
train, test = data.train.in_memory() / 255, data.test[:32] / 255


def d(x):
    return (255 * F.avg_pool2d(x, 2)).round() / 255


def enlarged(y):
    return F.interpolate(y, scale_factor=2.0)


show("x, and y = d(x)", test[:12], enlarged(d(test[:12])))

# %% [markdown]
# ## Networks that return distributions
#
# Each conditional is a module that returns a distribution, so `p_y(u)` reads as p(y|u). The latents
# are normal, except that p(u) is a flow (RealNVP). Pixels are 8-bit integers: a mixture of
# logistics, integrated over the width of each level, gives them probabilities. In p(x|y,z) the
# logistics' locations are relative to y, since x is close to it.


# %%
def convolutions(inputs, outputs, width=32):
    sizes = (inputs, width), (width, width), (width, outputs)
    first, middle, last = (nn.Conv2d(*size, 3, padding=1) for size in sizes)
    return nn.Sequential(first, nn.ELU(), middle, nn.ELU(), last)


class NormalGiven(nn.Module):
    """A normal latent (4, 4, 4), given images and latents: pixels are folded into channels."""

    def __init__(self, inputs):
        super().__init__()
        self.network = convolutions(inputs, 2 * 4)

    def forward(self, *given):
        folded = [F.pixel_unshuffle(value, value.shape[-1] // 4) for value in given]
        mean, log_scale = self.network(torch.cat(folded, dim=1)).chunk(2, dim=1)
        return dist.Normal(mean, log_scale.exp()).to_event(3)


class ImageGiven(nn.Module):
    """A mixture of five logistics, given a latent and, for x, the image y."""

    def __init__(self, factor, channels=0):
        super().__init__()
        self.unfold = nn.Sequential(convolutions(4, 16 * factor**2), nn.PixelShuffle(factor))
        parameters = DiscretizedLogisticMixture.parameter_channels(components=5)
        self.network = convolutions(16 + channels, parameters)

    def forward(self, latent, *images):
        start = [enlarged(y) for y in images]
        parameters = self.network(torch.cat([self.unfold(latent), *start], dim=1))
        # Channels: 5 logits, 5 x 3 locations, 5 x 3 log-scales, 5 x 3 coefficients of colours.
        parameters[:, 5:20] += start[0].repeat(1, 5, 1, 1) if images else 0.5
        parameters[:, 20:35] -= 2
        return DiscretizedLogisticMixture.from_channels(parameters)


networks = nn.ModuleDict(
    {
        "p_u": RealNVPPrior((4, 4, 4), growth=8, steps=1, attention=False),
        "p_y": ImageGiven(factor=2),
        "p_z": NormalGiven(3 * 2**2 + 4),
        "p_x": ImageGiven(factor=4, channels=3),
        "q_u": NormalGiven(3 * 2**2),
        "q_z": NormalGiven(3 * 4**2),
    }
)

# %% [markdown]
# ## Two programs
#
# The model is p(u) p(y|u) p(z|y,u) p(x|y,z). The guide is q(y,z,u|x): y is known once x is, so its
# distribution is a `Delta` at d(x), and only u and z are inferred. The `plate` declares the images
# independent.


# %%
def model(x=None, count=1):
    p = pyro.module("networks", networks)
    with pyro.plate("images", count if x is None else len(x)):
        u = pyro.sample("u", p["p_u"]())
        y = pyro.sample("y", p["p_y"](u))
        z = pyro.sample("z", p["p_z"](y, u))
        return pyro.sample("x", p["p_x"](z, y), obs=x)


def guide(x):
    q = pyro.module("networks", networks)
    with pyro.plate("images", len(x)):
        y = pyro.sample("y", dist.Delta(d(x), event_dim=3))
        pyro.sample("u", q["q_u"](y))
        pyro.sample("z", q["q_z"](x))


# %% [markdown]
# ## Training
#
# `SVI` takes gradient steps on the negative ELBO, an upper bound on -log p(x), plotted here in bits
# for each value of an image (bits/dim). Uncompressed, a value takes 8 bits (dashed).

# %%
BITS = test[0].numel() * math.log(2)  # from nats an image to bits/dim
svi = SVI(model, guide, pyro.optim.ClippedAdam({"lr": 3e-3, "lrd": 0.995}), Trace_ELBO())
losses = []
for _ in range(250):
    batch = train[torch.randint(len(train), (16,))]
    losses.append(svi.step(batch) / len(batch) / BITS)

plt.figure(figsize=(6, 3), layout="tight")
plt.plot(losses)
plt.axhline(8, color="gray", linestyle="--")
plt.xlabel("step")
plt.ylabel("negative ELBO, bits/dim")
plt.show()
assert sum(losses[-10:]) / 10 < min(8, losses[0]) - 1

# %% [markdown]
# ## The ELBO's four terms
#
# Running the guide, and then the model with the guide's draws, gives every log-probability. The
# negative ELBO is the sum of two reconstruction errors and two KL divergences, each estimated from
# one draw. The Delta site adds log 1 = 0.
#
# - RE_y = -log p(y|u) and RE_x = -log p(x|y,z)
# - KL_u = log q(u|y) - log p(u) and KL_z = log q(z|x) - log p(z|y,u)


# %%
def log_probabilities(model, guide, x):
    """log p and log q of each image by site, for one draw of the guide."""
    of_guide = poutine.trace(guide).get_trace(x)
    of_model = poutine.trace(poutine.replay(model, trace=of_guide)).get_trace(x)
    of_guide.compute_log_prob()
    of_model.compute_log_prob()
    log_p = {site: of_model.nodes[site]["log_prob"] for site in "uyzx"}
    log_q = {site: of_guide.nodes[site]["log_prob"] for site in "uyz"}
    return log_p, log_q


def negative_elbo(model, guide, x):
    p, q = log_probabilities(model, guide, x)
    return {"re_y": -p["y"], "re_x": -p["x"], "kl_u": q["u"] - p["u"], "kl_z": q["z"] - p["z"]}


with torch.no_grad():
    pyro.set_rng_seed(1)
    terms = negative_elbo(model, guide, test)
    pyro.set_rng_seed(1)  # the same draws
    loss = Trace_ELBO().loss(model, guide, test)
for name, values in terms.items():
    print(f"{name}: {values.mean():6.1f} nats an image")
assert math.isclose(sum(terms.values()).sum(), loss, rel_tol=1e-4)

# %% [markdown]
# ## New images
#
# Without x the model generates: u, then y, z and x. After 250 steps the images have the
# photographs' colours, but no shapes yet.

# %%
draws = Predictive(model, num_samples=1)(count=12)
show("generated y, and x given it", enlarged(draws["y"][0]), draws["x"][0])

# %% [markdown]
# ## Super-resolution
#
# `condition` fixes y, and the model draws the rest. If only y were fixed, u would come from its
# prior, as if y said nothing about it. So u is fixed too, to a draw from q(u|y), which approximates
# its posterior. The model then draws z from p(z|y,u) and x from p(x|y,z).

# %%
with torch.no_grad():
    y = d(test[:12])
    larger = poutine.condition(model, {"y": y, "u": networks["q_u"](y).sample()})
    samples = [larger(count=len(y)) for _ in range(2)]
show("y, two samples of x given y, the true x", enlarged(y), *samples, test[:12])
print(f"d(x) of a sample is {255 * (d(samples[0]) - y).abs().mean():.1f} levels from y on average")

# %% [markdown]
# d(x) of a sample is not exactly y, since this likelihood gives every x some probability. The
# library has likelihoods that only allow d(x) = y, and [Your own d(x) and
# likelihood](your_own_parts.py) writes one.
#
# ## The likelihood by importance sampling
#
# The mean of S weights p(x,y,z,u) / q(y,z,u|x) is an unbiased estimate of p(x, y = d(x)), and this
# is at most p(x). The mean's logarithm is at least the mean of the weights' logarithms, the ELBO. A
# larger S makes the bound tighter.

# %%
log_weights = []
with torch.no_grad():
    for _ in range(50):
        log_p, log_q = log_probabilities(model, guide, test)
        log_weights.append(sum(log_p.values()) - sum(log_q.values()))
elbo = torch.stack(log_weights).mean(0)
log_likelihood = torch.stack(log_weights).logsumexp(0) - math.log(50)
print(f"-ELBO {-elbo.mean() / BITS:.3f}, nll {-log_likelihood.mean() / BITS:.3f} bits/dim")
assert (log_likelihood >= elbo).all()

# %% [markdown]
# ## The same in the library
#
# `srvae_pyro.load` returns such a pair of programs, over better networks, and the functions above
# work on it. `TermsELBO` computes the four terms; `super_resolve` and `log_likelihood` do the rest.

# %%
net = srvae_pyro.load("pretrained")
x = load_data("photos", Path("data"), ImageOptions(image_size=32, limit=8)).test / 255
with torch.no_grad():
    pyro.set_rng_seed(2)
    mine = negative_elbo(net.model, net.guide, x)
    pyro.set_rng_seed(2)
    terms = TermsELBO().terms(net.model, net.guide, x)
for name, values in terms.named().items():
    assert torch.allclose(values, mine[name], rtol=1e-4, atol=1e-2)
print(f"-ELBO {terms.total.mean() / x[0].numel() / math.log(2):.3f} bits/dim")

y = net.guide.d(x)
samples = net.super_resolve(y, samples=2, seed=0)["x"]
show("pretrained: y, two samples of x given y, the true x", enlarged(y), *samples, x)
assert torch.equal(net.guide.d(samples[0]), y)

# %% [markdown]
# Next: [the model](../explanation/model.md) in full, and [What does it not know?](uncertainty.py)
# on how far to trust such samples.
