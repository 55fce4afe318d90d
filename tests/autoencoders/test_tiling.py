"""Decoding in tiles against decoding the whole; applying functions to slices of a batch."""

import pytest
import torch
from torch.nn import functional

from diffsweep.autoencoders import decode_in_tiles, in_slices


def local(radius, factor, channels=3):
    """Return a decoder whose pixels depend on latents at sizes ``radius`` away, with zero padding."""
    weight = torch.randn(channels, 2, 2 * radius + 1, 2 * radius + 1, dtype=torch.float64)

    def decode(z):
        x = functional.conv2d(z, weight, padding=radius).tanh() + 1
        return x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)

    return decode


@pytest.mark.parametrize("factor", [1, 4])
@pytest.mark.parametrize("size", [(16, 16), (16, 17), (37, 9), (5, 40), (23, 61)])
@pytest.mark.parametrize(("tile", "overlap", "radius"), [(16, 8, 2), (12, 4, 1), (8, 7, 1), (10, 0, 0), (9, 3, 0)])
def test_tiles_equal_the_whole_for_a_local_decoder(factor, size, tile, overlap, radius):
    decode, z = local(radius, factor), torch.randn(2, 2, *size, dtype=torch.float64)
    torch.testing.assert_close(decode_in_tiles(decode, z, tile, overlap, factor), decode(z))


def test_tiles_have_the_requested_size_and_the_least_number():
    sizes = []

    def decode(z):
        sizes.append(tuple(z.shape[-2:]))
        return z

    z = torch.randn(1, 2, 40, 6)
    torch.testing.assert_close(decode_in_tiles(decode, z, 16, 4, 1), z)
    assert sizes == [(16, 6)] * 3  # 16 + 2 x 12 = 40


def test_latents_that_fit_a_tile_are_decoded_at_once():
    calls = []
    z = torch.randn(1, 2, 5, 6)
    assert torch.equal(decode_in_tiles(lambda z: calls.append(1) or z.exp(), z, 6, 3, 1), z.exp())
    assert calls == [1]


def test_tiles_that_differ_are_blended_linearly():
    """The tiles have the values 0, 1, ...; the blend of neighbours is a ramp over the inner half of the overlap."""
    count = iter(range(10))
    out = decode_in_tiles(lambda z: torch.full_like(z, next(count)), torch.zeros(1, 1, 4, 24).double(), 16, 8, 1)
    ramp = torch.cat([torch.zeros(10), torch.tensor([0.125, 0.375, 0.625, 0.875]), torch.ones(10)]).double()
    torch.testing.assert_close(out[0, 0], ramp.expand(4, 24))


@pytest.mark.parametrize("size", [1, 3, 7, 20])
def test_slices_equal_the_whole(size):
    x, sizes = torch.randn(7, 3), []
    torch.testing.assert_close(in_slices(lambda part: sizes.append(len(part)) or part.exp(), x, size), x.exp())
    assert max(sizes) == min(size, 7)


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0), (4, 4), (4, -1)])
def test_tiles_that_do_not_fit_are_refused(tile, overlap):
    with pytest.raises(ValueError, match="overlap"):
        decode_in_tiles(lambda z: z, torch.zeros(1, 1, 8, 8), tile, overlap, 1)


def test_slices_of_no_sample_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        in_slices(lambda x: x, torch.zeros(3, 1), 0)
