"""Counted randomness gives the known answers of Philox and the right distributions, and depends on its key alone."""

import numpy as np
import pytest
import torch
from scipy import stats

from diffsweep.diffusion import INDEPENDENT, BatchNoise, Noise, SharedNoise, Stream, noise, philox
from diffsweep.diffusion.noise_ahead import like_over
from diffsweep.diffusion.philox import Words, draw_words, round_keys

FULL = 0xFFFFFFFF


def words_of(counters, key):
    """Return the four words of each of the counters (B, 4) under a key, a pair of words."""
    even, odd = (counters[:, part].T[..., None].contiguous() for part in ([0, 2], [1, 3]))  # (2, B, 1)
    seed = torch.tensor([key[0] | (key[1] << 32)], dtype=torch.uint64).view(torch.int64)
    words = draw_words(Words(even, odd), round_keys(seed))
    return torch.stack([words.even[0], words.odd[0], words.even[1], words.odd[1]], dim=-1)[:, 0]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((FULL,) * 4, (FULL,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers_of_random123(counter, key, expected):
    assert tuple(words_of(torch.tensor([counter]), key)[0].tolist()) == expected


def test_philox_equals_python_integers():
    """Ten rounds on random counters are the same in Python's exact integers."""

    def rounds(c, k):
        for _ in range(10):
            p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
            c = ((p1 >> 32) ^ c[1] ^ k[0], p1 & FULL, (p0 >> 32) ^ c[3] ^ k[1], p0 & FULL)
            k = ((k[0] + 0x9E3779B9) & FULL, (k[1] + 0xBB67AE85) & FULL)
        return c

    random = np.random.default_rng(0)
    counters, key = random.integers(0, 2**32, (20, 4)), tuple(map(int, random.integers(0, 2**32, 2)))
    words = words_of(torch.from_numpy(counters), key)
    assert words.tolist() == [list(rounds(tuple(map(int, counter)), key)) for counter in counters]


def test_the_arithmetic_of_a_gpu_gives_the_same_words():
    even, odd = torch.randint(2**32, (2, 2, 5, 7))
    keys = round_keys(torch.arange(5) * 12345678901)
    factors = philox.constants(keys.device)[0]
    by_torch = philox.philox_4x32(even.clone(), odd.clone(), torch.empty_like(even), keys, factors)
    for ours, theirs in zip(draw_words(Words(even, odd), keys), by_torch, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normals_are_normal(dtype):
    z = Noise(3, torch.arange(4000)).normal(5, 10, stream=Stream.EPS, dtype=dtype)
    assert z.shape == (4000, 5, 10)
    assert z.dtype == dtype
    values = z.flatten().double().numpy()
    n = len(values)
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):  # variances of z^p
        assert abs((values**power).mean() - expected) < 4 * (variance / n) ** 0.5
    assert stats.kstest(values, "norm").pvalue > 0.001


def test_numbers_of_a_sample_are_uncorrelated():
    """So are the two that Box and Muller make of one pair, and their squares."""
    z = Noise(5, torch.arange(50_000)).normal(8, stream=Stream.STEP, dtype=torch.float64)
    for values in (z, z**2):
        off_diagonal = torch.corrcoef(values.T) - torch.eye(8).double()
        assert off_diagonal.abs().max() < 4.5 / 50_000**0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniforms_are_uniform(dtype):
    u = Noise(4, torch.arange(20_000)).uniform(3, stream=Stream.TIME, dtype=dtype)
    assert u.shape == (20_000, 3)
    assert u.dtype == dtype
    assert stats.kstest(u.flatten().double().numpy(), "uniform").pvalue > 0.001


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("word", [0, FULL])
def test_uniforms_lie_strictly_between_0_and_1(monkeypatch, dtype, word):
    """They do for the smallest and the largest word too; u = 1 would be a time beyond the grid."""
    monkeypatch.setattr(noise, "draw_words", lambda counters, keys: Words(*[torch.full_like(counters.even, word)] * 2))
    u = Noise(0, torch.arange(1)).uniform(4, stream=Stream.TIME, dtype=dtype)
    assert (u > 0).all()
    assert (u < 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("word", [0, FULL])
def test_normals_are_finite_at_the_extreme_words(monkeypatch, dtype, word):
    monkeypatch.setattr(noise, "draw_words", lambda counters, keys: Words(*[torch.full_like(counters.even, word)] * 2))
    z = Noise(0, torch.arange(1)).normal(4, stream=Stream.STEP, dtype=dtype)
    assert torch.isfinite(z).all()
    assert z.abs().max() <= 6.8


def test_a_row_is_the_same_in_any_batch_and_order():
    indices = torch.tensor([7, 0, 123456, 7, 2**33 + 5])
    batch = Noise(1, indices, step=3)
    for draw in (batch.normal(2, 3, stream=Stream.STEP), batch.uniform(5, stream=Stream.TIME)):
        assert torch.equal(draw[0], draw[3])
    whole = batch.normal(2, 3, stream=Stream.STEP)
    for row, index in enumerate(indices):
        assert torch.equal(Noise(1, index[None], step=3).normal(2, 3, stream=Stream.STEP)[0], whole[row])
    assert torch.equal(batch[1:3].normal(2, 3, stream=Stream.STEP), whole[1:3])
    order = torch.tensor([4, 2, 0, 1, 3])
    assert torch.equal(Noise(1, indices[order], step=3).normal(2, 3, stream=Stream.STEP), whole[order])


def test_a_longer_draw_begins_with_the_shorter_one():
    noise = Noise(0, torch.arange(3))
    assert torch.equal(noise.normal(5, stream=Stream.EPS), noise.normal(50, stream=Stream.EPS)[:, :5])


def test_float64_is_float32_with_more_digits():
    noise = Noise(2, torch.arange(1000))
    single, double = (noise.normal(4, stream=Stream.EPS, dtype=dtype) for dtype in (torch.float32, torch.float64))
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=2e-6)


def test_every_part_of_the_key_changes_the_noise():
    """Noises of different seeds, indices, streams and steps are uncorrelated with each other.

    Seeds and indices beyond 32 bits and negative seeds are among them.
    """
    first = torch.arange(20_000)
    draws = [Noise(seed, first).normal(stream=Stream.EPS) for seed in (0, 1, 2**32, 2**40 + 1, -1)]
    draws += [Noise(0, first, step).normal(stream=Stream.EPS) for step in (1, 2, 1000)]
    draws += [Noise(0, first + shift).normal(stream=Stream.EPS) for shift in (20_000, 2**32, 2**40)]
    draws += [Noise(0, first).normal(stream=stream) for stream in Stream if stream != Stream.EPS]
    correlation = torch.corrcoef(torch.stack(draws).double()) - torch.eye(len(draws))
    assert correlation.abs().max() < 4.5 / 20_000**0.5


def test_another_step_has_the_same_samples():
    noise = Noise(9, torch.arange(4))
    assert torch.equal(
        noise.at(7).normal(2, stream=Stream.STEP), Noise(9, torch.arange(4), 7).normal(2, stream=Stream.STEP)
    )
    assert len(noise.at(7)) == 4


def test_noise_like_a_tensor_has_its_shape_and_dtype():
    x = torch.empty(3, 1, 4, 4, dtype=torch.float64)
    noise = Noise(0, torch.arange(3))
    assert torch.equal(noise.like(x, Stream.EPS), noise.normal(1, 4, 4, stream=Stream.EPS, dtype=torch.float64))
    assert torch.equal(noise.like(x), noise.normal(1, 4, 4, stream=Stream.STEP, dtype=torch.float64))


def batches(*firsts, size=4):
    return [torch.arange(first, first + size) for first in firsts]


STREAMS = {
    "one device": batches(*range(2**33, 2**33 + 200, 4)),
    "one of three devices": batches(*range(4, 400, 12)),
    "begun anew": batches(*range(0, 60, 4), *range(400, 460, 4), 0, 0, 0),
    "of several sizes": [*batches(0, 4, 8, 12), *batches(16, 22, 28, size=6), *batches(34, 38, 42, 46)],
    "in no order": list(torch.randint(1000, (40, 4), generator=torch.Generator().manual_seed(0))),
    "of one sample": batches(*range(40), size=1),
}


def draws_of(noise, batch):
    """Return some draws of a training step, which are not always the same."""
    x = torch.empty(len(noise), 2, 3, 2, 2, dtype=torch.float64 if batch > 20 else torch.float32)
    drawn = [noise.uniform(stream=Stream.TIME), noise.like(x, Stream.EPS), noise.like(x, Stream.POSTERIOR)]
    drawn.append(noise.at(1).like(x))
    return drawn + [noise.uniform(5, stream=Stream.DATA)] * (batch % 7 == 0)


@pytest.mark.parametrize("clips", [INDEPENDENT, SharedNoise(0.5)], ids=["independent", "shared"])
@pytest.mark.parametrize("kind", STREAMS)
def test_the_noise_of_batches_is_that_of_their_samples(kind, clips):
    """It is so in whatever order batches follow each other."""
    batch_noise = BatchNoise(7, clips)
    for batch, positions in enumerate(STREAMS[kind]):
        ours, plain = batch_noise(positions), Noise(7, positions, clips=clips)
        for drawn, expected in zip(draws_of(ours, batch), draws_of(plain, batch), strict=True):
            assert torch.equal(drawn, expected)


@pytest.mark.parametrize(("numbers", "passes"), [(16, 21), (2**13, 88), (2**16, 257)])
def test_batches_that_follow_each_other_are_drawn_together(monkeypatch, numbers, passes):
    """All draws of a step are made in one pass, and small ones of 16 steps at once.

    The first passes are over 1, 2, 4 and 8 steps.
    """
    calls = []
    draw = noise.draw_words
    monkeypatch.setattr(noise, "draw_words", lambda *parts: calls.append(1) or draw(*parts))
    batch_noise = BatchNoise(0)
    for positions in batches(*range(4, 4 * 257, 4)):
        drawn = batch_noise(positions)
        drawn.uniform(stream=Stream.TIME), drawn.normal(numbers // 4, stream=Stream.EPS)
    assert len(calls) <= passes


@pytest.mark.parametrize("shape", [(4, 1, 4, 4), (4, 3), (4,)])
def test_one_pass_over_steps_draws_what_each_step_draws(shape):
    noise, x = Noise(5, torch.arange(2**33, 2**33 + 4)), torch.empty(shape)
    drawn = like_over(noise, x, range(3, 9, 2), Stream.EPS)
    assert torch.equal(drawn, torch.stack([noise.at(step).like(x, Stream.EPS) for step in (3, 5, 7)]))


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    Noise(0, torch.arange(10)).normal(100, stream=Stream.EPS)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.gpu
def test_words_are_the_same_on_a_gpu():
    cpu, gpu = (Noise(1, torch.arange(1000, device=device), 5) for device in ("cpu", "cuda"))
    for ours, theirs in zip(
        *(each.words(torch.arange(16).to(each.indices), Stream.EPS) for each in (cpu, gpu)), strict=True
    ):
        assert torch.equal(ours, theirs.cpu())
    assert torch.equal(cpu.uniform(8, stream=Stream.TIME), gpu.uniform(8, stream=Stream.TIME).cpu())
    torch.testing.assert_close(
        cpu.normal(64, stream=Stream.EPS), gpu.normal(64, stream=Stream.EPS).cpu(), rtol=1e-5, atol=1e-5
    )
