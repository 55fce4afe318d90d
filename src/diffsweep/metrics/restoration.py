r"""Measures of restored images: how near they are to the originals, and whether they agree with what was known.

For samples x of p(x_0 | A x_0 = y), with the original images :math:`x_0`, and pixels on [-1, 1] of which a bin of 256
has the width 2/255:

.. math:: \text{PSNR}(x, x_0), \quad \text{SSIM}(x, x_0), \quad
    \text{inconsistency} = \frac{255}{2} \sqrt{\operatorname{mean}\,(A x - y)^2}

A sample of a sharp, spread distribution is farther from x_0 than the mean of the distribution, which a regression
returns: at best twice its squared error, 3 dB. So PSNR alone prefers blurred images.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from diffsweep.datasets import Batch
from diffsweep.metrics.reconstruction import psnr, ssim

BIN = 2 / 255  # of pixels in [-1, 1]


@torch.no_grad()
def restoration_of_each(samples: Tensor, request: Batch) -> dict[str, Tensor]:
    """Return the errors of each restored image, float (N,), by name, of which :func:`mean_restoration` makes numbers.

    Args:
        samples, request: as those of :func:`restoration`.

    Returns:
        ``psnr`` and ``psnr_degraded``, mean squared errors from the original; ``ssim`` and ``ssim_degraded``; and
        ``inconsistency``, the mean square of A x - y, if the degradation has a measurement.
    """
    clean = request["clean"].cpu()
    each: dict[str, Tensor] = {}
    for suffix, images in (("", samples), ("_degraded", degraded(request))):
        errors = (images.clamp(-1, 1) - clean).square().flatten(1).mean(1)
        each[f"psnr{suffix}"] = errors.clamp(min=1e-10)  # at most 106 dB
        each[f"ssim{suffix}"] = ssim(images, clean)
    if "known" in request:
        each["inconsistency"] = request["known"].residual(samples).square().flatten(1).mean(1)
    return each


def mean_restoration(each: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the numbers of :func:`restoration` from the errors of all images, (N,) by name."""
    numbers: dict[str, float] = {}
    for name, values in each.items():
        if name.startswith("psnr"):
            numbers[name] = sum(psnr(error) for error in values.tolist()) / len(values)
        elif name == "inconsistency":
            numbers[name] = float(values.double().mean().sqrt()) / BIN
        else:
            numbers[name] = float(values.mean())
    return numbers


def restoration(samples: Tensor, request: Batch) -> dict[str, float]:
    """Return how near restored images are to the originals, and how well they agree with the measurement, by name.

    Args:
        samples: (N, C, H, W).
        request: the batch that was requested, with ``clean``, the originals, (N, C, H, W); ``image``, what the network
            read, whose first C channels are compared too; and ``known``, if the degradation has a measurement.

    Returns:
        ``psnr``, the mean over images, and ``ssim`` of the samples; ``psnr_degraded`` and ``ssim_degraded`` of the
        degraded images as the network read them; and ``inconsistency``, in bins of 256.
    """
    return mean_restoration(restoration_of_each(samples, request))


def degraded(request: Batch) -> Tensor:
    """Return the degraded images of a request as images, (N, C, H, W), without the channel of a mask."""
    images: Tensor = request["image"][:, : request["clean"].shape[1]]
    return images.cpu()
