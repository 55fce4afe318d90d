"""The U-Net equals diffusers' networks with the same weights; published networks have the published sizes."""

from itertools import chain

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel

from diffsweep.backbones import UNet
from diffsweep.backbones.unet_blocks import ResidualStage
from diffsweep.diffusion import Condition


def numbers(module):
    return sum(parameter.numel() for parameter in module.parameters())


def load(ours, *theirs):
    """Copy the weights of one layer, or of several in a row; those of linear layers become 1 x 1 convolutions."""
    for name, parameter in ours.named_parameters():
        parameter.data.copy_(torch.cat([getattr(layer, name) for layer in theirs]).reshape(parameter.shape))


def load_block(ours, theirs):
    layers = ((ours.norm_in, theirs.norm1), (ours.conv_in, theirs.conv1), (ours.norm_out, theirs.norm2))
    for mine, other in (*layers, (ours.conv_out, theirs.conv2), (ours.embed, theirs.time_emb_proj)):
        load(mine, other)
    if theirs.conv_shortcut is not None:
        load(ours.skip, theirs.conv_shortcut)


def load_attention(ours, theirs):
    load(ours.norm, theirs.group_norm)
    load(ours.to_qkv, theirs.to_q, theirs.to_k, theirs.to_v)
    load(ours.to_out, theirs.to_out[0])


def load_transformer(ours, theirs):
    for name in ("norm", "proj_in", "proj_out"):
        load(getattr(ours, name), getattr(theirs, name))
    for mine, other in zip(ours.blocks, theirs.transformer_blocks, strict=True):
        for attention, norm, (a, n) in (
            (mine.self_attention, mine.norm_self, (other.attn1, other.norm1)),
            (mine.cross_attention, mine.norm_cross, (other.attn2, other.norm2)),
        ):
            load(norm, n)
            load(attention.to_q, a.to_q)
            load(attention.to_kv, a.to_k, a.to_v)
            load(attention.to_out, a.to_out[0])
        load(mine.norm_forward, other.norm3)
        load(mine.feed_forward[0].project, other.ff.net[0].proj)
        load(mine.feed_forward[1], other.ff.net[2])


def load_stage(ours, resnet, attention):
    load_block(ours.block, resnet)
    if attention is not None:
        (load_transformer if hasattr(attention, "transformer_blocks") else load_attention)(ours.attention, attention)


def load_all(ours, theirs):
    """Return our network with random weights of diffusers' network, and that network."""
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    layers = [(ours.conv_in, theirs.conv_in), (ours.norm_out, theirs.conv_norm_out), (ours.conv_out, theirs.conv_out)]
    embedding = theirs.time_embedding
    for mine, other in (*layers, (ours.embed_time[0], embedding.linear_1), (ours.embed_time[2], embedding.linear_2)):
        load(mine, other)
    if ours.embed_condition.classes is not None:
        ours.embed_condition.classes.weight.data[:-1] = theirs.class_embedding.weight
    for mine, blocks, resamplers in (
        (ours.down, theirs.down_blocks, "downsamplers"),
        (ours.up, theirs.up_blocks, "upsamplers"),
    ):
        stages = (module for module in mine if isinstance(module, ResidualStage))
        between = (module for module in mine if not isinstance(module, ResidualStage))
        for block in blocks:
            attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
            for resnet, attention in zip(block.resnets, attentions, strict=True):
                load_stage(next(stages), resnet, attention)
            for resampler in getattr(block, resamplers) or ():
                if hasattr(resampler, "conv1"):
                    load_block(next(between), resampler)
                else:
                    load(next(between), resampler.conv)
        assert not list(chain(stages, between))
    middle = theirs.mid_block
    for stage, resnet, attention in zip(ours.middle, middle.resnets, (*middle.attentions, None), strict=True):
        load_stage(stage, resnet, attention)
    return ours.double(), theirs.double().eval()


COMMON = {"in_channels": 2, "image_size": 12, "channels": 16, "norm_groups": 4, "attention_resolutions": []}
INPUT = torch.randn(3, 2, 12, 12, dtype=torch.float64), torch.tensor([0.0, 7.0, 60.0])


