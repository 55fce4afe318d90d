"""Transformers over patches: DiT (arXiv:2212.09748) and U-ViT (arXiv:2209.12152), as their authors publish them."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from diffsweep.backbones import DiT, UViT
from diffsweep.errors import UserError
from diffsweep.interchange.published.base import Form, Origins, Tensors, with_null_class
from diffsweep.layers import sincos_positions
from diffsweep.layers.named_weights import Origin

ATTENTION = {"attention.to_qkv": "attn.qkv", "attention.to_out": "attn.proj", "mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2"}
DIT_BLOCK = {**ATTENTION, "modulation.linear": "adaLN_modulation.1"}
UVIT_BLOCK = {**ATTENTION, "norm_attention": "norm1", "norm_mlp": "norm2", "merge": "skip_linear"}
PLAIN: Mapping[str, bool] = {"qk_norm": False, "rope": False, "swiglu": False, "rms_norm": False}


def _blocks(places: Mapping[str, str], parts: Mapping[str, str]) -> Origins:
    return {
        f"{ours}.{mine}": Origin((f"{theirs}.{other}",))
        for ours, theirs in places.items()
        for mine, other in parts.items()
    }


class PublishedDiT(Form):
    """DiT-XL/2 and its smaller sizes; the file's table of positions must be the one that our network computes."""

    name = "dit"
    published = "DiT"
    networks = (DiT,)
    signature = (r"^x_embedder\.proj\.weight$", r"^blocks\.0\.adaLN_modulation\.1\.weight$", r"^final_layer\.linear\.")
    ignored = (r"^pos_embed$",)
    options: ClassVar = {**PLAIN, "context_dim": None}

    def sources(self, network: nn.Module, weights: Tensors) -> Origins:
        assert isinstance(network, DiT)
        self._check_positions(network, weights)
        found = {
            "embed_patches": Origin(("x_embedder.proj",)),
            "embed_time.0": Origin(("t_embedder.mlp.0",)),
            "embed_time.2": Origin(("t_embedder.mlp.2",)),
            "modulation_out.linear": Origin(("final_layer.adaLN_modulation.1",)),
            "head": Origin(("final_layer.linear",)),
            **_blocks({f"blocks.{index}": f"blocks.{index}" for index in range(len(network.blocks))}, DIT_BLOCK),
        }
        if network.embed_condition.classes is not None:
            rows = len(network.embed_condition.classes.weight)
            found["embed_condition.classes"] = Origin(("y_embedder.embedding_table",), with_null_class(rows))
        return found

    def _check_positions(self, network: DiT, weights: Tensors) -> None:
        """Raise a UserError if the file has other positions than those that our network computes."""
        if (table := weights.get("pos_embed")) is None:
            return
        table = table.reshape(-1, table.shape[-1]).float()
        side = round(len(table) ** 0.5)
        if side**2 != len(table) or table.shape[1] != network.options.channels:
            raise UserError(
                f"pos_embed has {len(table)} positions of {table.shape[1]} channels, where backbone.channels is "
                f"{network.options.channels} and grids are square"
            )
        if not torch.allclose(
            table, sincos_positions((side, side), table.shape[1], table.device, table.dtype), atol=1e-4
        ):
            raise UserError("pos_embed is not the table of sines and cosines of DiT's code, which is computed here")


class PublishedUViT(Form):
    """U-ViT in its sizes S, M, L and H; a network of classes without a null class gets one of zeros."""

    name = "uvit"
    published = "U-ViT"
    networks = (UViT,)
    signature = (r"^pos_embed$", r"^in_blocks\.0\.attn\.qkv\.weight$", r"^decoder_pred\.weight$")
    options: ClassVar = PLAIN

    def sources(self, network: nn.Module, weights: Tensors) -> Origins:
        assert isinstance(network, UViT)
        if any(key.startswith("time_embed.") for key in weights):
            raise UserError("the file has an MLP of the time (mlp_time_embed), which backbone=uvit does not have")
        if "context_embed.weight" in weights:
            raise UserError(
                "the file is of a U-ViT with text tokens (context_embed), which backbone=uvit does not have"
            )
        places = {"middle": "mid_block"}
        places |= {f"early.{index}": f"in_blocks.{index}" for index in range(len(network.early))}
        places |= {f"late.{index}": f"out_blocks.{index}" for index in range(len(network.late))}
        found = {
            "embed_patches": Origin(("patch_embed.proj",)),
            "positions": Origin(("pos_embed",)),
            "norm_out": Origin(("norm",)),
            "head": Origin(("decoder_pred",)),
            "conv_out": Origin(("final_layer",)),
            **_blocks(places, UVIT_BLOCK),
        }
        if network.embed_condition.classes is not None:
            rows = len(network.embed_condition.classes.weight)
            found["embed_condition.classes"] = Origin(("label_emb",), with_null_class(rows))
        return found
