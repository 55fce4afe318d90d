"""How good samples are, against real data: FID, IS and KID, precision and recall, whether they are copies, and whether they are what
was asked for.

Numbers mean something only under their protocol (features, reference, counts): it is kept with them.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from diffsweep.capabilities import Part
from diffsweep.datasets import Batch, ImageData, Split
from diffsweep.metrics.accuracy import caption_accuracies, class_accuracy
from diffsweep.metrics.distances import frechet_distance, inception_score, kernel_distance
from diffsweep.metrics.extraction import Extraction, FeatureExtractor
from diffsweep.metrics.neighbours import manifold, nearest_distances, precision_recall

Reference = Literal["train", "all", "halves"]


class GenerationMetrics(Extraction[FeatureExtractor], Part):
    """Compares samples with the real data under one protocol.

    Args:
        features: makes the feature extractor.
        shape: (C, H, W) of the images, or (C, F, H, W) of the clips, that it takes, with None for any number; None for any images.
        num_samples: how many samples are compared.
        reference: ``train`` or ``all``, that split's features; or ``halves``: the mean over ten random halves of all
            real data, reported beside the same mean for the other half in place of the samples (the floor that samples
            as good as real data would reach).
        neighbours: k of precision and recall.
        is_splits: parts that IS is averaged over.
        kid_subsets, kid_subset_size: random subsets that KID is averaged over.
        batch_size: images per call of the feature extractor and of the sampler.
        cache_dir: where features of real data are kept.
    """

    requires = frozenset({"samples"})
    least_frames = 0  # of clips

    compared = 50, 1000  # the fewest and most images whose nearest training image is looked for
    multiplications = 10**12  # that this may cost between the two, minutes on one core

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
        super().__init__(features, batch_size, cache_dir)
        self.num_samples = num_samples
        self.reference: Reference = reference
        self.neighbours, self.is_splits = neighbours, is_splits
        self.kid_subsets, self.kid_subset_size = kid_subsets, kid_subset_size

    def protocol(self) -> dict[str, Any]:
        """What the numbers depend on, of the metrics' own."""
        return {
            "features": self.features.name,
            "features_sha256": self.features.weights_hash,
            "reference": self.reference,
            "num_samples": self.num_samples,
            "neighbours": self.neighbours,
            "is_splits": self.is_splits,
            "kid": f"{self.kid_subsets}x{self.kid_subset_size}",
        }

    def warnings(self) -> list[str]:
        """What a reader of the numbers should know."""
        return self.biased("FID")

    def biased(self, name: str) -> list[str]:
        """The warning of a Frechet distance of that name, where samples are few."""
        count, dimensions = self.num_samples, self.features.num_features
        if count > dimensions:
            return []
        return [
            f"{name} is biased: {count} samples cannot estimate the covariance of {dimensions} features (it is singular), and "
            f"the bias grows as samples get fewer; ask for more than {dimensions} with metrics.num_samples="
        ]

    def __call__(self, samples: Tensor, data: ImageData, request: Batch | None = None) -> dict[str, float]:
        """The numbers of samples (N, C, H, W) in [-1, 1].

        Precision and recall compare as many samples as real images (arXiv:1904.06991): all of the fewer, and a random
        choice of the more. With ``halves`` the fewer are the samples or a half, and the other half is cut to as many.

        Args:
            samples: the images.
            data: what they are compared with. Its ``aligned(samples, request)`` may say of each sample what of
                its caption is right; see :func:`diffsweep.metrics.accuracy.caption_accuracies`.
            request: what the samples were to show: ``label`` (N,), ``caption``, a list of N, or nothing.

        Returns:
            ``fid``, ``is``, ``kid``, ``precision``, ``recall`` of the samples; ``is_real`` and, with ``halves``,
            ``fid_real``, ``precision_real``, ``recall_real`` of real data in their place; ``copy_ratio``, the median
            distance of samples to their nearest training image over that of held-out real images (0 for copies, about 1
            for new images), both of at most a random thousand, and of fewer where the training set is so large that this
            would take hours; ``class_accuracy`` and, of held-out real images, ``class_accuracy_real`` where labels were
            asked for and the extractor knows the data's classes; ``caption_accuracy`` and its parts where the data reads
            captions back.
        """
        fake, fake_logits = self.extract(samples)
        real, real_logits = self.real(data, reference_split(self.reference))
        numbers = self._against_halves(fake, real) if self.reference == "halves" else self._against(fake, real)
        numbers["is"] = inception_score(fake_logits, self.is_splits)
        numbers["is_real"] = inception_score(real_logits, self.is_splits)
        subset_size = min(self.kid_subset_size, len(fake), len(real))
        numbers["kid"] = kernel_distance(fake, real, self.kid_subsets, subset_size)
        numbers["copy_ratio"] = self._copy_ratio(samples, data)
        request = request or {}
        if "label" in request and fake_logits.shape[1] == data.num_classes:
            numbers["class_accuracy"] = class_accuracy(fake_logits, request["label"].cpu())
            held_out_logits = self.real(data, "val")[1]
            numbers["class_accuracy_real"] = class_accuracy(held_out_logits, data.split("val")["label"])
        if "caption" in request and (right := data.aligned(samples, request)) is not None:
            numbers |= caption_accuracies(right)
        return numbers

    def _against(self, fake: Tensor, real: Tensor) -> dict[str, float]:
        """FID, precision and recall of features against those of real data."""
        count = min(len(fake), len(real))
        fakes, reals = (manifold(part[choice(len(part), count)], self.neighbours) for part in (fake, real))
        precision, recall = precision_recall(fakes, reals)
        return {"fid": frechet_distance(fake, real), "precision": precision, "recall": recall}

    def _against_halves(self, fake: Tensor, real: Tensor) -> dict[str, float]:
        """The same, as means over random halves of the real data, and those of the other half in place of the samples."""
        count = min(len(fake), len(real) // 2)
        fakes = manifold(fake[choice(len(fake), count)], self.neighbours)
        measured: list[dict[str, float]] = []
        for other, half in halves(real):
            others, reals = (manifold(part[:count], self.neighbours) for part in (other, half))
            precision, recall = precision_recall(fakes, reals)
            precision_real, recall_real = precision_recall(others, reals)
            measured.append(
                {
                    "fid": frechet_distance(fake, half),
                    "fid_real": frechet_distance(other, half),
                    "precision": precision,
                    "precision_real": precision_real,
                    "recall": recall,
                    "recall_real": recall_real,
                }
            )
        return {name: statistics.fmean(numbers[name] for numbers in measured) for name in measured[0]}

    def of_reconstructions(self, made: Tensor, data: ImageData) -> dict[str, float]:
        """``rfid``, the FID of reconstructions of all held-out images against these."""
        return {"rfid": frechet_distance(self.extract(made)[0], self.real(data, "val")[0])}

    def _copy_ratio(self, samples: Tensor, data: ImageData) -> float:
        train, held_out = data.split("train"), data.split("val")
        fewest, most = self.compared
        count = min(most, max(fewest, self.multiplications // (len(train) * samples[0].numel())))
        real = held_out[choice(len(held_out), count)]["x"]
        fake = samples[choice(len(samples), count)]
        levels = (data.levels - 1) / 2
        stored = ((fake.clamp(-1, 1) + 1) * levels).round() / levels - 1  # as an image of the data would be
        distances = nearest_distances(torch.cat([stored, real]), self.batches(train))
        of_fake, of_real = distances.split([len(stored), len(real)])
        return float(of_fake.median() / of_real.median())


def reference_split(reference: Reference) -> Split:
    """The split that samples are compared with; halves are of all."""
    return "train" if reference == "train" else "all"


def halves(real: Tensor, repeats: int = 10) -> Iterator[tuple[Tensor, Tensor]]:
    """Random halves of rows, always the same: one, and the other, which has the odd row."""
    size = len(real) // 2
    for i in range(repeats):
        order = torch.randperm(len(real), generator=torch.Generator().manual_seed(i))
        yield real[order[:size]], real[order[size:]]


def choice(count: int, most: int) -> Tensor:
    """At most so many of ``count`` indices, in order, chosen at random but always the same."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:most].sort().values
