r"""Measures of how near reconstructions are to the original images: PSNR and SSIM.

For images of range R, here 2 since pixels are in [-1, 1], with the mean squared error MSE, and with local means,
variances and the covariance under a Gaussian window,

.. math:: \mathrm{PSNR} &= 10 \log_{10}(R^2 / \mathrm{MSE}), \\
    \mathrm{SSIM} &= \frac{2 \mu_x \mu_y + c_1}{\mu_x^2 + \mu_y^2 + c_1}
    \frac{2 \sigma_{xy} + c_2}{\sigma_x^2 + \sigma_y^2 + c_2},
    \qquad c_1 = (0.01 R)^2, \; c_2 = (0.03 R)^2,

the latter averaged over the window's positions. SSIM is 1 for equal images.
"""

import math
from typing import Any

import torch
from torch import Tensor

RANGE = 2.0  # of pixels in [-1, 1]


def psnr(squared_error: float) -> float:
    """Return the peak signal-to-noise ratio in dB of images in [-1, 1]: 10 log10(4 / error); infinity for no error.

    Args:
        squared_error: the mean squared error of the pixels, at least 0.
    """
    return 10 * math.log10(RANGE**2 / squared_error) if squared_error > 0 else math.inf


def ssim_window(size: int) -> float:
    """Return the standard deviation of SSIM's Gaussian window in pixels: 1.5, or ``size`` / 16 for ``size`` below 24.

    The smaller window leaves most of a small image with a whole window around each pixel.
    """
    return min(1.5, size / 16)


@torch.no_grad()
def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Return the structural similarity (Wang et al. 2004) of images x and y (B, C, H, W) in [-1, 1], (B,).

    It is 1 for equal images. The standard deviation of its Gaussian window is 1.5 pixels, and less for images smaller
    than 24 pixels.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    sigma = ssim_window(min(x.shape[2:]))
    similarity: Any = structural_similarity_index_measure(x, y, sigma=sigma, data_range=RANGE, reduction="none")
    values: Tensor = similarity.reshape(-1)
    return values
