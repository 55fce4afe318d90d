r"""Metrics of samples that are dropped as soon as they are drawn: what is kept are numbers of each of them.

FID needs the mean and the covariance of features, but KID, precision and recall compare the features themselves, and IS
is a mean over random parts. So for each sample its D features and its logits are kept: 64 + 10 float32 (300 bytes) for
the classifier of digits, 2048 + 1008 and 2023 spatial ones (20 kB) for Inception, 1 GB of 50,000 samples, where images
of 256 pixels would be 39 GB.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from diffsweep.datasets import Batch, ImageData, Split, joined_rows, rows_of
from diffsweep.metrics.copies import searched
from diffsweep.metrics.extraction import Extraction, FeatureExtractor
from diffsweep.metrics.references import REFERENCES
from diffsweep.metrics.restoration import degraded, restoration_of_each

WORDS = ("label", "caption")  # what is kept of a request


class SampleMetrics(Extraction[FeatureExtractor]):
    """A base class of metrics that are computed from numbers of each generated sample: see :meth:`of_each`.

    Subclasses define :meth:`compare`, and ``reference``, the real data that samples are compared with.

    Args:
        features, batch_size, cache_dir: see :class:`~diffsweep.metrics.extraction.Extraction`.
    """

    reference: str

    def share_real(self, data: ImageData, splits: Sequence[Split]) -> None:
        """Compute the features of splits of real data, of which each process takes a share, and cache them.

        All processes must call it.
        """
        for split in splits:
            self.share_split(data, split)

    def of_each(self, x: Tensor, request: Batch, chosen: Tensor, data: ImageData) -> Batch:
        """Return what the metrics keep of a batch of samples, so that the samples can be dropped.

        :func:`~diffsweep.datasets.joined_rows` joins what is kept of several batches for :meth:`compare`. Of each
        sample it is D features, K logits, a few numbers and what was requested in words; of some the pixels.

        Args:
            x: generated images, (B, C, H, W) in [-1, 1].
            request: the batch without ``x`` that states what they are to show: see :meth:`__call__`.
            chosen: which of them their nearest training image is searched for, bool, (B,): see
                :func:`~diffsweep.metrics.copies.searched`.
            data: the dataset that they are compared with.
        """
        return {"features": self.extract(x).by_name(), **self.beside_features(x, request, chosen, data)}

    def beside_features(self, x: Tensor, request: Batch, chosen: Tensor, data: ImageData) -> Batch:
        """Return what :meth:`of_each` returns except the features of the samples, with its arguments."""
        each: Batch = {"chosen": x[chosen], "request": {name: request[name] for name in WORDS if name in request}}
        if "clean" in request:
            each["restored"] = restoration_of_each(x, request)
            if self.reference in REFERENCES:  # statistics in a file are compared with samples alone
                each["degraded"] = self.extract(degraded(request)).features
        if "caption" in request and (right := data.aligned(x, request)) is not None:
            each["right"] = right
        return each

    def __call__(self, samples: Tensor, data: ImageData, request: Batch | None = None) -> dict[str, float]:
        """Return the metrics of generated samples that are all in memory by name: see :meth:`compare`.

        Args:
            samples: generated images, (N, C, H, W) in [-1, 1].
            data: the dataset that they are compared with. If its ``aligned(samples, request)`` reads images, it
                determines the accuracies of captions; see :func:`diffsweep.metrics.accuracy.caption_accuracies`.
            request: the batch without ``x`` that states what the samples are to show: ``label`` (N,) or ``caption``, a
                list of N texts; None for nothing.
        """
        chosen, parts = searched(len(samples), data), []
        for rows in torch.arange(len(samples)).split(self.batch_size):
            parts.append(self.of_each(samples[rows], rows_of(request or {}, rows), torch.isin(rows, chosen), data))
        return self.compare(joined_rows(parts), data)

    @abstractmethod
    def compare(self, each: Batch, data: ImageData) -> dict[str, float]:
        """Return the metrics of generated samples by name; subclasses define it.

        Args:
            each: what :meth:`of_each` keeps of all samples, in their order.
            data: the dataset that they are compared with.
        """
