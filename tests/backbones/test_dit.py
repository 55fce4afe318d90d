"""DiT: published sizes and costs, equality with diffusers, and each way of conditioning."""

import pytest
import torch
from diffusers import DiTTransformer2DModel, PixArtTransformer2DModel
from networks import (
    assert_computing_blocks_again_changes_no_gradient,
    assert_every_parameter_learns,
    assert_it_compiles_as_one_graph,
)
from slower import some
from torch.utils.flop_counter import FlopCounterMode

from diffsweep.backbones import DiT
from diffsweep.backbones.dit import BLOCKS
from diffsweep.configuration.build import build
from diffsweep.diffusion import Condition

SWITCHES = ("qk_norm", "rope", "swiglu", "rms_norm")
VARIANTS = [{"block": block} for block in BLOCKS] + [{switch: True} for switch in SWITCHES]
NAME = lambda variant: "-".join(map(str, variant.items()))  # noqa: E731
variants = pytest.mark.parametrize("variant", VARIANTS, ids=NAME)
blocks = pytest.mark.parametrize("block", list(BLOCKS))


def small(**settings):
    """Return a tiny network with classes and tokens, with random weights in place of zeros."""
    settings = {"channels": 16, "depth": 2, "num_heads": 2, "num_classes": 3, "context_dim": 6, **settings}
    return randomised(DiT(2, 4, 8, **settings))


def randomised(network):
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network


def condition(batch=2, length=3):
    return Condition(vector=torch.arange(batch) % 3, tokens=torch.randn(batch, length, 6))


def inputs(size=8):
    return torch.randn(2, 2, size, size), torch.tensor([3.0, 700.0]), condition()


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


# --- the published sizes

TABLE = [  # arXiv:2212.09748: model, depth, width, heads, GFLOPs (multiply-adds) with patch 8, 4, 2
    ("s", 12, 384, 6, (0.36, 1.41, 6.06)),
    ("b", 12, 768, 12, (1.42, 5.56, 23.01)),
    ("l", 24, 1024, 16, (5.01, 19.70, 80.71)),
    ("xl", 28, 1152, 16, (7.39, 29.05, 118.64)),
]
LATENTS = ("space.channels=4", "space.out_channels=8", "space.image_size=32")


@pytest.mark.parametrize(
    ("name", "depth", "width", "heads", "patch", "cost"),
    [
        pytest.param(*row[:4], patch, cost, marks=pytest.mark.slow if patch > 2 else ())
        for row in TABLE
        for patch, cost in zip((8, 4, 2), row[4], strict=True)
    ],
)
def test_a_published_size_has_the_published_parameters_and_cost(compose, name, depth, width, heads, patch, cost):
    """Costs are for 32 x 32 x 4 latents, a learned variance and 1000 classes.

    Diffusers has a copy of the embeddings in every block.
    """
    cfg = compose(f"backbone=dit_{name}_{patch}", "backbone.num_classes=1000", *LATENTS)
    with torch.device("meta"):
        ours = build(cfg, "backbone")
        theirs = DiTTransformer2DModel(
            heads, width // heads, 4, 8, depth, sample_size=32, patch_size=patch, num_embeds_ada_norm=1000
        )
        with FlopCounterMode(display=False) as counter:
            assert ours(torch.empty(1, 4, 32, 32), torch.empty(1)).shape == (1, 8, 32, 32)
    copies = (depth - 1) * count(theirs.transformer_blocks[0].norm1.emb)
    assert count(ours) == count(theirs) - copies
    assert counter.get_total_flops() / 2e9 == pytest.approx(cost, rel=3e-4, abs=6e-3)
    if (name, patch) == ("xl", 2):
        assert count(ours) == 675_129_632 - 256 * 1152  # the authors' count includes the fixed positions
        assert counter.get_total_flops() / 2e9 == pytest.approx(118.62, abs=5e-3)


def test_pixart_has_the_published_parameters(compose):
    """The count is that of diffusers and the learned null token."""
    with torch.device("meta"):
        ours = build(compose("backbone=pixart", *LATENTS), "backbone")
        theirs = PixArtTransformer2DModel(sample_size=32, caption_channels=4096)
    assert count(ours) == count(theirs) + 1152 == 610_856_096 + 1152


# --- equality with diffusers

