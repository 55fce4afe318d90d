"""Blocks over tokens against written-out formulas."""

import math

import pytest
import torch
from torch.nn import functional

from diffsweep.layers import (
    Block,
    ClassEmbedding,
    ContextEmbedding,
    CrossAttention,
    Modulation,
    ModulationTable,
    SelfAttention,
    SwiGLU,
    mlp,
    run_block,
    token_norm,
)


def softmax_attention(q, k, v, heads):
    """Attend with one head after the other: q is (N, C), k and v are (L, C)."""
    size, out = q.shape[1] // heads, torch.empty_like(q)
    for part in (slice(head * size, (head + 1) * size) for head in range(heads)):
        scores = torch.exp(q[:, part] @ k[:, part].T / math.sqrt(size))
        out[:, part] = scores / scores.sum(1, keepdim=True) @ v[:, part]
    return out


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_self_attention_is_the_written_out_softmax(heads):
    layer, x = SelfAttention(16, heads).double(), torch.randn(2, 5, 16, dtype=torch.float64)
    for row, out in zip(x, layer(x), strict=True):
        q, k, v = (row @ layer.to_qkv.weight.T + layer.to_qkv.bias).split(16, dim=1)
        torch.testing.assert_close(out, layer.to_out(softmax_attention(q, k, v, heads)))


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_cross_attention_is_the_softmax_over_unmasked_tokens(heads):
    layer = CrossAttention(16, heads).double()
    x, context = torch.randn(2, 5, 16, dtype=torch.float64), torch.randn(2, 3, 16, dtype=torch.float64)
    mask = torch.tensor([[True, False, True], [True, True, True]])
    for row, tokens, kept, out in zip(x, context, mask, layer(x, context, mask[:, None, None]), strict=True):
        k, v = layer.to_kv(tokens[kept]).split(16, dim=1)
        torch.testing.assert_close(out, layer.to_out(softmax_attention(layer.to_q(row), k, v, heads)))


@pytest.mark.parametrize("heads", [0, 3])
@pytest.mark.parametrize("layer", [SelfAttention, CrossAttention])
def test_heads_must_divide_channels(layer, heads):
    with pytest.raises(ValueError, match=f"backbone.num_heads={heads} does not divide backbone.channels=16"):
        layer(16, heads)


@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("cross", [True, False])
def test_qk_norm_bounds_the_logits_of_the_softmax(monkeypatch, qk_norm, cross):
    """|q . k| / sqrt(D) is at most sqrt(D) however large the input; without the norm it grows."""
    logits = []

    def spy(q, k, v, attn_mask=None):
        logits.append((q @ k.mT / math.sqrt(q.shape[-1])).abs().max().item())
        return v

    monkeypatch.setattr(functional, "scaled_dot_product_attention", spy)
    x = 100 * torch.randn(2, 6, 16)
    CrossAttention(16, 2, qk_norm=qk_norm)(x, x) if cross else SelfAttention(16, 2, qk_norm=qk_norm)(x)
    assert (logits[0] <= math.sqrt(8) + 1e-4) == qk_norm


def test_norms_are_the_written_out_formulas():
    x = torch.randn(3, 16, dtype=torch.float64) + 2
    rms, layer = token_norm(16, rms=True, affine=False)(x), token_norm(16, affine=False)(x)
    torch.testing.assert_close(rms, x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt())
    centred = x - x.mean(1, keepdim=True)
    torch.testing.assert_close(layer, centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt())


def test_swiglu_is_the_written_out_formula_and_has_as_many_parameters_as_the_mlp():
    layer, x = SwiGLU(12, 32).double(), torch.randn(5, 12, dtype=torch.float64)
    a, b = layer.linear_in(x).split(32, dim=1)
    torch.testing.assert_close(layer(x), layer.linear_out(a / (1 + torch.exp(-a)) * b))
    matrices = [sum(p.numel() for p in m.parameters() if p.ndim == 2) for m in (layer, mlp(12, 48, 12))]
    assert matrices[0] == matrices[1]


