"""Weights in the forms of score_sde_pytorch, EDM and consistency_models give the outputs of these codes."""

import math

import pytest
import torch
from public_networks import OpenAIUNet, Weights, sinusoids, softmax_attention
from torch.nn import functional

from diffsweep import schedules
from diffsweep.backbones import UNet
from diffsweep.diffusion import EDM, Condition, NetworkDenoiser
from diffsweep.errors import UserError
from diffsweep.interchange.published import load

WIDTH, SIDE, CLASSES = 128, 8, 5
NAMES = {  # of the layers of blocks and attention: EDM's, score_sde's
    "edm": ("norm0", "conv0", "affine", "norm1", "conv1", "skip"),
    "score": ("GroupNorm_0", "Conv_0", "Dense_0", "GroupNorm_1", "Conv_1", "Conv_2"),
}


class PublicUNet:
    """A U-Net of two sizes, a block each, attention at the smaller maps: DDPM++ or ADM under EDM's or score_sde's keys.

    DDPM++ (appendix C of arXiv:2011.13456): sums are divided by sqrt(2), resampling blocks have 1 x 1 convolutions, the
    last block of a level on the way up attends, and one head. ADM: scale and shift, all attend, heads of 64 channels.
    """

    def __init__(self, code="edm", adm=False, classes=None):
        self.code, self.adm, self.classes, self.w, self.calls = code, adm, classes, Weights(), []
        self.eps, self.scale, self.number = (1e-5, 1.0, 3) if adm else (1e-6, 0.5**0.5, 3)
        w, first = self.w, {"edm": ("map_layer0", "map_layer1", "enc.8x8_conv")}.get(code)
        self.first = first or tuple(f"all_modules.{i}" for i in range(3))
        w.layer(self.first[0], 4 * WIDTH, WIDTH)
        w.layer(self.first[1], 4 * WIDTH, 4 * WIDTH)
        if classes is not None:
            w.add("map_label.weight", 4 * WIDTH, classes)
        w.layer(self.first[2], WIDTH, 3, 3, 3)
        self.down = [
            self.block("enc.8x8_block0", WIDTH, WIDTH),
            self.block("enc.4x4_down", WIDTH, WIDTH, "down"),
            self.block("enc.4x4_block0", WIDTH, 2 * WIDTH, attends=True),
        ]
        self.middle = [
            self.block("dec.4x4_in0", 2 * WIDTH, 2 * WIDTH, attends=True),
            self.block("dec.4x4_in1", 2 * WIDTH, 2 * WIDTH),
        ]
        self.up = [
            self.block("dec.4x4_block0", 4 * WIDTH, 2 * WIDTH, attends=adm),
            self.block("dec.4x4_block1", 3 * WIDTH, 2 * WIDTH, attends=True),
            self.block("dec.8x8_up", 2 * WIDTH, 2 * WIDTH, "up"),
            self.block("dec.8x8_block0", 3 * WIDTH, WIDTH),
            self.block("dec.8x8_block1", 2 * WIDTH, WIDTH),
        ]
        ends = {"edm": ("out_norm", "out_conv") if adm else ("dec.8x8_aux_norm", "dec.8x8_aux_conv")}
        self.ends = ends.get(code) or (f"all_modules.{self.number}", f"all_modules.{self.number + 1}")
        w.norm(self.ends[0], WIDTH)
        w.layer(self.ends[1], 3, WIDTH, 3, 3)

    def block(self, key, width_in, width, resample=None, attends=False):
        if self.code == "score":
            key, self.number = f"all_modules.{self.number}", self.number + 1
        w, names = self.w, [f"{key}.{name}" for name in NAMES[self.code]]
        w.norm(names[0], width_in)
        w.layer(names[1], width, width_in, 3, 3)
        w.layer(names[2], (2 if self.adm else 1) * width, 4 * WIDTH)
        w.norm(names[3], width)
        w.layer(names[4], width, width, 3, 3)
        if width_in != width or (resample and not self.adm):
            w.layer(names[5], width, width_in, 1, 1)
        if resample and self.code == "edm":
            w[f"{key}.conv0.resample_filter"] = torch.full((1, 1, 2, 2), 0.25)
        attention = key
        if attends and self.code == "edm":
            w.norm(f"{key}.norm2", width)
            w.layer(f"{key}.qkv", 3 * width, width, 1, 1)
            w.layer(f"{key}.proj", width, width, 1, 1)
        elif attends:
            attention, self.number = f"all_modules.{self.number}", self.number + 1
            w.norm(f"{attention}.GroupNorm_0", width)
            for i in range(4):
                w.add(f"{attention}.NIN_{i}.W", width, width)
                w.add(f"{attention}.NIN_{i}.b", width)
        return names, resample, attention if attends else None

    def norm(self, key, x):
        return self.w.group_norm(key, x, self.eps, min(32, x.shape[1] // 4))

    def run(self, parts, x, emb):
        names, resample, attention = parts
        w, h = self.w, functional.silu(self.norm(names[0], x))
        if resample == "down":
            h, x = functional.avg_pool2d(h, 2), functional.avg_pool2d(x, 2)
        elif resample == "up":
            h, x = (each.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3) for each in (h, x))
        h, e = w.conv(names[1], h), w.linear(names[2], emb)[:, :, None, None]
        if self.adm:
            scale, shift = e.chunk(2, dim=1)
            h = self.norm(names[3], h) * (scale + 1) + shift
        else:
            h = self.norm(names[3], h + e)
        h = w.conv(names[4], functional.silu(h))
        x = (h + (w.conv(names[5], x, padding=0) if f"{names[5]}.weight" in w else x)) * self.scale
        if attention is None:
            return x
        if self.code == "edm":  # in each head, the channels come before query, key and value
            heads = x.shape[1] // 64 if self.adm else 1
            qkv = w.conv(f"{attention}.qkv", self.norm(f"{attention}.norm2", x), padding=0).flatten(2)
            out = torch.cat([softmax_attention(*(h[:, part::3] for part in range(3))) for h in qkv.chunk(heads, 1)], 1)
            return (x + w.conv(f"{attention}.proj", out.reshape(x.shape), padding=0)) * self.scale
        h = self.norm(f"{attention}.GroupNorm_0", x)
        nin = [lambda y, i=i: torch.einsum("bc...,cd->bd...", y, w[f"{attention}.NIN_{i}.W"]) for i in range(4)]
        bias = [w[f"{attention}.NIN_{i}.b"][:, None] for i in range(4)]
        q, k, v = (nin[i](h.flatten(2)) + bias[i] for i in range(3))
        return (x + (nin[3](softmax_attention(q, k, v)) + bias[3]).reshape(x.shape)) * self.scale

    def __call__(self, x, c, labels=None):
        """Return the output for images x at the times c, as the network reads them."""
        w, emb = self.w, sinusoids(c, WIDTH, last=0 if self.adm else 1)
        if not self.adm:  # sines come first
            emb = emb.roll(WIDTH // 2, dims=1)
        emb = w.linear(self.first[1], functional.silu(w.linear(self.first[0], emb)))
        if labels is not None:
            emb = emb + functional.one_hot(labels, self.classes).float() @ w["map_label.weight"].T
        emb, maps = functional.silu(emb), [w.conv(self.first[2], x)]
        for parts in self.down:
            maps.append(self.run(parts, maps[-1], emb))
        x = maps[-1]
        for parts in self.middle:
            x = self.run(parts, x, emb)
        for parts in self.up:
            x = self.run(parts, x if parts[1] else torch.cat([x, maps.pop()], dim=1), emb)
        return w.conv(self.ends[1], functional.silu(self.norm(self.ends[0], x)))


SONG = {"residual_scale": math.sqrt(0.5), "norm_eps": 1e-6, "up_attention": "last", "time_endpoint": True}
SONG |= {"resample_projection": True}
ADM = {"time_embedding": "scale_shift", "head_channels": 64}
t = torch.tensor([0.3, 741.5])


def ours(**settings):
    sizes = {"channels": WIDTH, "channel_mult": [1, 2], "num_res_blocks": 1, "block": "biggan"}
    sizes |= {"attention_factors": [2], "attention_resolutions": []}
    return UNet(3, 3, SIDE, **{**sizes, **settings}).eval()


def assert_equal(network, public, labels=None):
    x = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        expected = public(x, t, labels)
        torch.testing.assert_close(network(x, t, Condition(vector=labels)), expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.1


def test_ddpmpp_of_edm_equals_the_public_one():
    public, network = PublicUNet(), ours(**SONG)
    weights = {f"model.{key}": value for key, value in public.w.items()}
    weights["model.map_augment.weight"] = torch.randn(WIDTH, 9)
    assert load(weights, network, "file.pt").form.name == "edm_ddpmpp"
    assert_equal(network, public)


@pytest.mark.parametrize("classes", [None, CLASSES])
def test_adm_of_edm_equals_the_public_one_and_no_class_is_zero(classes):
    public, network = PublicUNet(adm=True, classes=classes), ours(**ADM, num_classes=classes)
    assert load(dict(public.w), network, "file.pt").form.name == "edm_adm"
    assert_equal(network, public, None if classes is None else torch.tensor([4, 1]))
    assert_equal(network, public)


@pytest.mark.parametrize("average", [True, False])
def test_ddpmpp_of_score_sde_equals_the_public_one_with_its_average(average):
    public, network = PublicUNet("score"), ours(**SONG)
    model = {f"module.{key}": value + (0.5 if average else 0) for key, value in public.w.items()}
    content = {"model": {"module.sigmas": torch.ones(3), **model}, "step": 7, "optimizer": {}}
    if average:
        content["ema"] = {"decay": 0.999, "num_updates": 7, "shadow_params": list(public.w.values())}
    assert load(content, network, "file.pth").form.name == "score_sde"
    assert_equal(network, public)


def test_an_average_of_another_length_is_refused():
    content = {"model": dict(PublicUNet("score").w), "ema": {"shadow_params": [torch.zeros(1)]}}
    with pytest.raises(UserError, match=r"the average in ema has 1 tensors, but the model has \d+ parameters"):
        load(content, ours(**SONG), "file.pth")


@pytest.mark.parametrize(
    ("code", "keys", "message"),
    [
        ("edm", {"map_label.weight": (WIDTH, 5)}, r"only networks without classes can be loaded"),
        ("edm", {"enc.4x4_aux_residual.weight": (3, 3, 3, 3)}, r"NCSN\+\+, whose smoothed resampling"),
        ("edm", {"enc.4x4_down.conv0.resample_filter": (1, 1, 4, 4)}, r"NCSN\+\+, whose smoothed resampling"),
        ("score", {"all_modules.0.W": (WIDTH,)}, r"NCSN\+\+, whose Fourier features"),
        ("score", {"all_modules.9.Conv2d_0.weight": (3, 3, 3, 3)}, r"NCSN\+\+, whose Fourier features"),
    ],
)
def test_what_the_u_net_does_not_express_is_refused_with_the_reason(code, keys, message):
    weights = {**PublicUNet(code).w, **{key: torch.zeros(shape) for key, shape in keys.items()}}
    with pytest.raises(UserError, match=message) as error:
        load(weights, ours(**SONG), "file.pt")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"up_attention": "every"}, r"it lacks dec.4x4_block0.norm2.weight"),
        ({"resample_projection": False}, r"it also has enc.4x4_down.skip.bias|it also has dec.8x8_up.skip.bias"),
        ({"time_endpoint": False}, r"backbone.time_endpoint=True, not False"),
        ({"block": "ddpm", "resample_projection": False}, r"type backbone.block=biggan"),
    ],
)
def test_networks_with_other_options_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        load(dict(PublicUNet().w), ours(**{**SONG, **change}), "file.pt")


def test_a_consistency_model_is_a_denoiser_with_its_scale_of_the_time():
    """c_skip, c_out and c_in are those of EDM, and the network reads 250 log(sigma) (arXiv:2303.01469, its code)."""
    public = OpenAIUNet(new_order=True, out_channels=3)
    network = ours(channels=128, time_embedding="scale_shift", num_heads=2)
    load(public.weights, network, "file.pt", "consistency_models")
    denoiser = NetworkDenoiser(network, schedules.EDM(), EDM(sigma_data=0.5, time_scale=1000.0))
    schedule, x = schedules.EDM(), torch.randn(2, 3, SIDE, SIDE)
    time = torch.tensor(0.4)
    sigma = schedule(time)[1]
    with torch.no_grad():
        norm = (sigma**2 + 0.25) ** 0.5
        c = (250 * sigma.log()).expand(2)
        expected = 0.25 / norm**2 * (sigma * x) + sigma * 0.5 / norm * public(sigma * x / norm, c)
        torch.testing.assert_close(denoiser(sigma * x, time).x0, expected, rtol=1e-3, atol=1e-3)
