"""The discretised logistic mixture against its definition, and its samples against its density."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import special
from torch import Tensor

from srvae_pyro.distributions.image_distribution import image_grid
from srvae_pyro.distributions.logistic_mixture import DiscretizedLogisticMixture

LEVELS = torch.arange(256).double() / 255


def random_mixture(
    channels: int,
    batch: tuple[int, ...] = (),
    components: int = 3,
    size: tuple[int, int] = (1, 1),
    log_scale: float = -2.5,
    dtype: torch.dtype = torch.float64,
) -> DiscretizedLogisticMixture:
    shape = (*batch, components, channels, *size)
    return DiscretizedLogisticMixture(
        torch.randn(*batch, components, *size, dtype=dtype),
        torch.rand(shape, dtype=dtype),
        log_scale + 0.5 * torch.randn(shape, dtype=dtype),
        torch.rand(shape, dtype=dtype) - 0.5 if channels == 3 else None,
    )


def random_images(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Images on the grid in which black and white are frequent."""
    levels = torch.randint(-40, 296, shape).clamp(0, 255)
    return levels.to(dtype) / 255


def reference_log_mass(
    mixture: DiscretizedLogisticMixture, value: Tensor, colours: int | None = None
) -> np.ndarray:
    """Each pixel's log-probability (..., H, W), of its first colours, from the definition."""
    logits, means, log_scales = (
        parameter.detach().double().numpy()
        for parameter in (mixture.logits, mixture.means, mixture.log_scales)
    )
    x = value.detach().double().numpy()[..., None, :, :, :]
    total = logits - special.logsumexp(logits, axis=-3, keepdims=True)
    for c in range(means.shape[-3] if colours is None else colours):
        mean = means[..., c, :, :]
        if c > 0:
            a = mixture.coefficients.detach().double().numpy()
            mean = mean + (
                a[..., 0, :, :] * x[..., 0, :, :]
                if c == 1
                else a[..., 1, :, :] * x[..., 0, :, :] + a[..., 2, :, :] * x[..., 1, :, :]
            )
        scale = np.exp(log_scales[..., c, :, :])
        level = np.rint(255 * x[..., c, :, :])
        above = (np.where(level == 255, np.inf, (level + 0.5) / 255) - mean) / scale
        below = (np.where(level == 0, -np.inf, (level - 0.5) / 255) - mean) / scale
        # By symmetry either tail gives the mass: take the one that does not saturate.
        mass = np.where(
            above + below > 0,
            special.expit(-below) - special.expit(-above),
            special.expit(above) - special.expit(below),
        )
        total = total + np.log(mass)
    return special.logsumexp(total, axis=-3)


@pytest.mark.parametrize("log_scale", [-4.0, -2.5, 0.0])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_log_prob_is_the_definition(channels, dtype, tolerance, log_scale):
    """Of an image by its parameters, and where images or parameters have particles too."""
    options = {"size": (3, 2), "log_scale": log_scale, "dtype": dtype}
    one = random_mixture(channels, (3,), **options)
    many = random_mixture(channels, (4, 3), **options)
    x = random_images(3, channels, 3, 2, dtype=dtype)
    xs = random_images(4, 3, channels, 3, 2, dtype=dtype)
    for mixture, value in ((one, x), (one, xs), (many, x), (many, xs), (one, xs[:, :1])):
        log_prob = mixture.log_prob(value)
        assert log_prob.dtype == dtype
        expected = reference_log_mass(mixture, value).sum((-2, -1))
        np.testing.assert_allclose(log_prob.numpy(), expected, rtol=tolerance)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("spread", [0.0, 200.0])
def test_extremes_are_finite_with_finite_gradients(channels, spread):
    """Means, log-scales and levels in all combinations."""
    edges = (-100.0, 0.0, 0.5 / 255, 0.5, 1.0, 100.0)
    levels = LEVELS[[0, 1, 128, 254, 255]].tolist()
    cases = torch.tensor([*itertools.product(edges, (-30.0, -7.0, 0.0, 10.0), levels)])
    each = [case.view(-1, 1, 1, 1, 1) for case in cases.unbind(-1)]
    means, log_scales = (case.repeat(1, 2, channels, 1, 1) for case in each[:2])
    x = each[2][:, 0].expand(-1, channels, 1, 1)
    coefficients = torch.ones_like(means) if channels == 3 else None
    logits = torch.tensor([spread, -spread]).view(2, 1, 1).repeat(len(means), 1, 1, 1)
    parameters = [p for p in (logits, means, log_scales, coefficients) if p is not None]
    for parameter in parameters:
        parameter.requires_grad_()
    log_prob = DiscretizedLogisticMixture(*parameters).log_prob(x)
    assert log_prob.isfinite().all()
    assert (log_prob <= 1e-6).all()
    for gradient in torch.autograd.grad(log_prob.sum(), parameters):
        assert gradient.isfinite().all()