IN_BLOCK = {
    "norm1.linear": "modulation.linear",
    "attn1.to_out.0": "attention.to_out",
    "attn2.to_out.0": "cross.to_out",
    "attn2.to_q": "cross.to_q",
    "ff.net.0.proj": "mlp.0",
    "ff.net.2": "mlp.2",
}


def copy_weights(theirs, ours, names):
    """Copy each weight of theirs to ours; every parameter of ours but the null token is set, once."""
    source, state = theirs.state_dict(), {}

    def move(our_name, *their_names):
        state[f"{our_name}.weight"] = torch.cat([source[f"{name}.weight"].flatten(1) for name in their_names])
        state[f"{our_name}.bias"] = torch.cat([source[f"{name}.bias"] for name in their_names])

    for our_name, their_name in names.items():
        move(our_name, their_name)
    move("embed_patches", "pos_embed.proj")
    for index in range(len(theirs.transformer_blocks)):
        block = f"transformer_blocks.{index}"
        move(f"blocks.{index}.attention.to_qkv", *(f"{block}.attn1.to_{part}" for part in "qkv"))
        for their_name, our_name in IN_BLOCK.items():
            if f"{block}.{their_name}.weight" in source:
                move(f"blocks.{index}.{our_name}", f"{block}.{their_name}")
        if ours.embed_context is not None:
            move(f"blocks.{index}.cross.to_kv", *(f"{block}.attn2.to_{part}" for part in "kv"))
            state[f"blocks.{index}.modulation.table"] = source[f"{block}.scale_shift_table"]
    if ours.embed_context is not None:
        state["modulation_out.table"] = source["scale_shift_table"]
        state["embed_context.context.null"] = ours.embed_context.context.null
    if ours.embed_condition.classes is not None:
        emb = "transformer_blocks.0.norm1.emb"
        state["embed_condition.classes.weight"] = source[f"{emb}.class_embedder.embedding_table.weight"]
    ours.load_state_dict(state)


