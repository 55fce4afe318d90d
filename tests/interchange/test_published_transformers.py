"""Weights in the forms of DiT and U-ViT give the outputs of these codes in our networks."""

import math

import pytest
import torch
from public_networks import Weights, sinusoids, softmax_attention
from torch.nn import functional

from diffsweep.backbones import DiT, UViT
from diffsweep.diffusion import Condition
from diffsweep.errors import UserError
from diffsweep.interchange.published import load

WIDTH, HEADS, DEPTH, PATCH, CLASSES = 16, 2, 3, 2, 5


def attention(w, key, x):
    """Return attention whose layer has all queries, then keys, then values, as in timm and U-ViT."""
    q, k, v = w.linear(f"{key}.qkv", x).mT.chunk(3, dim=1)
    heads = zip(*(part.chunk(HEADS, dim=1) for part in (q, k, v)), strict=True)
    return w.linear(f"{key}.proj", torch.cat([softmax_attention(*head) for head in heads], dim=1).mT)


def patches(w, key, x):
    tokens = functional.conv2d(x, w[f"{key}.weight"], w[f"{key}.bias"], stride=PATCH)
    return tokens.flatten(2).mT


def image(tokens, channels):
    """Return the image of tokens that have the pixels of a patch in the order row, column, channel."""
    side = math.isqrt(tokens.shape[1])
    x = tokens.reshape(len(tokens), side, side, PATCH, PATCH, channels)
    return torch.einsum("bhwpqc->bchpwq", x).reshape(len(x), channels, side * PATCH, side * PATCH)


