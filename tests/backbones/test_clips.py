"""Networks of clips: what they share with networks of images, and which frames depend on which."""

import pytest
import torch

from diffsweep.backbones import DiT, DiT3D, UNet, UNet3D
from diffsweep.diffusion import Condition

CHANNELS, SIZE, FRAMES = 8, 8, 5
SIZES = {"in_channels": 1, "out_channels": 1, "image_size": SIZE, "channels": CHANNELS}
PLAIN = {"attention_resolutions": [], "attention_factors": [2], "num_res_blocks": 1}


def randomised(network):
    """Return the network in float64 with noise added to its weights, since many start at zero."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return network.double().eval()


def unet3d(**options):
    return UNet3D(**{**SIZES, **PLAIN, "num_frames": FRAMES, **options})


def dit3d(**options):
    return DiT3D(**{**SIZES, "num_heads": 2, "num_frames": FRAMES, "depth": 3, **options})


NETWORKS = {
    "unet3d": unet3d,
    "unet3d_all": lambda **options: unet3d(
        temporal_attention="all", position_bias="distance", attention_factors=[], **options
    ),
    "unet3d_convolved": lambda **options: unet3d(temporal_convolution=True, **options),
    "dit3d": dit3d,
    "dit3d_full": lambda **options: dit3d(attention="full", **options),
    "dit3d_full_rope": lambda **options: dit3d(attention="full", rope=True, **{"channels": 16, **options}),
    "dit3d_in_context": lambda **options: dit3d(block="in_context", **options),
}
networks = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def clip(batch=2, frames=FRAMES):
    return normal(batch, 1, frames, SIZE, SIZE)


def dependence_of_frames(network, x, cond=None, row=0):
    """Return which input frames the gradient of each frame's output reaches, (F, F)."""
    x = x.clone().requires_grad_()
    out = network(x, torch.full((len(x),), 300.0).double(), cond)
    rows = []
    for frame in range(x.shape[2]):
        (gradient,) = torch.autograd.grad(out[row, :, frame].square().sum(), x, retain_graph=True)
        assert not gradient[1 - row].any()  # no clip depends on another
        rows.append(gradient[row].abs().amax(dim=(0, 2, 3)))
    return torch.stack(rows)


@pytest.mark.parametrize(("place", "convolution"), [("spatial", False), ("all", False), ("spatial", True)])
def test_an_untrained_network_with_2d_weights_is_the_2d_network_on_each_frame(place, convolution):
    """This holds for one frame, and for many with their own times and classes."""
    unet = randomised(UNet(**SIZES, **PLAIN, num_classes=3))
    network = unet3d(temporal_attention=place, temporal_convolution=convolution, num_classes=3).double().eval()
    network.load_state_dict(unet.state_dict(), strict=False)
    t, ids = torch.rand(2, FRAMES).double() * 999, torch.randint(3, (2, FRAMES))
    is_null = torch.tensor([False, True])
    x = clip()
    with torch.no_grad():
        one = network(x[:, :, :1], t[:, 0], Condition(vector=ids[:, 0], is_null=is_null))
        image = unet(x[:, :, 0], t[:, 0], Condition(vector=ids[:, 0], is_null=is_null))
        torch.testing.assert_close(one[:, :, 0], image, rtol=0, atol=1e-12)
        every = network(x, t, Condition(vector=ids, is_null=is_null))
        for frame in range(FRAMES):
            cond = Condition(vector=ids[:, frame], is_null=is_null)
            torch.testing.assert_close(every[:, :, frame], unet(x[:, :, frame], t[:, frame], cond), rtol=0, atol=1e-12)
    assert {name for name in network.state_dict() if ".temporal." not in name} == set(unet.state_dict())


def test_a_seed_gives_both_networks_the_same_weights():
    torch.manual_seed(0)
    flat = UNet(**SIZES, **PLAIN).state_dict()
    torch.manual_seed(0)
    deep = unet3d().state_dict()
    assert all(torch.equal(deep[name], weight) for name, weight in flat.items())


def test_a_dit_of_clips_takes_the_weights_of_a_dit_of_images():
    """For one frame, blocks over space are those of the image, and blocks over time attend to that frame alone."""
    image, network = randomised(DiT(**SIZES, num_heads=2, depth=3)), dit3d(attention="full").double()
    network.load_state_dict(image.state_dict())
    x, t = clip(frames=1), torch.tensor([3.0, 800.0]).double()
    torch.testing.assert_close(network(x, t)[:, :, 0], image(x[:, :, 0], t), rtol=0, atol=1e-12)
    network = dit3d().double()
    network.load_state_dict(image.state_dict())
    assert (network(x, t)[:, :, 0] - image(x[:, :, 0], t)).abs().max() > 1e-3


