"""How good samples are, against real data: FID, IS and KID through torchmetrics, and whether they are copies.

Numbers mean something only under their protocol (features, reference, counts): it is kept with them.
"""

import hashlib
import json
import statistics
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from diffsweep.datasets import ImageData
from diffsweep.files import write_atomically


class FeatureExtractor(Protocol):
    """``features, logits = extractor(x)`` for x (N, C, H, W) in [-1, 1]; a module."""

    name: str
    weights_hash: str
    num_features: int

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]: ...


class Extracted(nn.Module):
    """What torchmetrics takes for a network: features that have been extracted already, handed through."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(fake: Tensor, real: Tensor) -> float:
    """FID between two sets of features (N, D) and (M, D) (Heusel et al. 2017, arXiv:1706.08500)."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = _quietly(FrechetInceptionDistance, feature=Extracted(real.shape[1]), **_LOCAL)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return float(metric.compute())


def inception_score(logits: Tensor, splits: int) -> float:
    """IS of logits (N, K) (Salimans et al. 2016, arXiv:1606.03498)."""
    from torchmetrics.image.inception import InceptionScore

    metric = _quietly(InceptionScore, feature=Extracted(logits.shape[1]), splits=splits, **_LOCAL)
    metric.update(logits)
    with _seeded():
        return float(_quietly(metric.compute)[0])  # the deviation over splits, which is not used, is undefined for one


def kernel_distance(fake: Tensor, real: Tensor, subsets: int, subset_size: int) -> float:
    """KID, the mean over random subsets (Binkowski et al. 2018, arXiv:1801.01401)."""
    from torchmetrics.image.kid import KernelInceptionDistance

    extracted = Extracted(real.shape[1])
    metric = _quietly(KernelInceptionDistance, feature=extracted, subsets=subsets, subset_size=subset_size, **_LOCAL)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    with _seeded():
        return float(metric.compute()[0])


def nearest_distances(x: Tensor, others: Tensor, chunk: int = 1024) -> Tensor:
    """Euclidean distance of each x (N, ...) to the nearest of ``others`` (M, ...), (N,)."""
    rows = x.flatten(1).split(chunk)
    return torch.cat([torch.cdist(part, others.flatten(1)).min(dim=1).values for part in rows])


