"""Counted randomness: the noise of a sample is a function of (seed, stream, index, step), not of a generator's history.

A counter-based generator (:mod:`diffsweep.diffusion.philox`) maps the counter ``(block, step, index, stream)`` under the seed as key to
four 32-bit words. So a sample's noise depends neither on the batch it is in, nor on the number of devices, nor on what was drawn before;
resuming needs no generator state.
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
    """What a draw is for: draws of different streams are independent."""

    STEP = 0  # the noise of a sampler's step
    PRIOR = 1  # x at t = 1
    TIME = 2  # training times
    EPS = 3  # training noise
    VALIDATION = 4
    AUGMENTATION = 5
    CONDITION = 6  # condition dropout, and the labels to sample
    PROBE = 7  # random directions, for traces
    DEQUANTISE = 8
    DATA = 9  # what synthetic data are made of
    POSTERIOR = 10  # of an autoencoder
    SIGNS = 11  # of sliced score matching


OF_THE_PROCESS = frozenset({Stream.STEP, Stream.PRIOR, Stream.EPS, Stream.VALIDATION})  # noise that x_t is made of


class Draw(NamedTuple):
    """What is drawn of each sample: numbers made of words, of a type, from a stream, in a shape."""

    numbers: Callable[[Words, torch.dtype], Tensor]
    dtype: torch.dtype
    stream: Stream
    shape: tuple[int, ...]


class Noise:
    """Standard normal and uniform numbers of samples ``indices``, keyed by (seed, stream, index, step).

    All that x_t is made of is drawn here, so here frames of clips get what they share of it; other draws stay independent.

    Args:
        seed: any int; its low 64 bits count. Or one of each row, int64, (B,).
        indices: int64, shape (B,), each in [0, 2^48): which sample each row is, on the device to draw on.
        step: which step of a walk, in [0, 2^32); or one of each row, int64, (B,).
        clips: the covariance over frames of the streams of the process.

    Attributes:
        at_once: at most so many numbers of several steps are drawn in one pass, where a walk draws ahead.
    """

    at_once = 2**20

    def __init__(
        self, seed: int | Tensor, indices: Tensor, step: int | Tensor = 0, clips: ClipNoise = INDEPENDENT
    ) -> None:
        self.seed, self.indices, self.step, self.clips = seed, indices, step, clips

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, rows: slice) -> "Noise":
        """Return the noise of some of the rows."""
        seed, step = (part[rows] if isinstance(part, Tensor) else part for part in (self.seed, self.step))
        return Noise(seed, self.indices[rows], step, self.clips)

    def at(self, step: int | Tensor) -> "Noise":
        """Return the noise of the same samples at another step."""
        return Noise(self.seed, self.indices, step, self.clips)

    def like(self, x: Tensor, stream: Stream = Stream.STEP) -> Tensor:
        """Return standard normal numbers of the shape and dtype of ``x`` (B, ...), on its device."""
        return self.normal(*x.shape[1:], stream=stream, dtype=x.dtype).to(x.device)

    def normal(self, *shape: int, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return standard normal numbers, (B, *shape), by Box and Muller from pairs of 32-bit uniforms, so at most 6.7 in size; what
        frames share comes after."""
        z = self.independent(Draw(normal_numbers, dtype, stream, shape))
        return self.clips.colour(z) if stream in OF_THE_PROCESS else z

    def uniform(self, *shape: int, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return uniform numbers in (0, 1), (B, *shape); 24 bits in float32, else 32."""
        return self.independent(Draw(uniform_numbers, dtype, stream, shape))

    def independent(self, draw: Draw) -> Tensor:
        """Return the numbers of a draw, of which frames share nothing, (B, *shape)."""
        count = math.prod(draw.shape)
        words = self.words(torch.arange(blocks_of(count), device=self.indices.device), draw.stream)
        return draw.numbers(words, draw.dtype)[:, :count].reshape(-1, *draw.shape)

    def words(self, blocks: Tensor, stream: Tensor | int) -> Words:
        """Return the four words of each sample at each counter: blocks (N,) of a stream, or of a stream of each, (N,)."""
        device, index = self.indices.device, self.indices[:, None]
        even, odd = torch.empty(2, 2, len(self), len(blocks), dtype=torch.int64, device=device)
        even[0], even[1] = blocks, index & MASK
        odd[0] = self.step[:, None] if isinstance(self.step, Tensor) else self.step & MASK
        odd[1] = index >> 32 | stream << 16
        keys = round_keys(self.seed) if isinstance(self.seed, Tensor) else keys_of_one(self.seed, device)
        return draw_words(Words(even, odd), keys)


def fresh_noise(x: Tensor, clips: ClipNoise = INDEPENDENT) -> Noise:
    """Return noise for the rows of ``x`` under a seed from torch's global generator, so that ``manual_seed`` governs it."""
    return Noise(int(torch.randint(2**62, ())), torch.arange(len(x), device=x.device), clips=clips)


def blocks_of(count: int) -> int:
    """Return how many blocks of four words so many numbers take."""
    return (count + 3) // 4


def uniform_numbers(words: Words, dtype: torch.dtype) -> Tensor:
    """Return uniform numbers, (B, 4 N)."""
    bits = 24 if dtype == torch.float32 else 32
    below_one = 1 - torch.finfo(dtype).eps / 2  # the largest word would round up to 1
    numbers, into = _blocks(words, torch.float64)
    for half, part in zip(words, into, strict=True):
        part.copy_(half >> (32 - bits))
    return numbers.add_(0.5).mul_(2.0**-bits).to(dtype).clamp_(max=below_one)


def normal_numbers(words: Words, dtype: torch.dtype) -> Tensor:
    """Return normal numbers, (B, 4 N), by Box and Muller from each pair of words two."""
    numbers, (cosines, sines) = _blocks(words, torch.float64 if dtype == torch.float64 else torch.float32)
    radius = (
        (2 * words.even).add_(1).to(numbers).mul_(2.0**-33).log_().mul_(-2).sqrt_()
    )  # of (u + 1/2) / 2^32, which is never 0
    angle = words.odd.to(numbers).mul_(2 * math.pi * 2.0**-32)
    torch.mul(angle.cos(), radius, out=cosines)
    torch.mul(angle.sin_(), radius, out=sines)
    return numbers.to(dtype)


def _blocks(words: Words, dtype: torch.dtype) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return room for numbers in the order of the words they are made of, (B, 4 N), and views of what becomes of the even words and of
    the odd ones, each (2, B, N)."""
    _, rows, blocks = words.even.shape
    room = torch.empty(rows, blocks, 2, 2, dtype=dtype, device=words.even.device)
    even, odd = room.permute(3, 2, 0, 1)
    return room.flatten(1), (even, odd)
