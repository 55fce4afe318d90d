"""Layers of U-Nets against written-out formulas."""

import pytest
import torch
from weights import drawn, normal

from diffsweep.backbones.unet_blocks import ConvNeXtBlock, SpatialTransformer
from diffsweep.layers import (
    ClassEmbedding,
    Downsample,
    ResidualBlock,
    SelfAttention2d,
    TokenContext,
    Upsample,
    enlarge,
    group_norm,
    linear_attention,
    pool,
)

functional = torch.nn.functional


def test_linear_attention_is_a_mean_with_weights_that_are_a_product_of_softmaxes():
    """The weights are softmax(q) softmax(k)^T, whose rows are positive and sum to 1."""
    q, k, v = normal(2, 3, 7, 4), normal(2, 3, 5, 4), normal(2, 3, 5, 6)
    weights = torch.exp(q) / torch.exp(q).sum(-1, keepdim=True)
    weights = torch.einsum("bnid,bnjd->bnij", weights, torch.exp(k) / torch.exp(k).sum(-2, keepdim=True))
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 7, dtype=torch.float64))
    torch.testing.assert_close(linear_attention(q, k, v), torch.einsum("bnij,bnjd->bnid", weights, v))


def test_linear_attention_has_the_weights_of_full_attention_and_another_output():
    layer, x = drawn(SelfAttention2d(8, 2)), normal(2, 8, 3, 4)
    other = drawn(SelfAttention2d(8, 2, attend=linear_attention))
    other.load_state_dict(layer.state_dict())
    assert (layer(x) - other(x)).abs().max() > 1e-3


@pytest.mark.parametrize("groups", [1, 4, 6, 32])
@pytest.mark.parametrize("channels", [6, 8, 48, 128])
def test_norm_groups_are_at_most_the_requested_number(channels, groups):
    norm = group_norm(channels, groups, eps=1e-3)
    assert norm.num_groups <= groups
    assert channels // norm.num_groups >= min(4, channels)
    assert norm.eps == 1e-3


