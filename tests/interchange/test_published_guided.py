"""Weights in the forms of improved-diffusion and guided-diffusion give the outputs of these codes in our networks."""

import pytest
import torch
from public_networks import OpenAIUNet

from diffsweep.backbones import DiT, EncoderUNet, UNet
from diffsweep.diffusion import Condition
from diffsweep.errors import UserError
from diffsweep.interchange.published import load

IMPROVED = {"scale_shift": True, "updown": False}
FORMS = [
    ("guided_diffusion", IMPROVED, {"block": "ddpm"}),
    ("guided_diffusion", {"scale_shift": False, "updown": False}, {"block": "ddpm", "time_embedding": "additive"}),
    ("guided_diffusion", {"classes": 5}, {"num_classes": 5}),
    ("guided_diffusion", {"in_channels": 6}, {"image_channels": 3}),  # an upsampler
    ("new_attention_order", {"new_order": True}, {}),
]


def ours(**settings):
    common = {"channels": 128, "channel_mult": [1, 2], "num_res_blocks": 1, "block": "biggan", "num_heads": 2}
    common |= {"time_embedding": "scale_shift", "attention_factors": [2], "attention_resolutions": []}
    return UNet(3, 6, 8, **{**common, **settings}).eval()


@pytest.fixture
def x():
    return torch.randn(2, 3, 8, 8)


t = torch.tensor([3.0, 741.5])


@pytest.mark.parametrize(("form", "theirs", "settings"), FORMS)
def test_the_u_net_equals_the_public_one(x, form, theirs, settings):
    public, network = OpenAIUNet(**theirs), ours(**settings)
    loaded = load(public.weights, network, "file.pt", form)
    assert (loaded.form.name, loaded.initial, loaded.network) == (form, [], network)
    labels = torch.tensor([4, 1]) if "classes" in theirs else None
    low = torch.randn_like(x) if "in_channels" in theirs else None
    with torch.no_grad():
        expected = public(x if low is None else torch.cat([x, low], dim=1), t, labels)
        torch.testing.assert_close(network(x, t, Condition(vector=labels, image=low)), expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.1


def test_the_orders_of_attention_are_different_weights(x):
    """With two heads the wrong order is another function, and the form must be typed; with one head they are equal."""
    public, network = OpenAIUNet(), ours()
    load(public.weights, network, "file.pt", "new_attention_order")
    with torch.no_grad():
        assert (network(x, t) - public(x, t)).abs().max() > 1e-2
    with pytest.raises(UserError, match=r"form=guided_diffusion .*, form=new_attention_order ") as error:
        load(public.weights, network, "file.pt")
    assert "\n" not in str(error.value)
    public, network = OpenAIUNet(heads=1), ours(num_heads=1)
    load(public.weights, network, "file.pt")
    with torch.no_grad():
        torch.testing.assert_close(network(x, t), public(x, t), rtol=1e-4, atol=1e-4)


def test_the_null_class_of_a_network_without_one_has_no_effect(x):
    public, network = OpenAIUNet(classes=5), ours(num_classes=5)
    load(public.weights, network, "file.pt", "guided_diffusion")
    with torch.no_grad():
        torch.testing.assert_close(network(x, t), public(x, t), rtol=1e-4, atol=1e-4)


def test_the_classifier_equals_the_public_one(x):
    public = OpenAIUNet(encoder=True, out_channels=7)
    settings = {"channels": 128, "channel_mult": [1, 2], "num_res_blocks": 1, "head_channels": None, "num_heads": 2}
    network = EncoderUNet(3, 7, 8, attention_factors=[2], **settings).eval()
    assert load(public.weights, network, "file.pt").form.name == "guided_classifier"
    with torch.no_grad():
        torch.testing.assert_close(network(x, t)[1], public.logits(x, t), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("container", ["state_dict", "ema", "model"])
def test_weights_in_half_precision_and_in_containers_are_read(x, container):
    public, network = OpenAIUNet(heads=1), ours(num_heads=1)
    half = {f"module.{key}": value.half() for key, value in public.weights.items()}
    load({container: half, "step": 3}, network, "file.pt")
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32}
    with torch.no_grad():
        torch.testing.assert_close(network(x, t), public(x, t), rtol=1e-2, atol=5e-2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_res_blocks": 2}, r"it lacks input_blocks.4.0.in_layers.0.weight, .*, \.\.\. \(\d+ in all\)"),
        ({"attention_factors": [1, 2]}, r"it lacks input_blocks.1.1.norm.weight"),
        ({"num_classes": 4}, r"it lacks label_emb.weight$"),
        ({"time_embedding": "additive"}, r"it has input_blocks.1.0.emb_layers.1.weight \(256, 512\) where down.0.bl"),
        ({"norm_eps": 1e-6}, r"of the form guided_diffusion have backbone.norm_eps=1e-05, not 1e-06"),
        ({"block": "ddpm", "pad_end": True}, r"have backbone.pad_end=False, not True"),
        ({"norm_groups": 16}, r"norms of 128 channels have 32 groups in the form guided_diffusion, and 16 here"),
        ({"block": "convnext"}, r"have backbone.block=ddpm or biggan, not convnext"),
    ],
)
def test_weights_of_other_sizes_are_refused_by_their_first_keys(settings, message):
    with pytest.raises(UserError, match=message) as error:
        load(OpenAIUNet().weights, ours(**settings), "file.pt", "guided_diffusion")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 900


def test_keys_that_are_left_over_are_named():
    weights = {**OpenAIUNet().weights, "aux.weight": torch.zeros(2)}
    with pytest.raises(UserError, match=r"it also has aux.weight$"):
        load(weights, ours(), "file.pt", "guided_diffusion")


def test_other_files_networks_and_names_are_refused():
    with pytest.raises(UserError, match=r"none of the forms .*: its keys are conv.weight, .* \(1 in all\)"):
        load({"conv.weight": torch.zeros(1)}, ours(), "file.pt")
    with pytest.raises(UserError, match=r"it is a list, and no state dict"):
        load([1], ours(), "file.pt")
    with pytest.raises(UserError, match=r"which is for the network UNet; choose it"):
        load(OpenAIUNet().weights, DiT(3, 6, 8, channels=8, depth=1, num_heads=1), "file.pt")
    with pytest.raises(UserError, match=r"form=guided does not exist; use form=guided_diffusion"):
        load(OpenAIUNet().weights, ours(), "file.pt", "guided")
