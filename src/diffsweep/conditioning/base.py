r"""The base class of conditionings, which make the condition c of :math:`\epsilon_\theta(x_t, t, c)` from a batch.

In training, the condition of each sample is replaced by the null condition :math:`\varnothing` with probability p, the
``dropout``:

.. math:: c' = \varnothing \text{ if } u < p \text{ else } c, \quad u \sim U[0, 1]

So one network learns p(x_0 | c) and p(x_0) alike, and classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598)
of scale s can combine them in sampling, :math:`\epsilon_\varnothing + s (\epsilon_c - \epsilon_\varnothing)`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from diffsweep.capabilities import Part
from diffsweep.diffusion import Condition, Noise, Stream

if TYPE_CHECKING:  # it imports Lightning, which takes seconds
    from diffsweep.datasets import Batch, Samples


class Conditioning(nn.Module, Part, ABC):
    """A map from a batch to the :class:`~diffsweep.diffusion.Condition` of its samples: ``cond = conditioning(batch)``.

    The batch holds samples of the dataset with their annotations, or it is a *request*: a batch without ``x`` that
    states what the samples to be drawn are to show. :meth:`request` makes one. In training, some conditions are
    replaced by the null condition; no other part of the package does that. Subclasses define :meth:`condition` and
    :meth:`request`.

    Args:
        dropout: the probability, in [0, 1], that a training sample has the null condition in place of its own; any
            other number raises a ValueError.

    Attributes:
        sizes: the sizes of the parts of the Condition, under the names of the backbones' arguments for them:
            ``num_classes``, ``vector_dim``, ``num_scalars``, ``context_dim``, ``image_channels``.
        negative: the setting of what guidance leads away from in place of the null condition; None for the null
            condition.
        requires_pixels: whether the condition is computed from the images ``batch["x"]``, so that a batch of
            latents without images is not enough.
    """

    sizes: Mapping[str, int]
    negative: Any = None
    requires_pixels = False

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        if not 0 <= dropout <= 1:
            raise ValueError(f"conditioning.dropout must lie in [0, 1], not {dropout}")
        self.dropout = dropout

    @property
    def provides(self) -> frozenset[str]:  # type: ignore[override]
        """The capabilities that are offered to guidance and network: the names in ``sizes``, and ``condition``.

        ``null_condition`` is provided too with dropout or a negative condition, since guidance then has a condition to
        lead away from. A conditioning without ``sizes`` provides nothing.
        """
        null = self.dropout > 0 or self.negative is not None
        return frozenset({*self.sizes, "condition", *(["null_condition"] if null else [])} if self.sizes else ())

    @abstractmethod
    def condition(self, batch: Batch) -> Condition | None:
        """Return the conditions of a batch or a request, without dropout; None for a model without conditions.

        Subclasses define them.
        """

    @abstractmethod
    def request(self, indices: Tensor, samples: Samples | None) -> Batch:
        """Return the request for samples of given indices: a batch without ``x`` that states what they are to show.

        Its entries are those that :meth:`condition` reads, such as ``label``. Its entry ``negative``, if any, is a
        request of the same length for what guidance leads away from. Subclasses define both.

        Args:
            indices: the numbers of the samples, int64, (B,). What is requested for index i does not depend on the
                others.
            samples: held-out data, from which some conditionings take what they request; None if not at hand.

        Raises:
            ValueError: ``samples`` is None, or lacks the annotations, and the conditioning requests what they show.
        """

    def prepared(self, batch: Batch, noise: Noise | None = None) -> Batch:
        """Return a batch with the entries that :meth:`condition` reads, as far as they are made of others.

        Here it is the batch as it is. Conditionings that compute a part of their condition from ``x`` override it, so
        that random parts are drawn in one place.

        Args:
            batch: samples with their annotations, or a request.
            noise: the random numbers of the training samples; None for held-out samples and requests.
        """
        return batch

    def requested(self, values: Sequence[Any]) -> Batch:
        """Return the request for samples that show given texts or classes, one for each sample.

        Subclasses whose conditions have words override it.

        Raises:
            ValueError: a text or class is not possible; or, here, conditions cannot be given in words.
        """
        raise ValueError(f"the conditions of {type(self).__name__} cannot be given as texts or classes")

    def described(self, request: Batch) -> list[str]:
        """Return in words what each of the B rows of a request is to show, such as a class's name, to label pictures.

        Subclasses whose conditions have words override it; here the result is an empty list, for no words.

        Args:
            request: a batch without ``x``, as of :meth:`request`.
        """
        return []

    def forward(self, batch: Batch, noise: Noise | None = None) -> Condition | None:
        """Return the conditions of a batch; in training, with ``noise``, each is dropped with probability ``dropout``.

        A dropped condition is the null condition. A batch with an entry ``negative`` has its condition as the
        ``negative`` of the result.

        Args:
            batch: samples with their annotations, or a request.
            noise: the random numbers of the samples that decide which conditions are dropped; those of a sample are the
                same in any batch. None drops nothing.

        Returns:
            The conditions of the B samples; None for a model without conditions.
        """
        batch = self.prepared(batch, noise)
        cond = self.condition(batch)
        if cond is None:
            return None
        if "negative" in batch:
            cond = replace(cond, negative=self.condition(batch["negative"]))
        rows = self.dropped(noise)
        return cond if rows is None else self.without(cond, rows)

    def dropped(self, noise: Noise | None) -> Tensor | None:
        """Return the rows of a training batch whose conditions are dropped, bool, (B,); None outside of training.

        Args:
            noise: the random numbers of the samples; None drops nothing, and the result is None.
        """
        if self.training and self.dropout > 0 and noise is not None:
            return noise.uniform(stream=Stream.CONDITION) < self.dropout
        return None

    def without(self, cond: Condition, rows: Tensor) -> Condition:
        """Return the conditions of a batch with those of some rows replaced by the null condition.

        Subclasses whose null condition is not the network's own override it.

        Args:
            cond: the conditions of B samples.
            rows: True for the rows to replace, bool, (B,).
        """
        return cond.null(rows)
