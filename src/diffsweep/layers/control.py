r"""Control networks, which steer a trained network by an image c (ControlNet, Zhang et al. 2023, arXiv:2302.05543).

The trained network is f, and its first half has the features :math:`f_1, \dots, f_n`. A copy F of that half, which is
trained, reads c too, and what it finds is added to the features of f through layers Z that are zero at first:

.. math:: f_i \leftarrow f_i + w \, Z_i(F_i(x, t; H(c))), \qquad Z(h) = W h + b, \quad W = b = 0 \text{ at first}

So training starts from f itself, and yet it learns: :math:`\partial L / \partial W = (\partial L / \partial Z) h^T` is
not zero, only :math:`\partial L / \partial h = W^T \partial L / \partial Z` is, until the first step.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffsweep.diffusion import Condition
from diffsweep.layers.norms import zero_init

GUESSED = 0.1  # the factor of the first feature in guess mode; that of the last one is 1
WIDTHS = (16, 32)  # channels of a hint's first layers, as in the paper


class FirstHalf(NamedTuple):
    """A copy of the first half of a network, and the sizes of its features, for a control network.

    Attributes:
        network: the copy. Its method ``first_half(x, c_noise, cond, hint)`` returns the list of features F_1 to F_n;
            the hint H(c), (B, C', H', W'), is added to what enters its first block.
        widths: channels of each feature.
        width: C' of the hint.
        factor: the side of x over that of the hint.
        tokens: whether features are tokens (B, N, C), not maps (B, C, H, W).
    """

    network: nn.Module
    widths: Sequence[int]
    width: int
    factor: int
    tokens: bool


class Hint(nn.Sequential):
    """A small convolutional network from control images to a map that is added to the input of a copied network.

    Control images (B, C, H, W) become (B, C', H / f, W / f), by 3 x 3 convolutions with SiLU, of which one for each
    prime factor of f has a stride. The last layer is zero at first.

    Args:
        channels: C.
        width: C'.
        factor: f.
    """

    def __init__(self, channels: int, width: int, factor: int = 1) -> None:
        layers: list[nn.Module] = []
        last = channels
        for size in WIDTHS:
            layers += [nn.Conv2d(last, size, 3, padding=1), nn.SiLU()]
            last = size
        for stride in _primes(factor):
            kernel = max(3, stride)  # every pixel is read
            layers += [nn.Conv2d(last, 2 * last, kernel, stride, padding=int(stride == 2)), nn.SiLU()]
            last *= 2
        super().__init__(*layers, zero_init(nn.Conv2d(last, width, 1)))


class ControlBranch(nn.Module):
    """A control network: a trained copy of a network's first half that reads a control image.

    In training mode ``weight`` is 1, at all times, and without ``guess``.

    Args:
        half: the copy of the first half.
        channels: channels of its control image.
        first: the first of these channels in the condition's ``control``, which holds the images of all branches.
        factor: the side of control images, in pixels, over that of x, which is 1 unless x are latents.
        weight: w, the factor of what is added; with 0 the controlled network is as without the branch, to the bit.
        interval: returns the least and the most number for the time, as the network reads it, at which the branch adds
            anything; it is called once, at the first use. None for all times.
        guess: whether the features have factors that grow from 0.1 for the first to 1 for the last, evenly in their
            logarithms, so that a control image alone, without a text, gives an image (the guess mode of ControlNet).
    """

    def __init__(
        self,
        half: FirstHalf,
        channels: int,
        first: int = 0,
        factor: int = 1,
        weight: float = 1.0,
        interval: Callable[[], tuple[float, float]] | None = None,
        guess: bool = False,
    ) -> None:
        super().__init__()
        self.channels, self.first, self.factor = channels, first, factor
        self.weight, self.interval = weight, interval
        self.copy = half.network
        self.hint = Hint(channels, half.width, factor * half.factor)
        zero = [nn.Linear(size, size) if half.tokens else nn.Conv2d(size, size, 1) for size in half.widths]
        self.zero = nn.ModuleList(zero_init(each) for each in zero)
        last = max(len(zero) - 1, 1)
        self.levels = [GUESSED ** ((last - i) / last) if guess else 1.0 for i in range(len(zero))]

    @cached_property
    def limits(self) -> tuple[float, float] | None:
        """The result of ``interval``; None for all times."""
        return None if self.interval is None else self.interval()

    def forward(self, x: Tensor, c_noise: Tensor, cond: Condition) -> list[Tensor]:
        """Return what is added to each feature of the network, like the features; an empty list for nothing.

        Args:
            x: the network's input, (B, C, H, W).
            c_noise: the number for the time, (B,).
            cond: the condition, of which ``control`` and ``control_weight`` are read here.

        Raises:
            ValueError: the control images are not of the size that x requires, or have too few channels.
        """
        factor = self._factor(c_noise, cond)
        if factor is None:
            return []
        control = self._image(x, cond)
        features = self.copy.first_half(x, c_noise, cond, self.hint(control.to(x.dtype)))  # type: ignore[operator]
        levels = [1.0] * len(self.levels) if self.training else self.levels
        return [
            _scaled(zero(feature), factor, level)
            for zero, feature, level in zip(self.zero, features, levels, strict=True)
        ]

    def _factor(self, c_noise: Tensor, cond: Condition) -> float | Tensor | None:
        """Return w for all rows, or for each, (B,); None if nothing is added in any row."""
        factor: float | Tensor = 1.0 if self.training else self.weight
        if cond.control is None or factor == 0:
            return None
        if self.limits is not None and not self.training:
            inside = (c_noise >= self.limits[0]) & (c_noise <= self.limits[1])
            if c_noise.device.type == "cpu" and not inside.any():  # a GPU would have to be waited for
                return None
            factor = factor * inside
        return factor if cond.control_weight is None else factor * cond.control_weight.to(c_noise)

    def _image(self, x: Tensor, cond: Condition) -> Tensor:
        """Return the control images of this branch, (B, C, H, W)."""
        control = cond.control
        assert control is not None
        size, given = (self.factor * x.shape[2], self.factor * x.shape[3]), tuple(control.shape[2:])
        if given != size:
            raise ValueError(
                f"the control images have {given[0]} x {given[1]} pixels, and images of {size[0]} x {size[1]} are "
                "drawn: give control images of that size"
            )
        if control.shape[1] < self.first + self.channels:
            raise ValueError(
                f"the control images have {control.shape[1]} channels, and this control network reads "
                f"{self.channels} from number {self.first} on: give one image for each control network"
            )
        return control[:, self.first : self.first + self.channels]


def added_by(branches: nn.ModuleList, x: Tensor, c_noise: Tensor, cond: Condition) -> list[Tensor]:
    """Return the sums of what several control networks add to each feature; an empty list if they add nothing.

    Args:
        branches: the control networks, see :class:`ControlBranch`.
        x, c_noise, cond: the arguments of the network that is controlled.
    """
    found = [terms for branch in branches if (terms := branch(x, c_noise, cond))]
    return [torch.stack(terms).sum(0) if len(terms) > 1 else terms[0] for terms in zip(*found, strict=True)]


def with_added(features: Sequence[Tensor], added: Sequence[Tensor]) -> list[Tensor]:
    """Return the features of a network with what control networks add to them; as they are if that is empty."""
    return [h + more for h, more in zip(features, added, strict=True)] if added else list(features)


def _scaled(h: Tensor, factor: float | Tensor, level: float) -> Tensor:
    if isinstance(factor, Tensor):
        return h * (level * factor).to(h.dtype).reshape(-1, *[1] * (h.ndim - 1))
    return h if factor * level == 1 else factor * level * h


def _primes(number: int) -> list[int]:
    """Return the prime factors of a number in increasing order; an empty list for 1."""
    factors, prime = [], 2
    while number > 1:
        while number % prime == 0:
            factors.append(prime)
            number //= prime
        prime += 1
    return factors
