"""The settings of a model, its data and its training, which ``config.json`` records.

The train command has a flag for every field of :class:`TrainingConfig`, and for others with a
:class:`~srvae_pyro.checked.Flag`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from srvae_pyro.checked import MOST_THREADS, Above, AtLeast, Between, Flag, Settings, build
from srvae_pyro.errors import UserError


@dataclass(frozen=True)
class Dense(Settings):
    """Growth, steps and blocks of a network of dense blocks."""

    growth: Annotated[
        int, Between(1, 4096), "channels that each dense step of the first block adds"
    ]
    steps: Annotated[int, Between(1, 256), "dense steps per block"]
    blocks: Annotated[int, Between(1, 64), "blocks at constant resolution (plain networks)"] = 1
    attention: Annotated[
        bool, "channel attention after each block, from averages over the whole image"
    ] = True


@dataclass(frozen=True)
class Residual(Settings):
    """Width and blocks of the residual networks of groups of pixels."""

    width: Annotated[int, Between(1, 4096), "channels"]
    blocks: Annotated[int, Between(0, 64), "residual blocks of each group's network"] = 2
    shared: Annotated[
        int,
        Between(0, 256),
        "residual blocks before the four networks, on the coarser image, computed once",
    ] = 0
    estimate: Annotated[
        bool,
        "these blocks also predict the finer image, from which the four networks' locations start",
    ] = False
    scaled: Annotated[
        bool, "pixels are scaled to variances near 1 before these networks see them"
    ] = False


DATA_SETS = ("cifar10", "imagenet32", "imagenet32-batches", "photos")
SHARDS = "wds:"  # how the name of images in tar shards begins

Augmentation = Literal["none", "flips", "shifts"]
Device = Literal["auto", "cpu", "cuda"]
LatentLikelihoodName = Literal["independent", "pyramid"]
LikelihoodName = Literal["independent", "groups"]
ModelName = Literal["srvae", "vae"]
Precision = Literal["fp32", "bf16"]
Preset = Literal["paper", "small", "quickstart", "photo"]
PriorName = Literal["realnvp", "mixture", "standard"]
TransformName = Literal["downscale2", "downscale4", "average2", "grayscale", "sketch"]


@dataclass(frozen=True)
class ModelConfig(Settings):
    """The graphical model and its networks. The defaults are the published srVAE."""

    model: Annotated[
        ModelName,
        Flag(default="srvae; with --init its run's"),
        "srVAE with two levels, or the one-level VAE as baseline",
    ] = "srvae"
    image_shape: Annotated[tuple[int, int, int], Between(1, 65536), "C, H, W"] = (3, 32, 32)
    latent_channels: Annotated[int, Between(1, 4096), "channels of u and of z"] = 16
    stages: Annotated[int, Between(0, 16), "halvings of the image's sides on the way to z"] = 2
    components: Annotated[int, Between(1, 1000), "logistics in each likelihood"] = 10
    d: Annotated[TransformName, Flag(name="transform"), "the srVAE's d, with y = d(x)"] = (
        "downscale2"
    )
    likelihood: Annotated[
        LikelihoodName,
        Flag(),
        "p(x|y,z): independent pixels; or groups: only images with d(x) = y, each pixel of a block "
        "given the earlier ones of all blocks, which needs --transform average2",
    ] = "independent"
    guide_z_sees_y: Annotated[bool, Flag(), "use q(z|x,y) instead of q(z|x)"] = False  # property B

    latent_likelihood: Annotated[
        LatentLikelihoodName,
        Flag(),
        "p(y|u), or the VAE's p(x|z): independent pixels, or a pyramid from coarse to fine",
    ] = "independent"
    u_stages: Annotated[
        int | None,
        Between(0, 16),
        Flag(default="to the size of z; once more with pyramid"),
        "halvings of the sides of y on the way to u",
    ] = None

    p_u: Annotated[PriorName, Flag(name="prior"), "prior of the lowest latent"] = "realnvp"
    p_u_network: Dense = Dense(64, 5)  # network of each coupling
    p_u_components: Annotated[int, Between(1, 100_000), "components of the mixture prior"] = 100

    q_u: Dense = Dense(64, 3)  # q(u|y)
    p_y: Dense = Dense(128, 4)  # p(y|u); in a pyramid the features of u for all networks
    pyramid: Residual = Residual(96, 3)  # each of the pyramid's networks for a group of pixels
    pyramid_channels: Annotated[int, Between(1, 65536), "channels of u that each of these sees"] = (
        128
    )
    q_z: Dense = Dense(16, 4)  # q(z|x)
    p_z_from_y: Dense = Dense(32, 5)  # p(z|y,u), its branch of y
    p_z_from_u: Dense = Dense(64, 3, 3)  # p(z|y,u), its branch of u
    p_z: Dense = Dense(64, 3, 3)  # p(z|y,u), both joined
    p_x_from_z: Dense = Dense(64, 8)  # p(x|y,z), its branch of z; the VAE's p(x|z)
    # Channels of that branch's output; 0: as many as the likelihood has parameters.
    p_x_z_channels: Annotated[int, Between(0, 65536)] = 0
    p_x: Dense = Dense(64, 5, 3)  # p(x|y,z), joined with y; not in the likelihood groups
    groups: Residual = Residual(128, 4)  # each of that likelihood's networks for a pixel of a block

    # Of inputs that are not an exact d(x): p(y|o) and a point estimate of x. None: has none.
    restorer: Residual | None = None

    # What data-dependent initialisation aims at: standard deviations and means of outputs.
    init_scale: Annotated[float, AtLeast(0), "standard deviation of hidden layers"] = 0.01
    head_scale: Annotated[float, AtLeast(0), "that of the heads of latents and of the flow"] = 0.01
    likelihood_scale: Annotated[float, AtLeast(0), "that of the likelihoods' parameters"] = 0.01
    likelihood_start: Literal["published", "images"] = "published"  # their initial means
    posterior_scale: Annotated[float, AtLeast(0), "that of posteriors' means; 0: head_scale"] = 0.0
    posterior_log_variance: Annotated[
        float, Between(-100, 100), "mean log-variance of posteriors"
    ] = 0.0

    def multiple(self, stages: int) -> int:
        """Of which the sides of an image must be multiples, with so many halvings towards u."""
        return 2**stages * (2 if self.p_u == "realnvp" else 1)

    @property
    def has_point_estimate(self) -> bool:
        """Whether p(x|y,z) also predicts x from y alone."""
        return self.likelihood == "groups" and self.groups.estimate

    @property
    def any_size(self) -> bool:
        """Whether the model takes images of any size; a mixture prior has one."""
        return self.p_u != "mixture"


@dataclass(frozen=True)
class DataConfig(Settings):
    """The images. ``info`` describes the data that was loaded."""

    data: Annotated[
        str,
        Flag("NAME|DIR|wds:TARS"),
        "training data: cifar10, imagenet32, imagenet32-batches, photos (needs no network), a "
        "folder, or tar shards: wds:images-{000..099}.tar",
    ] = "cifar10"
    image_size: Annotated[
        int | None,
        AtLeast(1, 65536),
        Flag("PIXELS", default="32; for a folder that of its images"),
        "height and width of the images, for photos and folders",
    ] = None
    channels: Annotated[Literal[1, 3], Flag(), "channels of the images: 3: RGB, 1: gray"] = 3
    seed: Annotated[
        int,
        AtLeast(0),
        Flag(name="data_seed"),
        "random seed of the held-out images and of photos' crops; the same for runs to be compared",
    ] = 0
    limit: Annotated[
        int | None, AtLeast(1), Flag(default="all"), "use only the first images of each split"
    ] = None
    augment: Annotated[
        Augmentation,
        Flag(default="the preset's"),
        "augmentation of training images: horizontal flips, or flips and shifts by up to 5% (crops "
        "are only flipped)",
    ] = "shifts"
    info: dict[str, Any] = field(default_factory=dict)
    crops: Annotated[
        int | None,
        AtLeast(1, 65536),
        Flag("PIXELS", default="whole images"),
        "train on random square crops of this side; an epoch covers the images' area",
    ] = None
    eval_crops: Annotated[
        int | None,
        AtLeast(1),
        Flag(default="2000, or one per image"),
        "maximum number of crops for validation, and for testing, spread evenly over the images",
    ] = None


@dataclass(frozen=True)
class TrainingConfig(Settings):
    """The optimisation: the published run's, with warm-up, clipping and EMA weights."""

    epochs: Annotated[int | None, Above(0), Flag(limit=True), "passes over the training images"] = (
        2000
    )
    steps: Annotated[int | None, Above(0), Flag(limit=True), "number of updates"] = None
    max_minutes: Annotated[
        float | None,
        Above(0),
        Flag("MINUTES", limit=True),
        "minutes of training; the first limit reached ends the run",
    ] = None
    batch_size: Annotated[int, Above(0, 2**31), "images per update"] = 32
    optimizer: Annotated[
        Literal["adamax", "muon"],
        "adamax: the published one; muon: orthogonalised momentum for the weights of convolutions, "
        "Adamax for the rest, which learns faster",
    ] = "adamax"
    lr: Annotated[float, Above(0, 10**9), Flag("RATE"), "highest learning rate"] = 2e-3
    lr_decay: Annotated[
        float, Above(0, 1), "factor applied to the learning rate after each step"
    ] = 0.999999
    lr_min: Annotated[float, AtLeast(0), Flag("RATE"), "lowest learning rate"] = 1e-4
    warmup_steps: Annotated[
        int, AtLeast(0), "updates over which the learning rate rises linearly"
    ] = 200
    anneal: Annotated[
        float,
        Between(0, 1),
        Flag("SHARE"),
        "final share of the run, over which the learning rate falls to --lr-min along a half "
        "cosine",
    ] = 0.0
    betas: Annotated[tuple[float, float], AtLeast(0, 1 - 1e-12), "betas of Adamax"] = (0.9, 0.999)
    eps: Annotated[float, AtLeast(1e-30, 1), "epsilon of Adamax"] = 1e-7
    clip_factor: Annotated[
        float,
        Above(0, 10**30),
        "gradients are clipped to this multiple of the running median of their norm",
    ] = 10.0
    ema_half_life: Annotated[
        float, AtLeast(0), Flag("IMAGES"), "half-life of the EMA weights, in images"
    ] = 50_000.0
    analytic_kl: Annotated[bool, "compute the KL of two normals in closed form"] = False
    kl_start: Annotated[float, Between(0, 1), Flag("WEIGHT"), "weight of KL_z at the start"] = 1.0
    kl_warmup: Annotated[
        float, Between(0, 1), Flag("SHARE"), "share of the run over which that weight rises to 1"
    ] = 0.0
    kl_u_start: Annotated[
        float, Between(0, 1), Flag("WEIGHT"), "weight of the srVAE's KL_u at the start"
    ] = 1.0
    kl_u_warmup: Annotated[
        float, Between(0, 1), Flag("SHARE"), "share of the run over which that weight rises to 1"
    ] = 0.0
    estimate_weight: Annotated[
        float,
        AtLeast(0),
        Flag("NATS"),
        "weight of the point estimate in the loss, in nats per level of absolute error; for models "
        "with a point estimate of x given y",
    ] = 0.0
    inputs: Annotated[
        Literal["average", "damaged"],
        "super-resolution inputs; average: rounded averages of x; damaged: also other downscaling, "
        "noise and compression, by separate networks trained alongside the srVAE of --init",
    ] = "average"
    validation_images: Annotated[
        int | None,
        AtLeast(1),
        "number of validation images per epoch, at most one for every eight trained on so far; all "
        "if not given",
    ] = None
    seed: Annotated[
        int,
        AtLeast(0),
        "random seed of the weights, the order of the images and all noise (held-out images: "
        "--data-seed)",
    ] = 0
    precision: Precision = "fp32"  # precision of the networks; the flag also takes auto
    threads: Annotated[int, AtLeast(0, MOST_THREADS)] = 0  # CPU threads; 0: chosen during the run
    init: Annotated[
        str,
        Flag("RUN", default="fresh weights"),
        "run or Hub id whose weights and networks to start from; a preset then sets only the "
        "training",
    ] = ""


@dataclass(frozen=True)
class RunConfig(Settings):
    """All that a run's ``config.json`` holds."""

    preset: str = "paper"
    model: ModelConfig = ModelConfig()
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = TrainingConfig()
    version: str = ""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunConfig:
        """The inverse of :meth:`to_dict`; a UserError names what is wrong."""
        try:
            return build(cls, values)
        except UserError as error:
            raise UserError(str(error).replace("`", "")) from None  # a file's names, no flags
