"""Counted randomness: the noise of a sample is a function of (seed, stream, index, step), not of a generator's history.

A counter-based generator, Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), maps the
counter ``(block, step, index)`` under the key ``(seed, stream)`` to four 32-bit words. So a sample's noise depends neither
on the batch it is in, nor on the number of devices, nor on what was drawn before; resuming needs no generator state.
"""

import functools
import math
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffsweep.diffusion.clip_noise import INDEPENDENT, ClipNoise

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_AT_ONCE = 2**20  # at most so many numbers of several steps are drawn in one pass


def philox_4x32(even: Any, odd: Any, spare: Any, keys: Any, multipliers: Any) -> tuple[Any, Any]:
    """Philox-4x32 on int64 arrays that hold unsigned 32-bit words; of torch, or of numpy, whose operations on small arrays cost half as
    much. All in place, since large arrays would come from the system each time.

    Args:
        even: words 0 and 2 of the counters, (2, B, N); overwritten, as the next two are.
        odd: words 1 and 3, (2, B, N).
        spare: room, (2, B, N).
        keys: both words of each round's key, (rounds, 2, B or 1, 1).
        multipliers: of words 2 and 0, (2, 1, 1).

    Returns:
        words 0 and 2 of the results, and words 1 and 3.
    """
    for key in keys:
        spare[0], spare[1] = even[1], even[0]
        spare *= multipliers  # int64 wraps modulo 2^64, which keeps all 64 bits of the unsigned product
        even[...] = spare
        even >>= 32
        even &= _MASK
        even ^= odd
        even ^= key
        spare &= _MASK
        odd, spare = spare, odd
    return even, odd


class Words(NamedTuple):
    """Counters, or what is drawn of them, int64 in [0, 2^32): words 0 and 2 of each block of four, (2, B, N), and words 1 and 3."""

    even: Tensor
    odd: Tensor


@functools.lru_cache(maxsize=8)
@torch.inference_mode(False)
def _constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """The multipliers of words 2 and 0, (2, 1, 1), and what is added to the key in each of ten rounds, (10, 2, 1, 1)."""
    weyl = torch.arange(10, device="cpu")[:, None] * torch.tensor(_WEYL, device="cpu")
    return torch.tensor(_MULTIPLIERS[::-1], device="cpu")[:, None, None].to(device), weyl[..., None, None].to(device)


def round_keys(seed: Tensor) -> Tensor:
    """The keys of ten rounds, (10, 2, B, 1), of seeds (B,) of 64 bits."""
    _, weyl = _constants(seed.device)
    return (torch.stack([seed & _MASK, (seed >> 32) & _MASK])[..., None] + weyl) & _MASK


@functools.lru_cache(maxsize=32)
@torch.inference_mode(False)
def _keys_of_one(seed: int, device: torch.device) -> Tensor:
    """Those of the low 64 bits of a seed, B = 1."""
    return round_keys(torch.tensor([(seed + 2**63) % 2**64 - 2**63], device="cpu").to(device))


def draw_words(counters: Words, keys: Tensor) -> Words:
    """What counters, which are overwritten, give under the keys of rounds."""
    parts = (*counters, torch.empty_like(counters.even), keys, _constants(keys.device)[0])
    if keys.device.type != "cpu":
        return Words(*philox_4x32(*parts))
    drawn = philox_4x32(*(part.numpy() for part in parts))
    return Words(*(torch.from_numpy(words) for words in drawn))


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


OF_THE_PROCESS = frozenset({Stream.STEP, Stream.PRIOR, Stream.EPS, Stream.VALIDATION})  # noise that x_t is made of


