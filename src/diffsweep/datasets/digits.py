"""The 1,797 handwritten digits of scikit-learn, 8x8 pixels with 17 grey levels, as a dataset that needs no download."""

import functools
from collections.abc import Sequence
from importlib import metadata

import numpy as np
import torch

from diffsweep.datasets.base import Balance, ImageData
from diffsweep.datasets.placement import OnDevice
from diffsweep.datasets.samples import InMemory, Samples, Split

NUM_TRAIN = 1500
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def load_digits(split: Split) -> dict[str, torch.Tensor]:
    """Return the digits of a split as tensors: ``x`` (N, 1, 8, 8) in [-1, 1] and ``label`` (N,) int64, 0 to 9.

    ``train`` has 1,500 and ``val`` 297 digits, split by a fixed permutation so that every run holds out the same ones;
    ``all`` has both.
    """
    table = torch.from_numpy(_table())
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(0))
    rows = {"train": order[:NUM_TRAIN], "val": order[NUM_TRAIN:], "all": order}[split]
    x = table[:, :-1].float().reshape(-1, 1, 8, 8) / 8 - 1
    return {"x": x[rows], "label": table[:, -1].long()[rows]}


@functools.cache
def _table() -> np.ndarray:
    """Return the digits as scikit-learn's file has them (N, 65): 64 grey values from 0 to 16 by rows, and the label.

    The file is read without an import of scikit-learn, which takes a second; where it is not in its place, by
    scikit-learn.
    """
    file = metadata.distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    try:
        return np.loadtxt(str(file), delimiter=",")
    except FileNotFoundError:
        from sklearn.datasets import load_digits as sklearn_digits

        digits = sklearn_digits()
        return np.column_stack([digits.data, digits.target])


class Digits(ImageData):
    """A dataset of the 1,797 handwritten 8x8 digits of scikit-learn, 1,500 of them for training, labelled 0 to 9.

    Args:
        channels, image_size, num_classes, levels, class_names: constants of the data, 1, 8, 10, 17 and the names of the
            digits. They are arguments so that the configuration can state them; other values raise a ValueError.
        batch_size, num_workers, seed, balance, on_device, dequantise: see :class:`~diffsweep.datasets.base.ImageData`.
    """

    fingerprint = "digits-sklearn-1797"

    def __init__(
        self,
        channels: int = 1,
        image_size: int = 8,
        num_classes: int = 10,
        levels: int = 17,
        class_names: Sequence[str] = NAMES,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
        balance: Balance = "none",
        on_device: OnDevice = "auto",
        dequantise: bool = False,
    ) -> None:
        if (channels, image_size, num_classes, levels) != (1, 8, 10, 17):
            raise ValueError("the digits have 1 channel, 8 pixels, 10 classes and 17 levels; these cannot be changed")
        if tuple(class_names) != NAMES:
            raise ValueError(f"dataset.class_names of digits is [{', '.join(NAMES)}]; it cannot be changed")
        super().__init__(
            channels,
            image_size,
            num_classes,
            levels,
            batch_size,
            num_workers,
            seed,
            balance=balance,
            on_device=on_device,
            dequantise=dequantise,
        )

    def load(self, split: Split) -> Samples:
        return InMemory(load_digits(split))
