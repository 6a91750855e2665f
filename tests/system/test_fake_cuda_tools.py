"""The tools by which a GPU is tested without one, and what goes to it by them."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from srvae_pyro.data import ImageOptions, MemoryImages, augment
from srvae_pyro.data.crops import MemoryCrops
from srvae_pyro.data.sources import ImageFiles
from srvae_pyro.data.streaming import StreamedImages
from srvae_pyro.inference.elbo import TermsELBO
from srvae_pyro.models import make_model
from srvae_pyro.networks import channels_last
from srvae_pyro.system.device import choose_precision, to_device
from srvae_pyro.training.loop import Batches
from tests.fake_cuda import CUDA, MIXED, FakeCuda, config_of
from tests.node_by_node import backward, suited

CPU = torch.device("cpu")


class Forgetful(nn.Module):
    """Adds to an image something that was left on the CPU."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.left = torch.ones(1, 1, 1)

    def forward(self, image: Tensor) -> Any:
        return self.inner(image + self.left)


def test_a_mixed_device_raises() -> None:
    with FakeCuda() as cuda:
        model, x = cuda.model(config_of("least")), torch.zeros(2, 3, 16, 16, device=CUDA)
        model.reconstruct(x)
        model.guide.q_z = Forgetful(model.guide.q_z)
        with pytest.raises(RuntimeError, match="two devices, cuda:0 and cpu"):
            model.guide.q_z(x)
        with pytest.raises(TypeError, match="DeviceMismatch"):  # as Pyro hands it on
            model.reconstruct(x)
        total = torch.ones(3, device=CUDA, requires_grad=True).sum()
        with pytest.raises(RuntimeError, match="a gradient on cpu of a tensor on cuda"):
            suited(torch.ones(()), total.grad_fn._input_metadata[0])
        # FakeTensorMode lets this pass, as it would a scalar that is added.
        torch.stack([total, torch.zeros(())])
        assert set(cuda.waits.mixed) - MIXED == {"aten.stack"}


WAYS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "item": (lambda x: x.sum().item(), "read"),
    "if": (lambda x: bool(x.sum() > 0), "read"),
    "tolist": (lambda x: x.tolist(), "read"),
    "cpu": (lambda x: x.cpu(), "to host"),
    "a list of indices": (lambda x: x[[0, 1]], "to device"),
    "new_tensor": (lambda x: x.new_tensor(0.1), "to device"),
    "memory that is not pinned": (lambda x: torch.ones(3).to(CUDA, non_blocking=True), "to device"),
    "a copy that blocks": (lambda x: torch.ones(3).pin_memory().to(CUDA), "to device"),
    "a mask": (lambda x: x[x > 0], "shape"),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_the_cpu_waits_for_is_counted(way: str) -> None:
    call, kind = WAYS[way]
    with FakeCuda() as cuda:
        x = torch.zeros(3, device=CUDA)
        assert to_device(torch.ones(3), CUDA).device.type == "cuda"
        assert not cuda.waits.counts
        assert cuda.waits.to_device == 1
        call(x)
        assert [found for found, _ in cuda.waits.counts] == [kind]


def test_a_lost_layout_is_noticed() -> None:
    with FakeCuda() as cuda:
        layer = nn.Conv2d(6, 4, 3, device=CUDA)
        image = torch.zeros(1, 8, 8, 3, device=CUDA).permute(0, 3, 1, 2)
        # As broadcasting leaves it. By the stride over images PyTorch tells the layout of what it
        # makes of one image, although there it has no meaning.
        broadcast = image.as_strided(image.shape, (1, *image.stride()[1:]))
        assert broadcast.is_contiguous(memory_format=torch.channels_last)
        for x, lost in ((broadcast, 1), (channels_last(broadcast), 1), (image.contiguous(), 2)):
            layer(torch.cat([x, x], dim=1))
            assert sum(cuda.waits.scattered.values()) == lost
    x = torch.randn(1, 3, 4, 4)
    assert torch.equal(channels_last(x), x)


@pytest.mark.parametrize("name", ["srvae", "groups", "vae"])
def test_gradients_are_autograds(name: str) -> None:
    """Node by node as by PyTorch's engine, which does not run where there is no GPU."""
    model, x = make_model(config_of(name)), torch.randint(0, 256, (4, 3, 16, 16)) / 255
    model.initialize(x)
    gradients = []
    for run in (Tensor.backward, backward):
        model.zero_grad()
        torch.manual_seed(0)
        run(TermsELBO().terms(model.model, model.guide, x).total.mean())
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for key, gradient in gradients[0].items():
        # Sums in another order: gradients near 0 differ by what the larger ones round.
        torch.testing.assert_close(gradients[1][key], gradient, rtol=1e-3, atol=1e-3)


def test_bfloat16_on_a_gpu() -> None:
    """Networks compute in it; likelihoods, and what parameters get, are in float32."""
    with FakeCuda() as cuda:
        assert choose_precision("auto", CUDA) == "bf16"
        model, x = cuda.model(config_of("least")), torch.zeros(2, 3, 16, 16, device=CUDA)
        kinds: set[torch.dtype] = set()
        first = model.guide.q_z.encoder[0]
        first.register_forward_hook(lambda _, __, out: kinds.add(out.dtype))
        with torch.autocast("cuda", torch.bfloat16):
            terms = TermsELBO().terms(model.model, model.guide, x)
        terms.total.mean().backward()
    assert kinds == {torch.bfloat16}
    assert {term.dtype for term in terms.named().values()} == {torch.float32}
    gradients = [p.grad for p in model.parameters()]
    assert {(g.dtype, g.device.type) for g in gradients} == {(torch.float32, "cuda")}


# Batches


def streamed(folder: Path) -> StreamedImages:
    paths = [folder / f"{number}.png" for number in range(6)]
    for path in paths:
        Image.new("RGB", (8, 8)).save(path)
    return StreamedImages(ImageFiles(folder, paths), np.arange(6), ImageOptions())


@pytest.mark.filterwarnings("ignore:.*no accelerator is found:UserWarning")
@pytest.mark.parametrize("kept", ["on the GPU", "crops on the GPU", "on the CPU", "in files"])
def test_batches_go_to_a_gpu_without_waiting(
    kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From pinned memory; images that are there already are asked for by their numbers."""
    room = 2**40 if "GPU" in kept else 0
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (room, room))
    images: Any = MemoryImages(torch.zeros(6, 3, 8, 8, dtype=torch.uint8))
    if kept == "in files":
        images = streamed(tmp_path)
    elif kept == "crops on the GPU":
        images = MemoryCrops.of_images(torch.zeros(6, 3, 12, 12, dtype=torch.uint8), 8)
    with FakeCuda() as cuda:
        batches = Batches(images, 2, CUDA, seed=0)
        assert batches.first(2).shape == (2, 3, 8, 8)
        cuda.waits.taken()  # of what is done once
        cuda.waits.to_device = 0
        shapes = [(batch.device.type, *batch.shape) for batch in batches.epoch(0)]
        assert shapes == len(batches) * [("cuda", 2, 3, 8, 8)]
        assert cuda.waits.to_device == len(batches) >= 3
        assert augment(next(batches.epoch(1)), torch.Generator()).device.type == "cuda"
        assert cuda.waits.to_device == len(batches) + 2
        assert cuda.waits.taken() == {}


def test_on_a_cpu_nothing_is_pinned(tmp_path: Path) -> None:
    with warnings.catch_warnings(action="error"):  # PyTorch warns where it cannot
        batch = next(Batches(streamed(tmp_path), 2, CPU, seed=0).epoch(0))
    assert not batch.is_pinned()
