r"""Compare generated images with real data: FID, IS, KID, precision and recall, copies, and accuracies.

:mod:`diffsweep.metrics.frechet`, :mod:`diffsweep.metrics.distances` and :mod:`diffsweep.metrics.neighbours` have the
formulas of the distances. Copies are found by

.. math:: \mathrm{copy\_ratio} = \mathrm{median}_i \min_j |x_i - t_j| \; / \; \mathrm{median}_i \min_j |v_i - t_j|

of generated images x, training images t and held-out images v, in pixels: 0 for copies, about 1 for images as new as
held-out ones. Such values can be compared only under one protocol (features, reference, numbers of samples), which
``metrics.json`` keeps with them.

Many metrics depend on the number of samples: FID falls with it and IS rises. So what real data reach in place of the
samples, ``..._real``, is measured of as many real samples as were generated.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from diffsweep.capabilities import Part
from diffsweep.datasets import Batch, ImageData
from diffsweep.metrics.accuracy import caption_accuracies, class_accuracy
from diffsweep.metrics.distances import inception_score, kernel_distance, kernel_distances
from diffsweep.metrics.extraction import Extraction, FeatureExtractor
from diffsweep.metrics.frechet import frechet_distance
from diffsweep.metrics.neighbours import manifold, nearest_distances, precision_recall
from diffsweep.metrics.references import Reference, choice, halves, random_parts, reference_split
from diffsweep.metrics.uncertainty import (
    STANDARD_ERRORS,
    fewest_at_infinity,
    frechet_at_infinity,
    frechet_error,
    kernel_error,
)


class GenerationMetrics(Extraction[FeatureExtractor], Part):
    """Metrics that compare generated images with real data: FID, IS, KID, precision, recall and others.

    Calling it with generated images returns the metrics by name, see :meth:`__call__`.

    Args:
        features: returns the feature extractor when called.
        shape: the shape of samples that the extractor takes, (C, H, W) of images or (C, F, H, W) of clips, with None
            for any number; None for any images.
        num_samples: number of generated samples to compare.
        reference: the real data to compare with: the split ``train`` or ``all``; or ``halves``, the mean over ten
            random halves of all real data. The value that samples as good as real data would reach is reported too:
            with ``train`` of held-out data in place of the samples, with ``halves`` the same mean for the other half.
        neighbours: k of precision and recall.
        is_splits: number of parts that IS is averaged over.
        kid_subsets, kid_subset_size: number and size of the random subsets that KID is averaged over.
        resamples: number of resamples of the bootstrap that estimates the interval of FID, each of which takes the
            eigenvalues of two matrices of the size of the features; 0: no interval.
        infinity: whether FID is also extrapolated to infinitely many samples.
        batch_size: images in each call of the feature extractor and of the sampler.
        cache_dir: the folder where features of real data are kept.

    Raises:
        ValueError: ``num_samples``, ``reference``, ``neighbours`` or ``resamples`` is out of its range.
    """

    requires = frozenset({"samples"})
    least_frames = 0  # the least number of frames of a clip

    compared = 50, 1000  # the fewest and the most images whose nearest training image is searched for
    multiplications = 10**12  # the cost allowed for this search between these numbers: minutes on one core

    def __init__(
        self,
        features: Callable[[], FeatureExtractor],
        num_samples: int,
        reference: Reference = "train",
        neighbours: int = 3,
        is_splits: int = 10,
        kid_subsets: int = 50,
        kid_subset_size: int = 500,
        batch_size: int = 256,
        cache_dir: str = "outputs/cache",
        shape: Sequence[int | None] | None = None,
        resamples: int = 100,
        infinity: bool = False,
    ) -> None:
        self.shape = None if shape is None else tuple(shape)
        if num_samples < 2:
            raise ValueError(f"metrics.num_samples must be at least 2, not {num_samples}")
        if reference not in ("train", "all", "halves"):
            raise ValueError(f"metrics.reference is train, all or halves, not {reference}")
        if not 1 <= neighbours < num_samples:
            raise ValueError(
                f"metrics.neighbours must be at least 1 and less than num_samples={num_samples}, not {neighbours}"
            )
        if resamples < 0 or resamples == 1:
            raise ValueError(f"metrics.resamples must be 0 (no interval of FID) or at least 2, not {resamples}")
        super().__init__(features, batch_size, cache_dir)
        self.num_samples = num_samples
        self.reference: Reference = reference
        self.neighbours, self.is_splits = neighbours, is_splits
        self.kid_subsets, self.kid_subset_size = kid_subsets, kid_subset_size
        self.resamples, self.infinity = resamples, infinity

    def protocol(self) -> dict[str, Any]:
        """Return the settings that the metrics depend on, by name; ``metrics.json`` keeps them with the values.

        Only values under equal settings can be compared.
        """
        return {
            "features": self.features.name,
            "features_sha256": self.features.weights_hash,
            "reference": self.reference,
            "num_samples": self.num_samples,
            "neighbours": self.neighbours,
            "is_splits": self.is_splits,
            "kid": f"{self.kid_subsets}x{self.kid_subset_size}",
            "kid_unit": 1,  # it is printed in thousandths
            "floor": "of as many real samples",  # ..._real
            "resamples": self.resamples,
            "infinity": self.infinity,
        }

    def warnings(self) -> list[str]:
        """Return sentences that a reader of the values must know, such as that FID is biased with few samples.

        The list is empty if nothing is to be noted.
        """
        return self.bias_warnings("FID")

    def bias_warnings(self, name: str) -> list[str]:
        """Return warnings that a Frechet distance is biased, or cannot be extrapolated; none if samples are enough.

        They are enough if their number is above D, the number of features: else their covariance is singular.

        Args:
            name: the name of the distance in the warning, such as "FID".
        """
        count, dimensions = self.num_samples, self.features.num_features
        noted = []
        if self.infinity and count < (fewest := fewest_at_infinity(dimensions)):
            noted = [
                f"{name} at infinity is left out: with {dimensions} features it needs at least {fewest} samples, not "
                f"{count}; raise num_samples, or set metrics.infinity=false"
            ]
        if count > dimensions:
            return noted
        return [
            *noted,
            f"{name} is biased: {count} samples cannot estimate the covariance of {dimensions} features (it is "
            f"singular), and the bias grows as samples get fewer; use more than {dimensions} with metrics.num_samples=",
        ]

    def __call__(self, samples: Tensor, data: ImageData, request: Batch | None = None) -> dict[str, float]:
        """Return the metrics of generated samples by name.

        Precision and recall compare as many samples as real images (arXiv:1904.06991): all of the fewer, and a random
        choice of the more. With ``halves`` the number is that of the samples or of a half, whichever is less.

        Args:
            samples: generated images, (N, C, H, W) in [-1, 1].
            data: the dataset that they are compared with. If its ``aligned(samples, request)`` reads images, it
                determines the accuracies of captions; see :func:`diffsweep.metrics.accuracy.caption_accuracies`.
            request: the batch without ``x`` that states what the samples are to show: ``label`` (N,) or ``caption``, a
                list of N texts; None for nothing.

        Returns:
            ``fid``, ``is``, ``kid``, ``precision`` and ``recall`` of the samples; each with ``..._real`` of N real ones
            in their place (``reference=all`` leaves none for it but IS), or of all that the data have, if that is less:
            ``real_samples`` is their number; ``fid_low`` and ``fid_high``, the 95 % interval of FID of other N samples
            of the model; ``kid_se``, the standard error of KID; ``fid_infinity``, if ``infinity`` is set; and

            ``copy_ratio``, the median distance of samples from their nearest training image over that of held-out
            images (0 for copies, about 1 for new images), of at most a random thousand each, and of fewer if the
            training set is so large that the search would take hours; ``class_accuracy`` and, of held-out images,
            ``class_accuracy_real``, if labels were requested and the extractor has the data's classes;
            ``caption_accuracy`` and its parts, if captions were requested and the dataset can read images.
        """
        fake, fake_logits = self.extract(samples)
        real, real_logits = self.real(data, reference_split(self.reference))
        numbers = self._distances(fake, real, data)
        numbers["is"] = inception_score(fake_logits, self.is_splits)
        numbers["is_real"] = statistics.fmean(
            inception_score(some, self.is_splits) for some in random_parts(real_logits, len(fake))
        )
        numbers |= self._interval(fake, real, numbers["fid"])
        numbers["copy_ratio"] = self._copy_ratio(samples, data)
        request = request or {}
        if "label" in request and fake_logits.shape[1] == data.num_classes:
            numbers["class_accuracy"] = class_accuracy(fake_logits, request["label"].cpu())
            held_out_logits = self.real(data, "val")[1]
            numbers["class_accuracy_real"] = class_accuracy(held_out_logits, data.split("val")["label"])
        if "caption" in request and (right := data.aligned(samples, request)) is not None:
            numbers |= caption_accuracies(right)
        return numbers

    def _distances(self, fake: Tensor, real: Tensor, data: ImageData) -> dict[str, float]:
        """Return FID, KID, precision and recall of generated features (N, D) against real ones (M, D), with floors.

        KID has its standard error too: it is a mean over random subsets of samples that are random themselves.
        """
        kid, of_subsets = kernel_distances(fake, real, *self._subsets(fake, real))
        if self.reference == "halves":
            pairs: list[tuple[Tensor | None, Tensor]] = [(other[: len(fake)], half) for other, half in halves(real)]
        elif self.reference == "train":
            held_out = self.real(data, "val")[0]
            pairs = [(held_out[choice(len(held_out), len(fake))], real)]
        else:
            pairs = [(None, real)]
        measured = [self._against(fake, part) for _, part in pairs]
        floors = [
            self._against(other, part) | {"kid": kernel_distance(other, part, *self._subsets(other, part))}
            for other, part in pairs
            if other is not None and len(other) > self.neighbours
        ]
        numbers = {name: statistics.fmean(row[name] for row in measured) for name in measured[0]} | {"kid": kid}
        if len(fake) > 2:
            numbers["kid_se"] = math.hypot(kernel_error(fake, real), of_subsets / self.kid_subsets**0.5)
        if floors:
            numbers |= {f"{name}_real": statistics.fmean(row[name] for row in floors) for name in floors[0]}
            numbers["real_samples"] = len(pairs[0][0])  # type: ignore[arg-type]
        return numbers

    def _against(self, fake: Tensor, real: Tensor) -> dict[str, float]:
        """Return FID, precision and recall of features (N, D) against real ones (M, D), and FID at infinity if set."""
        count = min(len(fake), len(real))
        parts = (fake, real) if self.reference != "halves" else (fake, real[:count])
        fakes, reals = (manifold(part[choice(len(part), count)], self.neighbours) for part in parts)
        precision, recall = precision_recall(fakes, reals)
        numbers = {"fid": frechet_distance(fake, real), "precision": precision, "recall": recall}
        if self.infinity and len(fake) >= fewest_at_infinity(fake.shape[1]):
            numbers["fid_infinity"] = frechet_at_infinity(fake, real, orders=1 if self.reference == "halves" else 10)
        return numbers

    def _subsets(self, fake: Tensor, real: Tensor) -> tuple[int, int]:
        """Return the number and the size of the subsets over which KID is averaged."""
        return self.kid_subsets, min(self.kid_subset_size, len(fake), len(real))

    def _interval(self, fake: Tensor, real: Tensor, fid: float) -> dict[str, float]:
        """Return the interval of FID; with ``halves`` its width is that against all real data."""
        if not self.resamples:
            return {}
        error = frechet_error(fake, real, self.resamples)
        return {"fid_low": fid - STANDARD_ERRORS * error, "fid_high": fid + STANDARD_ERRORS * error}

    def of_reconstructions(self, made: Tensor, data: ImageData) -> dict[str, float]:
        """Return ``rfid``, FID between all held-out images and an autoencoder's reconstructions of them.

        Args:
            made: the reconstructions, (M, C, H, W) in [-1, 1].
            data: the dataset whose held-out images were reconstructed.
        """
        return {"rfid": frechet_distance(self.extract(made)[0], self.real(data, "val")[0])}

    def _copy_ratio(self, samples: Tensor, data: ImageData) -> float:
        """Return the median distance of samples from their nearest training image over that of held-out images."""
        train, held_out = data.split("train"), data.split("val")
        fewest, most = self.compared
        count = min(most, max(fewest, self.multiplications // (len(train) * samples[0].numel())))
        real = held_out[choice(len(held_out), count)]["x"]
        fake = samples[choice(len(samples), count)]
        levels = (data.levels - 1) / 2
        rounded = ((fake.clamp(-1, 1) + 1) * levels).round() / levels - 1  # to the levels of the data
        distances = nearest_distances(torch.cat([rounded, real]), self.batches(train))
        from_fake, from_real = distances.split([len(rounded), len(real)])
        return float(from_fake.median() / from_real.median())
