"""Numbers that compare features of generated samples with those of real data, or with statistics of these."""

import math
from dataclasses import dataclass

from diffsweep.files import ContentError
from diffsweep.metrics.distances import inception_score, kernel_distance, kernel_distances
from diffsweep.metrics.extraction import Features
from diffsweep.metrics.frechet import RealMoments, check_finite, frechet_distance, moments
from diffsweep.metrics.neighbours import manifold, precision_recall
from diffsweep.metrics.reference_statistics import Statistics
from diffsweep.metrics.references import choice
from diffsweep.metrics.uncertainty import (
    STANDARD_ERRORS,
    fewest_at_infinity,
    frechet_at_infinity,
    frechet_error,
    kernel_error,
)

PER_NEIGHBOUR, PER_SPLIT = 20, 10  # the fewest samples for each neighbour of precision and recall, and in a part of IS


@dataclass
class FeatureComparison:
    """The settings of the numbers that compare generated with real features, and the functions that compute them.

    Args:
        neighbours: k of precision and recall.
        is_splits: number of parts that IS is averaged over.
        kid_subsets, kid_subset_size: number and size of the random subsets that KID is averaged over.
        resamples: number of resamples of the bootstrap that estimates the interval of FID; 0: no interval.
        infinity: whether FID is also extrapolated to infinitely many samples.
    """

    neighbours: int = 3
    is_splits: int = 10
    kid_subsets: int = 50
    kid_subset_size: int = 500
    resamples: int = 100
    infinity: bool = False

    def too_few(self, count: int, fewest: int) -> list[str]:
        """Return which of ``precision``, ``recall`` and ``is`` have too few samples to mean anything.

        They are precision and recall of fewer than 20 samples for each neighbour, whose balls then cover most of the
        features; and IS of fewer than 10 samples in each of its parts.

        Args:
            count: the number of generated samples.
            fewest: the smaller of this number and that of the real samples.
        """
        few = ["precision", "recall"] if fewest < PER_NEIGHBOUR * self.neighbours else []
        return few + (["is"] if count < PER_SPLIT * self.is_splits else [])

    def against(self, fake: Features, real: Features, cut: bool = False, orders: int = 10) -> dict[str, float]:
        """Return FID, precision and recall of generated features, sFID of spatial ones, and FID at infinity if set.

        Precision and recall compare as many samples as real images (arXiv:1904.06991): all of the fewer, and a random
        choice of the more.

        Args:
            fake: features of N generated samples.
            real: features of M real samples.
            cut: whether the real samples that are compared are the first ones, not a random choice.
            orders: number of random orders of the samples of which FID at infinity is averaged.

        Raises:
            FloatingPointError: a feature is NaN or infinite.
        """
        for part in (fake, real):
            check_finite(part.features)
        count = min(len(fake.features), len(real.features))
        parts = (fake.features, real.features[:count] if cut else real.features)
        fakes, reals = (manifold(part[choice(len(part), count)], self.neighbours) for part in parts)
        precision, recall = precision_recall(fakes, reals)
        numbers = {"fid": frechet_distance(fake.features, real.features), "precision": precision, "recall": recall}
        if fake.spatial is not None and real.spatial is not None:
            numbers["sfid"] = frechet_distance(fake.spatial, real.spatial)
        if self.infinity and len(fake.features) >= fewest_at_infinity(fake.features.shape[1]):
            numbers["fid_infinity"] = frechet_at_infinity(fake.features, real.features, orders=orders)
        return numbers

    def to_statistics(self, fake: Features, known: Statistics) -> dict[str, float]:
        """Return FID of generated features from known moments, and sFID of spatial ones, if their moments are known.

        Raises:
            ContentError: the moments are of another number of features.
        """
        pairs = {"fid": (fake.features, known.whole), "sfid": (fake.spatial, known.spatial)}
        numbers = {}
        for name, (features, real) in pairs.items():
            if features is None or real is None:
                continue
            if len(real.mean) != features.shape[1]:
                raise ContentError(
                    f"the reference statistics are of {len(real.mean)} features, and these metrics have "
                    f"{features.shape[1]}; use those of the same features"
                )
            numbers[name] = float(RealMoments.given(real).distance(*moments(features)))
        return numbers

    def kernel(self, fake: Features, real: Features) -> dict[str, float]:
        """Return KID and, of more than two samples, its standard error ``kid_se``.

        KID is a mean over random subsets of samples that are random themselves; the error is of both.
        """
        a, b = fake.features, real.features
        value, of_subsets = kernel_distances(a, b, *self._subsets(a.shape[0], b.shape[0]))
        if len(a) <= 2:
            return {"kid": value}
        return {"kid": value, "kid_se": math.hypot(kernel_error(a, b), of_subsets / self.kid_subsets**0.5)}

    def kernel_floor(self, other: Features, real: Features) -> float:
        """Return KID of other real features in the place of generated ones."""
        sizes = self._subsets(len(other.features), len(real.features))
        return kernel_distance(other.features, real.features, *sizes)

    def _subsets(self, fakes: int, reals: int) -> tuple[int, int]:
        """Return the number and the size of the subsets over which KID is averaged."""
        return self.kid_subsets, min(self.kid_subset_size, fakes, reals)

    def score(self, found: Features) -> dict[str, float]:
        """Return ``is``, the inception score of the logits of samples; nothing for an extractor without classes."""
        return {"is": inception_score(found.logits, self.is_splits)} if found.logits.shape[1] else {}

    def interval(self, fake: Features, real: Features, fid: float) -> dict[str, float]:
        """Return ``fid_low`` and ``fid_high``, the interval of FID; nothing without resamples."""
        if not self.resamples:
            return {}
        error = frechet_error(fake.features, real.features, self.resamples)
        return {"fid_low": fid - STANDARD_ERRORS * error, "fid_high": fid + STANDARD_ERRORS * error}

    def all(self, fake: Features, real: Features | None, known: Statistics | None = None) -> dict[str, float]:
        """Return all numbers that compare generated features with a given reference.

        Args:
            fake: features of N generated samples.
            real: features of real samples; None if only their statistics are known.
            known: statistics of real data, from which FID and sFID are measured; None for those of ``real``.

        Returns:
            ``fid``, ``sfid`` of an extractor with spatial features, ``is`` of one with classes, and, with real samples,
            ``precision``, ``recall``, ``kid``, ``kid_se``, and the interval of FID if the distance is from them.
        """
        numbers: dict[str, float] = {}
        if real is not None:
            numbers |= self.against(fake, real) | self.kernel(fake, real)
            if known is None:
                numbers |= self.interval(fake, real, numbers["fid"])
        return numbers | (self.to_statistics(fake, known) if known is not None else {}) | self.score(fake)
