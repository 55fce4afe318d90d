"""The sizes of a dataset whose files are not at hand, in place of the dataset, for sampling, which needs no more."""

from collections.abc import Mapping
from typing import Any

from diffsweep.datasets.base import ImageData
from diffsweep.datasets.samples import Samples, Split
from diffsweep.files import ContentError

SIZES = ("channels", "image_size", "num_classes", "levels", "num_frames")


class AbsentData(ImageData):
    """The sizes of a dataset that a run has saved, for a model that is sampled where its data are not.

    Whatever takes samples of it raises the error with which the dataset could not be opened.

    Args:
        kind: the class of the dataset, whose capabilities it has.
        settings: the keyword arguments of the class, with the sizes.
        error: why the dataset cannot be opened.
    """

    def __init__(self, kind: type[ImageData], settings: Mapping[str, Any], error: Exception) -> None:
        super().__init__(batch_size=1, **{name: settings.get(name) for name in SIZES})  # type: ignore[arg-type]
        self.requires, self.supports, self.provides = kind.requires, kind.supports, kind.provides
        self.error = error

    def load(self, split: Split) -> Samples:
        raise ContentError(
            f"{self.error}; this takes held-out samples of the data: give their new place, or what the samples are to "
            "show, as in conditioning.labels=[3] or conditioning.prompts=[...]"
        )

    @property
    def fingerprint(self) -> str:
        return "absent"
