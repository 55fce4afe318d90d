"""Compared samples as training samples: rows of a winner and a loser, or of one sample with a score."""

from typing import Any

import torch
from torch import Tensor

from diffsweep.datasets.samples import Batch, Samples, rows_on


class StoredComparisons(Samples):
    """A table of compared samples, whose batches have ``compared`` (B, K, ...) in place of images.

    K is 2 for pairs, the winner first, and 1 for samples with a score alone. A batch also has ``score`` (B, K), how
    good they are, with mean 0 and standard deviation 1 over all rows of the file; ``desirable``, bool (B, K), True for
    winners and for single samples whose score is above the mean; and the annotations under which both were drawn.

    Args:
        compared: all rows of a file, (P, K, ...), samples in the space of diffusion.
        score: the score of each, (P, K).
        prompt: the number of each row's annotations among ``samples``, int64 (P,).
        samples: a table with the annotations, such as captions; its images are never loaded.
        first, end: the numbers of the first row of the table and of that after its last.
    """

    def __init__(
        self, compared: Tensor, score: Tensor, prompt: Tensor, samples: Samples, first: int = 0, end: int | None = None
    ) -> None:
        self.compared, self.score, self.prompt, self.samples = compared, score, prompt, samples
        self.first, self.end = first, len(compared) if end is None else end
        spread = score.double().std(correction=0)
        mean = score.double().mean()
        self.standard = ((score.double() - mean) / spread.clamp(min=1e-12)).float()
        self.desirable = torch.tensor([True, False]).expand(score.shape) if score.shape[1] == 2 else score > mean

    def __len__(self) -> int:
        return self.end - self.first

    def part(self, name: str) -> Any:
        if name == "x":
            raise KeyError("x: these samples are compared ones; take the images from the dataset's split()")
        return self.rows(torch.arange(len(self)))[name]

    def rows(self, index: Tensor) -> Batch:
        row = index + self.first
        return {
            "compared": rows_on(self.compared, row).float(),
            "score": self.standard[row],
            "desirable": self.desirable[row],
            **self.annotations(index),
        }

    def annotations(self, index: Tensor) -> Batch:
        return self.samples.annotations(self.prompt[index + self.first])

    @property
    def stored_bytes(self) -> int:
        """Return the bytes of all samples of the file."""
        return self.compared.nbytes

    def to(self, device: torch.device) -> Samples:
        return StoredComparisons(self.compared.to(device), self.score, self.prompt, self.samples, self.first, self.end)
