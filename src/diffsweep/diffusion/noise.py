r"""Noise that is a function of (seed, stream, index, step) and not of what was drawn before: counted randomness.

.. math:: \epsilon_i = f(\text{seed}, \text{stream}, i, \text{step}),

where i is the index of a sample and the stream is what the noise is for. A counter-based generator
(:mod:`diffsweep.diffusion.philox`) maps the counter ``(block, step, index, stream)``, with the seed as its key, to
four 32-bit words, which become normal or uniform numbers. So a sample's noise depends neither on the batch it is in
nor on the number of devices, and resuming needs no state of a generator.
"""

import math
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from diffsweep.diffusion.clip_noise import INDEPENDENT, ClipNoise
from diffsweep.diffusion.philox import MASK, Words, draw_words, keys_of_one, round_keys


class Stream(IntEnum):
    """A number for each purpose of random numbers, such as training noise; different streams are independent."""

    STEP = 0  # noise of a sampler's step
    PRIOR = 1  # x at t = 1
    TIME = 2  # training times
    EPS = 3  # training noise
    VALIDATION = 4  # noise in validation
    AUGMENTATION = 5  # random changes of training data
    CONDITION = 6  # condition dropout, and the labels of samples
    PROBE = 7  # random directions that estimate traces
    DEQUANTISE = 8  # uniform noise within the bins of discrete data
    DATA = 9  # random content of synthetic data
    POSTERIOR = 10  # draws from an autoencoder's posterior
    SIGNS = 11  # random directions of sliced score matching
    DEGRADATION = 12  # sizes and places of degradations, such as masks
    DEGRADATION_NOISE = 13  # noise of degraded images
    DEGRADATION_KIND = 14  # which of several degradations a sample has
    LEVEL = 15  # level of the noise that is added to the image of a condition
    CONDITION_NOISE = 16  # that noise
    RAISE = 20  # noise of a sampler's steps back up in t
    KNOWN = 21  # noise of the known part of x_t
    LOWER_TIME = 22  # times up to which images of a cascade's lower stage are noised
    LOWER_NOISE = 23  # their noise
    LOWER_BLUR = 24  # widths of their blur
    GUIDANCE_SCALE = 25  # guidance scales of a student's teacher


# The noise that x_t is made of.
OF_THE_PROCESS = frozenset({Stream.STEP, Stream.PRIOR, Stream.EPS, Stream.VALIDATION, Stream.RAISE, Stream.KNOWN})


class Draw(NamedTuple):
    """A request for random numbers of each sample: their distribution, dtype, stream and shape.

    Attributes:
        numbers: the function that turns random words into numbers, :func:`normal_numbers` or :func:`uniform_numbers`.
        dtype: the dtype of the numbers.
        stream: the purpose of the numbers; other streams have other numbers.
        shape: the shape of the numbers of one sample.
    """

    numbers: Callable[[Words, torch.dtype], Tensor]
    dtype: torch.dtype
    stream: Stream
    shape: tuple[int, ...]


