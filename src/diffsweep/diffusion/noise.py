"""Counted randomness: the noise of a sample is a function of (seed, stream, index, step), not of a generator's history.

A counter-based generator (:mod:`diffsweep.diffusion.philox`) maps the counter ``(block, step, index)`` under the key ``(seed, stream)`` to
four 32-bit words. So a sample's noise depends neither on the batch it is in, nor on the number of devices, nor on what was drawn before;
resuming needs no generator state.
"""

import functools
import itertools
import math
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from diffsweep.diffusion.clip_noise import INDEPENDENT, ClipNoise
from diffsweep.diffusion.philox import MASK, Words, draw_words, keys_of_one, round_keys

_AT_ONCE = 2**20  # at most so many numbers of several steps are drawn in one pass
_BATCHES, _BATCH_NUMBERS = 16, 2**15  # the same of several batches: of large ones one by one costs no more


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


class Asked(NamedTuple):
    """Numbers that are asked for of each sample: by which function of words and of which type, of which stream, their shape."""

    kind: tuple[Callable[[Words, torch.dtype], Tensor], torch.dtype]
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

    def _words(self, *wanted: tuple[Stream, int]) -> Words:
        """For each (stream, count) the blocks of words, one behind the other, that are enough for that many numbers of a sample."""
        device, index = self.indices.device, self.indices[:, None]
        blocks, streams = _counters(wanted, device)
        even, odd = torch.empty(2, 2, len(self), len(blocks), dtype=torch.int64, device=device)
        even[0], even[1] = blocks, index & MASK
        odd[0] = self.step[:, None] if isinstance(self.step, Tensor) else self.step & MASK
        torch.bitwise_or(index >> 32, streams, out=odd[1])
        keys = round_keys(self.seed) if isinstance(self.seed, Tensor) else keys_of_one(self.seed, device)
        return draw_words(Words(even, odd), keys)

    def uniform(self, *shape: int, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform in (0, 1), shape (B, *shape); 24 bits in float32, else 32."""
        (drawn,) = self._draw(Asked((_uniform, dtype), stream, shape))
        return drawn

    def normal(self, *shape: int, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal, shape (B, *shape), by Box and Muller from pairs of 32-bit uniforms, so at most 6.7 in size; what frames share
        comes after."""
        (drawn,) = self._draw(Asked((_normal, dtype), stream, shape))
        return self._shared(drawn, stream)

    def _draw(self, *wanted: Asked) -> list[Tensor]:
        """The independent numbers of each, in one pass for all; best with those of a kind side by side."""
        counts = [math.prod(asked.shape) for asked in wanted]
        even, odd = self._words(*((asked.stream, count) for asked, count in zip(wanted, counts, strict=True)))
        drawn, end = [], 0
        for (numbers, dtype), alike in itertools.groupby(zip(wanted, counts, strict=True), lambda asked: asked[0].kind):
            begin, places = end, []
            for asked, count in alike:
                places.append((asked.shape, 4 * (end - begin), count))
                end += _blocks_of(count)
            made = numbers(Words(even[..., begin:end], odd[..., begin:end]), dtype)  # (B, 4 N)
            drawn += [made[:, first : first + count].reshape(-1, *shape) for shape, first, count in places]
        return drawn

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


Kept = dict[Asked, Tensor]  # numbers that have been drawn, independent


class BatchNoise:
    """The noise of the batches of a stream: ``batch_noise(positions)`` gives the numbers of ``Noise(seed, positions)``, at less cost. What
    the last batch asked for is drawn of the next one in one pass; on a CPU, where batches are small, of several to come.

    How far their positions lie apart is told by the last two that were seen; where it turns out another, only time is lost.

    Args:
        seed, clips: those of :class:`Noise`.
    """

    def __init__(self, seed: int, clips: ClipNoise = INDEPENDENT) -> None:
        self.seed, self.clips = seed, clips
        self._last = torch.zeros(0, dtype=torch.int64)  # positions of the last batch
        self._asked: dict[Asked, None] = {}  # of it, in order
        self._coming: list[tuple[Tensor, Kept]] = []  # positions and numbers of batches to come, the next one last
        self._batches = 1

    def __call__(self, positions: Tensor) -> Noise:
        """The noise of the samples at positions, int64, (B,), of the stream."""
        kept = self._kept(positions) if self._asked else {}
        self._asked, self._last = {}, positions
        return KeptNoise(Noise(self.seed, positions, clips=self.clips), kept, self._asked)

    def _kept(self, positions: Tensor) -> Kept:
        if positions.device.type != "cpu":  # comparing positions would wait for the device
            return self._drawn(positions)
        if self._coming:
            expected, kept = self._coming.pop()
            if torch.equal(expected, positions):
                return kept
            self._batches = 0
        self._batches = min(2 * self._batches, _BATCHES) or 1
        numbers = len(positions) * sum(math.prod(asked.shape) for asked in self._asked)
        batches = min(self._batches, _BATCH_NUMBERS // max(1, numbers))
        if batches < 2:
            return self._drawn(positions)
        every = positions + (positions[0] - self._last[0]) * torch.arange(batches)[:, None]  # (N, B)
        parts = {asked: part.unflatten(0, every.shape) for asked, part in self._drawn(every.flatten()).items()}
        self._coming = [(at, {asked: part[i] for asked, part in parts.items()}) for i, at in enumerate(every)][::-1]
        return self._coming.pop()[1]

    def _drawn(self, positions: Tensor) -> Kept:
        """What the last batch asked for, at other positions."""
        wanted = sorted(self._asked, key=lambda asked: asked.kind[0] is _normal)
        return dict(zip(wanted, Noise(self.seed, positions)._draw(*wanted), strict=True))


class KeptNoise(Noise):
    """A noise some of whose numbers have been drawn; it notes what it is asked for.

    Args:
        noise: the samples.
        kept: what has been drawn of them.
        asked: filled with what is asked for.
    """

    def __init__(self, noise: Noise, kept: Kept, asked: dict[Asked, None]) -> None:
        super().__init__(noise.seed, noise.indices, noise.step, noise.clips)
        self._kept, self._asked = kept, asked

    def _draw(self, *wanted: Asked) -> list[Tensor]:
        self._asked.update(dict.fromkeys(wanted))
        if all(asked in self._kept for asked in wanted):
            return [self._kept[asked] for asked in wanted]
        return super()._draw(*wanted)


def _blocks_of(count: int) -> int:
    """How many blocks of four words so many numbers take."""
    return (count + 3) // 4


@functools.lru_cache(maxsize=32)
def _counters(wanted: tuple[tuple[Stream, int], ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Block numbers and streams (shifted to their bits), each (N,)."""
    sizes = [(stream, _blocks_of(count)) for stream, count in wanted]
    blocks = torch.cat([torch.arange(size) for _, size in sizes])
    streams = torch.cat([torch.full((size,), int(stream) << 16) for stream, size in sizes])
    return blocks.to(device), streams.to(device)


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
