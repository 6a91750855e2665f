"""Convolutions, dense blocks, encoders and decoders."""

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pyro.infer import Trace_ELBO
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from srvae_pyro.config import Dense
from srvae_pyro.inference.elbo import TermsELBO
from srvae_pyro.models import make_model
from srvae_pyro.networks import (
    ChannelAttention,
    Decoder,
    DenseStep,
    Encoder,
    PlainNetwork,
    ResidualNetwork,
    WeightNormalized,
    WeightNormConv2d,
    WeightNormConvTranspose2d,
    cached_weights,
    checkpoint_blocks,
    compile_networks,
    init_heads,
    initializing,
)
from srvae_pyro.networks.layers import NARROW, merged, pays_to_merge
from tests.builders import initialized, make_images, tiny

LAYERS: dict[str, Callable[[], WeightNormalized]] = {
    "1x1": lambda: WeightNormConv2d(3, 5, 1),
    "3x3": lambda: WeightNormConv2d(3, 5, 3),
    "stride 2": lambda: WeightNormConv2d(3, 5, 3, stride=2),
    "transposed": lambda: WeightNormConvTranspose2d(3, 5),
}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "encoder": lambda: Encoder(3, 6, Dense(4, 2), 1),
    "decoder": lambda: Decoder(3, 6, Dense(8, 2), 1),
    "plain": lambda: PlainNetwork(3, 6, Dense(4, 2, 2)),
    "residual": lambda: ResidualNetwork(3, 6, 8, 2),
}


def normalized_layers(network: nn.Module) -> list[WeightNormalized]:
    return [m for m in network.modules() if isinstance(m, WeightNormalized)]


def randomize(network: nn.Module) -> None:
    """Gains and biases away from where they start."""
    with torch.no_grad():
        for layer in normalized_layers(network):
            layer.gain.uniform_(-1.5, 1.5)
            layer.bias.normal_()


def never_merge(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, DenseStep):
            module.merge = False


# Weight normalisation


@pytest.mark.parametrize("kind", LAYERS)
def test_weight_has_the_gains_norm_and_the_directions_direction_alone(kind: str) -> None:
    layer = LAYERS[kind]().double()
    randomize(layer)
    dim = 1 if kind == "transposed" else 0
    rows, directions = (t.transpose(0, dim).flatten(1) for t in (layer.weight, layer.direction))
    gain = layer.gain.flatten()
    torch.testing.assert_close(rows.norm(dim=1), gain.abs())
    torch.testing.assert_close(F.cosine_similarity(rows, directions), gain.sign())
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    before = layer(x)
    with torch.no_grad():
        layer.direction.mul_(7.0)
    torch.testing.assert_close(layer(x), before)


