r"""Where compared samples come from, such as a trained model's own samples, which a scorer compares.

Of :math:`K` samples of one prompt c that the model draws, the one of the largest score is the winner w and that of the
smallest score the loser l.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffsweep.capabilities import Part
from diffsweep.datasets import Batch, ImageData, Samples, rows_of
from diffsweep.errors import UserError
from diffsweep.layers import evaluating
from diffsweep.models.diffusion import DiffusionModel
from diffsweep.models.scorers import Scorer
from diffsweep.samplers import Sampler
from diffsweep.samplers.settings import settings_of

# The seed of the noise of compared samples. It is far from the small seeds that users type: samples that a model is
# measured by start from other noise than those that it has learned from.
COMPARED = 0x0DD5A1D5
BATCH = 256  # samples that are drawn at once
MOST_TIES = 20  # prompts that are tried for each pair, on average


class ComparedRows(NamedTuple):
    """Rows of compared samples.

    Attributes:
        compared: the samples in the space of diffusion, (B, K, ...), K = 2 with the winner first, or 1.
        score: their scores, float64 (B, K).
        prompt: the number of the annotations of each row, int64 (B,).
    """

    compared: Tensor
    score: Tensor
    prompt: Tensor


class Comparisons(Part, ABC):
    """A source of compared samples: subclasses define their number, how they are made, and of which prompts.

    Attributes:
        pairs: whether a row has a winner and a loser; otherwise it has one sample with a score.
        count: the number of rows.
    """

    provides = frozenset({"comparisons"})
    pairs: bool
    count: int

    @abstractmethod
    def rows(self, base: DiffusionModel, data: ImageData, scorer: Scorer | None) -> Iterator[ComparedRows]:
        """Yield ``count`` rows of compared samples, batch by batch; subclasses define it.

        Args:
            base: the trained model, which draws the samples, or in whose space they are.
            data: the dataset, whose training annotations are the prompts, or whose sizes the images get.
            scorer: the score of drawn samples; None if none is needed.

        Raises:
            UserError: the samples cannot be compared.
        """

    @abstractmethod
    def annotations(self, data: ImageData) -> Samples:
        """Return a table with the annotations, such as captions, that the prompts of rows number."""

    @abstractmethod
    def identity(self, data: ImageData) -> dict[str, Any]:
        """Return all that rows depend on beside the base and the scorer, as plain values by name."""


class ScoredSamples(Comparisons):
    """Pairs of samples that the base draws for the annotations of training samples, compared by a scorer.

    For each prompt the base draws some candidates, from the seed COMPARED. A prompt whose candidates have equal scores
    gives no pair, and the next one takes its place.

    Args:
        sampler: draws the samples; the guidance is that of the base's run.
        num_pairs: the number of pairs.
        candidates: K, the samples of a prompt: the best is the winner, the worst the loser.
        guided: whether samples are guided as those of the base's run are.

    Raises:
        ValueError: ``candidates`` or ``num_pairs`` is below 2.
    """

    requires = frozenset({"scores"})
    pairs = True

    def __init__(self, sampler: Sampler, num_pairs: int, candidates: int = 2, guided: bool = True) -> None:
        if num_pairs < 2:
            raise ValueError(f"comparisons.num_pairs must be at least 2, one of which is held out, not {num_pairs}")
        if candidates < 2:
            raise ValueError(
                f"comparisons.candidates must be at least 2, to have a winner and a loser, not {candidates}"
            )
        self.sampler, self.count, self.candidates, self.guided = sampler, num_pairs, candidates, guided

    def annotations(self, data: ImageData) -> Samples:
        return data.split("train")

    def identity(self, data: ImageData) -> dict[str, Any]:
        return {
            "sampler": settings_of(self.sampler),
            "seed": COMPARED,
            "pairs": self.count,
            "candidates": self.candidates,
            "guided": self.guided,
            "data": data.fingerprint,
        }

    def rows(self, base: DiffusionModel, data: ImageData, scorer: Scorer | None) -> Iterator[ComparedRows]:
        if scorer is None:
            raise UserError("scorer=none compares nothing; use scorer=attribute or scorer=class_probability")
        samples = self.annotations(data)
        made, tried, at_once = 0, 0, max(BATCH // self.candidates, 1)
        while made < self.count:
            if tried >= 2 * at_once and tried > MOST_TIES * made:
                raise UserError(
                    f"the scorer gives all samples of a prompt the same score: {made} pairs were found for the first "
                    f"{tried} prompts; use another scorer, or more comparisons.candidates"
                )
            prompt = torch.arange(tried, tried + at_once)
            found = self._compared(base, data, scorer, samples, prompt)
            rows = ComparedRows(*(part[: self.count - made] for part in found))
            made, tried = made + len(rows.prompt), tried + at_once
            if len(rows.prompt):
                yield rows

    @torch.no_grad()
    def _compared(
        self, base: DiffusionModel, data: ImageData, scorer: Scorer, samples: Samples, prompt: Tensor
    ) -> ComparedRows:
        """Return the pairs of some prompts, whose numbers go round and round the training samples."""
        of, number = prompt % len(samples), self.candidates
        annotations = rows_of(samples.annotations(of), torch.arange(len(of)).repeat_interleave(number))
        x_0 = self._drawn(base, annotations, (prompt[:, None] * number + torch.arange(number)).flatten())
        score = scorer(base.autoencoder.decode(x_0).cpu(), annotations, data).view(-1, number)
        best, worst = score.argmax(1), score.argmin(1)
        chosen = torch.stack([best, worst], 1)  # (B, 2)
        differ = score.gather(1, best[:, None]) > score.gather(1, worst[:, None])
        rows = differ[:, 0].nonzero()[:, 0]
        chosen = chosen[rows]
        x_0 = x_0.cpu().view(len(prompt), number, *x_0.shape[1:])
        return ComparedRows(x_0[rows[:, None], chosen], score[rows[:, None], chosen], of[rows])

    def _drawn(self, base: DiffusionModel, annotations: Batch, index: Tensor) -> Tensor:
        x, noise = base.start(index, COMPARED, sampler=self.sampler)
        cond = base.condition_of(annotations)
        with evaluating(base):
            if self.guided:
                return base.sample_from(x, noise, cond, self.sampler, decode=False)
            return self.sampler(base.denoiser, x, base.completed(cond, noise), noise)
