r"""Compare generated video clips with real ones: as a whole, frame by frame, and by a known law of motion.

The distance between whole clips is the Frechet distance

.. math:: |\mu_1 - \mu_2|^2 + \mathrm{tr}(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1 \Sigma_2)^{1/2})

of the means and covariances of their features, one vector for each clip. With features of I3D it is FVD (Unterthiner et
al. 2018, arXiv:1812.01717); other features give it another name, so that the values are not confused.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor

from diffsweep.datasets import Batch, ImageData, Split, joined_rows
from diffsweep.metrics.extraction import FeatureExtractor, Features
from diffsweep.metrics.frames import FrameFeatures, FrameMetrics
from diffsweep.metrics.frechet import frechet_distance
from diffsweep.metrics.generation import GenerationMetrics
from diffsweep.metrics.motion import motion_of_each
from diffsweep.metrics.references import REFERENCES


class ClipFeatures(FeatureExtractor, Protocol):
    """An interface of feature extractors of whole clips: ``features, logits = extractor(x)`` for x (N, C, F, H, W).

    The clips are in [-1, 1]; features are (N, D), one vector for each clip, and logits (N, K) of K classes.

    Attributes:
        distance: the name of the Frechet distance of these features in ``metrics.json``, such as ``fvd``.
    """

    distance: str


class ClipMetrics(GenerationMetrics):
    """Metrics that compare generated video clips with real ones: as whole clips, by single frames, and by motion.

    Motion is measured if the dataset has a law of motion, ``data.physics``.

    Args:
        features: returns the feature extractor of whole clips when called.
        frames: returns the feature extractor of single frames when called; None measures no frames.
        least_frames: the least number of frames of a clip that ``features`` accepts.
        num_samples, settings: arguments of :class:`~diffsweep.metrics.generation.GenerationMetrics`.
    """

    def __init__(
        self,
        features: Callable[[], ClipFeatures],
        num_samples: int,
        frames: Callable[[], FrameFeatures] | None = None,
        least_frames: int = 1,
        **settings: Any,
    ) -> None:
        super().__init__(features, num_samples, **settings)
        self.least_frames = least_frames
        real = self.reference if self.reference in REFERENCES else "train"  # statistics are of whole clips
        self.frames = (
            None
            if frames is None
            else FrameMetrics(frames, real, self.comparison.is_splits, self.batch_size, self.cache_dir)
        )

    def protocol(self) -> dict[str, Any]:
        return super().protocol() | ({} if self.frames is None else self.frames.protocol())

    def share_real(self, data: ImageData, splits: Sequence[Split]) -> None:
        super().share_real(data, splits)
        if (frames := self.frames_of(data)) is not None:
            frames.share_real(data)

    def beside_features(self, x: Tensor, request: Batch, chosen: Tensor, data: ImageData) -> Batch:
        each = super().beside_features(x, request, chosen, data)
        if (frames := self.frames_of(data)) is not None:
            each["frames"] = frames.extraction.extract(x).by_name()
        if data.physics is not None:
            each["motion"] = motion_of_each(x, data.physics)
        return each

    def compare(self, each: Batch, data: ImageData) -> dict[str, float]:
        """Return the metrics of generated clips by name.

        Args:
            each: the numbers of each clip.
            data: the dataset that they are compared with.

        Returns:
            the metrics of :class:`~diffsweep.metrics.generation.GenerationMetrics` by features of whole clips, with the
            name of :attr:`distance`, such as ``clip_fd``, in place of ``fid`` (``clip_fd_real`` in place of
            ``fid_real``), and ``clip_is`` in place of ``is``; the metrics of
            :class:`~diffsweep.metrics.frames.FrameMetrics`, if frames are measured; and, if the dataset has a law of
            motion (``data.physics``), the means over clips of ``motion_error``, ``speed_variation``,
            ``bounce_violations`` and ``digit_found`` (:class:`~diffsweep.metrics.motion.MotionNumbers`), with those of
            held-out clips as ``..._real``.
        """
        numbers = super().compare(each, data)
        if (frames := self.frames_of(data)) is not None:
            numbers |= frames(Features(**each["frames"]), len(each["features"]["features"]), data)
        if data.physics is not None:
            real = joined_rows([motion_of_each(x, data.physics) for x in self.batches(data.split("val"))])
            for suffix, moving in (("", each["motion"]), ("_real", real)):
                numbers |= {f"{name}{suffix}": values.mean().item() for name, values in moving.items()}
        return numbers

    def frames_of(self, data: ImageData) -> FrameMetrics | None:
        """Return the metrics of the frames of a dataset's clips; None if these are not measured."""
        return self.frames if self.frames is not None and self.frames.applies_to(data) else None

    def _name(self, name: str) -> str:
        named = super()._name(name)
        return f"clip_{named}" if named.partition("_")[0] == "is" else named

    def of_each_reconstruction(self, made: Tensor, data: ImageData) -> Batch:
        each = super().of_each_reconstruction(made, data)
        if (frames := self.frames_of(data)) is not None:
            each["frames"] = frames.extraction.extract(made).features
        return each

    def of_reconstructions(self, each: Batch, data: ImageData) -> dict[str, float]:
        """Return the Frechet distances of an autoencoder's reconstructions of all held-out clips from these clips.

        Args:
            each: the features of each clip, and of its frames.
            data: the dataset whose held-out clips were reconstructed.

        Returns:
            ``r`` and :attr:`distance`, such as ``rclip_fd`` or ``rfvd``, by features of whole clips; and ``rframe_fid``
            by those of frames, if frames are measured.
        """
        numbers = super().of_reconstructions(each, data)
        if (frames := self.frames_of(data)) is not None:
            numbers["rframe_fid"] = frechet_distance(each["frames"], frames.extraction.real(data, "val").features)
        return numbers