# Data-dependent initialisation


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_initialization_sets_mean_and_deviation_per_channel(kind: str, per_channel: bool) -> None:
    layer = LAYERS[kind]()
    mean, scale = torch.zeros(5), torch.full((5,), 0.01)
    if per_channel:
        mean, scale = torch.linspace(-2, 2, 5), torch.linspace(0.1, 0.5, 5)
        layer.init_mean, layer.init_scale = mean, scale
    x = 3 + 2 * torch.randn(6, 3, 8, 8)
    with initializing(layer):
        inside = layer(x)
    outside = layer(x)
    assert torch.equal(inside, outside)
    std, average = torch.std_mean(outside, dim=(0, 2, 3))
    torch.testing.assert_close(average, mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(std, scale, atol=0, rtol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_initialization_of_every_layer_of_a_network(name: str) -> None:
    network = NETWORKS[name]().double()
    init_heads(network, 0.2)
    x = torch.rand(8, 3, 8, 8, dtype=torch.float64)
    with initializing(network, 0.3):
        network(x)
    outputs: dict[nn.Module, Tensor] = {}
    layers = normalized_layers(network)
    for layer in layers:
        layer.register_forward_hook(lambda layer, _, out: outputs.__setitem__(layer, out))
    never_merge(network)
    network(x)
    assert set(outputs) == set(layers)
    for layer in layers:
        std, mean = torch.std_mean(outputs[layer], dim=(0, 2, 3))
        expected = 0.2 if layer is layers[-1] else 0.3
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-8, rtol=0)
        torch.testing.assert_close(std, torch.full_like(std, expected), atol=0, rtol=1e-6)


def test_last_layer_that_is_no_head_is_initialized_as_the_hidden_layers_are() -> None:
    network = PlainNetwork(3, 6, Dense(4, 2), head=False)
    init_heads(network, 5.0, 7.0)
    x = torch.rand(8, 3, 8, 8)
    with initializing(network, 0.3):
        network(x)
    std, mean = torch.std_mean(network(x), dim=(0, 2, 3))
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-4, rtol=0)
    torch.testing.assert_close(std, torch.full_like(std, 0.3), atol=0, rtol=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        assert network(x).dtype == torch.bfloat16


def test_initialization_of_a_constant_channel_is_finite_and_centred() -> None:
    layer = WeightNormConv2d(3, 5, 1)
    layer.init_mean = 0.5
    x = torch.full((4, 3, 2, 2), 0.7)
    with initializing(layer):
        out = layer(x)
    torch.testing.assert_close(out, torch.full_like(out, 0.5), atol=1e-4, rtol=0)
    assert all(p.isfinite().all() for p in layer.parameters())


def test_initializing_ends_with_an_error_inside() -> None:
    layer = LAYERS["3x3"]()
    with pytest.raises(RuntimeError, match="inside"), initializing(layer):
        raise RuntimeError("inside")
    layer(torch.rand(4, 3, 8, 8))
    assert not layer.initialized  # nor by a pass outside


def test_initialization_is_in_full_precision_under_autocast() -> None:
    layer = LAYERS["3x3"]()
    other = copy.deepcopy(layer)
    x = torch.rand(4, 3, 4, 4)
    with initializing(layer):
        layer(x)
    with initializing(other), torch.autocast("cpu", torch.bfloat16):
        other(x)
    assert torch.equal(layer.gain, other.gain)
    assert torch.equal(layer.bias, other.bias)


# Dense steps


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 2), (5, 3)])
@pytest.mark.parametrize(("channels", "growth"), [(3, 4), (9, 2)])
def test_merged_convolution_equals_the_two(
    channels: int, growth: int, size: tuple[int, int]
) -> None:
    step = DenseStep(channels, growth).double()
    randomize(step)
    x = torch.randn(2, channels, *size, dtype=torch.float64, requires_grad=True)
    apart, together = step.grow(step.reduce(x)), merged(step.reduce, step.grow, x)
    torch.testing.assert_close(together, apart, atol=1e-12, rtol=1e-12)
    weight = torch.randn_like(apart)
    inputs = [x, *step.parameters()]
    expected = torch.autograd.grad((apart * weight).sum(), inputs)
    gradients = torch.autograd.grad((together * weight).sum(), inputs)
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-12, rtol=1e-12)