def test_order_of_channels():
    assert [DiscretizedLogisticMixture.parameter_channels(4, c) for c in (1, 3)] == [12, 40]
    parameters = torch.randn(2, 40, 4, 5)
    mixture = DiscretizedLogisticMixture.from_channels(parameters)
    assert mixture.batch_shape == (2,)
    assert mixture.event_shape == (3, 4, 5)
    assert torch.equal(mixture.logits, parameters[:, :4])
    for k, c in itertools.product(range(4), range(3)):
        assert torch.equal(mixture.means[:, k, c], parameters[:, 4 + 3 * k + c])
        assert torch.equal(mixture.log_scales[:, k, c], parameters[:, 16 + 3 * k + c])
        assert torch.equal(mixture.coefficients[:, k, c], parameters[:, 28 + 3 * k + c].tanh())
    grey = DiscretizedLogisticMixture.from_channels(parameters[:, :12] - 6, channels=1)
    assert grey.event_shape == (1, 4, 5)
    assert grey.coefficients is None
    assert torch.equal(grey.means[:, 1, 0], parameters[:, 5] - 6)
    assert torch.equal(grey.log_scales[:, 1, 0], (parameters[:, 9] - 6).clamp(min=-7))
    assert (grey.log_scales == -7).any()


def test_wrong_shapes_are_explained():
    build = DiscretizedLogisticMixture
    with pytest.raises(ValueError, match="99 parameter channels are not a multiple of 10"):
        build.from_channels(torch.zeros(1, 99, 4, 4))
    with pytest.raises(ValueError, match="1 or 3 colour channels, not 2"):
        build.from_channels(torch.zeros(1, 100, 4, 4), channels=2)
    with pytest.raises(ValueError, match=r"expected parameters \(\.\.\., channels, H, W\)"):
        build.from_channels(torch.zeros(4, 4))
    three = torch.zeros(5, 3, 4, 4)
    logits, grey = torch.zeros(5, 4, 4), torch.zeros(5, 1, 4, 4)
    with pytest.raises(ValueError, match="needs coefficients, but none were given"):
        build(logits, three, three)
    with pytest.raises(ValueError, match="needs no coefficients, but they were given"):
        build(logits, grey, grey, grey)
    with pytest.raises(ValueError, match="log_scales have shape"):
        build(logits, three, grey, three)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [((100.4, 0.3, 0.3), (100, 100, 200)), ((400.0, -100.0, -200.0), (255, 155, 210))],
    ids=["rounded", "clamped"],
)
def test_each_colour_is_put_on_the_grid_before_the_next(steps, expected):
    means = torch.tensor(steps).view(1, 3, 1, 1) / 255
    sharp = DiscretizedLogisticMixture(
        torch.zeros(1, 1, 1), means, torch.full_like(means, -20.0), torch.ones_like(means)
    )
    assert (255 * sharp.sample()).round().flatten().tolist() == list(expected)
    assert (255 * sharp.mode).round().flatten().tolist() == list(expected)


@pytest.mark.parametrize("log_scale", [-5.0, -2.5, 0.0])
def test_mode_of_one_component_is_its_likeliest_image(log_scale):
    mixture = random_mixture(3, (40,), components=1, log_scale=log_scale)
    mode = mixture.mode
    at_ends = ((mode == 0) | (mode == 1)) != ((mixture.location == 0) | (mixture.location == 1))
    assert at_ends.any()  # of 0 and 255 with their tails, though the location is elsewhere
    for c in range(3):
        every = mode.expand(256, *mode.shape).clone()
        every[:, :, c] = LEVELS.view(-1, 1, 1, 1)
        log_p = reference_log_mass(mixture, every, colours=c + 1).squeeze()
        torch.testing.assert_close(mode[:, c, 0, 0], LEVELS[log_p.argmax(0)])


def test_a_component_that_is_no_number_leaves_no_image():
    mixture = random_mixture(3, (2,), components=3, size=(2, 2))
    mixture.logits[0, 1, 0, 1] = math.nan
    for x in (mixture.mode, mixture.location, mixture.sample()):
        lost = torch.zeros_like(x, dtype=torch.bool)
        lost[0, :, 0, 1] = True
        assert torch.equal(x.isnan(), lost)