class Noise:
    """Standard normal and uniform numbers of samples ``indices``, keyed by (seed, stream, index, step).

    All that x_t is made of is drawn here, so here frames of clips get what they share of it; other draws stay independent.

    Args:
        seed: any int; its low 64 bits count. Or one of each row, int64, (B,).
        indices: int64, shape (B,), each in [0, 2^48): which sample each row is, on the device to draw on.
        step: which step of a walk, in [0, 2^32); or one of each row, int64, (B,).
        clips: the covariance over frames of the streams of the process.
    """

    def __init__(
        self, seed: int | Tensor, indices: Tensor, step: int | Tensor = 0, clips: ClipNoise = INDEPENDENT
    ) -> None:
        self.seed, self.indices, self.step, self.clips = seed, indices, step, clips

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, rows: slice) -> "Noise":
        """The noise of some of the rows."""
        seed, step = (part[rows] if isinstance(part, Tensor) else part for part in (self.seed, self.step))
        return Noise(seed, self.indices[rows], step, self.clips)

    def at(self, step: int | Tensor) -> "Noise":
        """The same samples at another step."""
        return Noise(self.seed, self.indices, step, self.clips)

    def _shared(self, z: Tensor, stream: Stream) -> Tensor:
        """Independent ``z`` with what its frames share."""
        return self.clips.colour(z) if stream in OF_THE_PROCESS else z

    def _words(self, *wanted: tuple[Stream, int]) -> list[Words]:
        """For each (stream, count), words enough for that many numbers of a sample, in one pass for all."""
        device, index = self.indices.device, self.indices[:, None]
        blocks, streams, ends = _counters(wanted, device)
        even, odd = torch.empty(2, 2, len(self), len(blocks), dtype=torch.int64, device=device)
        even[0], even[1] = blocks, index & _MASK
        odd[0] = self.step[:, None] if isinstance(self.step, Tensor) else self.step & _MASK
        torch.bitwise_or(index >> 32, streams, out=odd[1])
        keys = round_keys(self.seed) if isinstance(self.seed, Tensor) else _keys_of_one(self.seed, device)
        even, odd = draw_words(Words(even, odd), keys)
        return [Words(even[..., begin:end], odd[..., begin:end]) for begin, end in ends]

    def uniform(self, *shape: int, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform in (0, 1), shape (B, *shape); 24 bits in float32, else 32."""
        (words,) = self._words((stream, math.prod(shape)))
        return _uniform(words, dtype)[:, : math.prod(shape)].reshape(-1, *shape)

    def normal(self, *shape: int, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal, shape (B, *shape), by Box and Muller from pairs of 32-bit uniforms, so at most 6.7 in size; what frames share
        comes after."""
        (words,) = self._words((stream, math.prod(shape)))
        return self._shared(_normal(words, dtype)[:, : math.prod(shape)].reshape(-1, *shape), stream)

    def like(self, x: Tensor, stream: Stream = Stream.STEP) -> Tensor:
        """Standard normal of the shape and dtype of ``x`` (B, ...), on its device."""
        return self.normal(*x.shape[1:], stream=stream, dtype=x.dtype).to(x.device)

    def like_over(self, x: Tensor, steps: range, stream: Stream = Stream.STEP) -> Tensor:
        """What ``at(step).like(x)`` gives for each of several steps, in one pass, which costs less: (len(steps), B, ...)."""
        every = torch.arange(steps.start, steps.stop, steps.step, device=self.indices.device)
        seed = self.seed.repeat(len(steps)) if isinstance(self.seed, Tensor) else self.seed
        noise = Noise(seed, self.indices.repeat(len(steps)), every.repeat_interleave(len(self)), self.clips)
        drawn = noise.normal(*x.shape[1:], stream=stream, dtype=x.dtype)
        return drawn.to(x.device).unflatten(0, (len(steps), len(self)))

    def ahead(self, temperature: float = 1.0, steps: int = 8) -> "Noise":
        """The noise of a walk from here on: see :class:`WalkNoise`."""
        return WalkNoise(self, temperature, steps, {})

    def time_and_eps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What a training step draws, in one pass: ``uniform`` of the stream TIME, (B,), and ``like(x)`` of EPS."""
        count = math.prod(x.shape[1:])
        times, words = self._words((Stream.TIME, 1), (Stream.EPS, count))
        eps = self._shared(_normal(words, x.dtype)[:, :count].reshape(x.shape), Stream.EPS)
        return _uniform(times, torch.float32)[:, 0], eps.to(x.device)


class WalkNoise(Noise):
    """The noise of the steps of a walk, which :meth:`like` draws for several steps in one pass, since that costs less.

    The numbers are those of :class:`Noise`, times ``temperature``.

    Args:
        noise: the samples.
        temperature: the size of the numbers.
        steps: at most how many are drawn at once; fewer where samples are large.
        blocks: what has been drawn, by its first step, shared by all steps of a walk.
    """

    def __init__(self, noise: Noise, temperature: float, steps: int, blocks: dict[int, Tensor]) -> None:
        super().__init__(noise.seed, noise.indices, noise.step, noise.clips)
        self.temperature, self.steps, self._blocks = temperature, steps, blocks

    def at(self, step: int | Tensor) -> "WalkNoise":
        return WalkNoise(super().at(step), self.temperature, self.steps, self._blocks)

    def __getitem__(self, rows: slice) -> "WalkNoise":
        return WalkNoise(super().__getitem__(rows), self.temperature, self.steps, {})

    def like(self, x: Tensor, stream: Stream = Stream.STEP) -> Tensor:
        size = max(1, min(self.steps, _AT_ONCE // x.numel()))
        if stream != Stream.STEP or isinstance(self.step, Tensor) or size == 1:
            return super().like(x, stream) * self.temperature
        row = self.step % size
        begin = self.step - row
        if begin not in self._blocks:
            self._blocks[begin] = self.like_over(x, range(begin, begin + size)) * self.temperature
        # A walk asks for a step once: what its last row was taken from is not needed any more.
        return (self._blocks.pop(begin) if row == size - 1 else self._blocks[begin])[row]


@functools.lru_cache(maxsize=32)
def _counters(
    wanted: tuple[tuple[Stream, int], ...], device: torch.device
) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
    """Block numbers and streams (shifted to their bits), each (N,), and where the blocks of each stream begin and end."""
    sizes = [(count + 3) // 4 for _, count in wanted]
    blocks = torch.cat([torch.arange(size) for size in sizes])
    streams = torch.cat(
        [torch.full((size,), int(stream) << 16) for (stream, _), size in zip(wanted, sizes, strict=True)]
    )
    ends = [(sum(sizes[:i]), sum(sizes[: i + 1])) for i in range(len(sizes))]
    return blocks.to(device), streams.to(device), ends


def _uniform(words: Words, dtype: torch.dtype) -> Tensor:
    """(B, 4 N) uniform numbers."""
    bits = 24 if dtype == torch.float32 else 32
    below_one = 1 - torch.finfo(dtype).eps / 2  # the largest word would round up to 1
    numbers, into = _blocks(words, torch.float64)
    for half, part in zip(words, into, strict=True):
        part.copy_(half >> (32 - bits))
    return numbers.add_(0.5).mul_(2.0**-bits).to(dtype).clamp_(max=below_one)


def _normal(words: Words, dtype: torch.dtype) -> Tensor:
    """(B, 4 N) normal numbers, each pair of words by Box and Muller to two."""
    numbers, (cosines, sines) = _blocks(words, torch.float64 if dtype == torch.float64 else torch.float32)
    radius = (
        (2 * words.even).add_(1).to(numbers).mul_(2.0**-33).log_().mul_(-2).sqrt_()
    )  # of (u + 1/2) / 2^32, which is never 0
    angle = words.odd.to(numbers).mul_(2 * math.pi * 2.0**-32)
    torch.mul(angle.cos(), radius, out=cosines)
    torch.mul(angle.sin_(), radius, out=sines)
    return numbers.to(dtype)


def _blocks(words: Words, dtype: torch.dtype) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Room for numbers in the order of the words they are made of, (B, 4 N), and views of what becomes of the even words and of the odd
    ones, each (2, B, N)."""
    _, rows, blocks = words.even.shape
    room = torch.empty(rows, blocks, 2, 2, dtype=dtype, device=words.even.device)
    even, odd = room.permute(3, 2, 0, 1)
    return room.flatten(1), (even, odd)