class Noise:
    """A source of normal and uniform numbers for B samples, each a function of (seed, stream, index, step) alone.

    It has no state: the same call returns the same numbers again. In the streams that x_t is made of (STEP, PRIOR, EPS,
    VALIDATION, RAISE and KNOWN), frames of clips get the covariance ``clips``; other numbers are independent.

    Args:
        seed: any int, of which the low 64 bits count; or one for each row, int64, (B,).
        indices: int64, (B,), each in [0, 2^48): which sample each row is; numbers are drawn on its device.
        step: the step of a sampler, in [0, 2^32); or one for each row, int64, (B,).
        clips: the covariance of noise over the frames of clips.

    Attributes:
        at_once: the largest count of numbers in one pass, where the numbers of several steps are drawn ahead.
    """

    at_once = 2**20

    def __init__(
        self, seed: int | Tensor, indices: Tensor, step: int | Tensor = 0, clips: ClipNoise = INDEPENDENT
    ) -> None:
        self.seed, self.indices, self.step, self.clips = seed, indices, step, clips

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, rows: slice | Tensor) -> "Noise":
        """Return the noise of some of the rows."""
        seed, step = (part[rows] if isinstance(part, Tensor) else part for part in (self.seed, self.step))
        return Noise(seed, self.indices[rows], step, self.clips)

    def at(self, step: int | Tensor) -> "Noise":
        """Return the noise of the same samples at another step, an int or one for each row, int64, (B,)."""
        return Noise(self.seed, self.indices, step, self.clips)

    def like(self, x: Tensor, stream: Stream = Stream.STEP) -> Tensor:
        """Return standard normal numbers of the shape and dtype of x (B, ...), on its device: see :meth:`normal`."""
        return self.normal(*x.shape[1:], stream=stream, dtype=x.dtype).to(x.device)

    def normal(self, *shape: int, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return standard normal numbers, (B, *shape), of covariance ``clips`` in the streams that x_t is made of.

        They are made by the method of Box and Muller of pairs of 32-bit uniforms, so that independent ones are at most
        6.8 in size.
        """
        z = self.independent(Draw(normal_numbers, dtype, stream, shape))
        return self.clips.colour(z) if stream in OF_THE_PROCESS else z

    def uniform(self, *shape: int, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return uniform numbers in (0, 1), (B, *shape), of 24 random bits in float32, else of 32."""
        return self.independent(Draw(uniform_numbers, dtype, stream, shape))

    def independent(self, draw: Draw) -> Tensor:
        """Return the numbers of a draw for each sample, (B, *shape), without the covariance over frames."""
        count = math.prod(draw.shape)
        words = self.words(torch.arange(blocks_of(count), device=self.indices.device), draw.stream)
        return draw.numbers(words, draw.dtype)[:, :count].reshape(-1, *draw.shape)

    def words(self, blocks: Tensor, stream: Tensor | int) -> Words:
        """Return N blocks of four random words for each of the B samples, 4 N numbers of 32 bits.

        Args:
            blocks: the numbers of the blocks, from which the generator's counters are made, (N,).
            stream: one stream for all blocks, or one for each, (N,).
        """
        device, index = self.indices.device, self.indices[:, None]
        even, odd = torch.empty(2, 2, len(self), len(blocks), dtype=torch.int64, device=device)
        even[0], even[1] = blocks, index & MASK
        odd[0] = self.step[:, None] if isinstance(self.step, Tensor) else self.step & MASK
        odd[1] = index >> 32 | stream << 16
        keys = round_keys(self.seed) if isinstance(self.seed, Tensor) else keys_of_one(self.seed, device)
        return draw_words(Words(even, odd), keys)


def fresh_noise(x: Tensor, clips: ClipNoise = INDEPENDENT) -> Noise:
    """Return noise for the rows of ``x``, with a seed from torch's global generator, which ``torch.manual_seed`` sets.

    The indices of the samples are 0, ..., B - 1.
    """
    return Noise(int(torch.randint(2**62, ())), torch.arange(len(x), device=x.device), clips=clips)


def blocks_of(count: int) -> int:
    """Return the number of blocks of four random words from which ``count`` numbers are made, one for each word."""
    return (count + 3) // 4


def uniform_numbers(words: Words, dtype: torch.dtype) -> Tensor:
    """Return uniform numbers in (0, 1), (B, 4 N), one for each of the random words of N blocks for B samples.

    They have 24 random bits in float32, else 32.
    """
    bits = 24 if dtype == torch.float32 else 32
    below_one = 1 - torch.finfo(dtype).eps / 2  # the largest word would round up to 1
    numbers, into = _blocks(words, torch.float64)
    for half, part in zip(words, into, strict=True):
        part.copy_(half >> (32 - bits))
    return numbers.add_(0.5).mul_(2.0**-bits).to(dtype).clamp_(max=below_one)


def normal_numbers(words: Words, dtype: torch.dtype) -> Tensor:
    """Return standard normal numbers, (B, 4 N), two for each pair of random words, by the method of Box and Muller.

    Args:
        words: the random words of N blocks for each of B samples.
        dtype: the dtype of the numbers.
    """
    numbers, (cosines, sines) = _blocks(words, torch.float64 if dtype == torch.float64 else torch.float32)
    # The logarithm is of (u + 1/2) / 2^32, which is never 0.
    radius = (2 * words.even).add_(1).to(numbers).mul_(2.0**-33).log_().mul_(-2).sqrt_()
    angle = words.odd.to(numbers).mul_(2 * math.pi * 2.0**-32)
    torch.mul(angle.cos(), radius, out=cosines)
    torch.mul(angle.sin_(), radius, out=sines)
    return numbers.to(dtype)


def _blocks(words: Words, dtype: torch.dtype) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return an empty tensor for the numbers of some words, and views of it for even and odd words.

    Returns:
        the tensor, (B, 4 N), in the order of the words that the numbers are made of; and the views for the numbers of
            even and of odd words, each (2, B, N).
    """
    _, rows, blocks = words.even.shape
    room = torch.empty(rows, blocks, 2, 2, dtype=dtype, device=words.even.device)
    even, odd = room.permute(3, 2, 0, 1)
    return room.flatten(1), (even, odd)
