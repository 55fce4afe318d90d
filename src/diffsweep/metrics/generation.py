r"""Compare generated images with real data: FID, IS, KID, precision and recall, copies, and accuracies.

:mod:`diffsweep.metrics.frechet`, :mod:`diffsweep.metrics.distances`, :mod:`diffsweep.metrics.neighbours` and
:mod:`diffsweep.metrics.copies` have the formulas. Values can be compared only under one protocol (features, reference,
numbers of samples), which ``metrics.json`` keeps with them: FID falls with the number of samples, and IS rises. So what
real data reach in place of the samples, ``..._real``, is measured of as many real samples as were generated.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffsweep.capabilities import Part
from diffsweep.datasets import Batch, ImageData, Split
from diffsweep.metric_table import metric
from diffsweep.metrics.accuracy import caption_accuracies, class_accuracy
from diffsweep.metrics.compared import FeatureComparison
from diffsweep.metrics.copies import copy_ratio
from diffsweep.metrics.distances import inception_score
from diffsweep.metrics.extraction import CaptionScored, FeatureExtractor, Features
from diffsweep.metrics.frechet import frechet_distance
from diffsweep.metrics.reference_statistics import SUFFIX, Statistics, hash_of, read_statistics
from diffsweep.metrics.references import REFERENCES, choice, halves, random_parts, reference_split
from diffsweep.metrics.restoration import mean_restoration
from diffsweep.metrics.streamed import SampleMetrics
from diffsweep.metrics.uncertainty import fewest_at_infinity

AUTO, AT_ONCE = "auto", 64  # a batch size that follows the memory, and that of features then


class GenerationMetrics(SampleMetrics, Part):
    """Metrics that compare generated images with real data: FID, IS, KID, precision, recall and others.

    Calling it with generated images returns the metrics by name, see :meth:`compare`.

    Args:
        features: returns the feature extractor when called.
        shape: the shape of samples that the extractor takes, (C, H, W) of images or (C, F, H, W) of clips, with None
            for any number; None for any images.
        num_samples: number of generated samples to compare.
        reference: the real data to compare with: the split ``train`` or ``all``; or ``halves``, the mean over ten
            random halves of all real data. The value that samples as good as real data would reach is reported too:
            with ``train`` of held-out data in place of the samples, with ``halves`` the same mean for the other half.
            The path of an ``.npz`` file with ``mu`` and ``sigma`` takes these as the moments of real features: FID and
            IS alone are measured then, of what compares features.
        neighbours: k of precision and recall.
        is_splits: number of parts that IS is averaged over.
        kid_subsets, kid_subset_size: number and size of the random subsets that KID is averaged over.
        resamples: number of resamples of the bootstrap that estimates the interval of FID, each of which takes the
            eigenvalues of two matrices of the size of the features; 0: no interval.
        infinity: whether FID is also extrapolated to infinitely many samples.
        batch_size: images in each call of the feature extractor and of the sampler. ``auto`` draws as many at once as
            the device has memory for, and computes the features of 64 at once.
        cache_dir: the folder where features of real data are kept.

    Raises:
        ValueError: ``num_samples``, ``reference``, ``neighbours``, ``resamples`` or ``batch_size`` is out of its range,
            or the file of ``reference`` does not exist.
    """

    requires = frozenset({"samples"})
    least_frames = 0  # the least number of frames of a clip
    drawn_at_once: int | None  # the number of samples that are drawn at once; None for as many as fit

    def __init__(
        self,
        features: Callable[[], FeatureExtractor],
        num_samples: int,
        reference: str = "train",
        neighbours: int = 3,
        is_splits: int = 10,
        kid_subsets: int = 50,
        kid_subset_size: int = 500,
        batch_size: int | str = 256,
        cache_dir: str = "outputs/cache",
        shape: Sequence[int | None] | None = None,
        resamples: int = 100,
        infinity: bool = False,
    ) -> None:
        self.shape = None if shape is None else tuple(shape)
        if num_samples < 2:
            raise ValueError(f"metrics.num_samples must be at least 2, not {num_samples}")
        if reference not in REFERENCES and not reference.endswith(SUFFIX):
            raise ValueError(f"metrics.reference is train, all, halves or a file of statistics (.npz), not {reference}")
        if reference.endswith(SUFFIX) and not Path(reference).is_file():
            raise ValueError(f"metrics.reference={reference}: no such file; it holds mu and sigma of real features")
        if not 1 <= neighbours < num_samples:
            raise ValueError(
                f"metrics.neighbours must be at least 1 and less than num_samples={num_samples}, not {neighbours}"
            )
        if resamples < 0 or resamples == 1:
            raise ValueError(f"metrics.resamples must be 0 (no interval of FID) or at least 2, not {resamples}")
        if batch_size != AUTO and not (isinstance(batch_size, int) and batch_size > 0):
            raise ValueError(f"metrics.batch_size must be auto or at least 1, not {batch_size}")
        super().__init__(features, int(AT_ONCE if batch_size == AUTO else batch_size), cache_dir)
        self.drawn_at_once = None if batch_size == AUTO else self.batch_size
        self.num_samples = num_samples
        self.reference = reference
        self.comparison = FeatureComparison(neighbours, is_splits, kid_subsets, kid_subset_size, resamples, infinity)

    @property
    def distance(self) -> str:
        """Return the name of the Frechet distance by the extractor's features in ``metrics.json``, such as ``fid``."""
        return getattr(self.features, "distance", "fid")

    @cached_property
    def known(self) -> Statistics | None:
        """Return the statistics of the file that ``reference`` names; None if the reference is a split of the data."""
        return None if self.reference in REFERENCES else read_statistics(Path(self.reference))

    def protocol(self) -> dict[str, Any]:
        """Return the settings that the metrics depend on, by name; ``metrics.json`` keeps them with the values.

        Only values under equal settings can be compared.
        """
        compared = self.comparison
        return {
            "features": self.features.name,
            "features_sha256": self.features.weights_hash,
            "reference": self.reference if self.known is None else f"statistics {hash_of(Path(self.reference))}",
            "num_samples": self.num_samples,
            "neighbours": compared.neighbours,
            "is_splits": compared.is_splits,
            "kid": f"{compared.kid_subsets}x{compared.kid_subset_size}",
            "kid_unit": 1,  # it is printed in thousandths
            "floor": "of as many real samples",  # ..._real
            "resamples": compared.resamples,
            "infinity": compared.infinity,
            **getattr(self.features, "settings", {}),
        }

    def too_few(self, count: int, real: int | None = None) -> list[str]:
        """Return the names in ``metrics.json`` of metrics for which the samples are too few to mean anything.

        They are the Frechet distance of no more samples than features, whose covariance is singular, and those of
        :meth:`FeatureComparison.too_few`.

        Args:
            count: the number of samples.
            real: the number of real samples that they are compared with; None if it is not smaller.
        """
        fewest = min(count, count if real is None else real)
        few = [self.distance] if fewest <= self.features.num_features else []
        return few + self.comparison.too_few(count, fewest)

    def warnings(self) -> list[str]:
        """Return sentences that a reader of the values must know, such as that FID is biased with few samples.

        The list is empty if nothing is to be noted.
        """
        return self.bias_warnings(metric(self.distance).label)

    def bias_warnings(self, name: str) -> list[str]:
        """Return warnings that a Frechet distance is biased, or cannot be extrapolated; none if samples are enough.

        They are enough if their number is above D, the number of features: else their covariance is singular.

        Args:
            name: the name of the distance in the warning, such as "FID".
        """
        count, dimensions = self.num_samples, self.features.num_features
        noted = []
        if self.comparison.infinity and count < (fewest := fewest_at_infinity(dimensions)):
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

    def splits(self, request: Batch | None = None) -> list[Split]:
        """Return the splits of real data whose features are compared with those of samples for a request."""
        splits: list[Split] = ["val"] if "label" in (request or {}) or self.reference == "train" else []
        return [*splits, reference_split(self.reference)] if self.reference in REFERENCES else splits

    def compare(self, each: Batch, data: ImageData) -> dict[str, float]:
        """Return the metrics of generated samples by name.

        Precision and recall compare as many samples as real images (arXiv:1904.06991): all of the fewer, and a random
        choice of the more. With ``halves`` the number is that of the samples or of a half, whichever is less.

        Args:
            each: what :meth:`of_each` keeps of all N samples, in their order.
            data: the dataset that they are compared with.

        Returns:
            ``fid``, ``is``, ``kid``, ``precision`` and ``recall`` of the samples; each with ``..._real`` of N real ones
            in their place (``reference=all`` leaves none for it but IS), or of all that the data have, if that is less:
            ``real_samples`` is their number; ``fid_low`` and ``fid_high``, the 95 % interval of FID of other N samples
            of the model; ``kid_se``, the standard error of KID; ``fid_infinity``, if ``infinity`` is set; and

            ``copy_ratio``, the median distance of samples from their nearest training image over that of held-out
            images (0 for copies, about 1 for new images), of at most a random thousand each, and of fewer if the
            training set is so large that the search would take hours; ``class_accuracy`` and, of held-out images,
            ``class_accuracy_real``, if labels were requested and the extractor has the data's classes;
            ``clip_score``, if captions were requested and the extractor compares images with them;
            ``caption_accuracy`` and its parts, if captions were requested and the dataset can read images;
            those of :func:`~diffsweep.metrics.restoration.restoration`, and ``fid_degraded``, if images were restored.
        """
        fake, request = Features(**each["features"]), each["request"]
        numbers = self.comparison.all(fake, None, self.known) if self.known is not None else self._of_splits(fake, data)
        numbers["copy_ratio"] = copy_ratio(each["chosen"], data, self.batches)
        if "label" in request and fake.logits.shape[1] == data.num_classes:
            numbers["class_accuracy"] = class_accuracy(fake.logits, request["label"].cpu())
            held_out = self.real(data, "val").logits
            numbers["class_accuracy_real"] = class_accuracy(held_out, data.split("val")["label"])
        if "restored" in each:
            numbers |= mean_restoration(each["restored"])
        if "degraded" in each:
            real = self.real(data, reference_split(self.reference))
            numbers["fid_degraded"] = frechet_distance(each["degraded"], real.features)
        if "caption" in request and isinstance(self.features, CaptionScored):
            numbers["clip_score"] = self.features.caption_score(fake.features, request["caption"])
        if "right" in each:
            numbers |= caption_accuracies(each["right"])
        return self.named(numbers)

    def named(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Return numbers by their names in ``metrics.json``: of ``fid`` that of the extractor's distance."""
        return {self._name(name): value for name, value in numbers.items()}

    def _name(self, name: str) -> str:
        """Return the name in ``metrics.json`` of a metric such as ``fid_real``: that of the extractor's distance."""
        first, _, rest = name.partition("_")
        return "_".join(filter(None, (self.distance if first == "fid" else first, rest)))

    def _of_splits(self, fake: Features, data: ImageData) -> dict[str, float]:
        """Return the numbers that compare generated features with those of a split of the data, and their floors."""
        compared, real = self.comparison, self.real(data, reference_split(self.reference))
        numbers = self._distances(fake, real, data) | compared.score(fake)
        if "is" in numbers:
            numbers["is_real"] = statistics.fmean(
                inception_score(some, compared.is_splits) for some in random_parts(real.logits, len(fake.logits))
            )
        return numbers | compared.interval(fake, real, numbers["fid"])  # its width is that against all real data

    def _distances(self, fake: Features, real: Features, data: ImageData) -> dict[str, float]:
        """Return FID, KID, precision and recall of generated features against real ones, with floors."""
        compared, count = self.comparison, len(fake.features)
        cut = self.reference == "halves"
        if cut:
            rows = halves(torch.arange(len(real.features)))
            pairs: list[tuple[Features | None, Features]] = [
                (real.rows(other[:count]), real.rows(half)) for other, half in rows
            ]
        elif self.reference == "train":
            held_out = self.real(data, "val")
            pairs = [(held_out.rows(choice(len(held_out.features), count)), real)]
        else:
            pairs = [(None, real)]
        measured = [compared.against(fake, part, cut, 1 if cut else 10) for _, part in pairs]
        floors = [
            compared.against(other, part, cut, 1 if cut else 10) | {"kid": compared.kernel_floor(other, part)}
            for other, part in pairs
            if other is not None and len(other.features) > compared.neighbours
        ]
        numbers = {name: statistics.fmean(row[name] for row in measured) for name in measured[0]}
        numbers |= compared.kernel(fake, real)
        if floors:
            numbers |= {f"{name}_real": statistics.fmean(row[name] for row in floors) for name in floors[0]}
            numbers["real_samples"] = len(pairs[0][0].features)  # type: ignore[union-attr]
        return numbers

    def of_each_reconstruction(self, made: Tensor, data: ImageData) -> Batch:
        """Return what :meth:`of_reconstructions` compares of a batch of reconstructions: their features.

        Args:
            made: an autoencoder's reconstructions, (B, C, H, W) in [-1, 1].
            data: the dataset whose held-out images were reconstructed.
        """
        return {"features": self.extract(made).features}

    def of_reconstructions(self, each: Batch, data: ImageData) -> dict[str, float]:
        """Return FID between all held-out images and an autoencoder's reconstructions of them, by its name ``rfid``.

        Args:
            each: what :meth:`of_each_reconstruction` returns of all held-out images, in their order.
            data: the dataset whose held-out images were reconstructed.
        """
        return {f"r{self.distance}": frechet_distance(each["features"], self.real(data, "val").features)}
