"""U-Nets of score_sde_pytorch (arXiv:2011.13456) and EDM (arXiv:2206.00364): DDPM++ and ADM, by their keys.

EDM names blocks by the side of their maps and their number, score_sde numbers all modules in the order in which they
run. NCSN++ has smoothed resampling, further inputs at each size and Fourier features of the time, which UNet lacks.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diffsweep.backbones import UNet
from diffsweep.backbones.unet_blocks import ResidualStage
from diffsweep.errors import UserError
from diffsweep.interchange.published.base import (
    Form,
    NamedOrigin,
    Origins,
    Tensors,
    of_heads,
    tensors_of,
    with_null_class,
    without_prefix,
)
from diffsweep.layers import ResidualBlock
from diffsweep.layers.named_weights import Origin, joined

DDPM_PP: Mapping[str, Any] = {  # options of DDPM++ that do not show in shapes
    "norm_eps": 1e-6,
    "residual_scale": math.sqrt(0.5),
    "skip_scale": 1.0,
    "time_endpoint": True,
    "resample_order": "after",
    "attention": "full",
}
EDM_BLOCK = {
    "norm_in": "norm0",
    "conv_in": "conv0",
    "embed": "affine",
    "norm_out": "norm1",
    "conv_out": "conv1",
    "skip": "skip",
}
SCORE_BLOCK = {
    "norm_in": "GroupNorm_0",
    "conv_in": "Conv_0",
    "embed": "Dense_0",
    "norm_out": "GroupNorm_1",
    "conv_out": "Conv_1",
    "skip": "Conv_2",
}


def sines_first(parts: Sequence[Tensor]) -> Tensor:
    """Return the weight of a layer that reads sines, then cosines, for a layer that reads the cosines first."""
    return torch.cat(joined(parts).chunk(2, dim=1)[::-1], dim=1)


def in_order(network: UNet) -> Iterator[tuple[str, str, nn.Module]]:
    """Yield part (down, middle or up), name and module of the layers of a U-Net, in the order in which they run."""
    for part in ("down", "middle", "up"):
        for index, module in enumerate(getattr(network, part)):
            yield part, f"{part}.{index}", module


class PreconditionedUNet(Form):
    """What the U-Nets of EDM and score_sde have in common: residual blocks that also halve and double maps."""

    networks = (UNet,)
    block: ClassVar[Mapping[str, str]]

    def groups_of(self, channels: int) -> int:
        """Return the groups of a norm of these networks: 32, or as many as have four channels."""
        return min(32, channels // 4)

    def pairs(self, module: nn.Module, ours: str, theirs: str) -> Iterator[NamedOrigin]:
        """Yield what the residual block of a stage, or one that halves or doubles maps, is made of.

        Raises:
            UserError: our layer is no residual block, as these networks have.
        """
        block, name = (module.block, f"{ours}.block") if isinstance(module, ResidualStage) else (module, ours)
        if not isinstance(block, ResidualBlock):
            raise UserError(f"networks of the form {self.name} have residual blocks only; type backbone.block=biggan")
        yield from ((f"{name}.{mine}", Origin((f"{theirs}.{other}",))) for mine, other in self.block.items())


class EDMUNet(PreconditionedUNet):
    """What both networks of EDM have in common: the names of their blocks, and how attention orders its outputs."""

    block = EDM_BLOCK
    ignored = (r"\.resample_filter$", r"^map_augment\.", r"^u$")  # augmentation labels are 0 in sampling
    requires: ClassVar = {"prediction._target_": "diffsweep.diffusion.EDM"}

    def weights_of(self, content: Any) -> Tensors | None:
        weights = tensors_of(content)
        return None if weights is None else without_prefix(weights, "model.")

    def blocks(self, network: UNet, weights: Tensors) -> Iterator[NamedOrigin]:
        """Yield what the blocks and the first convolution are made of.

        Raises:
            UserError: the file has parts of NCSN++.
        """
        side = max(int(match[1]) for key in weights if (match := re.match(r"enc\.(\d+)x\d+_conv\.", key)))
        smooth = any(key.endswith("resample_filter") and value.numel() != 4 for key, value in weights.items())
        if smooth or any("aux_residual" in key or "aux_skip" in key for key in weights):
            raise UserError("the file is of NCSN++, whose smoothed resampling and further inputs backbone=unet lacks")
        yield "conv_in", Origin((f"enc.{side}x{side}_conv",))
        count = 0
        for part, ours, module in in_order(network):
            if isinstance(module, ResidualStage):
                theirs = f"{'enc' if part == 'down' else 'dec'}.{side}x{side}_{'in' if part == 'middle' else 'block'}"
                theirs, count = f"{theirs}{count if part != 'middle' else ours[-1]}", count + 1
            else:
                side, count = (side // 2 if part == "down" else side * 2), 0
                theirs = f"enc.{side}x{side}_down" if part == "down" else f"dec.{side}x{side}_up"
            count = 0 if part == "middle" else count
            yield from self.pairs(module, ours, theirs)
            attention: Any = module.attention if isinstance(module, ResidualStage) else None
            if attention is not None:
                yield f"{ours}.attention.norm", Origin((f"{theirs}.norm2",))
                yield f"{ours}.attention.to_qkv", Origin((f"{theirs}.qkv",), of_heads(attention.heads, "n d three"))
                yield f"{ours}.attention.to_out", Origin((f"{theirs}.proj",))
        yield "embed_time.0", Origin(("map_layer0",))
        yield "embed_time.2", Origin(("map_layer1",))


class EDMSong(EDMUNet):
    """DDPM++ of EDM (``SongUNet``) without classes, whose embedding it adds before the MLP of the time, not after."""

    name = "edm_ddpmpp"
    published = "DDPM++ of EDM"
    signature = (r"^enc\.\d+x\d+_conv\.weight$", r"^dec\.\d+x\d+_aux_conv\.weight$")
    options: ClassVar = {**DDPM_PP, "num_heads": 1, "head_channels": None}

    def sources(self, network: nn.Module, weights: Tensors) -> Origins:
        assert isinstance(network, UNet)
        if any(key.startswith("map_label.") for key in weights):
            raise UserError(
                "the file has classes, whose embedding is added before the MLP of the time, not after it as in "
                "backbone=unet, so that only networks without classes can be loaded"
            )
        found = dict(self.blocks(network, weights))
        (end,) = {key.rpartition("_")[0] for key in weights if re.match(r"dec\.\d+x\d+_aux_conv\.weight", key)}
        return {
            **found,
            "embed_time.0.weight": Origin(("map_layer0.weight",), sines_first),
            "norm_out": Origin((f"{end}_norm",)),
            "conv_out": Origin((f"{end}_conv",)),
        }


class EDMDhariwal(EDMUNet):
    """ADM of EDM (``DhariwalUNet``), with or without classes; no class is an embedding of zero, as in its code."""

    name = "edm_adm"
    published = "ADM of EDM"
    signature = (r"^enc\.\d+x\d+_conv\.weight$", r"^out_conv\.weight$")
    options: ClassVar = {**DDPM_PP, "norm_eps": 1e-5, "residual_scale": 1.0, "time_endpoint": False}

    def sources(self, network: nn.Module, weights: Tensors) -> Origins:
        assert isinstance(network, UNet)
        found = dict(self.blocks(network, weights))
        found |= {"norm_out": Origin(("out_norm",)), "conv_out": Origin(("out_conv",))}
        if network.embed_condition.classes is not None:
            rows = with_null_class(len(network.embed_condition.classes.weight))
            found["embed_condition.classes.weight"] = Origin(("map_label.weight",), lambda parts: rows([parts[0].T]))
        return found


class ScoreSDE(PreconditionedUNet):
    """DDPM++ of score_sde_pytorch, continuous and with the VP schedule, whose output is eps at the time 999 t."""

    name = "score_sde"
    published = "DDPM++ of score_sde_pytorch"
    block = SCORE_BLOCK
    signature = (r"^all_modules\.0\.", r"^all_modules\.2\.weight$")
    ignored = (r"^sigmas$",)
    options: ClassVar = {**DDPM_PP, "num_heads": 1, "head_channels": None}
    requires: ClassVar = {"prediction._target_": "diffsweep.diffusion.Eps", "prediction.time_scale": 0.999}

    def weights_of(self, content: Any) -> Tensors | None:
        """Return the weights, which the average replaces: a list in the order of the state dict's parameters."""
        state = content.get("model") if isinstance(content, Mapping) else None
        weights = tensors_of(content if state is None else state)
        average = (
            content["ema"].get("shadow_params") if state is not None and isinstance(content.get("ema"), dict) else None
        )
        if weights is None or average is None:
            return weights
        names = [key for key in weights if key != "sigmas"]
        if "all_modules.0.W" in names:  # it is not trained, and has no average
            names.remove("all_modules.0.W")
        if len(names) != len(average):
            raise UserError(f"the average in ema has {len(average)} tensors, but the model has {len(names)} parameters")
        return {**weights, **dict(zip(names, average, strict=True))}

    def sources(self, network: nn.Module, weights: Tensors) -> Origins:
        assert isinstance(network, UNet)
        if "all_modules.0.W" in weights or any(".Conv2d_0." in key for key in weights):
            raise UserError(
                "the file is of NCSN++, whose Fourier features of the time, smoothed resampling and further inputs "
                "backbone=unet lacks"
            )
        return dict(self._pairs(network))

    def _pairs(self, network: UNet) -> Iterator[NamedOrigin]:
        yield "embed_time.0.weight", Origin(("all_modules.0.weight",), sines_first)
        yield "embed_time.0.bias", Origin(("all_modules.0.bias",))
        yield "embed_time.2", Origin(("all_modules.1",))
        yield "conv_in", Origin(("all_modules.2",))
        number = 3
        for _, ours, module in in_order(network):
            yield from self.pairs(module, ours, f"all_modules.{number}")
            number += 1
            if isinstance(module, ResidualStage) and module.attention is not None:
                yield from _attention(f"{ours}.attention", f"all_modules.{number}")
                number += 1
        yield "norm_out", Origin((f"all_modules.{number}",))
        yield "conv_out", Origin((f"all_modules.{number + 1}",))


def _attention(ours: str, theirs: str) -> Iterator[NamedOrigin]:
    """Yield what an attention layer is made of: matrices W of (inputs, outputs), the transposes of weights."""
    for mine, numbers in {"to_qkv": (0, 1, 2), "to_out": (3,)}.items():
        weights = tuple(f"{theirs}.NIN_{number}.W" for number in numbers)
        yield f"{ours}.{mine}.weight", Origin(weights, lambda parts: joined([part.T for part in parts]))
        yield f"{ours}.{mine}.bias", Origin(tuple(f"{theirs}.NIN_{number}.b" for number in numbers))
    yield f"{ours}.norm", Origin((f"{theirs}.GroupNorm_0",))