@networks
def test_one_time_for_the_clip_equals_that_time_for_each_frame(make):
    network, x, t = randomised(make()), clip(), torch.tensor([3.0, 800.0]).double()
    torch.testing.assert_close(network(x, t[:, None].expand(2, FRAMES)), network(x, t), rtol=0, atol=1e-12)
    other = t[:, None].repeat(1, FRAMES)
    other[0, 2] = 500
    moved = (network(x, other) - network(x, t)).abs().amax(dim=(1, 3, 4))
    assert (moved[0] > 1e-6).all()  # the frame itself, and the others by attention
    assert (moved[1] < 1e-12).all()


@networks
def test_each_frame_depends_on_all_others(make):
    """This also holds in clips longer than those of training."""
    assert (dependence_of_frames(randomised(make()), clip(frames=3 * FRAMES)) > 1e-9).all()


@networks
def test_independent_images_depend_on_no_other_frame_and_none_on_them(make):
    """These gradients are exactly 0. The other clip of the batch has its own mask."""
    independent = torch.tensor([[False] * 3 + [True] * 3, [False] * 6])
    network, x = randomised(make()), clip(frames=6)
    cond = Condition(independent=independent)
    dependence = dependence_of_frames(network, x, cond)
    allowed = torch.eye(6, dtype=torch.bool)
    allowed[:3, :3] = True
    assert (dependence[~allowed] == 0).all()
    assert (dependence[allowed] > 1e-9).all()
    assert (dependence_of_frames(network, x, cond, row=1) > 1e-9).all()


@networks
def test_a_clip_and_independent_images_have_the_outputs_that_they_have_alone(make):
    network, x, t = randomised(make()), clip(frames=6), torch.rand(2, 6).double() * 999
    cond = Condition(independent=torch.tensor([[False] * 3 + [True] * 3]).expand(2, 6))
    together = network(x, t, cond)
    torch.testing.assert_close(together[:, :, :3], network(x[:, :, :3], t[:, :3]), rtol=0, atol=1e-10)
    for frame in range(3, 6):
        rows = slice(frame, frame + 1)
        torch.testing.assert_close(together[:, :, rows], network(x[:, :, rows], t[:, rows]), rtol=0, atol=1e-10)


@networks
def test_permuting_images_permutes_their_outputs_and_nothing_else(make):
    network, x, t = randomised(make(num_classes=4)), clip(frames=6), torch.rand(2, 6).double() * 999
    ids = torch.randint(4, (2, 6))
    cond = Condition(vector=ids, independent=torch.tensor([[False] * 3 + [True] * 3]).expand(2, 6))
    order = torch.tensor([0, 1, 2, 5, 3, 4])
    moved = Condition(vector=ids[:, order], independent=cond.independent)
    expected = network(x, t, cond)[:, :, order]
    torch.testing.assert_close(network(x[:, :, order], t[:, order], moved), expected, rtol=0, atol=1e-10)


@networks
def test_frames_of_a_clip_have_an_order(make):
    """The output of reordered frames is not the reordered output."""
    network, x, t = randomised(make()), clip(), torch.tensor([3.0, 800.0]).double()
    order = torch.tensor([0, 3, 2, 1, 4])
    assert (network(x[:, :, order], t) - network(x, t)[:, :, order]).abs().max() > 1e-6


def masked_window(network, x, first, length):
    """Return the output for a clip within a longer one whose other frames are independent images."""
    independent = torch.ones(len(x), x.shape[2], dtype=torch.bool)
    independent[:, first : first + length] = False
    out = network(x, torch.full((len(x),), 300.0).double(), Condition(independent=independent))
    return out[:, :, first : first + length]


@networks
def test_time_is_relative(make):
    """A clip at another position in time has the same outputs."""
    network, window = randomised(make()), clip(frames=4)
    early, late = clip(frames=10), clip(frames=10)
    early[:, :, :4], late[:, :, 5:9] = window, window
    outputs = masked_window(network, early, 0, 4), masked_window(network, late, 5, 4)
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-10)


@networks
def test_a_condition_has_one_image_for_the_clip_or_one_for_each_frame(make):
    network, x, t = randomised(make(image_channels=2)), clip(), torch.tensor([3.0, 800.0]).double()
    image = normal(2, 2, SIZE, SIZE)
    of_all = network(x, t, Condition(image=image))
    every = image[:, :, None].repeat(1, 1, FRAMES, 1, 1)
    torch.testing.assert_close(network(x, t, Condition(image=every)), of_all, rtol=0, atol=1e-12)
    every[:, :, 1] += 1
    assert (network(x, t, Condition(image=every)) - of_all)[:, :, 1].abs().max() > 1e-6
    assert network.accepts == {"image_channels": 2}


