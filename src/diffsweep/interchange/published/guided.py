"""U-Nets and classifiers of improved-diffusion and guided-diffusion, and of codes that are based on them.

The layers are numbered in the order in which they run: ``input_blocks.0`` is the first convolution, each further number
a residual block with its attention, or a layer that halves the maps. A layer that doubles the maps is the last part of
the output block before it.
"""

from collections.abc import Iterator
from typing import ClassVar

from torch import nn

from diffsweep.backbones import EncoderUNet, UNet
from diffsweep.backbones.unet_blocks import ResidualStage, SpatialTransformer
from diffsweep.errors import UserError
from diffsweep.interchange.published.base import Form, NamedOrigin, Origins, Tensors, of_heads, with_null_class
from diffsweep.interchange.unet import TRANSFORMER_BLOCK
from diffsweep.layers import Downsample, ResidualBlock, SelfAttention2d
from diffsweep.layers.named_weights import Origin, joined

BLOCK = {
    "norm_in": "in_layers.0",
    "conv_in": "in_layers.2",
    "embed": "emb_layers.1",
    "norm_out": "out_layers.0",
    "conv_out": "out_layers.3",
    "skip": "skip_connection",
}
ENDS = {"embed_time.0": "time_embed.0", "embed_time.2": "time_embed.2", "conv_in": "input_blocks.0.0"}


def _transformer(layer: SpatialTransformer, ours: str, theirs: str) -> Iterator[NamedOrigin]:
    yield f"{ours}.proj_in", Origin((f"{theirs}.proj_in",))
    yield f"{ours}.proj_out", Origin((f"{theirs}.proj_out",))
    for index in range(len(layer.blocks)):
        for mine, others in TRANSFORMER_BLOCK.items():
            names = tuple(f"{theirs}.transformer_blocks.{index}.{other}" for other in others)
            yield f"{ours}.blocks.{index}.{mine}", Origin(names)


class GuidedLayers(Form):
    """The layers that the U-Nets and the classifiers have in common.

    Attributes:
        order: the order of the outputs of the layers that compute queries, keys and values, see
            :func:`~diffsweep.interchange.published.base.of_heads`.
    """

    order: ClassVar[str] = "n three d"

    def groups_of(self, channels: int) -> int:
        """Return the number of groups of a norm in these networks, 32 at any width."""
        return 32

    def is_uncertain(self, network: nn.Module) -> bool:
        return any(isinstance(module, SelfAttention2d) and module.heads > 1 for module in network.modules())

    def attention(self, layer: nn.Module, ours: str, theirs: str) -> Iterator[NamedOrigin]:
        """Yield what an attention layer is made of.

        Args:
            layer: the layer.
            ours, theirs: its names.
        """
        yield f"{ours}.norm", Origin((f"{theirs}.norm",))
        if isinstance(layer, SpatialTransformer):
            yield from _transformer(layer, ours, theirs)
            return
        assert isinstance(layer, SelfAttention2d)
        yield f"{ours}.to_qkv", Origin((f"{theirs}.qkv",), of_heads(layer.heads, self.order))
        yield f"{ours}.to_out", Origin((f"{theirs}.proj_out",))

    def way_down(self, network: UNet | EncoderUNet) -> Iterator[NamedOrigin]:
        """Yield what the layers of the embedding, the way down and the middle are made of."""
        yield from ((ours, Origin((theirs,))) for ours, theirs in ENDS.items())
        for index, module in enumerate(network.down):
            ours, theirs = f"down.{index}", f"input_blocks.{index + 1}.0"
            if isinstance(module, ResidualStage):
                yield from self._stage(module, ours, theirs, f"input_blocks.{index + 1}.1")
            elif isinstance(module, Downsample):
                yield ours, Origin((f"{theirs}.op",))
            else:
                yield from self._block(module, ours, theirs)
        first, last = network.middle
        yield from self._stage(first, "middle.0", "middle_block.0", "middle_block.1")
        yield from self._stage(last, "middle.1", f"middle_block.{1 if self._attention_of(first) is None else 2}")

    def _attention_of(self, stage: nn.Module) -> nn.Module | None:
        assert isinstance(stage, ResidualStage)
        return stage.attention

    def _stage(self, stage: nn.Module, ours: str, block: str, attention: str = "") -> Iterator[NamedOrigin]:
        assert isinstance(stage, ResidualStage)
        yield from self._block(stage.block, f"{ours}.block", block)
        if stage.attention is not None:
            yield from self.attention(stage.attention, f"{ours}.attention", attention)

    def _block(self, block: nn.Module, ours: str, theirs: str) -> Iterator[NamedOrigin]:
        if not isinstance(block, ResidualBlock):
            raise UserError(f"networks of the form {self.name} have backbone.block=ddpm or biggan, not convnext")
        yield from ((f"{ours}.{mine}", Origin((f"{theirs}.{other}",))) for mine, other in BLOCK.items())


