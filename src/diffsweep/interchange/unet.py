"""U-Nets as diffusers' ``UNet2DModel`` and ``UNet2DConditionModel``, which are the same functions of the weights."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

from torch import nn

from diffsweep.backbones import UNet
from diffsweep.backbones.unet_blocks import ResidualStage, SpatialTransformer
from diffsweep.errors import UserError
from diffsweep.interchange.weights import Layers, refuse_others
from diffsweep.layers import ResidualBlock, SelfAttention2d

BLOCK = {
    "norm_in": "norm1",
    "conv_in": "conv1",
    "embed": "time_emb_proj",
    "norm_out": "norm2",
    "conv_out": "conv2",
    "skip": "conv_shortcut",
}
ATTENTION = {"norm": ("group_norm",), "to_qkv": ("to_q", "to_k", "to_v"), "to_out": ("to_out.0",)}
TRANSFORMER = {"norm": "norm", "proj_in": "proj_in", "proj_out": "proj_out"}
TRANSFORMER_BLOCK = {
    "self_attention.to_q": ("attn1.to_q",),
    "self_attention.to_kv": ("attn1.to_k", "attn1.to_v"),
    "self_attention.to_out": ("attn1.to_out.0",),
    "cross_attention.to_q": ("attn2.to_q",),
    "cross_attention.to_kv": ("attn2.to_k", "attn2.to_v"),
    "cross_attention.to_out": ("attn2.to_out.0",),
    "norm_self": ("norm1",),
    "norm_cross": ("norm2",),
    "norm_forward": ("norm3",),
    "feed_forward.0.project": ("ff.net.0.proj",),
    "feed_forward.1": ("ff.net.2",),
}
ENDS = {
    "conv_in": "conv_in",
    "norm_out": "conv_norm_out",
    "conv_out": "conv_out",
    "embed_time.0": "time_embedding.linear_1",
    "embed_time.2": "time_embedding.linear_2",
    "embed_condition.classes": "class_embedding",
}
OWN = ("context.null",)  # parameters that diffusers' networks do not have
# the values of options that diffusers' networks have in common with ours
ONLY: dict[str, Any] = {
    "attention": "full",
    "resample_order": "after",
    "residual_scale": 1.0,
    "skip_scale": 1.0,
    "up_attention": "every",
    "resample_projection": False,
    "vector_dim": None,
    "num_scalars": None,
    "image_channels": 0,
}


def layers_of(network: UNet) -> Layers:
    """Return the layers of diffusers' network by the names of the layers of a U-Net of ours."""
    return dict(_pairs(network))


def _pairs(network: UNet) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield from ((ours, (theirs,)) for ours, theirs in ENDS.items())
    for way, between in (("down", "downsamplers"), ("up", "upsamplers")):
        level, count = 0, 0
        for index, module in enumerate(getattr(network, way)):
            ours, theirs = f"{way}.{index}", f"{way}_blocks.{level}"
            if isinstance(module, ResidualStage):
                yield from _stage(module, ours, f"{theirs}.resnets.{count}", f"{theirs}.attentions.{count}")
                count += 1
                continue
            if isinstance(module, ResidualBlock):
                yield from _block(ours, f"{theirs}.{between}.0")
            else:
                yield ours, (f"{theirs}.{between}.0.conv",)
            level, count = level + 1, 0
    for index, module in enumerate(network.middle):
        place = f"mid_block.resnets.{index}", f"mid_block.attentions.{index}"
        yield from _stage(module, f"middle.{index}", *place)


