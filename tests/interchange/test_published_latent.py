"""Checkpoints in the form of latent-diffusion give the outputs of its networks."""

import pytest
import torch
from public_networks import OpenAIUNet, Weights, softmax_attention
from torch.nn import functional

from diffsweep.autoencoders import KLAutoencoder, VQAutoencoder
from diffsweep.backbones import UNet
from diffsweep.conditioning import ClassToken
from diffsweep.diffusion import Condition
from diffsweep.errors import UserError
from diffsweep.interchange.published import load

CONTEXT, CLASSES, WIDTH = 24, 6, 128
UNET = {"scale_shift": False, "updown": False, "context": CONTEXT, "depth": 2, "in_channels": 4, "out_channels": 4}
t = torch.tensor([3.0, 741.5])


def our_unet(**settings):
    sizes = {
        "channels": WIDTH,
        "channel_mult": [1, 2],
        "num_res_blocks": 1,
        "attention_factors": [2],
        "attention_resolutions": [],
    }
    return UNet(4, 4, 8, num_heads=2, **{**sizes, "context_dim": CONTEXT, "transformer_depth": 2, **settings}).eval()


class Model(torch.nn.Module):
    """A model with a U-Net and a conditioning."""

    def __init__(self):
        super().__init__()
        self.backbone, self.conditioning = our_unet(), ClassToken(CLASSES, CONTEXT)


def checkpoint(public, average):
    """Return a checkpoint of a U-Net with other weights than its average, and of class tokens."""
    state = {"betas": torch.zeros(3), "model_ema.decay": torch.tensor(0.99)}
    for key, value in public.weights.items():
        state[f"model.diffusion_model.{key}"] = value + (0.5 if average else 0)
        if average:
            state[f"model_ema.diffusion_model{key.replace('.', '')}"] = value
    state["cond_stage_model.embedding.weight"] = torch.randn(CLASSES + 1, CONTEXT)
    return {"state_dict": state, "epoch": 3}


