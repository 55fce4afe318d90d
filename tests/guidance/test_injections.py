"""Features of a source that are injected into its edited version: by name, to the bit, with the maps that follow."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from diffsweep.backbones import DiT, UNet, UViT
from diffsweep.diffusion import Condition, Eps, NetworkDenoiser
from diffsweep.guidance import (
    ClassifierFreeGuidance,
    CrossAttentionMaps,
    Injected,
    ResidualFeatures,
    SelfAttentionMaps,
    unguided,
)
from diffsweep.guidance.injections import Injection, aligned
from diffsweep.layers import CrossAttention, Injectable, SelfAttention, SelfAttention2d, edited
from diffsweep.schedules import Linear

UNET = {"channels": 8, "channel_mult": [1, 2], "num_res_blocks": 1, "attention_resolutions": [4]}
NETWORKS = {  # a network, and the condition's part that it reads
    "unet of text": (lambda: UNet(1, 1, 8, **UNET, context_dim=6), "tokens"),
    "unet of classes": (lambda: UNet(1, 1, 8, **UNET, num_classes=3, block="convnext"), "vector"),
    "dit of text": (lambda: DiT(1, 1, 8, channels=16, depth=4, num_heads=2, context_dim=6), "tokens"),
    "uvit of classes": (lambda: UViT(1, 1, 8, channels=16, depth=5, num_heads=2, num_classes=3), "vector"),
}
KINDS = {"residual": ResidualFeatures, "self_attention": SelfAttentionMaps, "cross_attention": CrossAttentionMaps}


@pytest.fixture(params=NETWORKS)
def network(request):
    torch.manual_seed(0)
    made, part = NETWORKS[request.param]
    network = made().eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter += 0.1 * torch.randn_like(parameter)  # some layers start at zero
    parts = {"tokens": torch.randn(4, 3, 6), "vector": torch.tensor([0, 1, 2, 2])}
    network.conditions = Condition(**{part: parts[part]})
    return network


def spying(kind):
    """Return an injection that only records the features of its kind, and the list of what it has recorded."""
    recorded = []

    class Spy(KINDS[kind]):
        def edit(self, role, groups):
            return lambda features: recorded.append((role, features.clone().chunk(groups)))

    return Spy(), recorded


def estimates(network, injections, scale, t=0.9):
    """Return the denoiser's estimates for two sources and their targets, which have the same state."""
    denoiser = NetworkDenoiser(network, Linear(num_steps=100), Eps())
    guidance = unguided if scale is None else lambda inner, times: ClassifierFreeGuidance(inner, scale)
    injected = Injected(denoiser, guidance, network.injectable(), injections, network.conditions[:2])
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return injected(torch.cat([x, x]), torch.tensor(t, dtype=torch.float64), network.conditions[2:])


def test_blocks_have_the_paths_of_their_modules(network):
    found = network.injectable()
    assert {each.kind for each in found} >= {"residual", "self_attention"}
    assert len({(each.block, each.kind) for each in found}) == len(found)
    for each in found:
        inside = set(network.get_submodule(each.block).modules())
        assert all(place.module in inside for place in each.features)
    order = [each.decodes for each in found]
    assert order == sorted(order)
    assert any(order)


@pytest.mark.parametrize("kind", KINDS)
def test_injected_features_equal_those_of_the_source_to_the_bit(network, kind):
    """All rows of targets, of both conditions of classifier-free guidance, at the first step of sampling."""
    if kind == "cross_attention" and network.conditions.tokens is None:
        with pytest.raises(ValueError, match="no block with cross-attention features"):
            estimates(network, [CrossAttentionMaps()], 3.0)
        return
    blocks = [each.block for each in network.injectable() if each.kind == kind and each.decodes]
    injection = KINDS[kind](blocks)
    plain, before = spying(kind)
    after_spy, after = spying(kind)
    source = [estimates(network, each, 3.0) for each in ([plain], [injection, after_spy])]
    assert torch.equal(source[0].eps[:2], source[1].eps[:2])  # nothing changes the sources
    assert not torch.equal(source[0].eps[2:], source[1].eps[2:])
    assert len(before) == len(after) > 0
    for role, (rows, *targets) in after:
        if role not in ("keys", "values") or (role, kind) == ("keys", "self_attention"):
            assert all(torch.equal(target, rows) for target in targets[: 1 if kind == "cross_attention" else 2])
    assert any(not torch.equal(target, rows) for _, (rows, *targets) in before for target in targets)


def test_without_injections_targets_are_those_of_the_guided_denoiser(network):
    """A source is under its own condition, without guidance."""
    denoiser = NetworkDenoiser(network, Linear(num_steps=100), Eps())
    both = estimates(network, [], 3.0)
    x, t = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor(0.9, dtype=torch.float64)
    guided = ClassifierFreeGuidance(denoiser, 3.0)(x, t, network.conditions[2:])
    torch.testing.assert_close(both.eps[2:], guided.eps, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both.x0[:2], denoiser(x, t, network.conditions[:2]).x0, rtol=1e-4, atol=1e-4)


