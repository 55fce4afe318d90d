"""The base class of pretrained networks of images in folders of the transformers library; nothing is downloaded."""

import hashlib
import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffsweep.metrics.resizing import RESIZES, check_resize, to_levels

BLOCK = 1 << 20
CONFIG, PROCESSING = "config.json", "preprocessor_config.json"


class PretrainedNetwork(nn.Module):
    """A frozen pretrained network of images from a local folder; subclasses define the attributes.

    Images are rounded to 256 levels, as saving them would, resized to a square without cropping, and normalised by the
    mean and the deviation of ``preprocessor_config.json`` in the folder; grey images are repeated in three channels.

    Args:
        path: the folder, with ``config.json``, weights and ``preprocessor_config.json``.
        image_size: the side of the images that the network gets.
        resize: ``clean`` (antialiased bicubic, as the papers) or ``legacy``; see :mod:`diffsweep.metrics.resizing`.
        accelerator: ``cpu`` runs the network on the CPU, anything else on the GPU if one is available.

    Attributes:
        key: the key of the configuration that has the folder, for messages.
        model_class: the class of transformers that holds the network.
        model_types: the values of ``model_type`` in ``config.json`` that are accepted.

    Raises:
        ValueError: the package transformers is missing, the folder has no such network, or ``image_size`` does not fit.
    """

    key: str
    model_class: str
    model_types: tuple[str, ...]

    def __init__(
        self, path: str | None, image_size: int = 224, resize: str = "clean", accelerator: str = "auto"
    ) -> None:
        super().__init__()
        found = self.processing(path)
        folder = Path(str(path))
        self.folder, self.image_size, self.resize = folder, image_size, check_resize(resize)
        self.device = torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")
        try:
            with quietly(), torch.random.fork_rng(devices=[]):
                load = getattr(transformers(), self.model_class).from_pretrained
                self.model = load(str(folder), local_files_only=True).to(self.device).eval().requires_grad_(False)
        except (OSError, ValueError, RuntimeError) as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{self.key}={path} cannot be read ({why})") from error
        mean, std = (torch.tensor(found[name], device=self.device) for name in ("image_mean", "image_std"))
        self.mean, self.std = mean[:, None, None], std[:, None, None]

    @classmethod
    def processing(cls, path: str | None) -> dict[str, Any]:
        """Return the content of ``preprocessor_config.json`` in a folder of a network of this kind.

        Raises:
            ValueError: the folder is none of such a network, or lacks the mean or the deviation of images.
        """
        kind = cls.configuration(path).get("model_type")
        if kind not in cls.model_types:
            raise ValueError(
                f"{cls.key}={path} is a {kind} model, and these features are of {' or '.join(cls.model_types)}"
            )
        found = _json(Path(str(path)) / PROCESSING)
        if "image_mean" not in found or "image_std" not in found:
            raise ValueError(f"{cls.key}={path}: the folder has no {PROCESSING} with image_mean and image_std")
        return found

    @classmethod
    def configuration(cls, path: str | None) -> dict[str, Any]:
        """Return the content of ``config.json`` in a folder.

        Raises:
            ValueError: no folder is given, or it has no such file.
        """
        if path is None or not (Path(path) / CONFIG).is_file():
            raise ValueError(
                f"{cls.key}={path}: give a folder of a {cls.model_types[0]} model with {CONFIG} and weights"
            )
        return _json(Path(path) / CONFIG)

    def prepare(self, x: Tensor) -> Tensor:
        """Return images (N, C, H, W) in [-1, 1] as the network takes them, normalised (N, 3, S, S)."""
        levels = RESIZES[self.resize](to_levels(x.to(self.device)), self.image_size)
        return (levels / 255 - self.mean) / self.std


@contextmanager
def quietly() -> Iterator[None]:
    """Silence the library's warnings, such as of weights that are not needed, within a context."""
    logging = transformers().utils.logging
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


def transformers() -> Any:
    """Return the package transformers, whose import takes seconds, or raise a ValueError if it is not installed."""
    try:
        return importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise ValueError(
            "features of DINOv2 and CLIP need the package transformers: pip install diffsweep[text]"
        ) from error


def _json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file; empty if it does not exist or holds no mapping."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
