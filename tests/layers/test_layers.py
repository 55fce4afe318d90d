"""Attention, embeddings and norms against written-out formulas."""

import math

import pytest
import torch

from diffsweep.layers import SelfAttention2d, SinusoidalEmbedding, evaluating, group_norm, zero_init


@pytest.fixture(params=[1, 2, 4])
def attention(request):
    layer = SelfAttention2d(16, heads=request.param).double()
    torch.nn.init.normal_(layer.to_out.weight)
    torch.nn.init.normal_(layer.to_out.bias)
    return layer


def test_attention_is_the_written_out_softmax(attention):
    x, heads = torch.randn(2, 16, 3, 5, dtype=torch.float64), attention.heads
    out = torch.empty(2, 16, 15, dtype=torch.float64)
    tokens = attention.norm(x).flatten(2)  # (B, C, N)
    qkv = attention.to_qkv.weight[:, :, 0, 0] @ tokens + attention.to_qkv.bias[:, None]
    for row in range(2):
        for head in range(heads):
            size = 16 // heads
            q, k, v = (qkv[row, part * 16 + head * size : part * 16 + (head + 1) * size] for part in range(3))
            scores = torch.exp(q.T @ k / math.sqrt(size))  # (queries, keys)
            out[row, head * size : (head + 1) * size] = v @ (scores / scores.sum(1, keepdim=True)).T
    expected = x + (attention.to_out.weight[:, :, 0, 0] @ out + attention.to_out.bias[:, None]).reshape(x.shape)
    torch.testing.assert_close(attention(x), expected)


def test_attention_is_equivariant_to_permutations_of_positions(attention):
    x, order = torch.randn(2, 16, 4, 4, dtype=torch.float64), torch.randperm(16)
    moved = x.flatten(2)[:, :, order].reshape(x.shape)
    torch.testing.assert_close(attention(moved).flatten(2), attention(x).flatten(2)[:, :, order])


def test_attention_is_the_identity_at_initialisation():
    x = torch.randn(2, 8, 3, 3)
    assert torch.equal(SelfAttention2d(8)(x), x)


def test_heads_must_divide_channels():
    with pytest.raises(ValueError, match="8 channels cannot be split into 3"):
        SelfAttention2d(8, heads=3)


@pytest.mark.parametrize("dim", [2, 8, 32])
def test_sinusoidal_embedding_is_the_published_formula(dim):
    """The cosines come first, then the sines, with frequencies 10000^(-i / (D/2))."""
    c = torch.tensor([0.0, 1.0, 499.0, 999.0])
    expected = [
        [f(value * 10000 ** (-i / (dim // 2))) for f in (math.cos, math.sin) for i in range(dim // 2)]
        for value in c.tolist()
    ]
    torch.testing.assert_close(SinusoidalEmbedding(dim)(c), torch.tensor(expected), rtol=0, atol=1e-4)


@pytest.mark.parametrize("dim", [8, 32])
@pytest.mark.parametrize("num_steps", [10, 1000, 4000])
def test_embeddings_of_different_times_of_a_grid_are_distinct(dim, num_steps):
    times = 1000 * torch.arange(num_steps) / num_steps
    embedded = SinusoidalEmbedding(dim)(times).double()
    distance = torch.cdist(embedded, embedded, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(9)
    assert distance.min() > 0.1 * min(1, 1000 / num_steps)


def test_an_odd_size_of_embedding_is_refused():
    with pytest.raises(ValueError, match="even size, at least 4 with an endpoint, not 7"):
        SinusoidalEmbedding(7)


def test_float64_times_have_float64_embeddings():
    assert SinusoidalEmbedding(8)(torch.zeros(2, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("channels", [2, 6, 8, 12, 32, 48, 96, 512])
def test_norm_groups_divide_the_channels_and_hold_more_than_one(channels):
    """A group of one channel would remove whatever is constant in that channel, such as the time embedding."""
    groups = group_norm(channels).num_groups
    assert channels % groups == 0
    assert groups <= 32
    assert channels // groups > 1


def test_zero_init_zeroes_every_parameter_and_returns_the_module():
    layer = torch.nn.Conv2d(2, 3, 3)
    assert zero_init(layer) is layer
    assert not any(parameter.any() for parameter in layer.parameters())


def test_evaluating_restores_the_mode_of_each_submodule_even_after_an_error():
    network = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Sequential(torch.nn.Dropout()), torch.nn.Dropout())
    network[1].eval()
    modes = [part.training for part in network.modules()]

    def fail():
        with evaluating(network):
            assert not any(part.training for part in network.modules())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [part.training for part in network.modules()] == modes
