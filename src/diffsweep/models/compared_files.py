"""Compared images in parquet files: a winner, a loser and their text in each row, or an image with its score."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from diffsweep.autoencoders import Autoencoder
from diffsweep.datasets import ImageData, InMemory, Samples
from diffsweep.datasets.byte_images import LEVELS
from diffsweep.datasets.decoding import PixelForm, Result, results
from diffsweep.datasets.parquet_files import ParquetFiles
from diffsweep.files import ContentError
from diffsweep.models.comparisons import ComparedRows, Comparisons
from diffsweep.models.diffusion import DiffusionModel
from diffsweep.models.scorers import Scorer


class ComparedFiles(Comparisons):
    """Compared images in parquet files: a row has a winner, a loser and their text; or an image, its score and a text.

    Images are read as those of ``dataset=parquet`` are, and brought to the size of the data.

    Args:
        path: a parquet file, a folder of them, or a glob.
        winner_column: the column of winners; without ``loser_column`` of single images.
        loser_column: the column of losers; None: single images with a score.
        score_column: the column of scores of single images: numbers, or truth values.
        caption_column: the column of texts; None: images without a text.
        label_column: the column of class numbers; None: images without one.

    Raises:
        ValueError: no file is given, or neither losers nor scores are; or the files lack a column, have one row, or a
            text or score is missing.
    """

    def __init__(
        self,
        path: str | None,
        winner_column: str = "winner",
        loser_column: str | None = "loser",
        score_column: str | None = None,
        caption_column: str | None = "caption",
        label_column: str | None = None,
    ) -> None:
        if path is None:
            raise ValueError("comparisons.path is missing: give a parquet file, as in comparisons.path=pairs.parquet")
        if (loser_column is None) == (score_column is None):
            raise ValueError(
                "comparisons need comparisons.loser_column, for pairs, or comparisons.score_column, for single images; "
                f"they are {loser_column or 'null'} and {score_column or 'null'}"
            )
        self.table, self.pairs = ParquetFiles("comparisons.path", path), loser_column is not None
        named = {
            "winner_column": winner_column,
            "loser_column": loser_column,
            "score_column": score_column,
            "caption_column": caption_column,
            "label_column": label_column,
        }
        self.columns = {key: column for key, column in named.items() if column is not None}
        for key, column in self.columns.items():
            self.table.type_of(f"comparisons.{key}", column)
        self.count = len(self.table)
        if self.count < 2:
            raise ValueError(f"comparisons.path={path} has one row; at least two are needed, one of which is held out")
        self._values = {key: self._complete(key) for key in ("score_column", "caption_column", "label_column")}

    def _complete(self, key: str) -> list[Any] | None:
        """Return a column of texts or numbers in all rows; None if it is not used.

        Raises:
            ContentError: a value is missing or of another type.
        """
        column = self.columns.get(key)
        if column is None:
            return None
        values, wanted = self.table.values(column), str if key == "caption_column" else int | float
        for row, value in enumerate(values):
            if not isinstance(value, wanted) or (isinstance(value, str) and not value.strip()):
                kind = "text" if wanted is str else "number"
                has = f"no {kind}" if value is None or value == "" else f"{value!r}, which is no {kind}"
                raise ContentError(
                    f"comparisons.{key}={column}: {self.table.where(row)} has {has}; give each row one, or set "
                    f"comparisons.{key}=null"
                )
        return values

    def annotations(self, data: ImageData) -> Samples:
        parts: dict[str, Any] = {"x": torch.empty(self.count, 0)}
        if (captions := self._values["caption_column"]) is not None:
            parts["caption"] = captions
        if (labels := self._values["label_column"]) is not None:
            parts["label"] = torch.tensor(labels, dtype=torch.int64)
        return InMemory(parts)

    def identity(self, data: ImageData) -> dict[str, Any]:
        return {"files": self.table.content, "columns": self.columns, "shape": list(data.shape)}

    def rows(self, base: DiffusionModel, data: ImageData, scorer: Scorer | None) -> Iterator[ComparedRows]:
        form = PixelForm(data.channels, data.image_size)
        every, first = torch.arange(self.count), 0
        columns = [self.columns[key] for key in ("winner_column", "loser_column") if key in self.columns]
        decoded = (results([self.table], column, every, form, shown=column == columns[0]) for column in columns)
        scores = self._values["score_column"]
        for some in zip(*decoded, strict=True):
            images = torch.stack([self._pixels(part) for part in some], 1)  # (B, K, C, H, W)
            if self.pairs:
                self._refuse_equal(images, first)
            prompt = every[first : first + len(images)]
            score = torch.tensor([1.0, 0.0]).double().expand(len(images), 2)
            if scores is not None:
                score = torch.tensor(scores[first : first + len(images)], dtype=torch.float64)[:, None]
            yield ComparedRows(_in_space(base.autoencoder, images, base.device), score, prompt)
            first += len(images)

    @staticmethod
    def _pixels(some: Sequence[Result]) -> Tensor:
        """Return decoded images as pixels in [-1, 1], (B, C, H, W)."""
        for result in some:
            if result.image is None:
                raise ContentError(f"comparisons.path: {result.where} has no readable image ({result.reason})")
        levels = torch.stack([torch.from_numpy(one.image.pixels.copy()) for one in some if one.image is not None])
        return levels.float().mul_(2 / (LEVELS - 1)).sub_(1)

    def _refuse_equal(self, images: Tensor, first: int) -> None:
        equal = (images[:, 0] == images[:, 1]).flatten(1).all(1)
        if bool(equal.any()):
            row = first + int(equal.nonzero()[0])
            raise ContentError(
                f"comparisons.path: {self.table.where(row)} has the same image as winner and as loser, from which "
                "nothing is learned; remove the row"
            )


@torch.no_grad()
def _in_space(space: Autoencoder, images: Tensor, device: torch.device) -> Tensor:
    """Return images (B, K, C, H, W) as points of a space, (B, K, ...), on the CPU."""
    points = space.encode(images.flatten(0, 1).to(device)).cpu()
    return points.view(*images.shape[:2], *points.shape[1:])