@pytest.mark.parametrize("size", [(4, 6), (3, 5), (1, 1)])
def test_pooling_is_the_mean_of_the_existing_pixels(size):
    x = normal(2, 3, *size)
    out = pool(x)
    assert out.shape[-2:] == tuple((side + 1) // 2 for side in size)
    for i in range(out.shape[-2]):
        for j in range(out.shape[-1]):
            mean = x[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((2, 3))
            torch.testing.assert_close(out[:, :, i, j], mean)


def test_enlarging_repeats_pixels_and_pooling_undoes_it():
    x = normal(2, 3, 4, 5)
    assert torch.equal(enlarge(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert enlarge(x, (7, 9)).shape == (2, 3, 7, 9)
    torch.testing.assert_close(pool(enlarge(x)), x)


def test_resampling_convolutions_work_without_time_and_size():
    x = normal(2, 3, 5, 4)
    down, up = Downsample(3, 6).double(), Upsample(3, 6).double()
    assert down(x).shape == (2, 6, 3, 2)
    torch.testing.assert_close(up(x), functional.conv2d(enlarge(x), up.weight, up.bias, padding=1))
    assert up(x, size=(9, 8)).shape == (2, 6, 9, 8)


@pytest.mark.parametrize("resample", [None, pool, enlarge])
def test_a_residual_block_scales_shifts_and_resamples_both_branches(resample):
    """The block is skip(r(x)) + conv(silu(norm(conv(r(silu(norm(x))))) (1 + scale) + shift))."""
    block, x, emb = drawn(ResidualBlock(8, 12, 6, 0.0, "scale_shift", resample)), normal(2, 8, 5, 5), normal(2, 6)
    change = resample or (lambda h, size: h)
    h = functional.conv2d(
        change(functional.silu(block.norm_in(x)), None), block.conv_in.weight, block.conv_in.bias, padding=1
    )
    scale, shift = (emb @ block.embed.weight.T + block.embed.bias)[:, :, None, None].split(12, dim=1)
    h = block.conv_out(functional.silu(block.norm_out(h) * (1 + scale) + shift))
    torch.testing.assert_close(block(x, emb), block.skip(change(x, None)) + h)


def test_a_residual_block_may_be_unconditional():
    """The block is skip(x) + conv(silu(norm(conv(silu(norm(x))))))."""
    block, x = drawn(ResidualBlock(8, 12, None)), normal(2, 8, 5, 5)
    assert not any("embed" in name for name, _ in block.named_parameters())
    h = block.conv_in(functional.silu(block.norm_in(x)))
    torch.testing.assert_close(block(x), block.skip(x) + block.conv_out(functional.silu(block.norm_out(h))))


def test_downsampling_can_pad_at_the_end_alone():
    """Output i depends on pixels 2 i to 2 i + 2, where the usual padding gives 2 i - 1 to 2 i + 1."""
    x, down = normal(2, 3, 6, 4), Downsample(3, 5, pad_end=True).double()
    out, padded = down(x), torch.zeros(2, 3, 7, 5, dtype=torch.float64)
    padded[:, :, :6, :4] = x
    assert out.shape == (2, 5, 3, 2)
    for i in range(3):
        for j in range(2):
            expected = torch.einsum("bchw,ochw->bo", padded[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3], down.weight)
            torch.testing.assert_close(out[:, :, i, j], expected + down.bias)


@pytest.mark.parametrize("time_embedding", ["additive", "scale_shift"])
def test_a_convnext_block_is_the_written_out_formula(time_embedding):
    block, x, emb = drawn(ConvNeXtBlock(8, 12, 6, 0.0, time_embedding)), normal(2, 8, 5, 9), normal(2, 6)
    h = torch.stack(
        [functional.conv2d(x[:, c : c + 1], block.depthwise.weight[c : c + 1], padding=3)[:, 0] for c in range(8)], 1
    )
    h = h + block.depthwise.bias[:, None, None]
    embedded = block.embed(emb)[:, :, None, None]
    h = (
        block.norm(h + embedded)
        if time_embedding == "additive"
        else block.norm(h) * (1 + embedded[:, :8]) + embedded[:, 8:]
    )
    h = torch.einsum("oc,bchw->bohw", block.conv_in.weight[:, :, 0, 0], h) + block.conv_in.bias[:, None, None]
    h = 0.5 * h * (1 + torch.erf(h / 2**0.5))
    torch.testing.assert_close(block(x, emb), block.skip(x) + block.conv_out(h))


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_every_residual_branch_starts_at_zero(scale):
    x, emb, context = torch.randn(2, 8, 4, 4), torch.randn(2, 6), torch.randn(2, 3, 5)
    for out in (
        ResidualBlock(8, 8, 6, residual_scale=scale)(x, emb),
        ConvNeXtBlock(8, 8, 6, residual_scale=scale)(x, emb),
        SelfAttention2d(8, residual_scale=scale)(x),
        SpatialTransformer(8, 2, context_dim=5, residual_scale=scale)(x, context),
    ):
        assert torch.equal(out, scale * x)


def test_residual_branches_can_start_at_other_values_than_zero():
    x = torch.randn(2, 8, 4, 4)
    for layer in (ResidualBlock(8, 8, None, zero=False), SelfAttention2d(8, zero=False)):
        assert (layer(x) - x).abs().max() > 1e-3


def test_queries_come_from_the_image_and_keys_and_values_from_the_tokens():
    """Cross-attention to equal tokens gives the value of one of them, whatever the query.

    The self-attention of the image is a layer of its own.
    """
    transformer, x = drawn(SpatialTransformer(8, 2, context_dim=5)), normal(2, 8, 3, 3)
    attention = transformer.blocks[0].cross_attention
    token, h = normal(2, 1, 5), normal(2, 9, 8)
    value = token @ attention.to_kv.weight[8:].T
    expected = attention.to_out(value).expand(2, 9, 8)
    torch.testing.assert_close(attention(h, token.expand(2, 4, 5)), expected)
    assert not torch.allclose(transformer(x, token), transformer(x, token + 1))


def test_class_ids_select_rows_and_null_the_last_row():
    table = ClassEmbedding(3, 4)
    ids, is_null = torch.tensor([2, 0, 1]), torch.tensor([False, True, False])
    assert torch.equal(table(ids, None, 3), table.weight[[2, 0, 1]])
    assert torch.equal(table(ids, is_null, 3), table.weight[[2, 3, 1]])
    assert torch.equal(table(None, None, 2), table.weight[[3, 3]])


def test_the_null_token_replaces_the_tokens_of_samples_that_have_none():
    context, tokens = TokenContext(4), torch.randn(3, 2, 4)
    token_mask, is_null = torch.tensor([[1, 0], [0, 0], [1, 1]]).bool(), torch.tensor([False, False, True])
    null = context.null.expand(2, 4)
    out, mask = context(tokens, token_mask, is_null, 3)
    assert torch.equal(out, torch.stack([tokens[0], null, null]))
    assert torch.equal(mask, torch.tensor([[1, 0], [1, 1], [1, 1]]).bool()[:, None, None])
    out, mask = context(tokens, None, is_null, 3)
    assert torch.equal(out, torch.stack([tokens[0], tokens[1], null]))
    assert mask is None
    assert torch.equal(context(tokens, None, None, 3)[0], tokens)
    assert torch.equal(context(None, None, None, 3)[0], context.null.expand(3, 1, 4))
