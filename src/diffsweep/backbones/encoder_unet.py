"""Networks that say what x is: features and logits in place of an image. Half U-Nets."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from diffsweep.backbones.base import Backbone
from diffsweep.backbones.unet_blocks import AttentionPool2d, ResidualStage
from diffsweep.backbones.unet_options import AttentionKind, BlockKind, ResampleOrder, ResolutionOptions
from diffsweep.layers import SinusoidalEmbedding, TimeEmbedding, zero_init


class ClassifierBackbone(Backbone, ABC):
    """``features, logits = encoder(x, c_noise)``.

    Attributes:
        num_features: D.
        num_classes: K.
    """

    provides = frozenset({"class_output"})
    num_features: int
    num_classes: int

    @abstractmethod
    def forward(self, x: Tensor, c_noise: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, D) and logits (B, K) of x (B, C, H, W) with the noise that c_noise (B,) tells."""

    @abstractmethod
    def feature_maps(self, x: Tensor, c_noise: Tensor) -> list[Tensor]:
        """The maps at the end of each level, from the largest, each (B, C', H', W'), of what :meth:`forward` takes."""


@dataclass(frozen=True, kw_only=True)
class EncoderOptions(ResolutionOptions):
    """The options of an encoder: those of its levels, with the published classifiers' as defaults, and this.

    Attributes:
        feature_dropout: dropout rate of the features before the last layer.
    """

    block: BlockKind = "biggan"
    time_embedding: TimeEmbedding = "scale_shift"
    num_res_blocks: int = 1
    attention_resolutions: Sequence[int] = ()
    attention_factors: Sequence[int] = (2,)
    feature_dropout: float = 0.0
    # No options of the published classifiers, nor of these:
    attention: AttentionKind = field(default="full", init=False)
    resample_order: ResampleOrder = field(default="after", init=False)
    residual_scale: float = field(default=1.0, init=False)
    norm_eps: float = field(default=1e-5, init=False)


class EncoderUNet(ClassifierBackbone):
    """The way down and the middle of a U-Net, attention pooling, and a linear layer to logits, zero at first (ADM, Dhariwal and Nichol
    2021, arXiv:2105.05233, section 4.1).

    The features are what attention puts out, before the last layer. The published classifiers are these options
    (``conf/backbone``), with the parameter counts of the public code.

    Args:
        in_channels: channels of x.
        num_classes: K.
        image_size: side of x; the pooling learns positions, so no other size works.
        options: those of :class:`EncoderOptions`. The middle always attends; the pooling has heads as a level of its width has.
    """

    Options = EncoderOptions

    def __init__(self, in_channels: int, num_classes: int | None, image_size: int, **options: Any) -> None:
        super().__init__()
        if num_classes is None or num_classes < 2:
            raise ValueError(
                f"a classifier needs at least 2 classes to tell apart, and this dataset has {num_classes or 'no labels'}; choose a "
                "dataset with labels (dataset.num_classes)"
            )
        parts = EncoderOptions(**options)
        levels = parts.levels(image_size)
        self.sinusoids = SinusoidalEmbedding(parts.channels)
        self.embed_time = parts.embed_time()
        self.conv_in = nn.Conv2d(in_channels, parts.channels, 3, padding=1)
        self.down, widths = parts.down(levels)
        self.num_classes, self.num_features = num_classes, widths[-1]
        self.middle = parts.middle(self.num_features, attends=True)
        self.norm_out = parts.norm(self.num_features)
        self.pool = AttentionPool2d(self.num_features, levels[-1].size, parts.heads(self.num_features))
        self.dropout = nn.Dropout(parts.feature_dropout)
        self.to_logits = zero_init(nn.Linear(self.num_features, num_classes))

    def forward(self, x: Tensor, c_noise: Tensor) -> tuple[Tensor, Tensor]:
        emb = self._embedding(x, c_noise)
        h = self._levels(x, emb)[-1]
        for module in self.middle:
            h = module(h, emb)
        features = self.pool(functional.silu(self.norm_out(h)))  # (B, D)
        return features, self.to_logits(self.dropout(features))  # (B, K)

    def feature_maps(self, x: Tensor, c_noise: Tensor) -> list[Tensor]:
        return self._levels(x, self._embedding(x, c_noise))

    def _embedding(self, x: Tensor, c_noise: Tensor) -> Tensor:
        return functional.silu(self.embed_time(self.sinusoids(c_noise).to(x.dtype)))  # (B, E)

    def _levels(self, x: Tensor, emb: Tensor) -> list[Tensor]:
        """The maps at the end of each level: before they are halved, and the last."""
        h, ends = self.conv_in(x), []  # (B, C, H, W)
        for module in self.down:
            if not isinstance(module, ResidualStage):
                ends.append(h)
            h = module(h, emb)
        return [*ends, h]
