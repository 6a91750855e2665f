# %% [markdown]
# # What does it not know?
#
# Many images x downsample to the same y. The srVAE has a distribution p(x|y) over them. This
# notebook draws samples and checks three things: whether they show where the output is uncertain,
# whether they spread as they should, and what a single best guess gains. The model is the bundled
# `pretrained-photo`. The images are three photographs that ship with scikit-image; the model was
# not trained on them.

# %%
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from skimage import data

import srvae_pyro
from srvae_pyro.pixels import interpolated, to_levels, to_unit

net = srvae_pyro.load("pretrained-photo")


def crop(photograph, top, left, side=96):
    """A square of the photograph at half its size, (3, side, side) of levels."""
    levels = torch.from_numpy(photograph).permute(2, 0, 1).float()
    half = F.avg_pool2d(levels, 2).round()
    return half[:, top : top + side, left : left + side]


crops = (data.astronaut(), 20, 60), (data.chelsea(), 30, 60), (data.coffee(), 60, 130)
x = to_unit(torch.stack([crop(*where) for where in crops]))  # the truth, (3, 3, 96, 96)
y = net.guide.d(x)  # the input, (3, 3, 48, 48)

# %% [markdown]
# ## Samples
#
# There are nineteen for each input. All downsample exactly to the input, since the model's
# likelihood is zero for all other images. So nothing in the input says which of them is right.

# %%
S = 19
samples = net.super_resolve(y, samples=S, seed=0)["x"]  # (19, 3, 3, 96, 96)
assert all(torch.equal(net.guide.d(sample), y) for sample in samples)

mean = samples.mean(0)
deviation = samples.std(0).square().mean(1).sqrt()  # over colours too, (3, 96, 96)


def show(columns):
    """Images by title, a row for each photograph; maps of one value share a scale."""
    _, axes = plt.subplots(len(y), len(columns), figsize=(1.9 * len(columns), 5.8), layout="tight")
    for row, line in enumerate(axes):
        for axis, (title, images) in zip(line, columns.items(), strict=True):
            if images.dim() == 4:
                axis.imshow(images[row].permute(1, 2, 0).clamp(0, 1).numpy())
            else:
                axis.imshow(255 * images[row].numpy(), cmap="magma", vmin=0, vmax=30)
            axis.axis("off")
            if row == 0:
                axis.set_title(title, fontsize=10)
    plt.show()


show({"input": y, "a sample": samples[0], "another": samples[1], "mean": mean, "truth": x})

# %% [markdown]
# ## Where it is uncertain
#
# The figure shows the samples' standard deviation at each pixel beside the actual error of their
# mean, both from 0 (black) to 30 of 255 levels. Edges and texture are uncertain, smooth areas are
# not.

# %%
error = (mean - x).square().mean(1).sqrt()
show({"truth": x, "standard deviation": deviation, "actual error": error})

# %% [markdown]
# The map says where to expect errors, not where they are. Here pixels are sorted by their standard
# deviation and put into ten equal groups. The root mean squared error in a group should be the
# standard deviation, times the root of 1 + 1/S for a mean of S samples.

# %%
groups = deviation.flatten().argsort().chunk(10)
predicted = [deviation.flatten()[g].square().mean().mul(1 + 1 / S).sqrt() * 255 for g in groups]
actual = [error.flatten()[g].square().mean().sqrt() * 255 for g in groups]
correlation = torch.corrcoef(torch.stack([deviation.flatten(), error.flatten()]))[0, 1]
print(f"correlation of the two maps, pixel by pixel: {correlation:.2f}")
for expected, found in zip(predicted, actual, strict=True):
    print(f"expected {expected:5.1f} levels, found {found:5.1f}")
assert actual[-1] > 3 * actual[0]

# %% [markdown]
# ## Calibration
#
# If the truth is like one more sample, its rank among 19 samples is uniform over 20 places. Levels
# are integers, so ties occur and are broken at random. Then the interval from the second smallest
# to the second largest sample has the truth within it 80 % of the time, and the range of all
# samples 90 %.