def test_a_target_with_the_condition_of_its_source_equals_it(network):
    network.conditions = network.conditions[torch.tensor([0, 1, 0, 1])]
    both = estimates(network, [ResidualFeatures(), SelfAttentionMaps()], None)
    torch.testing.assert_close(both.eps[2:], both.eps[:2], rtol=0, atol=1e-5)


def test_below_its_time_an_injection_does_nothing(network):
    plain, early, late = (
        estimates(network, injections, 2.0, t=0.5).eps
        for injections in ([], [SelfAttentionMaps(until=0.6)], [SelfAttentionMaps(until=0.5)])
    )
    assert torch.equal(plain, early)
    assert not torch.equal(plain, late)


@pytest.mark.parametrize("made", [SelfAttention, SelfAttention2d])
def test_the_source_s_maps_are_over_the_target_s_own_values(made):
    """The oracle is attention by its formula: softmax(q k^T) of the source, v of the target."""
    torch.manual_seed(0)
    layer = made(8, 2)
    torch.nn.init.normal_(layer.to_out.weight)
    x = torch.randn(2, 8, 3, 3)
    place = [Injectable("block", "self_attention", layer.projections, True)]
    given = x.flatten(2).mT if made is SelfAttention else x
    with edited(list(SelfAttentionMaps().edits(place, 2))):
        out = layer(given)
    tokens = given if made is SelfAttention else layer.norm(x).flatten(2).mT
    q, k, v = layer.to_qkv(tokens).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    expected = layer.to_out(scaled_dot_product_attention(q[:1], k[:1], v[1:]).transpose(1, 2).flatten(2))
    shown = out[1:] if made is SelfAttention else (out - x)[1:].flatten(2).mT
    torch.testing.assert_close(shown, expected)


class Letters:
    """A text encoder of one token for each letter."""

    def ids(self, text):
        return [ord(letter) for letter in text]

    ids_of_words = ids


@pytest.mark.parametrize(
    ("source", "target", "positions"),
    [
        ("abc", "axc", [0, 1, 2]),  # a swap
        ("abc", "abxc", [0, 1, -1, 2]),  # a refinement
        ("abc", "ac", [0, 2]),
        ("abc", "axyzc", [0, -1, -1, -1, 2]),
        ("abc", "abc", [0, 1, 2]),
    ],
)
def test_cross_attention_is_controlled_by_the_words_that_texts_share(source, target, positions):
    """The oracle is attention by its formula, with the source's queries and its keys of shared or swapped tokens."""
    assert aligned(Letters().ids(source), Letters().ids(target)).tolist() == positions
    torch.manual_seed(0)
    layer, x, context = CrossAttention(8, 2), torch.randn(3, 4, 8), torch.randn(3, 6, 8)
    place = [Injectable("block", "cross_attention", layer.projections, True)]
    control = CrossAttentionMaps(weights={"c": 3.0}).for_texts([source], [target], Letters())
    with edited(list(control.edits(place, 3))):
        out = layer(x, context)
    q = layer.to_q(x).unflatten(-1, (2, 4)).transpose(1, 2)
    k, v = layer.to_kv(context).unflatten(-1, (2, 2, 4)).permute(2, 0, 3, 1, 4)
    keys, values = k[1].clone(), v[1].clone()
    for to, of in enumerate(positions):
        if of >= 0:
            keys[:, to] = k[0, :, of]
    values[:, target.index("c")] *= 3
    expected = scaled_dot_product_attention(q[0], keys, values)
    torch.testing.assert_close(out[1], layer.to_out(expected.transpose(0, 1).flatten(1)))
    plain = layer(x, context)
    assert torch.equal(out[0], plain[0])
    assert torch.equal(out[2], plain[2])  # the null condition of classifier-free guidance


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: ResidualFeatures(["up.9"]), "task.features.blocks: no block up.9; did you mean up.4\\? it has down.0"),
        (lambda: SelfAttentionMaps(["decoder"]), "task.self_attention.blocks: no block decoder; it has "),
        (lambda: ResidualFeatures([]), "task.features.blocks is empty"),
        (lambda: SelfAttentionMaps(until=1.5), r"task.self_attention.until is a time in \[0, 1\], not 1.5"),
        (lambda: CrossAttentionMaps(weights={"z": 2}).check_texts(["abc"], Letters()), "'z' is in no target text"),
    ],
)
def test_what_is_not_in_the_network_is_refused_with_the_nearest(made, message):
    with pytest.raises(ValueError, match=message):
        made().chosen(UNet(1, 1, 8, **UNET).injectable())


def test_the_default_block_of_features_is_at_a_third_of_the_decoder():
    network = UNet(1, 1, 8, **{**UNET, "num_res_blocks": 2})
    decoder = [each.block for each in network.injectable() if each.kind == "residual" and each.decodes]
    assert [each.block for each in ResidualFeatures().chosen(network.injectable())] == [decoder[2]]
    assert len(decoder) == 6
    assert issubclass(ResidualFeatures, Injection)
