"""PSNR, SSIM and the statistics of samples."""

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from srvae_pyro.upscaling.quality import PixelStatistics, psnr, shown_psnr, ssim
from tests.builders import random_levels as levels


@pytest.mark.parametrize("channels", [1, 3])
def test_psnr_and_ssim_are_scikit_images(channels: int) -> None:
    a = levels(3, (channels, 17, 32))
    b = (a.int() + levels(3, (channels, 17, 32), seed=1).int() // 8).clamp(0, 255).to(torch.uint8)
    for x, y, ratio, likeness in zip(a, b, psnr(a, b), ssim(a, b), strict=True):
        assert ratio.item() == pytest.approx(
            peak_signal_noise_ratio(x.numpy(), y.numpy(), data_range=255), abs=1e-5
        )
        expected = structural_similarity(
            x.numpy(),
            y.numpy(),
            data_range=255,
            channel_axis=0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert likeness.item() == pytest.approx(expected, abs=1e-9)


def test_equal_images_have_100_db() -> None:
    a = levels(2)
    b = a.clone()
    b[1, 0, 0, 0] ^= 1
    assert psnr(a, b)[0] == 100
    assert 70 < psnr(a, b)[1] < 90


def test_images_that_differ_in_one_value_are_not_exact() -> None:
    a = torch.zeros(3, 300, 400, dtype=torch.uint8)
    b = a.clone()
    b[0, 0, 0] = 1  # 103 dB
    assert shown_psnr(psnr(a, a).item()) == "exact"
    assert shown_psnr(psnr(a, b).item()) == "100.0"


def test_pixel_statistics_are_mean_and_deviation() -> None:
    samples = levels(6)
    statistics = PixelStatistics()
    for x in samples:
        statistics.add(x)
    torch.testing.assert_close(statistics.mean(), samples.double().mean(dim=0))
    expected = samples.double().var(dim=0).mean(dim=0, keepdim=True).sqrt()
    torch.testing.assert_close(statistics.deviation(), expected)