def test_it_equals_the_dit_of_diffusers():
    theirs = DiTTransformer2DModel(2, 12, 4, 8, 3, sample_size=8, num_embeds_ada_norm=5, norm_eps=1e-6).eval()
    ours, first = DiT(4, 8, 8, channels=24, depth=3, num_heads=2, num_classes=5), theirs.transformer_blocks[0]
    for block in theirs.transformer_blocks:
        block.norm1.emb.load_state_dict(first.norm1.emb.state_dict())  # one embedding, as in the authors' code
        block.norm1.emb.time_proj.downscale_freq_shift = 0  # and its frequencies
    randomised(theirs)
    emb = "transformer_blocks.0.norm1.emb.timestep_embedder"
    names = {"embed_time.0": f"{emb}.linear_1", "embed_time.2": f"{emb}.linear_2"}
    copy_weights(theirs, ours, {**names, "head": "proj_out_2", "modulation_out.linear": "proj_out_1"})
    x, t, labels = torch.randn(3, 4, 8, 8), torch.tensor([0, 17, 999]), torch.tensor([4, 0, 5])
    expected = theirs(x, t, labels).sample
    cond = Condition(vector=torch.tensor([4, 0, 2]), is_null=torch.tensor([False, False, True]))
    torch.testing.assert_close(ours(x, t.float(), cond), expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.1


def test_it_equals_the_pixart_of_diffusers():
    theirs = PixArtTransformer2DModel(2, 12, 4, 8, 3, cross_attention_dim=24, sample_size=8, caption_channels=6).eval()
    ours = DiT(4, 8, 8, channels=24, depth=3, num_heads=2, block="adaln_single", context_dim=6)
    randomised(theirs)
    emb = "adaln_single.emb.timestep_embedder"
    names = {"embed_time.0": f"{emb}.linear_1", "embed_time.2": f"{emb}.linear_2", "head": "proj_out"}
    names |= {
        "embed_context.mlp.0": "caption_projection.linear_1",
        "embed_context.mlp.2": "caption_projection.linear_2",
    }
    copy_weights(theirs, ours, {**names, "embed_shared": "adaln_single.linear"})
    x, t, tokens = torch.randn(3, 4, 8, 8), torch.tensor([0, 17, 999]), torch.randn(3, 5, 6)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 0, 1, 1]], dtype=torch.bool)
    expected = theirs(x, tokens, t, encoder_attention_mask=mask.float()).sample
    cond = Condition(tokens=tokens, token_mask=mask)
    torch.testing.assert_close(ours(x, t.float(), cond), expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.1


# --- at initialisation


def test_adaln_zero_blocks_are_the_identity_at_initialisation():
    network, h = DiT(2, 4, 8, channels=16, num_classes=3, context_dim=6), torch.randn(2, 16, 16)
    for block in network.blocks:
        assert torch.equal(block(h, torch.randn(2, 16), torch.randn(2, 3, 16)), h)


@blocks
def test_the_output_is_zero_at_initialisation(block):
    network = DiT(2, 4, 8, block=block, num_classes=3, context_dim=6)
    assert not network(*inputs()).any()


def test_weights_start_as_published():
    """Linear maps are Xavier, embeddings of time and class have standard deviation 0.02, biases are 0."""
    network = DiT(4, 8, 32, channels=384, depth=1, num_heads=6, num_classes=1000)
    linear = network.blocks[0].mlp[0].weight
    bound = (6 / (384 + 4 * 384)) ** 0.5
    assert 0.999 * bound < linear.abs().max() <= bound
    for embedding in (network.embed_time[0], network.embed_time[2], network.embed_condition.classes):
        assert embedding.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not any(parameter.any() for name, parameter in network.named_parameters() if name.endswith("bias"))


# --- what the output depends on


@variants
def test_without_positions_the_order_of_patches_does_not_matter(monkeypatch, variant):
    network, (x, c_noise, cond) = small(**variant).double(), inputs()
    order, cond = torch.randperm(16), Condition(vector=cond.vector, tokens=cond.tokens.double())

    def patches(image):
        return image.unfold(2, 2, 2).unfold(3, 2, 2).flatten(2, 3)  # (B, C, N, p, p)

    def shuffled(image):
        h = patches(image)[:, :, order].unflatten(2, (4, 4))
        return h.permute(0, 1, 2, 4, 3, 5).reshape(image.shape)

    def differences():
        straight, moved = network(x.double(), c_noise, cond), network(shuffled(x.double()), c_noise, cond)
        return (shuffled(straight) - moved).abs().max()

    assert differences() > 1e-4  # with positions
    monkeypatch.setattr("diffsweep.backbones.dit.sincos_positions", lambda *_: 0)
    assert (differences() < 1e-12) == ("rope" not in variant)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_time_has_its_own_embedding(dtype):
    """This holds in bfloat16, which cannot represent 999: the sinusoids are computed before the cast."""
    network, vectors = small().to(dtype), []
    network.embed_time.register_forward_hook(lambda module, arguments, output: vectors.append(output))
    network(torch.zeros(1000, 2, 2, 2, dtype=dtype), torch.arange(1000.0), None)
    assert len(vectors[0].unique(dim=0)) == 1000


@variants
def test_time_class_and_tokens_reach_the_output(variant):
    network, (x, c_noise, cond) = small(**variant), inputs()
    whole = network(x, c_noise, cond)
    others = [
        network(x, c_noise + 100, cond),
        network(x, c_noise, Condition(vector=cond.vector + 1, tokens=cond.tokens)),
        network(x, c_noise, Condition(vector=cond.vector, tokens=cond.tokens + 1)),
        network(x, c_noise, cond.null()),
    ]
    for other in others:
        assert (whole - other).abs().mean() > 1e-4 * whole.abs().mean()


@blocks
def test_a_null_row_is_a_row_without_condition(block):
    network, (x, c_noise, cond) = small(block=block), inputs()
    mixed = network(x, c_noise, cond.null(torch.tensor([True, False])))
    torch.testing.assert_close(mixed[0], network(x, c_noise, None)[0])
    torch.testing.assert_close(mixed[1], network(x, c_noise, cond)[1])


@blocks
def test_masked_tokens_do_not_matter_and_a_row_without_any_is_finite(block):
    network, (x, c_noise, cond) = small(block=block), inputs()
    kept = torch.tensor([[True, False, True], [False, False, False]])
    other = cond.tokens + 5 * ~kept[..., None]
    first, second = (
        network(x, c_noise, Condition(vector=cond.vector, tokens=tokens, token_mask=kept))
        for tokens in (cond.tokens, other)
    )
    torch.testing.assert_close(first, second)
    assert torch.isfinite(first).all()


@blocks
def test_without_sizes_the_condition_is_ignored_and_only_time_matters(block):
    network, (x, c_noise, cond) = small(block=block, num_classes=None, context_dim=None), inputs()
    assert torch.equal(network(x, c_noise, cond), network(x, c_noise, None))
    assert (network(x, c_noise, None) - network(x, c_noise + 100, None)).abs().mean() > 1e-4


@blocks
@pytest.mark.parametrize("shape", [(4, 12), (2, 2), (16, 16)])
def test_positions_are_computed_for_each_size_of_image(block, shape):
    """Positions are no weights: a network built for another size with the same weights has the same output."""
    network, x = small(block=block, rope=True), torch.randn(2, 2, *shape)
    same = DiT(2, 4, 16, channels=16, depth=2, num_heads=2, num_classes=3, context_dim=6, block=block, rope=True)
    same.load_state_dict(network.state_dict())
    out = network(x, torch.zeros(2), None)
    assert out.shape == (2, 4, *shape)
    assert torch.equal(out, same(x, torch.zeros(2), None))


# --- training and running


@variants
def test_every_parameter_learns(variant):
    network = DiT(2, 4, 8, channels=16, depth=2, num_heads=2, num_classes=3, context_dim=6, **variant)
    x, c_noise, cond = inputs()
    cond = Condition(
        cond.vector, cond.tokens, torch.tensor([[True, True, False]] * 2), is_null=torch.tensor([True, False])
    )
    assert_every_parameter_learns(network, (x, c_noise, cond), steps=4)


@variants
def test_recomputing_blocks_does_not_change_gradients(variant):
    x, c_noise, cond = inputs()
    half = torch.tensor([True, False])
    assert_computing_blocks_again_changes_no_gradient(small(**variant), (x, c_noise, cond.null(half)))


@pytest.mark.parametrize("variant", some(VARIANTS, 3, NAME))
def test_it_compiles_as_one_graph(variant):
    network, (x, c_noise, cond) = small(**variant), inputs()
    cond = cond.null(torch.tensor([True, False]))
    # half of the variants with checkpointing, half without: each takes seconds
    network.checkpointing = VARIANTS.index(variant) % 2 == 1
    assert_it_compiles_as_one_graph(network, (x, c_noise, cond))


@variants
def test_memory_with_channels_last_gives_the_same_numbers(variant):
    network, (x, c_noise, cond) = small(**variant).double(), inputs()
    last = network(x.double().to(memory_format=torch.channels_last), c_noise, cond)
    torch.testing.assert_close(last, network(x.double(), c_noise, cond), rtol=0, atol=1e-10)


def test_it_can_be_trained_after_a_first_call_in_inference_mode():
    """The cached positions of a grid are not inference tensors, through which no gradient could be taken."""
    network, (x, c_noise, cond) = small(rope=True), inputs(6)
    with torch.inference_mode():
        network(x, c_noise, cond)
    network(x, c_noise, cond).sum().backward()
    assert network.embed_patches.weight.grad.any()


@pytest.mark.parametrize("variant", some(VARIANTS, 3, NAME))
def test_it_overfits_sixteen_digits(overfit, variant):
    network = DiT(1, 1, 8, channels=32, depth=2, num_heads=2, **variant)
    assert overfit(network) < 0.05


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"patch_size": 3}, r"backbone.patch_size=3 does not divide the 8-pixel image; use 1, 2, 4 or 8"),
        ({"channels": 18}, r"backbone.channels must be a multiple of 4.*, not 18"),
        ({"num_heads": 5}, r"backbone.num_heads=5 does not divide backbone.channels=96"),
        ({"depth": 0}, r"backbone.depth must be at least 1"),
        ({"mlp_ratio": 0.0}, r"backbone.mlp_ratio=0.0 leaves nothing"),
        ({"rope": True, "num_heads": 16}, r"backbone.rope needs heads of 4, 8, .* 96 channels in 16 heads are 6 each"),
    ],
)
def test_impossible_sizes_are_refused_with_the_reason(bad, match):
    with pytest.raises(ValueError, match=match):
        DiT(1, 1, 8, **bad)


def test_a_picture_that_the_patch_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"backbone.patch_size=2 does not divide the 6 x 5-pixel image; use 1$"):
        small()(torch.randn(2, 2, 6, 5), torch.zeros(2), None)