def test_mode_is_the_usual_sample_of_a_sharp_mixture():
    mixture = random_mixture(3, (2,), size=(2, 2), log_scale=-9.0)
    likeliest = 50.0 * torch.nn.functional.one_hot(mixture.logits.argmax(-3), 3).movedim(-1, -3)
    sharp = DiscretizedLogisticMixture(
        likeliest, mixture.means, mixture.log_scales, mixture.coefficients
    )
    assert torch.equal(sharp.sample((101,)).median(0).values.double(), sharp.mode)


def test_mean_is_the_average_sample():
    mixture = random_mixture(3, size=(2, 2), log_scale=-3.5)
    mixture.means.mul_(0.2).add_(0.4)
    mixture.coefficients.mul_(0.5)
    x = mixture.sample((20_000,))
    error = x.std(0) / math.sqrt(len(x))
    assert ((mixture.mean - x.mean(0)).abs() < 5 * error).all()


def test_mean_of_the_first_colour_accounts_for_clipping():
    mixture = random_mixture(1, size=(3, 3), log_scale=-0.5)
    x = mixture.sample((20_000,))
    error = x.std(0) / math.sqrt(len(x))
    assert ((mixture.mean - x.mean(0)).abs() < 5 * error).all()
    wide = DiscretizedLogisticMixture(
        torch.zeros(1, 1, 1), torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), 10.0)
    )
    assert abs(wide.mean.item() - 0.5) < 1e-4


@pytest.mark.parametrize("channels", [1, 3])
def test_temperature(channels):
    mixture = random_mixture(channels, (2,), size=(4, 4))
    cold = mixture.with_temperature(0.25)
    torch.testing.assert_close(cold.logits, 4 * mixture.logits)
    torch.testing.assert_close(cold.log_scales.exp(), 0.25 * mixture.log_scales.exp())
    assert torch.equal(cold.location, mixture.location)
    assert cold.sample((200,)).std(0).mean() < 0.7 * mixture.sample((200,)).std(0).mean()


def test_memory_format_does_not_matter():
    parameters = torch.randn(2, 100, 4, 4)
    x = random_images(2, 3, 4, 4, dtype=torch.float32)
    scattered = parameters.to(memory_format=torch.channels_last)
    mixture = DiscretizedLogisticMixture.from_channels(scattered)
    expected = DiscretizedLogisticMixture.from_channels(parameters).log_prob(x)
    assert torch.equal(mixture.log_prob(x), expected)


def test_support():
    x = random_images(5, 3, 4, 4, dtype=torch.float32)
    assert DiscretizedLogisticMixture.support.is_discrete
    assert DiscretizedLogisticMixture.support.event_dim == 3
    assert image_grid.check(x).tolist() == [True] * 5
    x[1:, 0, 0, 0] = torch.tensor([0.5, -1 / 255, 256 / 255, math.nan])
    assert image_grid.check(x).tolist() == [True, False, False, False, False]


def test_validation():
    parameters = torch.randn(2, 100, 4, 4)
    off_grid = random_images(2, 3, 4, 4, dtype=torch.float32).clamp(max=0.9) + 0.3 / 255
    unchecked = DiscretizedLogisticMixture.from_channels(parameters, validate_args=False)
    unchecked.expand((3, 2)).log_prob(off_grid)
    three = torch.zeros(2, 3, 1, 1)
    with pytest.raises(ValueError, match="coefficients"):
        DiscretizedLogisticMixture(torch.zeros(2, 1, 1), three, three, three + 2)
    with pytest.raises(ValueError, match="means"):
        DiscretizedLogisticMixture(torch.zeros(2, 1, 1), three * math.nan, three, three)


@pytest.mark.parametrize("log_scale", [5.0, 20.0, 40.0])
def test_the_expectation_of_a_wide_logistic_is_the_middle(log_scale: float) -> None:
    parameters = torch.tensor([0.0, 0.3, log_scale]).view(1, 3, 1, 1)
    mixture = DiscretizedLogisticMixture.from_channels(parameters, 1, most_log_scale=40.0)
    assert mixture.mean.item() == pytest.approx(0.5, abs=1e-3)


def test_values_of_low_precision_are_checked_as_they_are() -> None:
    x = torch.randint(0, 256, (1, 1, 8, 8)) / 255
    mixture = DiscretizedLogisticMixture.from_channels(torch.zeros(1, 3, 8, 8), 1)
    with pytest.raises(ValueError, match="value"):
        mixture.log_prob(x.bfloat16())
