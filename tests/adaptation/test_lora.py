"""LoRA of layers and networks: the formula in float64, every projection of attention, and merging."""

import sys

import pytest
import torch
from torch import nn

from diffsweep.adaptation import Adapter, Lora, LowRank, merge
from diffsweep.adaptation.lora import NAME, adaptable, inject
from diffsweep.configuration.build import build
from diffsweep.diffusion import Condition
from diffsweep.errors import UserError
from diffsweep.layers import Pointwise

RANK, ALPHA = 3, 7.0
LAYERS = {
    "linear": (lambda: nn.Linear(6, 5), (2, 7, 6)),
    "without bias": (lambda: nn.Linear(6, 5, bias=False), (2, 7, 6)),
    "pointwise": (lambda: Pointwise(6, 5), (2, 7, 6)),
    "conv1d": (lambda: nn.Conv1d(6, 5, 3, padding=1), (2, 6, 8)),
    "conv2d": (lambda: nn.Conv2d(6, 5, 3, stride=2, padding=1), (2, 6, 8, 8)),
    "conv3d": (lambda: nn.Conv3d(6, 5, (3, 1, 1), padding=(1, 0, 0)), (2, 6, 4, 3, 3)),
}


def injected(network):
    """Return a network in float64 with updates that are not 0 of all its layers that can have them, and an adapter."""
    network = network.double().eval()
    inject(network, adaptable(network), RANK, ALPHA)
    updates = {}
    for name, layer in network.named_modules():
        if NAME in getattr(layer, "lora_A", ()):
            nn.init.normal_(layer.lora_B[NAME].weight, std=0.3)
            weights = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
            updates[name] = LowRank(*(weight.detach() for weight in weights), ALPHA)
    return network, Adapter(updates)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_computes_the_sum_of_its_own_map_and_the_scaled_one_of_low_rank(kind):
    make, shape = LAYERS[kind]
    plain, x = nn.Sequential(make()).double(), torch.randn(shape, dtype=torch.float64)
    before = plain(x)
    network = nn.Sequential(make()).double()
    network.load_state_dict(plain.state_dict())
    inject(network, ["0"], RANK, ALPHA)
    assert torch.equal(network(x), before)
    network, adapter = injected(plain)
    (update,) = adapter.updates.values()
    layer = network[0].base_layer
    if isinstance(layer, nn.Linear | Pointwise):
        low = x @ update.down.flatten(1).T @ update.up.flatten(1).T
    else:
        convolve = getattr(nn.functional, f"conv{x.dim() - 2}d")
        low = convolve(convolve(x, update.down, stride=layer.stride, padding=layer.padding), update.up)
    torch.testing.assert_close(network(x), before + ALPHA / RANK * low, rtol=1e-12, atol=1e-12)


LINEAR = ("backbone.attention=linear", "backbone.attention_factors=[2]")
ATTENDING = {
    "U-Net, to itself": ["backbone=unet", "backbone.attention_factors=[1,2]"],
    "U-Net, to tokens": ["backbone=unet", "backbone.attention_factors=[1]", "backbone.context_dim=6"],
    "U-Net of ConvNeXt blocks": ["backbone=unet", "backbone.block=convnext", *LINEAR],
    "DiT, adaLN": ["backbone=dit", "backbone.depth=2"],
    "DiT, to tokens": ["backbone=dit", "backbone.depth=2", "backbone.block=cross_attention", "backbone.context_dim=6"],
    "U-ViT": ["backbone=uvit", "backbone.depth=3"],
}


@pytest.mark.parametrize("kind", ATTENDING)
def test_every_projection_of_attention_can_have_an_update_which_merges(compose, kind):
    """With updates of all layers, the network computes what one with the weights W + (alpha / r) B A does."""
    cfg = compose(*ATTENDING[kind], "backbone.channels=8")
    network, merged = build(cfg, "backbone"), build(cfg, "backbone").double().eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.1 * torch.randn_like(weight)
    merged.load_state_dict(network.state_dict())
    names = {module: name for name, module in network.named_modules()}
    places = [place for part in network.injectable() for place in part.features if place.role != "features"]
    projections = {names[place.module] for place in places}
    assert projections
    network, adapter = injected(network)
    assert projections <= adapter.updates.keys()
    tokens = torch.randn(2, 3, 6, dtype=torch.float64) if cfg.backbone.get("context_dim") else None
    inputs = torch.randn(2, 1, 16, 16, dtype=torch.float64), torch.tensor([3.0, 500.0]), Condition(tokens=tokens)
    before = merged(*inputs)
    restore = merge(merged, [(adapter, 1.0)])
    torch.testing.assert_close(merged(*inputs), network(*inputs), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(merged(*inputs), before)
    restore()
    assert torch.equal(merged(*inputs), before)


def test_adapters_add_up_with_their_weights_and_weight_0_changes_nothing():
    network, x = nn.Sequential(nn.Linear(6, 5)), torch.randn(4, 6)
    first, second = (Adapter({"0": LowRank(torch.randn(r, 6), torch.randn(5, r), 2.0 * r)}) for r in (2, 3))
    weight = network[0].weight.detach().clone()
    restore = merge(network, [(first, 0.0), (second, 0.0)])
    assert torch.equal(network[0].weight, weight)
    restore()
    restore = merge(network, [(first, 0.7), (second, -0.5)])
    (one,), (two,) = first.updates.values(), second.updates.values()
    expected = weight + 2 * (0.7 * one.up @ one.down - 0.5 * two.up @ two.down)
    torch.testing.assert_close(network(x), nn.functional.linear(x, expected, network[0].bias))
    restore()
    assert torch.equal(network[0].weight, weight)


@pytest.mark.faults
@pytest.mark.parametrize(
    "name, shape, message",
    [("1", (6, 5), "its layer 1 is none of this model"), ("0", (4, 5), r"update of 0 is 5 x 4, and .* is 5 x 6")],
)
def test_an_adapter_of_another_network_is_refused(name, shape, message):
    network = nn.Sequential(nn.Linear(6, 5))
    update = LowRank(torch.randn(2, shape[0]), torch.randn(shape[1], 2), 2.0)
    with pytest.raises(UserError, match=message):
        merge(network, [(Adapter({name: update}), 1.0)])


@pytest.mark.faults
@pytest.mark.parametrize("settings", [{"rank": 0}, {"alpha": 0.0}, {"dropout": 1.0}])
def test_settings_without_a_meaning_are_refused(settings):
    ((key, value),) = settings.items()
    with pytest.raises(ValueError, match=rf"adaptation.{key} must be .*not {value}"):
        Lora(lambda: None, **settings)


@pytest.mark.faults
def test_without_peft_the_message_has_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"adaptation=lora needs the package peft: pip install 'diffsweep\[adapt\]'"):
        inject(nn.Sequential(nn.Linear(6, 5)), ["0"], RANK, ALPHA)


@pytest.mark.faults
@pytest.mark.parametrize("more", [(3,), (1, 2), (1, 1, 1)])
def test_a_pointwise_layer_is_a_1_x_1_convolution_alone(more):
    assert Pointwise(4, 3, 1, 1, 0, bias=False).bias is None
    with pytest.raises(ValueError, match="1 x 1"):
        Pointwise(4, 3, *more)
