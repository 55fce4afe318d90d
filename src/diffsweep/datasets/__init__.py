"""Datasets: LightningDataModules whose training stream is counted."""

from diffsweep.datasets.augmentation import RandomShift
from diffsweep.datasets.base import Batch, ImageData, InMemory, Samples, Split, rows_of
from diffsweep.datasets.digits import Digits, load_digits
from diffsweep.datasets.shapes import Shapes

__all__ = [
    "Batch",
    "Digits",
    "ImageData",
    "InMemory",
    "RandomShift",
    "Samples",
    "Shapes",
    "Split",
    "load_digits",
    "rows_of",
]