@pytest.mark.parametrize("count", [0, 4, 6])
@pytest.mark.parametrize("table", [True, False])
def test_a_block_is_the_written_out_formula(count, table):
    """The block is x + g A(N(x) (1 + s) + b), + X(x, context), + g M(N(x) (1 + s) + b).

    Without modulation the norms have weights.
    """
    modulation = (ModulationTable if table else Modulation)(16, count) if count else None
    block = Block(16, 2, modulation=modulation, cross=True).double()
    x, context = torch.randn(2, 5, 16, dtype=torch.float64), torch.randn(2, 3, 16, dtype=torch.float64)
    emb = torch.randn(*((2, count, 16) if table else (2, 16)), dtype=torch.float64)
    expected = torch.empty_like(x)
    for row in range(2):
        h = x[row]
        if count == 0:
            h = h + block.attention(block.norm_attention(h)[None])[0]
            h = h + block.cross(block.norm_cross(h)[None], context[row : row + 1])[0]
            expected[row] = h + block.mlp(block.norm_mlp(h))
            continue
        vectors = modulation.table + emb[row] if table else modulation.linear(emb[row]).reshape(count, 16)
        shift, scale, *gate = vectors[: count // 2]
        h = h + (gate[0] if gate else 1) * block.attention((block.norm_attention(h) * (1 + scale) + shift)[None])[0]
        h = h + block.cross(h[None], context[row : row + 1])[0]
        shift, scale, *gate = vectors[count // 2 :]
        expected[row] = h + (gate[0] if gate else 1) * block.mlp(block.norm_mlp(h) * (1 + scale) + shift)
    torch.testing.assert_close(block(x, emb, context), expected)


def test_a_checkpointed_block_is_recomputed_and_has_the_same_gradient():
    gradients, calls = [], []
    block, x = Block(8, 2), torch.randn(2, 4, 8)
    block.mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    for checkpointing, expected in ((False, 1), (True, 2)):
        calls.clear()
        (gradient,) = torch.autograd.grad(run_block(block, checkpointing, x).square().sum(), block.mlp[0].weight)
        gradients.append(gradient)
        assert len(calls) == expected
    assert torch.equal(*gradients)
    calls.clear()
    run_block(block.eval(), True, x).sum().backward()
    assert len(calls) == 1  # in training only


def test_classes_are_rows_and_the_last_row_is_the_null_class():
    layer = ClassEmbedding(3, 8)
    rows = layer.weight
    assert len(rows) == 4
    labels, is_null = torch.tensor([2, 0]), torch.tensor([False, True])
    assert torch.equal(layer(labels, None, 2), rows[[2, 0]])
    assert torch.equal(layer(labels, is_null, 2), rows[[2, 3]])
    assert torch.equal(layer(None, None, 2), rows[[3, 3]])
    with pytest.raises(ValueError, match=r"backbone.num_classes must be at least 1, or null"):
        ClassEmbedding(0, 8)


def test_samples_without_tokens_attend_to_the_null_token_alone():
    layer, tokens = ContextEmbedding(6, 8), torch.randn(3, 4, 6)
    kept = torch.tensor([[True, True, False, True], [False] * 4, [True] * 4])
    context, mask = layer(tokens, kept, torch.tensor([False, False, True]), 3)
    torch.testing.assert_close(context[0], layer.mlp(tokens[0]))
    assert torch.equal(context[1:], layer.context.null.expand(2, 4, 8))
    assert mask.shape == (3, 1, 1, 4)
    assert mask.flatten(1).tolist() == [[True, True, False, True], *[[True, False, False, False]] * 2]
    context, mask = layer(tokens, None, None, 3)
    torch.testing.assert_close(context, layer.mlp(tokens))
    assert mask is None
    context, mask = layer(None, None, None, 3)
    assert torch.equal(context, layer.context.null.expand(3, 1, 8))
    assert mask is None
