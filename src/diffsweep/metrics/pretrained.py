r"""Features of pretrained networks of images in folders of the transformers library: DINOv2 and CLIP.

FD-DINOv2 is the Frechet distance of features of DINOv2 (Stein et al. 2023, arXiv:2306.04675), which agrees better with
people's judgement than Inception's. With features of CLIP it is FID by CLIP (Kynkaanniemi et al. 2023,
arXiv:2203.06026), and the CLIP score of images x and their captions c (Hessel et al. 2021, arXiv:2104.08718) is the
mean of

.. math:: 100 \max(\cos(f(x), g(c)), 0)

with CLIP's projected features f of images and g of texts.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from diffsweep.metrics.pretrained_network import PretrainedNetwork, content_of, quietly, transformers
from diffsweep.metrics.resizing import check_resize

CAPTIONS = 256  # that are encoded in one call


class PretrainedFeatures(PretrainedNetwork):
    """A base class of extractors of features by a pretrained network; subclasses define :meth:`encode`.

    The networks have no classes, so no IS is measured.

    Args:
        path, image_size, resize, accelerator: see :class:`~diffsweep.metrics.pretrained_network.PretrainedNetwork`.

    Attributes:
        distance: the name of the Frechet distance of the features in ``metrics.json``.
    """

    key = "metrics.features.path"
    distance: str

    def __init__(
        self, path: str | None, image_size: int = 224, resize: str = "clean", accelerator: str = "auto"
    ) -> None:
        super().__init__(path, image_size, resize, accelerator)
        self.name = f"{self.model_types[0]} {self.model.config.name_or_path.rstrip('/').rpartition('/')[2]}"
        self.weights_hash = f"{content_of(self.folder)} {image_size} {resize}"
        self.settings = {"resize_of_features": resize, "image_size_of_features": image_size}

    @property
    @abstractmethod
    def num_features(self) -> int:
        """Return D, the width of the features; subclasses define it."""

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Return the features (N, D) of normalised images (N, 3, S, S); subclasses define it."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (N, D) and no logits, (N, 0), of images (N, C, H, W) in [-1, 1], on the CPU."""
        features = self.encode(self.prepare(x)).float().cpu()
        return features, features.new_zeros(len(x), 0)


class DINOv2Features(PretrainedFeatures):
    """DINOv2 (arXiv:2304.07193) as a feature extractor: the normalised class token of its last layer.

    FD-DINOv2 is published with its largest common model, ViT-L/14, images of 224 pixels and D = 1024.
    """

    distance, model_class, model_types = "fd_dinov2", "Dinov2Model", ("dinov2",)

    @property
    def num_features(self) -> int:
        width: int = self.model.config.hidden_size
        return width

    def encode(self, x: Tensor) -> Tensor:
        token: Tensor = self.model(pixel_values=x).pooler_output
        return token


class CLIPFeatures(PretrainedFeatures):
    """CLIP (arXiv:2103.00020) as a feature extractor: its projected features of images, to which captions compare."""

    distance, model_class, model_types = "fid_clip", "CLIPModel", ("clip",)

    @property
    def num_features(self) -> int:
        width: int = self.model.config.projection_dim
        return width

    def encode(self, x: Tensor) -> Tensor:
        features: Tensor = self.model.get_image_features(pixel_values=x).pooler_output
        return features

    @torch.no_grad()
    def caption_score(self, features: Tensor, captions: Sequence[str]) -> float:
        """Return the CLIP score of images and their captions, the mean of 100 max(cos, 0), in [0, 100].

        Captions longer than CLIP's texts are cut.

        Args:
            features: of the images, (N, D).
            captions: N texts.
        """
        with quietly():
            tokenizer = transformers().AutoTokenizer.from_pretrained(str(self.folder), local_files_only=True)
        length = self.model.config.text_config.max_position_embeddings
        similar = []
        for first in range(0, len(captions), CAPTIONS):
            some = list(captions[first : first + CAPTIONS])
            ids = tokenizer(some, return_tensors="pt", padding=True, truncation=True, max_length=length)
            texts = self.model.get_text_features(**ids.to(self.device)).pooler_output.cpu()
            similar.append(functional.cosine_similarity(features[first : first + CAPTIONS], texts))
        return float(100 * torch.cat(similar).clamp(min=0).double().mean())


class FeaturesFolder:
    """A base class of loaders of pretrained networks of features from folders; calling one loads the network.

    The folder is checked at once, and the weights are read when features are first needed. Subclasses define ``kind``.

    Args:
        path, image_size, resize, accelerator: arguments of :class:`PretrainedFeatures`.

    Attributes:
        kind: the class of the extractor.

    Raises:
        ValueError: the folder has no such network, or ``resize`` is another.
    """

    kind: type[PretrainedFeatures]

    def __init__(
        self, path: str | None, image_size: int = 224, resize: str = "clean", accelerator: str = "auto"
    ) -> None:
        self.kind.processing(path)
        self.arguments = (path, image_size, check_resize(resize), accelerator)

    def __call__(self) -> PretrainedFeatures:
        return self.kind(*self.arguments)


class DINOv2Folder(FeaturesFolder):
    """A loader of :class:`DINOv2Features` from a folder of the transformers library."""

    kind = DINOv2Features


class CLIPFolder(FeaturesFolder):
    """A loader of :class:`CLIPFeatures` from a folder of the transformers library."""

    kind = CLIPFeatures
