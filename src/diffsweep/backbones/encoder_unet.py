"""Classifiers of noisy images: the encoder half of a U-Net, with features and logits as outputs."""

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
    """A classifier's network, which is called as ``features, logits = network(x, c_noise)``; subclasses define it.

    Attributes:
        num_features: size D of the features, the input of the last layer.
        num_classes: number of classes K, the size of the logits.
    """

    provides = frozenset({"class_output"})
    num_features: int
    num_classes: int

    @abstractmethod
    def forward(self, x: Tensor, c_noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features (B, D) and the logits (B, K) of noisy images, as subclasses define them.

        Args:
            x: noisy images x_t, (B, C, H, W), scaled as networks read them.
            c_noise: their times, as networks read them, (B,).
        """

    @abstractmethod
    def feature_maps(self, x: Tensor, c_noise: Tensor) -> list[Tensor]:
        """Return the last feature maps of each resolution of the network, the largest first, each (B, C', H', W').

        Subclasses define them. The arguments are those of :meth:`forward`.
        """


@dataclass(frozen=True, kw_only=True)
class EncoderOptions(ResolutionOptions):
    """The options of :class:`EncoderUNet`: those of a U-Net's levels, and dropout.

    Defaults are those of ADM's classifiers (arXiv:2105.05233). The last four fields are fixed as in these classifiers,
    and cannot be given.

    Attributes:
        feature_dropout: dropout rate of the features before the last layer.
    """

    block: BlockKind = "biggan"
    time_embedding: TimeEmbedding = "scale_shift"
    num_res_blocks: int | Sequence[int] = 1
    attention_resolutions: Sequence[int] = ()
    attention_factors: Sequence[int] = (2,)
    feature_dropout: float = 0.0
    # These options of U-Nets are fixed in the published classifiers, and here:
    attention: AttentionKind = field(default="full", init=False)
    resample_order: ResampleOrder = field(default="after", init=False)
    residual_scale: float = field(default=1.0, init=False)
    norm_eps: float = field(default=1e-5, init=False)


class EncoderUNet(ClassifierBackbone):
    """The encoder half of a U-Net as a classifier of noisy images (ADM, Dhariwal and Nichol 2021, arXiv:2105.05233).

    The downsampling levels and the middle of a U-Net are followed by attention pooling, whose output are the features
    (B, D), and a linear layer to the logits (B, K), which starts at zero (section 4.1 of the paper). The middle always
    has attention. The published classifiers are options of the group ``backbone`` (files of ``conf/backbone``), with
    the parameter counts of the public code. Unlike that code, the pooling computes the attention of the mean's query
    alone, since nothing else is used.

    Args:
        in_channels: channels of x.
        num_classes: K, at least 2.
        image_size: side of x. No other size works, since the pooling has learned positions.
        options: the fields of :class:`EncoderOptions`.

    Raises:
        ValueError: ``num_classes`` is None or below 2, or levels do not fit ``image_size``.
    """

    Options = EncoderOptions

    def __init__(self, in_channels: int, num_classes: int | None, image_size: int, **options: Any) -> None:
        super().__init__()
        if num_classes is None or num_classes < 2:
            raise ValueError(
                f"a classifier needs at least 2 classes, but this dataset has {num_classes or 'no labels'}; choose a "
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
        """Return the maps at the end of each level: those that are about to be halved, and the last."""
        h, ends = self.conv_in(x), []  # (B, C, H, W)
        for module in self.down:
            if not isinstance(module, ResidualStage):
                ends.append(h)
            h = module(h, emb)
        return [*ends, h]
