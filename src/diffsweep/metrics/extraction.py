"""Extract features of generated samples and of real data; those of real data are computed once and cached on disk."""

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from diffsweep.datasets import ImageData, Samples, Split
from diffsweep.layers.distributed import agreed, distributed, gathered, is_first, share_of
from diffsweep.precision import float32_products
from diffsweep.progress import ProgressMeter
from diffsweep.tensor_files import DamagedFile, read_tensors, write_tensors

LONG = 5.0  # seconds: progress of longer work is shown


class FeatureExtractor(Protocol):
    """An interface of feature extractors: ``features, logits = extractor(x)`` for samples x (N, ...) in [-1, 1].

    Features are (N, D), and logits of K classes (N, K); an extractor without classes has K = 0. It may return a third
    tensor, spatial features (N, S), of which sFID is measured. An attribute ``distance`` names the Frechet distance of
    the features in ``metrics.json``, if it is another one than ``fid``, and ``settings`` are further values that its
    features depend on, by name.

    Attributes:
        name: the name of the features, which ``metrics.json`` states.
        weights_hash: a hash of the extractor's weights and settings; features of real data are cached under it.
        num_features: D.
    """

    name: str
    weights_hash: str
    num_features: int

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]: ...


@runtime_checkable
class CaptionScored(Protocol):
    """An interface of feature extractors that compare images with their captions, such as CLIP."""

    def caption_score(self, features: Tensor, captions: Sequence[str]) -> float:
        """Return a score of images with features (N, D) and their N captions, higher if these fit."""
        ...


@runtime_checkable
class Prepared(Protocol):
    """An interface of feature extractors that prepare images, by rounding and resizing, for a network."""

    def prepare(self, x: Tensor) -> Tensor:
        """Return the input of the network for images (N, C, H, W) in [-1, 1]."""
        ...

    def encode(self, x: Tensor) -> Any:
        """Return what the network gives for its input."""
        ...


class Features(NamedTuple):
    """What a feature extractor returns for N samples.

    Attributes:
        features: (N, D).
        logits: (N, K), of K classes; K = 0 if the extractor has none.
        spatial: features that keep positions in the image, (N, S), of which sFID is measured; None if the extractor has
            none.
    """

    features: Tensor
    logits: Tensor
    spatial: Tensor | None = None

    def rows(self, index: Tensor | slice) -> "Features":
        """Return the rows that an int64 index (B,) or a slice selects, of all parts."""
        spatial = None if self.spatial is None else self.spatial[index]
        return Features(self.features[index], self.logits[index], spatial)

    def by_name(self) -> dict[str, Tensor]:
        """Return the parts by their names, without spatial features if the extractor has none."""
        return {name: part for name, part in self._asdict().items() if part is not None}

    @classmethod
    def joined(cls, parts: "Iterable[Features]") -> "Features":
        """Return the features of batches as those of all samples, in their order."""
        features, logits, spatial = zip(*parts, strict=True)
        return cls(torch.cat(features), torch.cat(logits), None if spatial[0] is None else torch.cat(spatial))


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

    def extract(self, x: Tensor) -> Features:
        """Return the features of samples (N, ...) in [-1, 1], computed in batches."""
        return self.extract_batches(x.split(self.batch_size), math.ceil(len(x) / self.batch_size))

    def extract_batches(self, batches: Iterable[Tensor], count: int) -> Features:
        """Return the features of all samples of batches, and show the progress if it takes more than seconds.

        Args:
            batches: tensors (B, ...) in [-1, 1].
            count: the number of batches, for the progress.
        """
        return Features.joined(self._of_each(batches, count))

    @torch.no_grad()
    def _of_each(self, batches: Iterable[Tensor], count: int) -> list[Features]:
        """Return the features of each batch; ``count`` is the number of batches, for the progress."""
        parts: list[Features] = []
        progress: ProgressMeter | None = None
        begin = time.perf_counter()
        for batch in batches:
            with float32_products("highest"):  # features do not depend on the precision of a run
                parts.append(Features(*self.features(batch.float())))
            if progress is not None:
                progress.update()
            elif len(parts) == 1 and (time.perf_counter() - begin) * count > LONG:
                progress = ProgressMeter("features", count, "batch", initial=1)
        if progress is not None:
            progress.close()
        return parts

    def share_split(self, data: ImageData, split: Split) -> None:
        """Compute the features of a split of real data, of which each process takes a share, and cache them.

        All processes must call it; :meth:`real` then reads them on the first one, whose cache has them. A process that
        is alone leaves that to :meth:`real`.
        """
        path = self._path(data, split)
        if not distributed() or agreed(path.exists()):
            return
        samples = data.split(split)
        rows = share_of(torch.arange(len(samples)).split(self.batch_size))
        parts = gathered(self._of_each((samples[index]["x"] for index in rows), len(rows)))
        if is_first():
            self.keep(data, split, Features.joined(parts))

    def real(self, data: ImageData, split: Split) -> Features:
        """Return the features of all samples of a split of real data.

        They are computed once and then read from the cache, under a hash of the dataset's fingerprint, the split and
        the extractor's weights.
        """
        path = self._path(data, split)
        if path.exists():
            with contextlib.suppress(DamagedFile):  # computed again
                return Features(**read_tensors(path))
        samples = data.split(split)
        found = self.extract_batches(self.batches(samples), math.ceil(len(samples) / self.batch_size))
        self.keep(data, split, found)
        return found

    def is_kept(self, data: ImageData, split: Split) -> bool:
        """Return whether the features of a split of real data are in the cache."""
        return self._path(data, split).exists()

    def keep(self, data: ImageData, split: Split, found: Features) -> None:
        """Write the features of a split of real data into the cache, from which :meth:`real` reads them."""
        write_tensors(self._path(data, split), found.by_name())

    def _path(self, data: ImageData, split: Split) -> Path:
        """Return the file of the features of a split, which may not exist."""
        key = {"data": data.fingerprint, "split": split, "features": self.features.weights_hash}
        return self.cache_dir / f"features-{identify(key)}.pt"

    def batches(self, samples: Samples) -> Iterator[Tensor]:
        """Yield the images or clips of samples in order, in batches of ``batch_size``, so that few are in memory."""
        return (samples[index]["x"] for index in torch.arange(len(samples)).split(self.batch_size))


def identify(protocol: dict[str, Any]) -> str:
    """Return a hash of a protocol (the settings of a measurement, as JSON values by name), 12 hexadecimal digits.

    The order of the keys does not matter.
    """
    return hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()[:12]
