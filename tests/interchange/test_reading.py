"""Networks that diffusers writes, read into our backbones: equal outputs for equal inputs."""

import json

import diffusers
import pytest
import torch
from slower import some
from weights import redrawn

from diffsweep.backbones import DiT, UNet
from diffsweep.diffusion import Condition
from diffsweep.errors import UserError
from diffsweep.interchange.folders import read_json, read_weights
from diffsweep.interchange.options import described
from diffsweep.interchange.reading import load_backbone

NETWORKS = {"unet": UNet, "dit": DiT}
TWO = {"block_out_channels": (16, 32), "norm_num_groups": 4, "sample_size": 12, "in_channels": 2, "layers_per_block": 1}
PLAIN = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
CROSS = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 12,
}
RESNET = {
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "downsample_type": "resnet",
    "upsample_type": "resnet",
}
WRITTEN = {
    "ddpm": ("UNet2DModel", {**TWO, **PLAIN, "out_channels": 2, "attention_head_dim": None, "norm_eps": 1e-6,
        "freq_shift": 1, "flip_sin_to_cos": False, "downsample_padding": 0}),
    "dit": ("DiTTransformer2DModel", {"num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 2,
        "out_channels": 4, "num_layers": 2, "sample_size": 12, "num_embeds_ada_norm": 3, "norm_eps": 1e-6}),
    "stable diffusion": ("UNet2DConditionModel", {**TWO, **CROSS, "out_channels": 2, "attention_head_dim": 4}),
    "heads": ("UNet2DModel", {**TWO, **PLAIN, "out_channels": 4, "attention_head_dim": 8}),
    "adm": ("UNet2DModel", {**TWO, **RESNET, "out_channels": 4, "resnet_time_scale_shift": "scale_shift",
        "attn_norm_num_groups": 4, "attention_head_dim": 16, "num_class_embeds": 3}),
    "no middle": ("UNet2DModel", {**TWO, **PLAIN, "out_channels": 2, "add_attention": False}),
    "stable diffusion heads": ("UNet2DConditionModel", {**TWO, **CROSS, "out_channels": 2,
        "attention_head_dim": (2, 4), "transformer_layers_per_block": 2, "use_linear_projection": True}),
}  # fmt: skip
EMB = "transformer_blocks.{}.norm1.emb"


def write(folder, kind, settings):
    """Return a network of diffusers with random weights, after writing it to a folder."""
    theirs = redrawn(getattr(diffusers, kind)(**settings), 0.15).eval()
    for block in getattr(theirs, "transformer_blocks", ()):  # one embedding, as in published networks
        block.norm1.emb.load_state_dict(theirs.transformer_blocks[0].norm1.emb.state_dict())
    theirs.save_pretrained(folder)
    return theirs


def made(read):
    """Return our network for one of diffusers, without weights."""
    sizes = {"num_classes": read.classes, "context_dim": read.context_dim}
    return NETWORKS[read.option](
        read.channels, read.heads * read.channels, read.image_size, **read.settings, **sizes
    ).eval()


@pytest.mark.parametrize("name", some(WRITTEN, 3))
def test_a_network_of_diffusers_is_read(tmp_path, name):
    theirs = write(tmp_path, *WRITTEN[name])
    read = described(read_json(tmp_path / "config.json"), "config.json")
    ours = made(read)
    load_backbone(ours, tmp_path)
    x, t, ids = torch.randn(3, 2, 12, 12), torch.tensor([0.0, 7.0, 990.0]), torch.tensor([2, 0, 1])
    tokens = torch.randn(3, 5, 12) if read.context_dim else None
    inputs = {"encoder_hidden_states": tokens} if read.context_dim else {"class_labels": ids} if read.classes else {}
    with torch.no_grad():
        expected = theirs(x, timestep=t, **inputs).sample
        cond = Condition(tokens=tokens) if read.context_dim else Condition(vector=ids) if read.classes else None
        torch.testing.assert_close(ours(x, t, cond), expected, rtol=0, atol=2e-4 * float(expected.abs().max()))
    assert expected.std() > 0.1


def test_what_cannot_be_read_is_named(tmp_path):
    write(tmp_path, *WRITTEN["heads"])
    config = tmp_path / "config.json"
    content = json.loads(config.read_text())
    for changes, expected in (
        ({"act_fn": "mish"}, "act_fn=mish"),
        ({"down_block_types": ["KDownBlock2D", "DownBlock2D"]}, "down_block_types"),
        ({"norm_num_groups": 8}, "norm_num_groups=8"),
        ({"_class_name": "Kandinsky"}, "of the class Kandinsky"),
        ({"block_out_channels": [16, 48]}, "by config.json down.2.block.conv_in.weight is"),
        ({"layers_per_block": 2}, "has no down_blocks"),
    ):
        config.write_text(json.dumps({**content, **changes}))
        with pytest.raises(UserError, match=expected):
            load_backbone(made(described(read_json(config), str(config))), tmp_path)
    config.write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        read_json(config)
    with pytest.raises(UserError, match="no folder of diffusers"):
        read_json(tmp_path / "no" / "config.json")
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        read_weights(tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match=r"has no diffusion_pytorch_model\.safetensors"):
        read_weights(tmp_path)