def test_it_equals_the_unet_of_ddpm():
    theirs = UNet2DModel(
        12, 2, 2, down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32), layers_per_block=2, attention_head_dim=8, norm_num_groups=4, norm_eps=1e-6,
    )  # fmt: skip
    ours = UNet(**COMMON, out_channels=2, attention_factors=[2], head_channels=8, norm_eps=1e-6)
    assert numbers(ours) == numbers(theirs)
    ours, theirs = load_all(ours, theirs)
    torch.testing.assert_close(ours(*INPUT), theirs(*INPUT).sample, rtol=1e-5, atol=1e-5)


def test_it_equals_the_unet_of_adm():
    theirs = UNet2DModel(
        12, 2, 4, down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"), block_out_channels=(16, 32, 48),
        downsample_type="resnet", upsample_type="resnet", resnet_time_scale_shift="scale_shift", layers_per_block=1,
        attention_head_dim=16, norm_num_groups=4, attn_norm_num_groups=4, num_class_embeds=10,
    )  # fmt: skip
    ours = UNet(
        **COMMON, out_channels=4, channel_mult=[1, 2, 3], num_res_blocks=1, attention_factors=[2, 4], head_channels=16,
        block="biggan", time_embedding="scale_shift", num_classes=10,
    )  # fmt: skip
    assert numbers(ours) == numbers(theirs) + 64  # the null class
    ours, theirs = load_all(ours, theirs)
    classes = torch.tensor([9, 0, 4])
    torch.testing.assert_close(
        ours(*INPUT, Condition(vector=classes)), theirs(*INPUT, class_labels=classes).sample, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("masked", [False, True])
def test_it_equals_the_unet_of_stable_diffusion(masked):
    theirs = UNet2DConditionModel(
        12, 2, 2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), block_out_channels=(16, 32), layers_per_block=2,
        transformer_layers_per_block=2, cross_attention_dim=12, attention_head_dim=4, norm_num_groups=4,
    )  # fmt: skip
    ours = UNet(**COMMON, out_channels=2, attention_factors=[1], num_heads=4, context_dim=12, transformer_depth=2)
    assert numbers(ours) == numbers(theirs) + 12  # the null token
    ours, theirs = load_all(ours, theirs)
    tokens = torch.randn(3, 5, 12, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [1, 1, 1, 0, 0]]).bool() if masked else None
    torch.testing.assert_close(
        ours(*INPUT, Condition(tokens=tokens, token_mask=mask)),
        theirs(*INPUT, tokens, encoder_attention_mask=mask).sample,
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("preset", "sizes", "published"),
    [
        ("unet_ddpm_cifar10", (3, 3, 32, None), 35_746_307),
        ("unet_iddpm_cifar10", (3, 6, 32, None), 52_546_438),
        ("unet_iddpm_imagenet64", (3, 6, 64, None), 121_063_942),
        ("adm_64", (3, 6, 64, 1000), 295_904_454 + 768),
        ("adm_128", (3, 6, 128, 1000), 421_529_606 + 1024),
        ("adm_256", (3, 6, 256, 1000), 553_838_086 + 1024),
        ("unet_sd", (4, 4, 64, None), 859_520_964 + 768),
    ],
)
def test_published_networks_have_the_published_parameter_counts(compose, preset, sizes, published):
    """The counts are those of the public codes plus the null class or the null token."""
    settings = dict(compose(f"backbone={preset}").backbone)
    settings.pop("_target_")
    settings.update(zip(("in_channels", "out_channels", "image_size", "num_classes"), sizes, strict=True))
    with torch.device("meta"):
        assert numbers(UNet(**settings)) == published


def test_diffusers_has_the_same_count_for_stable_diffusion():
    with torch.device("meta"):
        theirs = UNet2DConditionModel(64, cross_attention_dim=768, attention_head_dim=8)
    assert numbers(theirs) == 859_520_964