def positions(side):
    """Return MAE's table: sines, cosines of the column, then of the row, (side^2, WIDTH)."""
    omega = [10000 ** (-i / (WIDTH // 4)) for i in range(WIDTH // 4)]
    return torch.tensor([
        [f(o * number) for number in (column, row) for f in (math.sin, math.cos) for o in omega]
        for row in range(side)
        for column in range(side)
    ])  # fmt: skip


def dit_weights(classes=CLASSES + 1):
    w = Weights()
    w["pos_embed"] = positions(4)[None]
    w.layer("x_embedder.proj", WIDTH, 4, PATCH, PATCH)
    w.layer("t_embedder.mlp.0", WIDTH, 256)
    w.layer("t_embedder.mlp.2", WIDTH, WIDTH)
    w.add("y_embedder.embedding_table.weight", classes, WIDTH)
    for i in range(DEPTH):
        w.layer(f"blocks.{i}.attn.qkv", 3 * WIDTH, WIDTH)
        w.layer(f"blocks.{i}.attn.proj", WIDTH, WIDTH)
        w.layer(f"blocks.{i}.mlp.fc1", 4 * WIDTH, WIDTH)
        w.layer(f"blocks.{i}.mlp.fc2", WIDTH, 4 * WIDTH)
        w.layer(f"blocks.{i}.adaLN_modulation.1", 6 * WIDTH, WIDTH)
    w.layer("final_layer.linear", PATCH**2 * 8, WIDTH)
    w.layer("final_layer.adaLN_modulation.1", 2 * WIDTH, WIDTH)
    return w


def dit(w, x, t, labels):
    """Return the output of a DiT with adaLN-zero (section 3.2 of arXiv:2212.09748)."""
    c = w.linear("t_embedder.mlp.2", functional.silu(w.linear("t_embedder.mlp.0", sinusoids(t, 256))))
    c = functional.silu(c + w["y_embedder.embedding_table.weight"][labels])
    x = patches(w, "x_embedder.proj", x) + w["pos_embed"]

    def modulated(x, shift, scale):
        return functional.layer_norm(x, (WIDTH,), eps=1e-6) * (1 + scale) + shift

    for i in range(DEPTH):
        key = f"blocks.{i}"
        shift1, scale1, gate1, shift2, scale2, gate2 = w.linear(f"{key}.adaLN_modulation.1", c)[:, None].chunk(6, -1)
        x = x + gate1 * attention(w, f"{key}.attn", modulated(x, shift1, scale1))
        h = w.linear(f"{key}.mlp.fc1", modulated(x, shift2, scale2))
        x = x + gate2 * w.linear(f"{key}.mlp.fc2", functional.gelu(h, approximate="tanh"))
    shift, scale = w.linear("final_layer.adaLN_modulation.1", c)[:, None].chunk(2, -1)
    return image(w.linear("final_layer.linear", modulated(x, shift, scale)), 8)


def our_dit(**settings):
    sizes = {"channels": WIDTH, "depth": DEPTH, "num_heads": HEADS, "num_classes": CLASSES}
    return DiT(4, 8, 8, **{**sizes, **settings}).eval()


t = torch.tensor([3.0, 741.5])
labels = torch.tensor([4, 1])


def test_dit_equals_the_public_one_with_its_null_class():
    w, network, x = dit_weights(), our_dit(), torch.randn(2, 4, 8, 8)
    assert load({"ema": w, "opt": {}, "model": {}}, network, "file.pt").form.name == "dit"
    with torch.no_grad():
        torch.testing.assert_close(network(x, t, Condition(vector=labels)), dit(w, x, t, labels), rtol=1e-4, atol=1e-4)
        null = Condition(vector=labels, is_null=torch.tensor([True, False]))
        expected = dit(w, x, t, torch.tensor([CLASSES, 1]))
        torch.testing.assert_close(network(x, t, null), expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.1


def test_a_dit_of_other_positions_or_options_is_refused():
    w = dit_weights()
    with pytest.raises(UserError, match=r"backbone.rope=False, not True"):
        load(w, our_dit(rope=True), "file.pt")
    with pytest.raises(UserError, match=r"it lacks a counterpart of .*norm_attention"):
        load(w, our_dit(block="in_context"), "file.pt")
    w["pos_embed"] = w["pos_embed"].flip(1)
    with pytest.raises(UserError, match=r"pos_embed is not the table of sines"):
        load(w, our_dit(), "file.pt")


def uvit_weights(classes=None, conv=True):
    w = Weights()
    w.layer("patch_embed.proj", WIDTH, 3, PATCH, PATCH)
    w.add("pos_embed", 1, 16 + (1 if classes is None else 2), WIDTH)
    if classes is not None:
        w.add("label_emb.weight", classes, WIDTH)
    for key in ("in_blocks.0", "mid_block", "out_blocks.0"):
        for norm in ("norm1", "norm2"):
            w.norm(f"{key}.{norm}", WIDTH)
        w.layer(f"{key}.attn.qkv", 3 * WIDTH, WIDTH, bias=False)
        w.layer(f"{key}.attn.proj", WIDTH, WIDTH)
        w.layer(f"{key}.mlp.fc1", 4 * WIDTH, WIDTH)
        w.layer(f"{key}.mlp.fc2", WIDTH, 4 * WIDTH)
    w.layer("out_blocks.0.skip_linear", WIDTH, 2 * WIDTH)
    w.norm("norm", WIDTH)
    w.layer("decoder_pred", PATCH**2 * 3, WIDTH)
    if conv:
        w.layer("final_layer", 3, 3, 3, 3)
    return w


def uvit(w, x, t, labels=None):
    """Return the output of a U-ViT of three blocks (figure 1 of arXiv:2209.12152)."""
    tokens = [patches(w, "patch_embed.proj", x)]
    tokens.insert(0, sinusoids(t, WIDTH)[:, None])
    if labels is not None:
        tokens.insert(0, w["label_emb.weight"][labels][:, None])
    h = torch.cat(tokens, dim=1) + w["pos_embed"]

    def block(key, h):
        h = h + attention(w, f"{key}.attn", w.layer_norm(f"{key}.norm1", h))
        inner = functional.gelu(w.linear(f"{key}.mlp.fc1", w.layer_norm(f"{key}.norm2", h)))
        return h + w.linear(f"{key}.mlp.fc2", inner)

    skip = block("in_blocks.0", h)
    h = torch.cat([block("mid_block", skip), skip], dim=-1)
    h = block("out_blocks.0", w.linear("out_blocks.0.skip_linear", h))
    x = image(w.linear("decoder_pred", w.layer_norm("norm", h))[:, len(tokens) - 1 :], 3)
    return w.conv("final_layer", x) if "final_layer.weight" in w else x


@pytest.mark.parametrize(("rows", "conv"), [(None, True), (CLASSES + 1, False), (CLASSES, True)])
def test_uvit_equals_the_public_one(rows, conv):
    w, x = uvit_weights(rows, conv), torch.randn(2, 3, 8, 8)
    classes = None if rows is None else CLASSES
    network = UViT(3, 3, 8, channels=WIDTH, depth=3, num_heads=HEADS, num_classes=classes, conv=conv).eval()
    assert load(w, network, "file.pt").form.name == "uvit"
    given = None if rows is None else labels
    with torch.no_grad():
        expected = uvit(w, x, t, given)
        torch.testing.assert_close(network(x, t, Condition(vector=given)), expected, rtol=1e-4, atol=1e-4)
        if rows == CLASSES + 1:
            null = torch.full((2,), CLASSES)
            torch.testing.assert_close(network(x, t), uvit(w, x, t, null), rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.1


@pytest.mark.parametrize("key", ["time_embed.0.weight", "context_embed.weight"])
def test_a_uvit_with_other_parts_is_refused(key):
    network = UViT(3, 3, 8, channels=WIDTH, depth=3, num_heads=HEADS)
    with pytest.raises(UserError, match=r"which backbone=uvit does not have"):
        load({**uvit_weights(), key: torch.zeros(1)}, network, "file.pt")
