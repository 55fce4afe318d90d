"""The options of our networks that compute what networks of diffusers do, from their ``config.json``."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from diffsweep.errors import UserError

UNET_DEFAULTS: dict[str, Any] = {  # of keys that a configuration of diffusers leaves out
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "mid_block_type": "UNetMidBlock2D",
    "mid_block_scale_factor": 1,
    "layers_per_block": 2,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "num_attention_heads": None,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "cross_attention_dim": 1280,
    "transformer_layers_per_block": 1,
    "use_linear_projection": False,
    "only_cross_attention": False,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "addition_embed_type": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
}
UNET_FIXED: dict[str, tuple[Any, ...]] = {  # the values that our U-Nets can express
    "center_input_sample": (False, 0),
    "time_embedding_type": ("positional",),
    "freq_shift": (0, 1),
    "mid_block_type": ("UNetMidBlock2D", "UNetMidBlock2DCrossAttn"),
    "mid_block_scale_factor": (1,),
    "downsample_padding": (0, 1),
    "act_fn": ("silu", "swish"),
    "class_embed_type": (None,),
    "only_cross_attention": (False,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "addition_embed_type": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "resnet_time_scale_shift": ("default", "scale_shift"),
}
DOWN = {"DownBlock2D": False, "ResnetDownsampleBlock2D": False, "AttnDownBlock2D": True, "CrossAttnDownBlock2D": True}
UP = {"UpBlock2D": False, "ResnetUpsampleBlock2D": False, "AttnUpBlock2D": True, "CrossAttnUpBlock2D": True}
DIT_FIXED: dict[str, tuple[Any, ...]] = {
    "activation_fn": ("gelu-approximate",),
    "attention_bias": (True,),
    "norm_type": ("ada_norm_zero",),
    "norm_elementwise_affine": (False,),
    "dropout": (0.0,),
}


class Described(NamedTuple):
    """A network of diffusers in terms of ours.

    Attributes:
        option: the option of the group ``backbone``, such as ``unet``.
        settings: its keys.
        channels: channels of x.
        heads: the channels of the output as a multiple of those of x.
        image_size: the side of x that it was made for; None if it is not known.
        classes: the number of embeddings of classes, the null class of a DiT not counted; None for none.
        context_dim: the width of the tokens; None for none.
        sines_first: whether the sines come before the cosines in the time embedding.
    """

    option: str
    settings: dict[str, Any]
    channels: int
    heads: int
    image_size: int | None
    classes: int | None
    context_dim: int | None = None
    sines_first: bool = False


def described(config: Mapping[str, Any], source: str) -> Described:
    """Return a network of diffusers in terms of ours.

    Args:
        config: the content of its ``config.json``.
        source: the file, for error messages.

    Raises:
        UserError: it is of another class, or has a value that our networks cannot express.
    """
    kind = str(config.get("_class_name"))
    if kind not in KINDS:
        raise UserError(f"{source} is of the class {kind}; {', '.join(KINDS)} can be read")
    return KINDS[kind](config, source)


def _refuse_others(config: Mapping[str, Any], fixed: Mapping[str, tuple[Any, ...]], source: str) -> None:
    for key, values in fixed.items():
        if key in config and config[key] not in values:
            expected = " or ".join(map(str, values))
            raise UserError(f"{source} has {key}={config[key]}, which no option expresses; {expected} can be read")


def _unet(read: Mapping[str, Any], source: str) -> Described:
    config, text = {**UNET_DEFAULTS, **read}, read["_class_name"] == "UNet2DConditionModel"
    _refuse_others(config, UNET_FIXED, source)
    widths, levels = [int(width) for width in config["block_out_channels"]], len(config["block_out_channels"])
    for key, kinds in (("down_block_types", DOWN), ("up_block_types", UP)):
        if len(config[key]) != levels or not set(config[key]) <= set(kinds):
            raise UserError(f"{source} has {key}={config[key]}, which no option expresses")
    attends = [DOWN[kind] for kind in config["down_block_types"]]
    if [UP[kind] for kind in config["up_block_types"]] != attends[::-1]:
        raise UserError(f"{source} has attention at other levels on the way up than on the way down, as no option has")
    resnet = _is_resnet(config, source)
    channels = math.gcd(*widths)
    if channels != widths[0]:
        raise UserError(f"{source} has block_out_channels={widths}, which are no multiples of the first")
    if config["time_embedding_dim"] not in (None, 4 * channels):
        raise UserError(f"{source} has time_embedding_dim={config['time_embedding_dim']}; an option has {4 * channels}")
    groups = config["norm_num_groups"]
    if widths[0] // groups < 4 or any(width % groups for width in widths):
        raise UserError(f"{source} has norm_num_groups={groups}, so that a group has fewer than 4 channels")
    settings = {
        "channels": channels,
        "channel_mult": [width // channels for width in widths],
        "num_res_blocks": config["layers_per_block"],
        "attention_factors": [2**level for level, each in enumerate(attends) if each],
        "attention_resolutions": [],
        "middle_attention": bool(text or config["add_attention"]),
        "block": "biggan" if resnet else "ddpm",
        "time_embedding": "scale_shift" if config["resnet_time_scale_shift"] == "scale_shift" else "additive",
        "time_endpoint": config["freq_shift"] == 1,
        "pad_end": config["downsample_padding"] == 0 and not resnet,
        "norm_groups": groups,
        "norm_eps": float(config["norm_eps"]),
        "dropout": float(config["dropout"]),
        **(_transformers(config, source) if text else _attention(config, attends, widths, source)),
    }
    return Described(
        "unet",
        settings,
        config["in_channels"],
        max(1, config["out_channels"] // config["in_channels"]),
        _side(config.get("sample_size")),
        config["num_class_embeds"],
        config["cross_attention_dim"] if text else None,
        not config["flip_sin_to_cos"],
    )


def _is_resnet(config: Mapping[str, Any], source: str) -> bool:
    """Return whether maps are resampled in residual blocks."""
    plain = {"DownBlock2D": False, "ResnetDownsampleBlock2D": True}
    kinds = {plain[kind] for kind in config["down_block_types"] if kind in plain}
    by_type = {config["downsample_type"] == "resnet", config["upsample_type"] == "resnet"}
    found = kinds | (by_type if any(DOWN[kind] for kind in config["down_block_types"][:-1]) else set())
    if len(found) > 1:
        raise UserError(f"{source} resamples maps in several ways, as no option does")
    return found.pop() if found else False


def _attention(config: Mapping[str, Any], attends: list[bool], widths: list[int], source: str) -> dict[str, Any]:
    groups = config["attn_norm_num_groups"]
    without_norm = groups is None and config["resnet_time_scale_shift"] != "default" and config["add_attention"]
    if without_norm or groups not in (None, config["norm_num_groups"]):
        raise UserError(f"{source} has attn_norm_num_groups={groups}; {config['norm_num_groups']} can be read")
    return {"head_channels": config["attention_head_dim"], "num_heads": 1}


def _transformers(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    heads = config["num_attention_heads"] or config["attention_head_dim"]  # diffusers has the count under both names
    depth = config["transformer_layers_per_block"]
    counts = set(heads) if isinstance(heads, list | tuple) else {heads}
    depths = set(depth) if isinstance(depth, list | tuple) else {depth}
    widths = (
        {int(width) // count for width, count in zip(config["block_out_channels"], heads, strict=True)}
        if len(counts) > 1
        else set()
    )
    if len(widths) > 1 or len(depths) > 1:
        raise UserError(f"{source} has heads or transformers that differ between levels, as no option expresses")
    own = {"head_channels": widths.pop()} if widths else {"num_heads": counts.pop(), "head_channels": None}
    return {**own, "transformer_depth": depths.pop()}


def _dit(config: Mapping[str, Any], source: str) -> Described:
    _refuse_others(config, DIT_FIXED, source)
    if not math.isclose(config.get("norm_eps", 1e-5), 1e-6):
        raise UserError(
            f"{source} has norm_eps={config.get('norm_eps', 1e-5)}; 1e-6, as in the published DiTs, can be read"
        )
    channels, heads = config.get("in_channels", 4), config.get("num_attention_heads", 16)
    settings = {
        "patch_size": config.get("patch_size", 2),
        "channels": heads * config.get("attention_head_dim", 72),
        "depth": config.get("num_layers", 28),
        "num_heads": heads,
        "block": "adaln_zero",
        "time_endpoint": True,
    }
    out = config.get("out_channels") or channels
    side, classes = config.get("sample_size", 32), config.get("num_embeds_ada_norm", 1000)
    return Described("dit", settings, channels, max(1, out // channels), side, classes)


def _side(size: Any) -> int | None:
    """Return the side of x from ``sample_size``, which may be a list of height and width."""
    return size[0] if isinstance(size, list | tuple) else size


KINDS: dict[str, Callable[[Mapping[str, Any], str], Described]] = {
    "UNet2DModel": _unet,
    "UNet2DConditionModel": _unet,
    "DiTTransformer2DModel": _dit,
}
