"""Patches and their positions: the equivalent convolution, published positions, and relative rotations."""

import math

import pytest
import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from einops import rearrange

from diffsweep.layers import PatchEmbedding, axial_rotation, patch_grid, rotate, sincos_positions, unpatchify

CPU = torch.device("cpu")


@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_embedding_patches_is_a_strided_convolution(patch_size):
    layer, x = PatchEmbedding(3, 5, patch_size).double(), torch.randn(2, 3, 8, 4, dtype=torch.float64)
    weight = layer.weight.reshape(5, 3, patch_size, patch_size)
    expected = torch.nn.functional.conv2d(x, weight, layer.bias, stride=patch_size)
    torch.testing.assert_close(layer(x), expected.flatten(2).mT)


def test_unpatchify_inverts_cutting_into_patches():
    """Token (i, j) holds all channels of each of its p x p pixels."""
    x = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
    tokens = torch.stack([x[:, :, i : i + 2, j : j + 2] for i in (0, 2) for j in (0, 2, 4)], dim=1)  # (B, N, C, p, p)
    assert torch.equal(unpatchify(tokens.permute(0, 1, 3, 4, 2).flatten(2), (2, 3), 2), x)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((8, 8, 3), "backbone.patch_size=3 does not divide the 8-pixel image; use 1, 2, 4 or 8"),
        ((12, 8, 8), "backbone.patch_size=8 does not divide the 12 x 8-pixel image; use 1, 2 or 4"),
        ((7, 5, 2), "backbone.patch_size=2 does not divide the 7 x 5-pixel image; use 1"),
        ((4, 4, 0), "backbone.patch_size=0 does not divide the 4-pixel image; use 1, 2 or 4"),
    ],
)
def test_a_patch_size_that_does_not_divide_is_refused_with_those_that_do(sizes, message):
    with pytest.raises(ValueError) as error:
        patch_grid(*sizes)
    assert str(error.value) == message


def test_positions_equal_those_of_diffusers():
    expected = get_2d_sincos_pos_embed(24, 5, base_size=5, output_type="pt", device=CPU)
    torch.testing.assert_close(sincos_positions((5, 5), 24, CPU, torch.float64), expected, rtol=0, atol=1e-6)


def test_positions_of_a_grid_that_is_not_square_are_the_written_out_formula():
    """The channels are sines and cosines of the column, then of the row."""
    positions = sincos_positions((2, 3), 8, CPU, torch.float64)
    for row in range(2):
        for column in range(3):
            expected = [f(at * w) for at in (column, row) for f in (math.sin, math.cos) for w in (1, 0.01)]
            assert positions[3 * row + column].tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("extras", [0, 2])
def test_rotated_scores_depend_on_offsets_only_and_are_the_closed_form(extras):
    """The score of q at position p and k at position p' is the sum over the planes i of

    (q_i . k_i) cos(w_i d) + (q_i x k_i) sin(w_i d), with d the offset p - p' along the axis of the plane.
    """
    q, k = torch.randn(2, 8, dtype=torch.float64)
    rotation = axial_rotation((3, 4), 8, extras, CPU, torch.float64)
    turned_q, turned_k = (rotate(vector.expand(1, 1, extras + 12, 8), rotation)[0, 0] for vector in (q, k))
    scores = (turned_q @ turned_k.T)[extras:, extras:]
    planes = [(0, 0, 1.0), (1, 0, 0.01), (2, 1, 1.0), (3, 1, 0.01)]  # plane, axis, frequency
    for a in range(12):
        for b in range(12):
            offset = a // 4 - b // 4, a % 4 - b % 4
            expected = sum(
                (q[i] * k[i] + q[i + 4] * k[i + 4]) * math.cos(w * offset[axis])
                + (q[i] * k[i + 4] - q[i + 4] * k[i]) * math.sin(w * offset[axis])
                for i, axis, w in planes
            )
            assert float(scores[a, b]) == pytest.approx(float(expected), abs=1e-12)
    assert torch.equal(turned_q[:extras], q.expand(extras, 8))  # tokens without a position are not rotated


def test_positions_are_computed_once_and_follow_device_and_type():
    assert sincos_positions((4, 4), 8, CPU, torch.float32) is sincos_positions((4, 4), 8, CPU, torch.float32)
    assert sincos_positions((4, 4), 8, CPU, torch.bfloat16).dtype == torch.bfloat16
    assert sincos_positions((4, 4), 8, torch.device("meta"), torch.float32).is_meta


def test_tokens_are_contiguous():
    """Tokens are contiguous even for an image in channels-last memory, where a convolution would permute them."""
    x = torch.randn(2, 3, 8, 8).double().to(memory_format=torch.channels_last)
    layer = PatchEmbedding(3, 5, 2).double()
    assert layer(x).is_contiguous()
    torch.testing.assert_close(layer(x), layer(x.contiguous()), rtol=0, atol=1e-12)
    assert rearrange(layer(x), "b (h w) c -> b c h w", h=4).shape == (2, 5, 4, 4)