def _stage(stage: nn.Module, ours: str, block: str, attention: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield from _block(f"{ours}.block", block)
    if isinstance(stage.attention, SelfAttention2d):
        yield from ((f"{ours}.attention.{a}", tuple(f"{attention}.{b}" for b in bs)) for a, bs in ATTENTION.items())
    if isinstance(stage.attention, SpatialTransformer):
        yield from ((f"{ours}.attention.{a}", (f"{attention}.{b}",)) for a, b in TRANSFORMER.items())
        for index in range(len(stage.attention.blocks)):
            place = f"{attention}.transformer_blocks.{index}"
            for a, bs in TRANSFORMER_BLOCK.items():
                yield f"{ours}.attention.blocks.{index}.{a}", tuple(f"{place}.{b}" for b in bs)


def _block(ours: str, theirs: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield from ((f"{ours}.{a}", (f"{theirs}.{b}",)) for a, b in BLOCK.items())


def kind_and_config(network: UNet, image_size: int) -> tuple[str, dict[str, Any]]:
    """Return the class of diffusers that computes what a U-Net of ours does, and the arguments of its constructor.

    Args:
        network: the network.
        image_size: the side of x that it is used for.

    Raises:
        UserError: diffusers has no such network; the message names the option.
    """
    options = network.options
    refuse_others(options, ONLY, "a U-Net")
    if options.block == "convnext":
        raise UserError("backbone.block=convnext: diffusers has no such U-Net; it has ddpm and biggan")
    text, resnet, levels = options.context_dim is not None, options.block == "biggan", options.levels(image_size)
    if image_size % 2 ** (len(levels) - 1):
        raise UserError(
            f"a side of {image_size} cannot be halved {len(levels) - 1} times without a remainder, as diffusers needs"
        )
    middle_attends = network.middle[0].attention is not None
    if text and (resnet or not middle_attends):
        raise UserError(
            "backbone.context_dim: diffusers has cross-attention only with block=ddpm and attention in the middle"
        )
    if len(set(options.blocks)) > 1:
        raise UserError(
            f"backbone.num_res_blocks={list(options.blocks)}: a U-Net of diffusers has the same number at all levels"
        )
    names = _block_types(text, resnet)
    common = {
        "sample_size": image_size,
        "in_channels": network.conv_in.in_channels,
        "out_channels": network.conv_out.out_channels,
        "down_block_types": [names["down"][level.attends] for level in levels],
        "up_block_types": [names["up"][level.attends] for level in reversed(levels)],
        "block_out_channels": [level.width for level in levels],
        "layers_per_block": options.blocks[0],
        "dropout": options.dropout,
        "norm_num_groups": norm_groups_of(network),
        "norm_eps": options.norm_eps,
        "freq_shift": int(options.time_endpoint),
        "downsample_padding": 0 if options.pad_end else 1,
        "resnet_time_scale_shift": "scale_shift" if options.time_embedding == "scale_shift" else "default",
        "num_class_embeds": None if options.num_classes is None else options.num_classes + 1,
    }
    if text:
        return "UNet2DConditionModel", {
            **common,
            "cross_attention_dim": options.context_dim,
            "attention_head_dim": [
                options.heads(level.width) if level.attends or level is levels[-1] else 1 for level in levels
            ],
            "transformer_layers_per_block": options.transformer_depth,
        }
    sampling = {"downsample_type": "resnet", "upsample_type": "resnet"} if resnet else {}
    widths = [level.width for level in levels if level.attends] + [levels[-1].width] * middle_attends
    return "UNet2DModel", {
        **common,
        **sampling,
        "add_attention": middle_attends,
        "attn_norm_num_groups": common["norm_num_groups"],
        "attention_head_dim": _head_channels({width: options.heads(width) for width in widths}),
    }


def _block_types(text: bool, resnet: bool) -> dict[str, tuple[str, str]]:
    """Return the names of blocks on both ways, of levels without and with attention."""
    attends = "CrossAttn" if text else "Attn"
    plain = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if resnet else ("DownBlock2D", "UpBlock2D")
    return {"down": (plain[0], f"{attends}DownBlock2D"), "up": (plain[1], f"{attends}UpBlock2D")}


def _head_channels(heads: dict[int, int]) -> int | None:
    """Return the channels of every attention head, None for one head in each layer.

    Args:
        heads: the number of heads by the width of a level.
    """
    if set(heads.values()) <= {1}:
        return None
    channels = {width // count for width, count in heads.items()}
    if len(channels) > 1:
        raise UserError(
            f"backbone.num_heads: the heads have {' and '.join(map(str, sorted(channels)))} channels, and in diffusers "
            "all have one size; it would be backbone.head_channels"
        )
    return channels.pop()


def norm_groups_of(network: nn.Module) -> int:
    """Return the number of groups that most norms of a network have."""
    groups = [module.num_groups for module in network.modules() if isinstance(module, nn.GroupNorm)]
    return max(sorted(set(groups), reverse=True), key=groups.count)


def other_norm_groups(network: nn.Module, layers: Layers) -> dict[str, int]:
    """Return the numbers of groups of the norms that have another one than most, by the names of diffusers' norms."""
    most = norm_groups_of(network)
    norms = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.GroupNorm)]
    return dict(
        chain.from_iterable(
            ((theirs, norm.num_groups) for theirs in layers[name]) for name, norm in norms if norm.num_groups != most
        )
    )