# %%
levels, truth = to_levels(samples), to_levels(x)
below, ties = (levels < truth).sum(0), (levels == truth).sum(0)
generator = torch.Generator().manual_seed(0)
rank = below + (torch.rand(below.shape, generator=generator) * (ties + 1)).long()  # 0 to S
counts = torch.stack([torch.bincount(r.flatten(), minlength=S + 1) for r in rank])
shares = (counts / counts.sum(1, keepdim=True)).numpy()  # of each photograph, (3, 20)


def coverage(shares, out):
    """How often the truth is among all places but ``out`` at both ends."""
    return shares[..., out : S + 1 - out].sum(-1)


outs = range(S // 2, -1, -1)
nominal = [1 - 2 * out / (S + 1) for out in outs]
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.6), layout="tight")
left.bar(range(S + 1), 100 * shares.mean(0))
left.axhline(100 / (S + 1), color="gray", linestyle="--")
left.set(xlabel="rank of the truth among 19 samples", ylabel="% of values")
for name, share in zip(("astronaut", "chelsea", "coffee"), shares, strict=True):
    right.plot(nominal, [coverage(share, out) for out in outs], ".-", label=name)
right.plot([0, 1], [0, 1], color="gray", linestyle="--")
right.set(xlabel="the samples' central interval", ylabel="the truth lies within")
right.legend()
plt.show()

for out in (2, 1):
    by_photograph = ", ".join(f"{100 * coverage(share, out):.1f}" for share in shares)
    print(
        f"{100 - 10 * out} % interval: {100 * coverage(shares.mean(0), out):.1f} % "
        f"(by photograph {by_photograph})"
    )
assert abs(coverage(shares.mean(0), 2) - 0.8) < 0.1

# %% [markdown]
# Single values are close to calibrated. Do they also fit together? Edges are longer than a block of
# 2x2 pixels. So the contrast between the left and right of a block, minus its expectation, should
# correlate with that of the block below. If values were drawn independently, the correlation would
# be 0.

# %%
expectation = net.super_resolve(y, decode="mean", seed=0)["x"][0]


def correlation_of_blocks(images):
    """Of the left-right contrasts of each block and the one below, less the expected ones."""
    a, b, c, d = F.pixel_unshuffle((images - expectation).reshape(-1, 1, 96, 96), 2).unbind(1)
    contrast = a - b + c - d
    pairs = torch.stack([contrast[:, :-1].flatten(), contrast[:, 1:].flatten()])
    return torch.corrcoef(pairs)[0, 1]


print(f"truth {correlation_of_blocks(x):.2f}, samples {correlation_of_blocks(samples):.2f}")
assert 0.5 < correlation_of_blocks(samples) / correlation_of_blocks(x) < 1.5

# %% [markdown]
# By this one measure, blocks of samples are nearly as correlated as those of the truth.
#
# ## What a single guess gains
#
# PSNR rewards the expectation of x. A sample adds its own noise to the error; a mean of many
# samples adds little. The point estimate is a network's prediction from y alone; `upscale` with
# `--input average` writes it. The table is in dB, with a column for each photograph, and has
# bicubic interpolation as baseline.

# %%
with torch.no_grad():
    estimate = net.model.p_x.estimate(y).clamp(0, 1)
bicubic = to_unit(interpolated(to_levels(y).to(torch.uint8), 2))


def psnr(images):
    return -10 * (images - x).square().mean((1, 2, 3)).log10()


outputs = {
    "bicubic": bicubic,
    "a sample": samples[0],
    "mean of 19": mean,
    "expectation": expectation,
    "estimate": estimate,
}
for name, images in outputs.items():
    values = psnr(images)
    print(f"{name:12}", *(f"{value:6.2f}" for value in values), f"  mean {values.mean():.2f}")
show({**outputs, "truth": x})
assert psnr(estimate).mean() > psnr(mean).mean() > psnr(samples[0]).mean()
assert psnr(estimate).mean() > psnr(bicubic).mean() > psnr(samples[0]).mean()
steps = {name: images.diff(dim=-1).abs().mean() for name, images in outputs.items()}
assert steps["a sample"] > steps["bicubic"]  # from pixel to pixel

# %% [markdown]
# On average a sample has a lower PSNR than bicubic interpolation, although it is sharper. For one
# output take the estimate. To see what could be there take samples, and take their standard
# deviation to see where to trust neither. [Results](../results/photographs.md#calibration) has the
# calibration on crops of other test photographs.