def operations(function: Callable[[Tensor], Tensor], x: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        function(x)
    return counter.get_total_flops()


# For growth 4 the border between the two is at c = 7.2 * 4 = 28.8, lower where positions are few.
@pytest.mark.parametrize(
    ("channels", "growth", "batch", "pays"),
    [
        (3, 4, 8, True),
        (28, 4, 256, True),
        (30, 4, 256, False),
        (20, 4, 8, True),
        (20, 4, 1, False),
        (1, 1, 64, True),
        (100, 2, 64, False),
    ],
)
def test_merging_is_chosen_where_it_costs_fewer_operations(
    channels: int, growth: int, batch: int, pays: bool
) -> None:
    step = DenseStep(channels, growth)
    x = torch.randn(batch, channels, 4, 4)
    together = operations(lambda x: merged(step.reduce, step.grow, x), x)
    apart = operations(lambda x: step.grow(step.reduce(x)), x)
    assert (together < apart) == pays
    assert pays_to_merge(step.reduce, step.grow, x) == pays
    assert operations(step, x) == min(together, apart)


def changes_in_place(step: DenseStep) -> Iterator[None]:
    """Ways in which parameters come to be others."""
    with torch.no_grad():
        step.reduce.direction.add_(0.1)
        yield
        step.grow.gain.mul_(2.0)
        yield
        step.reduce.bias.fill_(0.7)
        yield
        torch._foreach_lerp_([step.reduce.gain], [torch.zeros_like(step.reduce.gain)], 0.5)
    yield
    others = DenseStep(3, 4).state_dict()
    step.load_state_dict({k: v + v.dtype.is_floating_point for k, v in others.items()})
    yield
    step.double()
    yield
    step.float()
    yield
    step.grow.direction.data.mul_(-1.0)  # of which neither versions nor hooks tell
    yield
    values = nn.utils.parameters_to_vector(step.parameters())
    nn.utils.vector_to_parameters(values + 0.1, step.parameters())
    yield


@pytest.mark.parametrize("merge", [True, False])
def test_weights_cached_without_gradients_are_never_stale(merge: bool) -> None:
    step, x = DenseStep(3, 4), torch.rand(4, 3, 4, 4)
    step.merge = merge
    for _ in changes_in_place(step):
        y = x.to(step.reduce.gain.dtype)
        expected = step(y).detach()  # with gradients nothing is cached
        for _ in range(2):
            with torch.no_grad(), cached_weights():
                torch.testing.assert_close(step(y), expected, rtol=0, atol=0)
                torch.testing.assert_close(step(y), expected, rtol=0, atol=0)
            with torch.inference_mode(), cached_weights():
                torch.testing.assert_close(step(y), expected, rtol=0, atol=0)
            if y.dtype == torch.float64:  # autocast leaves it alone
                continue
            with torch.no_grad(), cached_weights():
                step(y)
                with torch.autocast("cpu", torch.bfloat16):
                    low = step(y.bfloat16())
            torch.testing.assert_close(low.to(y.dtype), expected, rtol=0.05, atol=0.05)


def test_what_is_cached_is_computed_once_and_ends_with_its_scope() -> None:
    step, x = DenseStep(3, 4), torch.rand(4, 3, 4, 4)
    with torch.no_grad():
        outside = [operations(step, x) for _ in range(2)]
        assert outside[0] == outside[1]
        for _ in range(2):
            with cached_weights():
                first, again = operations(step, x), operations(step, x)
                with cached_weights():  # of the same scope
                    assert operations(step, x) == again
                assert operations(step, x) == again < first == outside[0]
                copied = copy.deepcopy(step)
                copied.grow.gain.mul_(3)
                assert not torch.equal(copied(x), step(x))
    with cached_weights():
        step(x).sum().backward()  # what is cached does not get in the way of learning
    assert step.grow.gain.grad is not None


def test_each_thread_has_a_scope_of_its_own() -> None:
    step, x = DenseStep(3, 4), torch.rand(4, 3, 4, 4)

    def run() -> tuple[int, int]:
        with torch.no_grad():
            return operations(step, x), operations(step, x)

    with torch.no_grad(), cached_weights(), ThreadPoolExecutor(1) as pool:
        assert operations(step, x) > operations(step, x)
        first, again = pool.submit(run).result()
    assert first == again


def test_merging_can_be_turned_off_and_waits_for_the_initialization() -> None:
    step = DenseStep(3, 4)
    x = torch.rand(4, 3, 4, 4)
    together, apart = operations(step, x), operations(lambda x: step.grow(step.reduce(x)), x)
    step.merge = False
    assert operations(step, x) == apart > together
    step.merge = True
    with initializing(step):
        step(x)
    assert step.reduce.initialized
    assert step.grow.initialized


def test_dense_step_is_elu_of_input_and_new_channels_and_keeps_its_input() -> None:
    step = DenseStep(3, 4)
    x = torch.randn(2, 3, 4, 4)
    before = x.clone()
    out = step(x)
    assert torch.equal(x, before)
    torch.testing.assert_close(out[:, :3], F.elu(x))
    torch.testing.assert_close(out[:, 3:], F.elu(step.grow(step.reduce(x))), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("channels", [3, 24])
def test_channel_attention_weights_each_channel_by_all_channels_averages(channels: int) -> None:
    attention = ChannelAttention(channels).double()
    randomize(attention)
    x = torch.randn(2, channels, 3, 5, dtype=torch.float64)
    w1, w2 = (layer.weight.flatten(1) for layer in (attention.reduce, attention.restore))
    assert w1.shape == (max(channels // 8, 1), channels)
    hidden = x.mean(dim=(2, 3)) @ w1.T + attention.reduce.bias
    weights = torch.sigmoid(hidden @ w2.T + attention.restore.bias)
    torch.testing.assert_close(attention(x), x * weights[:, :, None, None])


# Networks


@pytest.mark.parametrize("attention", [True, False])
def test_without_attention_what_is_far_does_not_matter(attention: bool) -> None:
    network, x = PlainNetwork(2, 3, Dense(2, 1, 1, attention)), torch.randn(2, 2, 4, 16)
    other = x.clone()
    other[..., 8:] = torch.randn(2, 2, 4, 8)
    far = network(x)[..., :4] - network(other)[..., :4]
    assert bool(far.any()) == attention


@pytest.mark.parametrize("size", [(8, 8), (4, 12)])
@pytest.mark.parametrize("stages", [0, 1, 2])
def test_encoder_halves_and_decoder_doubles(stages: int, size: tuple[int, int]) -> None:
    height, width = size
    small = (height // 2**stages, width // 2**stages)
    assert Encoder(3, 7, Dense(2, 1), stages)(torch.rand(2, 3, *size)).shape == (2, 7, *small)
    assert Decoder(3, 7, Dense(8, 1), stages)(torch.rand(2, 3, *small)).shape == (2, 7, *size)


@pytest.mark.parametrize("name", NETWORKS)
def test_memory_format_and_merging_do_not_change_a_network(name: str) -> None:
    network = NETWORKS[name]().double()
    x = torch.randn(2, 3, 4, 8, dtype=torch.float64)
    expected = network(x)
    torch.testing.assert_close(network(x.contiguous(memory_format=torch.channels_last)), expected)
    never_merge(network)
    torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [3, NARROW + 1])
def test_a_head_and_its_gradients_are_those_of_a_convolution(
    channels: int, layout: torch.memory_format
) -> None:
    head = WeightNormConv2d(channels, 5, 1, head=True).double()
    randomize(head)
    x = torch.randn(2, channels, 3, 4, dtype=torch.float64).contiguous(memory_format=layout)
    x.requires_grad_()
    towards = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    inputs = (x, *head.parameters())
    outs = head(x), F.conv2d(x, head.weight, head.bias)
    torch.testing.assert_close(*outs)
    gradients = torch.autograd.grad(outs[0], inputs, towards, retain_graph=True)
    first = [torch.autograd.grad(out, inputs, towards, create_graph=True) for out in outs]
    torch.testing.assert_close(gradients, first[0])
    torch.testing.assert_close(*first)
    penalties = [sum(slope.square().sum() for slope in slopes[:2]) for slopes in first]
    torch.testing.assert_close(*(torch.autograd.grad(each, inputs[:3]) for each in penalties))
    if channels <= NARROW:
        assert gradients[0].is_contiguous(memory_format=layout)
    one_by_one = torch.func.vmap(lambda image: head(image[None])[0])
    torch.testing.assert_close(one_by_one(x), outs[0])


class Layouts(TorchDispatchMode):
    """Whether ELU's gradients come in the layout of its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.alike: list[bool] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.elu_backward.default:
            gradient, out = args[0], args[-1]
            several = [i for i, size in enumerate(out.shape) if size > 1]
            order = [sorted(several, key=tensor.stride) for tensor in (gradient, out)]
            self.alike.append(order[0] == order[1])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "vae"},
        {"likelihood": "independent"},
        {"likelihood": "groups", "d": "average2", "latent_likelihood": "pyramid"},
    ],
    ids=lambda settings: "-".join(settings.values()),
)
def test_gradients_have_the_layout_of_what_they_are_of(settings: dict[str, str]) -> None:
    # Where two layouts meet, operations on a CPU take many times as long.
    model = make_model(tiny(**settings))
    x = make_images(3)
    model.initialize(x)
    loss = Trace_ELBO()(model.model, model.guide)(x)
    with Layouts() as layouts:
        loss.backward()
    assert len(layouts.alike) > 10
    assert all(layouts.alike)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_of_a_network_gets_a_gradient(name: str) -> None:
    network = NETWORKS[name]()
    network(torch.randn(3, 3, 4, 4)).square().sum().backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.any(), parameter_name


@pytest.mark.parametrize("name", NETWORKS)
def test_head_computes_in_float32_under_autocast(name: str) -> None:
    network = NETWORKS[name]()
    seen: list[Tensor] = []
    network[-1].register_forward_hook(lambda _, inputs, out: seen.extend((inputs[0], out)))
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.rand(2, 3, 2, 2))
        hidden = WeightNormConv2d(3, 2, 1)(torch.rand(2, 3, 2, 2))
    assert hidden.dtype == torch.bfloat16
    assert seen[1].dtype == torch.float32
    torch.testing.assert_close(seen[1], network[-1].linear(seen[0].float()))


@pytest.mark.parametrize("kind", ["srvae", "vae"])
def test_autocast_reaches_every_dense_step(kind: str) -> None:
    model = make_model(tiny(model=kind, image_shape=(3, 8, 8)))
    seen: dict[str, torch.dtype] = {}
    for name, module in model.named_modules():
        if isinstance(module, DenseStep):
            module.register_forward_hook(
                lambda _m, _i, out, name=name: seen.__setitem__(name, out.dtype)
            )
    x = make_images(1, (3, 8, 8))
    torch.manual_seed(0)
    full = TermsELBO().terms(model.model, model.guide, x).total
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        terms = TermsELBO().terms(model.model, model.guide, x)
    torch.testing.assert_close(terms.total, full, rtol=0.01, atol=0)
    assert len(seen) == sum(isinstance(m, DenseStep) for m in model.modules())
    exact = [name for name, dtype in seen.items() if dtype == torch.float32]
    # But where x is told from y, whose last bits count.
    assert exact == (["model.p_x.joint.0.0", "model.p_x.joint.0.1"] if kind == "srvae" else [])
    assert set(seen.values()) - {torch.float32} == {torch.bfloat16}
    assert {term.dtype for term in terms.named().values()} == {torch.float32}


def test_checkpointing_changes_no_gradient_and_no_state() -> None:
    x = make_images(4)
    plain = initialized(x)
    lean = copy.deepcopy(plain)
    checkpoint_blocks(lean)
    assert lean.state_dict().keys() == plain.state_dict().keys()
    losses, kept = [], []
    for model in (plain, lean):
        torch.manual_seed(0)
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, saved=saved: (saved.append(t.numel()), t)[1], lambda t: t
        ):
            loss = TermsELBO().differentiable_loss(model.model, model.guide, x)
        loss.backward()
        losses.append(loss.item())
        kept.append(sum(saved))
    assert losses[0] == losses[1]
    assert kept[1] < kept[0]
    for ours, theirs in zip(plain.parameters(), lean.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.slow
def test_compiled_networks_compute_the_same() -> None:
    x = make_images(4)
    plain = initialized(x)
    fast = copy.deepcopy(plain)
    compile_networks(fast)
    assert fast.state_dict().keys() == plain.state_dict().keys()
    for model in (plain, fast):
        torch.manual_seed(0)
        TermsELBO().differentiable_loss(model.model, model.guide, x).backward()
    for ours, theirs in zip(plain.parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-3)
    average = copy.deepcopy(fast)  # as the EMA weights are made
    assert torch.isfinite(TermsELBO().differentiable_loss(average.model, average.guide, x))


@pytest.mark.parametrize("blocks", [0, 2])
def test_receptive_field_of_a_residual_network(blocks: int) -> None:
    network = ResidualNetwork(2, 3, 4, blocks)
    x = torch.randn(1, 2, 1, 31, requires_grad=True)
    (slope,) = torch.autograd.grad(network(x)[..., 15].square().sum(), x)
    seen = slope.abs().sum((0, 1, 2)).nonzero().flatten()
    assert seen.max() - seen.min() + 1 == 3 + 4 * blocks


@pytest.mark.parametrize("growth", [1, 3])
def test_a_decoder_of_many_stages_keeps_channels(growth: int) -> None:
    """A convolution to 0 channels would end the process."""
    network = Decoder(4, 3, Dense(growth, 1), 5)
    assert network(torch.zeros(1, 4, 1, 1)).shape == (1, 3, 32, 32)
