r"""The kernel distance and the inception score of features and logits, computed by torchmetrics.

For features a of real and b of generated images KID is the squared maximum mean discrepancy of a cubic kernel, by its
unbiased estimate:

.. math:: \mathrm{KID} = E[k(a, a')] + E[k(b, b')] - 2 E[k(a, b)], \qquad k(u, v) = (u \cdot v / D + 1)^3.

IS is high if each image is of a clear class and all classes occur: with the class probabilities p(y | x) of a
classifier and their mean p(y) over images, :math:`\mathrm{IS} = \exp E_x D_{KL}(p(y | x) \| p(y))`.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Extracted(nn.Module):
    """An identity module that torchmetrics takes for its feature network, since its inputs are features already.

    Args:
        num_features: D of the features (N, D).
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def inception_score(logits: Tensor, splits: int) -> float:
    """Return IS of a classifier's logits (N, K), the mean over random parts (Salimans et al. 2016, arXiv:1606.03498).

    It is from 1 to K, and higher if each image is of a clear class and all classes occur. The parts are the same in
    every call.

    Args:
        logits: of generated images, (N, K).
        splits: number of equal parts that the images are divided into at random.
    """
    from torchmetrics.image.inception import InceptionScore

    metric = _quietly(InceptionScore, feature=Extracted(logits.shape[1]), splits=splits, **_LOCAL)
    metric.update(logits)
    with _seeded():
        mean, _ = _quietly(metric.compute)  # it warns that the deviation over parts is undefined for one part
        return float(mean)


def kernel_distance(fake: Tensor, real: Tensor, subsets: int, subset_size: int) -> float:
    """Return KID of features of generated and real samples, the mean over random subsets (arXiv:1801.01401).

    KID is the squared maximum mean discrepancy of a cubic kernel; its estimate is unbiased, unlike that of FID, also
    with few samples (Binkowski et al. 2018), so it can be below 0. The subsets are the same in every call.

    Args:
        fake, real: features (N, D) and (M, D).
        subsets: number of random subsets.
        subset_size: number of samples of each kind in a subset, at most N and at most M.
    """
    return kernel_distances(fake, real, subsets, subset_size)[0]


def kernel_distances(fake: Tensor, real: Tensor, subsets: int, subset_size: int) -> tuple[float, float]:
    """Return KID, the mean over random subsets, and the standard deviation over the subsets.

    Args:
        fake, real, subsets, subset_size: see :func:`kernel_distance`.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    extracted = Extracted(real.shape[1])
    metric = _quietly(KernelInceptionDistance, feature=extracted, subsets=subsets, subset_size=subset_size, **_LOCAL)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    with _seeded():
        mean, deviation = metric.compute()
        return float(mean), float(deviation)


# Samples are measured on the one device that drew them: torchmetrics must not wait for the others.
_LOCAL = {"sync_on_compute": False}


def _quietly(call: Callable[..., Any], **keywords: Any) -> Any:
    """Return ``call(**keywords)`` without torchmetrics' warning that features take memory, where they are already."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(**keywords)


@contextmanager
def _seeded() -> Iterator[None]:
    """Seed torch's global generator, from which torchmetrics draws, within a block, and restore its state after it."""
    state = torch.get_rng_state()
    torch.manual_seed(0)
    try:
        yield
    finally:
        torch.set_rng_state(state)
