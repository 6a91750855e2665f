"""d(x): against Pillow, on the grid, and independent of how it is computed."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from srvae_pyro.data import ImageOptions, load_data
from srvae_pyro.errors import UserError
from srvae_pyro.models.transforms import Downscale, Grayscale, Sketch, make_transform
from srvae_pyro.pixels import to_levels, to_unit

NAMES = ("downscale2", "downscale4", "grayscale", "sketch")


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Random levels, uint8."""
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)).byte()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    options = ImageOptions(limit=100)
    return load_data("photos", tmp_path_factory.mktemp("none"), options).train.in_memory()


def pillow(levels: Tensor, factor: int) -> Tensor:
    results = []
    for image in levels:
        drawn = Image.fromarray(image.permute(1, 2, 0).numpy())
        small = drawn.resize(
            (drawn.width // factor, drawn.height // factor), Image.Resampling.BILINEAR
        )
        results.append(torch.from_numpy(np.array(small)).permute(2, 0, 1))
    return torch.stack(results)


@pytest.mark.parametrize("factor", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("size", [(1, 1), (2, 1), (3, 5), (16, 16)])
def test_downscale_is_pillows(factor: int, size: tuple[int, int]) -> None:
    levels = noise(20, 3, size[0] * factor, size[1] * factor)
    y = Downscale(factor)(to_unit(levels))
    assert torch.equal(y, to_unit(pillow(levels, factor)))
    assert torch.equal(Downscale(factor)(to_unit(levels[:, :1])), y[:, :1])


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_downscale_is_pillows_up_to_twice_as_high_as_wide(factor: int) -> None:
    def differences(height: int, width: int) -> Tensor:
        levels = noise(20, 3, height * factor, width * factor)
        ours = (Downscale(factor)(to_unit(levels)) * 255).round().int()
        return (ours - pillow(levels, factor).int()).abs()

    for height, width in ((2, 1), (6, 3), (14, 7), (40, 20), (3, 40)):
        assert not differences(height, width).any()
    # Of higher ones Pillow, since version 13, filters the columns first, and rounds in between.
    for height, width in ((3, 1), (7, 3), (15, 7), (41, 20)):
        assert differences(height, width).max() <= 1


def test_grayscale_is_pillows(photos: Tensor) -> None:
    for levels in (noise(50, 3, 32, 32), photos):
        images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in levels]
        expected = torch.stack([torch.from_numpy(np.array(p.convert("L"))) for p in images])
        assert torch.equal(Grayscale()(to_unit(levels))[:, 0], to_unit(expected))


def test_sketch_matches_a_plain_sobel_of_the_luma() -> None:
    levels = noise(3, 9, 7)
    gray = to_levels(Grayscale()(to_unit(levels))).byte()
    padded = np.pad(gray[0].numpy().astype(float), 1, mode="edge")
    kernel = np.outer([1, 2, 1], [-1, 0, 1])
    expected = np.empty((9, 7))
    for i, j in np.ndindex(9, 7):
        window = padded[i : i + 3, j : j + 3]
        strength = np.hypot((window * kernel).sum(), (window * kernel.T).sum()) / 2
        expected[i, j] = max(0, 255 - np.floor(strength + 0.5))
    for image in (levels, gray):
        assert torch.equal(Sketch()(to_unit(image))[0], to_unit(torch.from_numpy(expected)))


@pytest.mark.parametrize("name", NAMES)
def test_on_the_grid(name: str, photos: Tensor) -> None:
    grid = torch.arange(256).byte().float() / 255
    transform = make_transform(name)
    y = transform(to_unit(photos))
    assert torch.isin(y, grid).all()
    assert y.dtype == torch.float32
    assert y.is_contiguous()
    assert y.shape[1:] == transform.output_shape((3, 32, 32))


@pytest.mark.parametrize("name", NAMES)
def test_independent_of_how(name: str) -> None:
    transform = make_transform(name)
    x = to_unit(noise(6, 3, 32, 32))
    y = transform(x)
    assert torch.equal(transform(x[2]), y[2])
    assert torch.equal(transform(x.reshape(3, 2, 1, 3, 32, 32)).reshape(y.shape), y)
    assert torch.equal(transform(x.contiguous(memory_format=torch.channels_last)), y)
    assert torch.equal(transform(x.flip(-1).flip(-1)), y)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(transform(x), y)
    assert transform(x[:0]).shape == (0, *y.shape[1:])
    double = transform(x.double() + 1e-9)
    assert double.dtype == torch.float64
    assert torch.equal((double * 255).round(), (y.double() * 255).round())
    assert not transform(x.requires_grad_()).requires_grad


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_same_bits_on_the_gpu(name: str) -> None:
    levels = noise(64, 3, 32, 32)
    transform = make_transform(name)
    assert torch.equal(transform(to_unit(levels.cuda())).cpu(), transform(to_unit(levels)))


def test_lift() -> None:
    y = to_unit(noise(2, 5, 3, 16, 16))
    lifted = Downscale(2).lift(y, (3, 32, 32))
    assert lifted.shape == (2, 5, 3, 32, 32)
    # A quarter of the way between two pixels, in both directions.
    a, b, c, d = (y[1, 2, 0, i, j] for i, j in ((3, 4), (3, 5), (4, 4), (4, 5)))
    expected = (9 * a + 3 * b + 3 * c + d) / 16
    assert torch.allclose(lifted[1, 2, 0, 7, 9], expected)
    assert Downscale(4).lift(y, (32, 64)).shape == (2, 5, 3, 32, 64)
    for transform in (Grayscale(), Sketch()):
        assert transform.lift(y, y.shape) is y


@pytest.mark.parametrize(
    ("name", "shape", "would_do"),
    [
        ("downscale2", (3, 33, 32), "32x32"),
        ("downscale4", (3, 30, 7), "32x8"),
        ("downscale4", (3, 1, 32), "4x32"),
        ("grayscale", (1, 32, 32), "downscale2"),
        ("sketch", (2, 32, 32), "1 or 3"),
    ],
)
def test_wrong_shapes(name: str, shape: tuple[int, int, int], would_do: str) -> None:
    transform = make_transform(name)
    with pytest.raises(UserError, match=would_do):
        transform.output_shape(shape)
    with pytest.raises(UserError, match=would_do):
        transform(torch.zeros(2, *shape))


def test_names() -> None:
    for name in NAMES:
        assert make_transform(name).name == name
        assert name in repr(make_transform(name))
        assert not make_transform(name).state_dict()
    with pytest.raises(UserError, match="did you mean downscale2"):
        make_transform("downscale_2")
    with pytest.raises(UserError, match="at least 2"):
        Downscale(1)
