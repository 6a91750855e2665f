"""The settings of a model, its data and its training, which ``config.json`` records.

The train command has a flag for every field of :class:`TrainingConfig`, and for others with a
:class:`~srvae_pyro.checked.Flag`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from srvae_pyro.checked import Above, AtLeast, Between, Flag, Settings, build
from srvae_pyro.errors import UserError


@dataclass(frozen=True)
class Dense(Settings):
    """Growth, steps and blocks of a network of dense blocks."""

    growth: Annotated[int, Between(1, 4096), "channels each dense step adds, in the first block"]
    steps: Annotated[int, Between(1, 256), "dense steps a block"]
    blocks: Annotated[int, Between(1, 64), "blocks at constant resolution (plain networks)"] = 1
    attention: Annotated[
        bool, "channel attention after each block, which averages over the whole image"
    ] = True


@dataclass(frozen=True)
class Residual(Settings):
    """Width and blocks of the residual networks of groups of pixels."""

    width: Annotated[int, Between(1, 4096), "channels"]
    blocks: Annotated[int, Between(0, 64), "residual blocks of each group's network"] = 2
    shared: Annotated[
        int,
        Between(0, 256),
        "residual blocks before the four networks, which see the coarser image, computed once",
    ] = 0
    estimate: Annotated[
        bool, "these blocks also predict the finer image, where the four networks' locations start"
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
        "two levels, or the one-level baseline",
    ] = "srvae"
    image_shape: Annotated[tuple[int, int, int], Between(1, 65536), "C, H, W"] = (3, 32, 32)
    latent_channels: Annotated[int, Between(1, 4096), "of u and of z"] = 16
    stages: Annotated[int, Between(0, 16), "how often a side of an image is halved towards z"] = 2
    components: Annotated[int, Between(1, 1000), "logistics in each likelihood"] = 10
    d: Annotated[TransformName, Flag(name="transform"), "y = d(x) of the srVAE"] = "downscale2"
    likelihood: Annotated[
        LikelihoodName,
        Flag(),
        "of x given y and z: pixels independent; or only images with d(x) = y, each pixel of a "
        "block given those before of all (groups), which needs --transform average2",
    ] = "independent"
    guide_z_sees_y: Annotated[bool, Flag(), "q(z|x,y) instead of q(z|x)"] = False  # property B

    latent_likelihood: Annotated[
        LatentLikelihoodName,
        Flag(),
        "of what a latent alone is decoded to, p(y|u) or the VAE's p(x|z): pixels independent of "
        "each other, or from coarse to fine",
    ] = "independent"
    u_stages: Annotated[
        int | None,
        Between(0, 16),
        Flag(default="to z's size; with pyramid once more"),
        "how often a side of y is halved towards u",
    ] = None

    p_u: Annotated[PriorName, Flag(name="prior"), "prior of the lowest latent"] = "realnvp"
    p_u_network: Dense = Dense(64, 5)  # of each coupling
    p_u_components: Annotated[int, Between(1, 100_000), "of the mixture"] = 100

    q_u: Dense = Dense(64, 3)  # q(u|y)
    p_y: Dense = Dense(128, 4)  # p(y|u); of the pyramid what all its networks see of u
    pyramid: Residual = Residual(96, 3)  # each of the pyramid's networks of a group of pixels
    pyramid_channels: Annotated[int, Between(1, 65536), "of u that each of these sees"] = 128
    q_z: Dense = Dense(16, 4)  # q(z|x)
    p_z_from_y: Dense = Dense(32, 5)  # p(z|y,u), its branch of y
    p_z_from_u: Dense = Dense(64, 3, 3)  # p(z|y,u), its branch of u
    p_z: Dense = Dense(64, 3, 3)  # p(z|y,u), both joined
    p_x_from_z: Dense = Dense(64, 8)  # p(x|y,z), its branch of z; the VAE's p(x|z)
    # Channels of that branch's output; 0: as many as the likelihood has parameters.
    p_x_z_channels: Annotated[int, Between(0, 65536)] = 0
    p_x: Dense = Dense(64, 5, 3)  # p(x|y,z), joined with y; not of the likelihood groups
    groups: Residual = Residual(128, 4)  # each of that likelihood's networks of a pixel of a block

    # Of inputs that are not an exact d(x): p(y|o) and a point estimate of x. None: has none.
    restorer: Residual | None = None

    # What data-dependent initialisation aims at: standard deviations and means of outputs.
    init_scale: Annotated[float, AtLeast(0), "of hidden layers"] = 0.01
    head_scale: Annotated[float, AtLeast(0), "of the heads of latents and of the flow"] = 0.01
    likelihood_scale: Annotated[float, AtLeast(0), "of the likelihoods' parameters"] = 0.01
    likelihood_start: Literal["published", "images"] = "published"  # their means
    posterior_scale: Annotated[float, AtLeast(0), "of posteriors' means; 0: head_scale"] = 0.0
    posterior_log_variance: Annotated[float, Between(-100, 100), "posteriors' mean"] = 0.0

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
        "cifar10, imagenet32, imagenet32-batches, photos (no network needed), a folder, or tar "
        "shards: wds:images-{000..099}.tar",
    ] = "cifar10"
    image_size: Annotated[
        int | None,
        AtLeast(1, 65536),
        Flag("PIXELS", default="32; for a folder its images'"),
        "height and width, for photos and folders",
    ] = None
    channels: Annotated[Literal[1, 3], Flag(), "3: RGB, 1: gray"] = 3
    seed: Annotated[
        int,
        AtLeast(0),
        Flag(name="data_seed"),
        "of what is held out, and of photos' crops; the same for runs that are to be compared",
    ] = 0
    limit: Annotated[
        int | None, AtLeast(1), Flag(default="all"), "use only the first images of each split"
    ] = None
    augment: Annotated[
        Augmentation,
        Flag(default="the preset's"),
        "of training images: horizontal flips; or flips, and shifts by up to 5%, which crops have "
        "already",
    ] = "shifts"
    info: dict[str, Any] = field(default_factory=dict)
    crops: Annotated[
        int | None,
        AtLeast(1, 65536),
        Flag("PIXELS", default="the images as a whole"),
        "train on random square crops of this side; an epoch covers the images' area",
    ] = None
    eval_crops: Annotated[
        int | None,
        AtLeast(1),
        Flag(default="2000, or one an image"),
        "most crops for validation and for test each, shared evenly by the images",
    ] = None


@dataclass(frozen=True)
class TrainingConfig(Settings):
    """The optimisation: the published run's, with warm-up, clipping and EMA weights."""

    epochs: Annotated[int | None, Above(0), Flag(limit=True), "passes over the training images"] = (
        2000
    )
    steps: Annotated[int | None, Above(0), Flag(limit=True), "updates"] = None
    max_minutes: Annotated[
        float | None,
        Above(0),
        Flag("MINUTES", limit=True),
        "minutes of training; the first limit reached ends the run",
    ] = None
    batch_size: Annotated[int, Above(0, 2**31), "images an update"] = 32
    lr: Annotated[float, Above(0, 10**9), Flag("RATE"), "highest learning rate of Adamax"] = 2e-3
    lr_decay: Annotated[float, Above(0, 1), "factor on the learning rate, a step"] = 0.999999
    lr_min: Annotated[float, AtLeast(0), Flag("RATE"), "lowest learning rate"] = 1e-4
    warmup_steps: Annotated[
        int, AtLeast(0), "updates over which the learning rate rises linearly"
    ] = 200
    anneal: Annotated[
        float,
        Between(0, 1),
        Flag("SHARE"),
        "last share of the run, over which the learning rate falls to --lr-min, a half cosine",
    ] = 0.0
    betas: Annotated[tuple[float, float], AtLeast(0, 1 - 1e-12), "of Adamax"] = (0.9, 0.999)
    eps: Annotated[float, AtLeast(1e-30, 1), "of Adamax"] = 1e-7
    clip_factor: Annotated[
        float,
        Above(0, 10**30),
        "gradients above this times the running median of their norm are scaled down",
    ] = 10.0
    ema_half_life: Annotated[float, AtLeast(0), Flag("IMAGES"), "of the EMA weights, in images"] = (
        50_000.0
    )
    analytic_kl: Annotated[bool, "KL of two normals in closed form"] = False
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
        "nats for each level of absolute error of the srVAE's estimate of x given y, beside the "
        "ELBO, of models that make one",
    ] = 0.0
    inputs: Annotated[
        Literal["average", "damaged"],
        "what super-resolution starts from: x's rounded averages; or also other reductions, noise "
        "and compression, for which networks of their own learn beside the srVAE of --init",
    ] = "average"
    validation_images: Annotated[
        int | None,
        AtLeast(1),
        "how many images validate an epoch, though at most one for every eight learnt from; "
        "all if not given",
    ] = None
    seed: Annotated[
        int,
        AtLeast(0),
        "of the weights, the order of the images and all noise, but not of what is held out",
    ] = 0
    precision: Precision = "fp32"  # of the networks; the flag has auto too
    threads: Annotated[int, AtLeast(0)] = 0  # of a CPU; 0: chosen as the run goes
    init: Annotated[
        str,
        Flag("RUN", default="fresh weights"),
        "another run or a Hub id, to start from its weights and networks; a preset then sets only "
        "how to train",
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
