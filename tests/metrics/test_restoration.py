"""Measures of restored images."""

import pytest
import torch

from diffsweep.degradations import Border, Downsampling, Jpeg
from diffsweep.diffusion import Noise
from diffsweep.metrics.restoration import BIN, degraded, restoration


def request_of(degradation, clean):
    noise = Noise(0, torch.arange(len(clean)))
    request = {"clean": clean, "image": degradation.image(clean, noise)}
    known = degradation.known(clean, noise)
    return request if known is None else {**request, "known": known}


def images(count=4):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8


def test_psnr_is_that_of_a_known_error_and_the_original_has_none():
    clean = images()
    numbers = restoration(clean + 0.02, request_of(Downsampling(4), clean))
    assert numbers["psnr"] == pytest.approx(40, abs=1e-3)  # 10 log10(4 / 0.0004)
    assert numbers["inconsistency"] == pytest.approx(0.02 / BIN, rel=1e-4)  # means are off by as much
    perfect = restoration(clean, request_of(Downsampling(4), clean))
    assert perfect["psnr"] > 100
    assert perfect["ssim"] == pytest.approx(1, abs=1e-4)
    assert perfect["inconsistency"] < 1e-4


def test_noise_that_the_means_do_not_show_is_consistent():
    """Its error is seen by PSNR alone."""
    clean = images()
    signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(8, 8)
    numbers = restoration(clean + 0.1 * signs, request_of(Downsampling(2), clean))
    assert numbers["inconsistency"] < 1e-4
    assert numbers["psnr"] == pytest.approx(10 * torch.log10(torch.tensor(400.0)).item(), abs=1e-3)


def test_degraded_images_are_measured_too_without_the_mask():
    clean = images()
    request = request_of(Border(0.5, "left"), clean)
    assert degraded(request).shape == clean.shape
    numbers = restoration(clean, request)
    error = clean[..., :8].square().flatten(1).mean(1) / 2
    assert numbers["psnr_degraded"] == pytest.approx((10 * torch.log10(4 / error)).mean().item(), abs=1e-3)
    assert numbers["ssim_degraded"] < numbers["ssim"]
    assert "inconsistency" not in restoration(clean, request_of(Jpeg(10), clean))