class GenerationMetrics:
    """Compares samples with the real data under one protocol.

    Args:
        features: makes the feature extractor.
        num_samples: how many samples are compared.
        reference: ``train`` or ``all``, that split's features; or ``halves``: the mean over ten random halves of all
            real data, reported beside the same mean for the other half in place of the samples (the floor that samples
            as good as real data would reach).
        is_splits: parts that IS is averaged over.
        kid_subsets, kid_subset_size: random subsets that KID is averaged over.
        batch_size: images per call of the feature extractor and of the sampler.
        cache_dir: where features of real data are kept.
    """

    num_halves = 10

    def __init__(
        self,
        features: Callable[[], FeatureExtractor],
        num_samples: int,
        reference: Literal["train", "all", "halves"] = "train",
        is_splits: int = 10,
        kid_subsets: int = 50,
        kid_subset_size: int = 500,
        batch_size: int = 256,
        cache_dir: str = "outputs/cache",
    ) -> None:
        if num_samples < 2:
            raise ValueError(f"metrics.num_samples must be at least 2, not {num_samples}")
        if reference not in ("train", "all", "halves"):
            raise ValueError(f"metrics.reference is train, all or halves, not {reference}")
        self.make_features, self.num_samples, self.reference = features, num_samples, reference
        self.is_splits, self.kid_subsets, self.kid_subset_size = is_splits, kid_subsets, kid_subset_size
        self.batch_size, self.cache_dir = batch_size, Path(cache_dir)
        self._features: FeatureExtractor | None = None

    @property
    def features(self) -> FeatureExtractor:
        if self._features is None:
            self._features = self.make_features()
        return self._features

    def protocol(self) -> dict[str, Any]:
        """What the numbers depend on, of the metrics' own."""
        return {
            "features": self.features.name,
            "features_sha256": self.features.weights_hash,
            "reference": self.reference,
            "num_samples": self.num_samples,
            "is_splits": self.is_splits,
            "kid": f"{self.kid_subsets}x{self.kid_subset_size}",
        }

    def warnings(self) -> list[str]:
        """What a reader of the numbers should know."""
        count, dimensions = self.num_samples, self.features.num_features
        if count > dimensions:
            return []
        return [
            f"FID is biased: {count} samples cannot estimate the covariance of {dimensions} features (it is singular), and "
            f"the bias grows as samples get fewer; ask for more than {dimensions} with metrics.num_samples="
        ]

    @torch.no_grad()
    def extract(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features and logits of images, in batches."""
        parts = [self.features(batch) for batch in x.split(self.batch_size)]
        features, logits = zip(*parts, strict=True)
        return torch.cat(features), torch.cat(logits)

    def real(self, data: ImageData, split: Literal["train", "all"]) -> tuple[Tensor, Tensor]:
        """Features and logits of real data, extracted once and cached by data, split and extractor."""
        key = {"data": data.fingerprint, "split": split, "features": self.features.weights_hash}
        path = self.cache_dir / f"features-{identify(key)}.pt"
        if path.exists():
            cached: dict[str, Tensor] = torch.load(path, weights_only=True)
            return cached["features"], cached["logits"]
        features, logits = self.extract(data.split(split)["x"])
        write_atomically(path, lambda file: torch.save({"features": features, "logits": logits}, file))
        return features, logits

    def __call__(self, samples: Tensor, data: ImageData) -> dict[str, float]:
        """The numbers of samples (N, C, H, W) in [-1, 1].

        Returns:
            ``fid``, ``is``, ``kid`` of the samples; ``is_real``, ``fid_real`` (with ``halves``) of real data in their
            place; ``copy_ratio``, the median distance of samples to their nearest training image over that of held-out
            real images (0 for copies, about 1 for new images).
        """
        fake, fake_logits = self.extract(samples)
        real, real_logits = self.real(data, "train" if self.reference == "train" else "all")
        numbers = {}
        if self.reference == "halves":
            orders = [
                torch.randperm(len(real), generator=torch.Generator().manual_seed(i)) for i in range(self.num_halves)
            ]
            halves = [order.tensor_split([len(real) // 2]) for order in orders]
            numbers["fid"] = _mean(frechet_distance(fake, real[half]) for _, half in halves)
            numbers["fid_real"] = _mean(frechet_distance(real[other], real[half]) for other, half in halves)
        else:
            numbers["fid"] = frechet_distance(fake, real)
        numbers["is"] = inception_score(fake_logits, self.is_splits)
        numbers["is_real"] = inception_score(real_logits, self.is_splits)
        subset_size = min(self.kid_subset_size, len(fake), len(real))
        numbers["kid"] = kernel_distance(fake, real, self.kid_subsets, subset_size)
        train, held_out = data.split("train")["x"], data.split("val")["x"]
        levels = (data.levels - 1) / 2  # as an image of the data would be stored
        stored = ((samples.clamp(-1, 1) + 1) * levels).round() / levels - 1
        numbers["copy_ratio"] = float(
            nearest_distances(stored, train).median() / nearest_distances(held_out, train).median()
        )
        return numbers


def identify(protocol: dict[str, Any]) -> str:
    """A short name of a protocol: equal for equal protocols, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()[:12]


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)


# Samples are measured where they were drawn, on one rank: the others must not be waited for.
_LOCAL = {"sync_on_compute": False}


def _quietly(call: Callable[..., Any], **keywords: Any) -> Any:
    """torchmetrics warns that features take memory: they are in memory already."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(**keywords)


@contextmanager
def _seeded() -> Iterator[None]:
    """torchmetrics draws subsets from the global generator: a fixed seed within, the caller's state after."""
    state = torch.get_rng_state()
    torch.manual_seed(0)
    try:
        yield
    finally:
        torch.set_rng_state(state)