@pytest.mark.parametrize("average", [True, False])
def test_the_u_net_and_its_class_tokens_equal_the_public_ones(average):
    public, model, x = OpenAIUNet(**UNET), Model(), torch.randn(2, 4, 8, 8)
    content = checkpoint(public, average)
    table = content["state_dict"]["cond_stage_model.embedding.weight"]
    assert load(content, model, "file.ckpt").form.name == "latent_diffusion"
    labels = torch.tensor([5, 2])
    condition = model.conditioning.condition({"label": labels})
    with torch.no_grad():
        expected = public(x, t, tokens=table[labels][:, None])
        torch.testing.assert_close(model.backbone(x, t, condition), expected, rtol=1e-4, atol=1e-4)
        null = table[-1].expand(2, 1, -1)
        torch.testing.assert_close(model.backbone(x, t), public(x, t, tokens=null), rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.1


def test_a_u_net_alone_with_several_tokens_equals_the_public_one():
    public, network, x = OpenAIUNet(**UNET), our_unet(), torch.randn(2, 4, 8, 8)
    loaded = load(dict(public.weights), network, "file.pt")
    assert (loaded.form.name, loaded.initial) == ("guided_diffusion", ["context.null"])
    tokens = torch.randn(2, 5, CONTEXT)
    with torch.no_grad():
        expected = public(x, t, tokens=tokens)
        torch.testing.assert_close(network(x, t, Condition(tokens=tokens)), expected, rtol=1e-4, atol=1e-4)


class PublicAutoencoder:
    """The first stage of factor 2 with attention at its smaller maps, by its public keys."""

    def __init__(self, latent=4, moments=2, codes=None):
        self.w = w = Weights()
        for part, ends in {"encoder": (3, moments * latent), "decoder": (latent, 3)}.items():
            inner = WIDTH if part == "encoder" else 2 * WIDTH
            w.layer(f"{part}.conv_in", inner, ends[0], 3, 3)
            self.block(f"{part}.mid.block_1", 2 * WIDTH, 2 * WIDTH)
            self.attention(f"{part}.mid.attn_1")
            self.block(f"{part}.mid.block_2", 2 * WIDTH, 2 * WIDTH)
            w.norm(f"{part}.norm_out", 2 * WIDTH if part == "encoder" else WIDTH)
            w.layer(f"{part}.conv_out", ends[1], 2 * WIDTH if part == "encoder" else WIDTH, 3, 3)
        self.block("encoder.down.0.block.0", WIDTH, WIDTH)
        w.layer("encoder.down.0.downsample.conv", WIDTH, WIDTH, 3, 3)
        self.block("encoder.down.1.block.0", WIDTH, 2 * WIDTH)
        self.attention("encoder.down.1.attn.0")
        for i in range(2):
            self.block(f"decoder.up.1.block.{i}", 2 * WIDTH, 2 * WIDTH)
            self.attention(f"decoder.up.1.attn.{i}")
            self.block(f"decoder.up.0.block.{i}", (2 - i) * WIDTH, WIDTH)
        w.layer("decoder.up.1.upsample.conv", 2 * WIDTH, 2 * WIDTH, 3, 3)
        w.layer("quant_conv", moments * latent, moments * latent, 1, 1)
        w.layer("post_quant_conv", latent, latent, 1, 1)
        if codes is not None:
            w.add("quantize.embedding.weight", codes, latent)

    def block(self, key, width_in, width):
        w = self.w
        w.norm(f"{key}.norm1", width_in)
        w.layer(f"{key}.conv1", width, width_in, 3, 3)
        w.norm(f"{key}.norm2", width)
        w.layer(f"{key}.conv2", width, width, 3, 3)
        if width_in != width:
            w.layer(f"{key}.nin_shortcut", width, width_in, 1, 1)

    def attention(self, key):
        self.w.norm(f"{key}.norm", 2 * WIDTH)
        for name in ("q", "k", "v", "proj_out"):
            self.w.layer(f"{key}.{name}", 2 * WIDTH, 2 * WIDTH, 1, 1)

    def norm(self, key, x):
        return self.w.group_norm(key, x, eps=1e-6)

    def run(self, key, x):
        w = self.w
        if f"{key}.q.weight" in w:
            q, k, v = (w.conv(f"{key}.{name}", self.norm(f"{key}.norm", x), padding=0).flatten(2) for name in "qkv")
            return x + w.conv(f"{key}.proj_out", softmax_attention(q, k, v).reshape(x.shape), padding=0)
        h = w.conv(f"{key}.conv1", functional.silu(self.norm(f"{key}.norm1", x)))
        h = w.conv(f"{key}.conv2", functional.silu(self.norm(f"{key}.norm2", h)))
        return h + (w.conv(f"{key}.nin_shortcut", x, padding=0) if f"{key}.nin_shortcut.weight" in w else x)

    def middle_and_end(self, part, x, between=()):
        for key in ("mid.block_1", "mid.attn_1", "mid.block_2", *between):
            if key == "upsample":
                x = self.w.conv("decoder.up.1.upsample.conv", functional.interpolate(x, scale_factor=2))
            else:
                x = self.run(f"{part}.{key}", x)
        return self.w.conv(f"{part}.conv_out", functional.silu(self.norm(f"{part}.norm_out", x)))

    def encode(self, x):
        h = self.run("encoder.down.0.block.0", self.w.conv("encoder.conv_in", x))
        h = self.w.conv("encoder.down.0.downsample.conv", functional.pad(h, (0, 1, 0, 1)), padding=0, stride=2)
        h = self.run("encoder.down.1.attn.0", self.run("encoder.down.1.block.0", h))
        return self.w.conv("quant_conv", self.middle_and_end("encoder", h), padding=0)

    def decode(self, h):
        h = self.w.conv("decoder.conv_in", self.w.conv("post_quant_conv", h, padding=0))
        ups = [f"up.1.{kind}.{i}" for i in range(2) for kind in ("block", "attn")]
        return self.middle_and_end("decoder", h, [*ups, "upsample", "up.0.block.0", "up.0.block.1"])


SIZES = {"factor": 2, "channels": WIDTH, "channel_mult": [1, 2], "num_res_blocks": 1, "attention_factors": [2]}


@pytest.mark.parametrize("factor", [None, 0.25])
def test_the_kl_autoencoder_equals_the_public_one(factor):
    public, ours, x = PublicAutoencoder(), KLAutoencoder(8, 3, 4, **SIZES).eval(), torch.randn(2, 3, 8, 8)
    state = {"loss.logvar": torch.zeros(())}
    for key, value in public.w.items():
        state[key if factor is None else f"first_stage_model.{key}"] = value
    if factor is not None:
        state["scale_factor"] = torch.tensor(factor)
    assert load({"state_dict": state}, ours, "file.ckpt").form.name == "latent_autoencoder"
    with torch.no_grad():
        mean, std = ours.posterior(x).chunk(2, dim=1)
        expected, log_variance = public.encode(x).chunk(2, dim=1)
        torch.testing.assert_close(mean, expected * (factor or 1), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(std, (log_variance / 2).exp() * (factor or 1), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.decode(mean), public.decode(expected), rtol=1e-3, atol=1e-3)
    assert expected.std() > 0.1


def test_the_vq_autoencoder_equals_the_public_one():
    public, x = PublicAutoencoder(moments=1, codes=7), torch.randn(2, 3, 8, 8)
    ours = VQAutoencoder(8, 3, 4, num_codes=7, codebook="gradient", **SIZES).eval()
    assert "codebook.embedding" not in load(dict(public.w), ours, "file.ckpt").initial
    with torch.no_grad():
        h = public.encode(x)
        torch.testing.assert_close(ours.posterior(x), h, rtol=1e-4, atol=1e-4)
        codes = public.w["quantize.embedding.weight"]
        distances = torch.cdist(h.flatten(2).mT, codes)  # (B, L, K)
        nearest = codes[distances.argmin(dim=2)].mT.reshape(h.shape)
        torch.testing.assert_close(ours.decode(h), public.decode(nearest), rtol=1e-3, atol=1e-3)


def test_a_first_stage_with_other_levels_is_refused():
    network = KLAutoencoder(8, 3, 4, **{**SIZES, "attention_factors": []})
    with pytest.raises(UserError, match=r"it also has decoder.up.1.attn.0.k.bias, .* in all"):
        load(dict(PublicAutoencoder().w), network, "file.ckpt")
