r"""Features of pretrained networks of images in folders of the transformers library: DINOv2 and CLIP.

FD-DINOv2 is the Frechet distance of features of DINOv2 (Stein et al. 2023, arXiv:2306.04675), which agrees better with
people's judgement than Inception's. With features of CLIP it is FID by CLIP (Kynkaanniemi et al. 2023,
arXiv:2203.06026), and the CLIP score of images x and their captions c (Hessel et al. 2021, arXiv:2104.08718) is the
mean of

.. math:: 100 \max(\cos(f(x), g(c)), 0)

with CLIP's projected features f of images and g of texts.
"""

import hashlib
import importlib
import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffsweep.metrics.resizing import RESIZES, check_resize, to_levels

BLOCK = 1 << 20
CONFIG, PROCESSING = "config.json", "preprocessor_config.json"
CAPTIONS = 256  # that are encoded in one call


class PretrainedFeatures(nn.Module):
    """A base class of extractors of features by a pretrained network, from a local folder: nothing is downloaded.

    Images are rounded to 256 levels, as saving them would, resized to a square without cropping, and normalised by the
    mean and the deviation of ``preprocessor_config.json`` in the folder; grey images are repeated in three channels.
    The networks have no classes, so no IS is measured. Subclasses define the attributes and :meth:`encode`.

    Args:
        path: the folder, with ``config.json``, weights and ``preprocessor_config.json``.
        image_size: the side of the images that the network gets.
        resize: ``clean`` (antialiased bicubic, as the papers) or ``legacy``; see :mod:`diffsweep.metrics.resizing`.
        accelerator: ``cpu`` runs the network on the CPU, anything else on the GPU if one is available.

    Attributes:
        distance: the name of the Frechet distance of the features in ``metrics.json``.
        model_class: the class of transformers that holds the network.
        model_types: the values of ``model_type`` in ``config.json`` that are accepted.

    Raises:
        ValueError: the package transformers is missing, the folder has no such network, or ``image_size`` does not fit.
    """

    distance: str
    model_class: str
    model_types: tuple[str, ...]

    def __init__(
        self, path: str | None, image_size: int = 224, resize: str = "clean", accelerator: str = "auto"
    ) -> None:
        super().__init__()
        key, found = f"metrics.features.path={path}", self.processing(path)
        folder = Path(str(path))
        self.folder, self.image_size, self.resize = folder, image_size, check_resize(resize)
        self.device = torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")
        try:
            with quietly(), torch.random.fork_rng(devices=[]):
                load = getattr(_transformers(), self.model_class).from_pretrained
                self.model = load(str(folder), local_files_only=True).to(self.device).eval().requires_grad_(False)
        except (OSError, ValueError, RuntimeError) as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{key} cannot be read ({why})") from error
        mean, std = (torch.tensor(found[name], device=self.device) for name in ("image_mean", "image_std"))
        self.mean, self.std = mean[:, None, None], std[:, None, None]
        self.name = f"{self.model_types[0]} {self.model.config.name_or_path.rstrip('/').rpartition('/')[2]}"
        self.weights_hash = f"{content_of(folder)} {image_size} {resize}"
        self.settings = {"resize_of_features": resize, "image_size_of_features": image_size}

    @classmethod
    def processing(cls, path: str | None) -> dict[str, Any]:
        """Return the content of ``preprocessor_config.json`` in a folder of a network of this kind.

        Raises:
            ValueError: the folder is none of such a network, or lacks the mean or the deviation of images.
        """
        key = f"metrics.features.path={path}"
        if path is None or not (Path(path) / CONFIG).is_file():
            raise ValueError(f"{key}: give a folder of a {cls.model_types[0]} model with {CONFIG} and weights")
        kind = _json(Path(path) / CONFIG).get("model_type")
        if kind not in cls.model_types:
            raise ValueError(f"{key} is a {kind} model, and these features are of {' or '.join(cls.model_types)}")
        found = _json(Path(path) / PROCESSING)
        if "image_mean" not in found or "image_std" not in found:
            raise ValueError(f"{key}: the folder has no {PROCESSING} with image_mean and image_std")
        return found

    @property
    @abstractmethod
    def num_features(self) -> int:
        """Return D, the width of the features; subclasses define it."""

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Return the features (N, D) of normalised images (N, 3, S, S); subclasses define it."""

    def prepare(self, x: Tensor) -> Tensor:
        """Return images (N, C, H, W) in [-1, 1] as the network takes them, normalised (N, 3, S, S)."""
        levels = RESIZES[self.resize](to_levels(x.to(self.device)), self.image_size)
        return (levels / 255 - self.mean) / self.std

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
            tokenizer = _transformers().AutoTokenizer.from_pretrained(str(self.folder), local_files_only=True)
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


@contextmanager
def quietly() -> Iterator[None]:
    """Silence the library's warnings, such as of weights that are not needed, within a context."""
    logging = _transformers().utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()


def content_of(folder: Path) -> str:
    """Return a SHA-256 of the names and contents of the files of a folder, in hexadecimal."""
    content = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        content.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                content.update(block)
    return content.hexdigest()


def _json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file; empty if it does not exist or holds no mapping."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise ValueError(
            "features of DINOv2 and CLIP need the package transformers: pip install diffsweep[text]"
        ) from error
