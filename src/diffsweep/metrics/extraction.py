"""Extract features of generated samples and of real data; those of real data are computed once and cached on disk."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from diffsweep.datasets import ImageData, Samples, Split
from diffsweep.files import write_atomically


class FeatureExtractor(Protocol):
    """An interface of feature extractors: ``features, logits = extractor(x)`` for samples x (N, ...) in [-1, 1].

    Features are (N, D), and logits of K classes (N, K).

    Attributes:
        name: the name of the features, which ``metrics.json`` states.
        weights_hash: a hash of the extractor's weights; features of real data are cached under it.
        num_features: D.
    """

    name: str
    weights_hash: str
    num_features: int

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]: ...


E = TypeVar("E", bound=FeatureExtractor)


class Extraction(Generic[E]):
    """A feature extractor that works through samples in batches and caches the features of real data on disk.

    Args:
        features: returns the feature extractor when called, which happens when it is first used.
        batch_size: samples in each call of the extractor.
        cache_dir: the folder where features of real data are kept.
    """

    def __init__(self, features: Callable[[], E], batch_size: int, cache_dir: str | Path) -> None:
        self.make_features, self.batch_size, self.cache_dir = features, batch_size, Path(cache_dir)
        self._features: E | None = None

    @property
    def features(self) -> E:
        """Return the feature extractor, which is made at first use and kept."""
        if self._features is None:
            self._features = self.make_features()
        return self._features

    @torch.no_grad()
    def extract(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features (N, D) and logits (N, K) of samples (N, ...) in [-1, 1], computed in batches."""
        return _joined(self.features(batch) for batch in x.split(self.batch_size))

    def real(self, data: ImageData, split: Split) -> tuple[Tensor, Tensor]:
        """Return the features (N, D) and logits (N, K) of all N samples of a split of real data.

        They are computed once and then read from the cache, under a hash of the dataset's fingerprint, the split and
        the extractor's weights.
        """
        key = {"data": data.fingerprint, "split": split, "features": self.features.weights_hash}
        path = self.cache_dir / f"features-{identify(key)}.pt"
        if path.exists():
            cached: dict[str, Tensor] = torch.load(path, weights_only=True)
            return cached["features"], cached["logits"]
        features, logits = _joined(self.extract(x) for x in self.batches(data.split(split)))
        write_atomically(path, lambda file: torch.save({"features": features, "logits": logits}, file))
        return features, logits

    def batches(self, samples: Samples) -> Iterator[Tensor]:
        """Yield the images or clips of samples in order, in batches of ``batch_size``, so that few are in memory."""
        return (samples[index]["x"] for index in torch.arange(len(samples)).split(self.batch_size))


def identify(protocol: dict[str, Any]) -> str:
    """Return a hash of a protocol (the settings of a measurement, as JSON values by name), 12 hexadecimal digits.

    The order of the keys does not matter.
    """
    return hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()[:12]


def _joined(parts: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    features, logits = zip(*parts, strict=True)
    return torch.cat(features), torch.cat(logits)