@pytest.mark.parametrize("make", [unet3d, dit3d])
def test_all_frames_attend_to_the_tokens_of_their_clip(make):
    """Each frame attends to the tokens, and a clip without tokens attends to the null token."""
    network, x, t = randomised(make(context_dim=6)), clip(), torch.tensor([3.0, 800.0]).double()
    tokens = normal(2, 4, 6)
    out = network(x, t, Condition(tokens=tokens))
    moved = network(x, t, Condition(tokens=tokens + torch.tensor([0.0, 1.0]).double()[:, None, None])) - out
    assert not moved[0].any()
    assert (moved[1].abs().amax(dim=(0, 2, 3)) > 1e-6).all()
    nulled = network(x, t, Condition(tokens=tokens, is_null=torch.tensor([True, False])))
    torch.testing.assert_close(nulled[0], network(x, t)[0])
    torch.testing.assert_close(nulled[1], out[1])


def test_a_patch_of_frames_has_the_mean_of_their_time_embeddings():
    """The network is that of frames stacked as channels, and a patch has the mean of its frames' time embeddings."""
    network = randomised(dit3d(frames_per_patch=2, num_frames=6, image_channels=1, out_channels=2))
    x, t = clip(frames=6), torch.rand(2, 6).double() * 999
    image = clip(frames=6)
    out = network(x, t, Condition(image=image))
    assert out.shape == (2, 2, 6, SIZE, SIZE)
    swapped = t.unflatten(1, (3, 2)).flip(2).flatten(1)
    torch.testing.assert_close(network(x, swapped, Condition(image=image)), out)
    assert (network(x, t.flip(1), Condition(image=image)) - out).abs().max() > 1e-6
    stacked = DiT(**{**SIZES, "in_channels": 2, "out_channels": 4}, num_heads=2, depth=3, image_channels=2)
    assert {n: w.shape for n, w in stacked.state_dict().items()} == {
        n: w.shape for n, w in network.state_dict().items()
    }
    stacked.double().load_state_dict(network.state_dict())
    one = network(x[:, :, :2], torch.full((2,), 300.0).double(), Condition(image=image[:, :, :2]))
    both = DiT3D(**{**SIZES, "in_channels": 2, "out_channels": 4}, num_heads=2, depth=3, image_channels=2).double()
    both.load_state_dict(network.state_dict())
    cond = Condition(image=image[:, :1, :2].transpose(1, 2))
    expected = both(x[:, 0, :2][:, :, None], torch.full((2,), 300.0).double(), cond)[:, :, 0]  # (B, (C' p), H, W)
    torch.testing.assert_close(one, expected.unflatten(1, (2, 2)))


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (unet3d, {"attention_factors": []}, "set backbone.attention_factors, or use backbone.temporal_attention=all"),
        (unet3d, {"temporal_attention": "some"}, "backbone.temporal_attention is one of spatial, all, not some"),
        (unet3d, {"num_frames": 0}, "backbone.num_frames must be at least 1"),
        (dit3d, {"attention": "some"}, "backbone.attention is one of factorised, full, not some"),
        (dit3d, {"frames_per_patch": 2}, "backbone.frames_per_patch=2 does not divide 5 frames; use 1 or 5"),
        (dit3d, {"depth": 1}, "backbone.depth=1 leaves no block for attention over time; use 2"),
        (dit3d, {"num_heads": 8}, "backbone.num_heads=8 gives heads of 1 channels"),
    ],
)
def test_impossible_options_are_refused_by_name(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_patches_of_several_frames_refuse_independent_frames():
    network = dit3d(frames_per_patch=5)
    with pytest.raises(ValueError, match=r"backbone.frames_per_patch=5 joins independent frames; use 1"):
        network(clip().float(), torch.zeros(2), Condition(independent=torch.zeros(2, 5, dtype=torch.bool)))


@pytest.mark.parametrize("make", [unet3d, dit3d])
def test_checkpointing_does_not_change_gradients(make):
    """The clips' mask reaches blocks that are recomputed."""
    gradients = []
    x = clip()
    cond = Condition(independent=torch.tensor([[False] * 3 + [True] * 2]).expand(2, 5))
    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = randomised(make(checkpointing=checkpointing)).train()
        network(x, torch.tensor([3.0, 800.0]).double(), cond).square().mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain)