class GuidedUNet(GuidedLayers):
    """U-Nets of improved-diffusion and guided-diffusion (arXiv:2102.09672, arXiv:2105.05233), with legacy attention.

    An upsampler's low-resolution image is in the channels after those of x, as the image of a condition is here. A
    network with classes has no null class: the embedding of ours is zero.
    """

    name = "guided_diffusion"
    published = "improved-diffusion, and guided-diffusion without use_new_attention_order"
    networks = (UNet,)
    signature = (r"^input_blocks\.0\.0\.weight$", r"^output_blocks\.0\.0\.", r"^out\.2\.weight$")
    options: ClassVar = {
        "norm_eps": 1e-5,
        "residual_scale": 1.0,
        "skip_scale": 1.0,
        "resample_order": "after",
        "attention": "full",
        "time_endpoint": False,
        "pad_end": False,
    }

    def sources(self, network: nn.Module, weights: Tensors) -> Origins:
        assert isinstance(network, UNet)
        return dict(self._pairs(network))

    def own(self, network: nn.Module) -> set[str]:
        return {"context.null"}  # the published networks always have tokens

    def _pairs(self, network: UNet) -> Iterator[NamedOrigin]:
        yield from self.way_down(network)
        output = -1
        for index, module in enumerate(network.up):
            ours = f"up.{index}"
            if isinstance(module, ResidualStage):
                output, last = output + 1, 0 if module.attention is None else 1
                yield from self._stage(module, ours, f"output_blocks.{output}.0", f"output_blocks.{output}.1")
            elif isinstance(module, ResidualBlock):
                yield from self._block(module, ours, f"output_blocks.{output}.{last + 1}")
            else:
                yield ours, Origin((f"output_blocks.{output}.{last + 1}.conv",))
        yield "norm_out", Origin(("out.0",))
        yield "conv_out", Origin(("out.2",))
        if network.embed_condition.classes is not None:
            rows = len(network.embed_condition.classes.weight)
            yield "embed_condition.classes", Origin(("label_emb",), with_null_class(rows))


class NewGuidedUNet(GuidedUNet):
    """U-Nets of guided-diffusion with the new order of attention."""

    name = "new_attention_order"
    published = "guided-diffusion with use_new_attention_order: 64x64_diffusion.pt"
    order = "three n d"


class ConsistencyUNet(NewGuidedUNet):
    """U-Nets of consistency_models (arXiv:2303.01469), preconditioned as in EDM, which read 250 log(sigma) as the time.

    The network of a consistency model is loaded as that of a diffusion model, whose samplers take it as a denoiser.
    """

    name = "consistency_models"
    published = "consistency_models"
    requires: ClassVar = {"prediction._target_": "diffsweep.diffusion.EDM", "prediction.time_scale": 1000.0}


class GuidedClassifier(GuidedLayers):
    """Classifiers of guided-diffusion with attention pooling (arXiv:2105.05233)."""

    name = "guided_classifier"
    published = "classifiers of guided-diffusion"
    networks = (EncoderUNet,)
    signature = (r"^input_blocks\.0\.0\.weight$", r"^out\.2\.positional_embedding$")

    def is_uncertain(self, network: nn.Module) -> bool:
        return False  # all published classifiers have the legacy order

    def sources(self, network: nn.Module, weights: Tensors) -> Origins:
        assert isinstance(network, EncoderUNet)
        rows = network.num_features
        return {
            **dict(self.way_down(network)),
            "norm_out": Origin(("out.0",)),
            "pool.positions": Origin(("out.2.positional_embedding",), lambda parts: joined(parts).T),
            "pool.to_q": Origin(("out.2.qkv_proj",), lambda parts: joined(parts)[:rows]),
            "pool.to_kv": Origin(("out.2.qkv_proj",), lambda parts: joined(parts)[rows:]),
            "to_logits": Origin(("out.2.c_proj",)),
        }
