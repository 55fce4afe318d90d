"""How good clips are: as a whole, frame by frame, and by the physics that the data are known to have."""

from collections.abc import Callable
from typing import Any, Protocol, cast

from torch import Tensor

from diffsweep.datasets import Batch, ImageData
from diffsweep.metrics.distances import frechet_distance
from diffsweep.metrics.extraction import FeatureExtractor
from diffsweep.metrics.frames import FrameMetrics, Frames
from diffsweep.metrics.generation import GenerationMetrics, choice
from diffsweep.metrics.motion import mean_motion


class ClipFeatures(FeatureExtractor, Protocol):
    """``features, logits = extractor(x)`` for clips x (N, C, F, H, W) in [-1, 1]; what their Frechet distance is called."""

    distance: str


class ClipMetrics(GenerationMetrics):
    """Compares clips with real ones under one protocol.

    Args:
        features: makes the extractor of whole clips.
        frames: makes the extractor of their frames; None where these are not measured.
        least_frames: the fewest frames that the features can be had of.
        num_samples, settings: those of :class:`GenerationMetrics`.
    """

    def __init__(
        self,
        features: Callable[[], ClipFeatures],
        num_samples: int,
        frames: Callable[[], Frames] | None = None,
        least_frames: int = 1,
        **settings: Any,
    ) -> None:
        super().__init__(features, num_samples, **settings)
        self.least_frames = least_frames
        self.frames = (
            None
            if frames is None
            else FrameMetrics(frames, self.reference, self.is_splits, self.batch_size, self.cache_dir)
        )

    @property
    def distance(self) -> str:
        """The name of the Frechet distance between clips; FID is of images."""
        return cast(ClipFeatures, self.features).distance

    def protocol(self) -> dict[str, Any]:
        return super().protocol() | ({} if self.frames is None else self.frames.protocol())

    def warnings(self) -> list[str]:
        return self.biased(self.distance)

    def __call__(self, samples: Tensor, data: ImageData, request: Batch | None = None) -> dict[str, float]:
        """The numbers of clips (N, C, F, H, W) in [-1, 1].

        Returns:
            Those of :class:`GenerationMetrics` by the features of whole clips, where the Frechet distance has its own name, such as
            ``clip_fd``, and IS is ``clip_is``; with ``reference=train`` the distance of held-out clips too, as many as samples where there
            are so many, ``clip_fd_real``. Those of :class:`~diffsweep.metrics.frames.FrameMetrics`. Where the data has ``physics``, the
            means over clips of ``motion_error``, ``speed_variation``, ``bounce_violations`` and ``digit_found``
            (:class:`~diffsweep.metrics.motion.MotionNumbers`), and of held-out clips, ``..._real``.
        """
        names = {"fid": self.distance, "fid_real": f"{self.distance}_real", "is": "clip_is", "is_real": "clip_is_real"}
        numbers = {names.get(name, name): value for name, value in super().__call__(samples, data, request).items()}
        if self.reference == "train":
            held_out, real = self.real(data, "val")[0], self.real(data, "train")[0]
            numbers[f"{self.distance}_real"] = frechet_distance(held_out[choice(len(held_out), len(samples))], real)
        if self.frames is not None and self.frames.can_see(data):
            numbers |= self.frames(samples, data)
        if data.physics is not None:
            numbers |= mean_motion(samples.split(self.batch_size), data.physics)
            of_real = mean_motion(self.batches(data.split("val")), data.physics)
            numbers |= {f"{name}_real": value for name, value in of_real.items()}
        return numbers

    def of_reconstructions(self, made: Tensor, data: ImageData) -> dict[str, float]:
        """The distances of reconstructions of all held-out clips against these, such as ``rclip_fd`` and ``rframe_fid``."""
        numbers = {f"r{self.distance}": super().of_reconstructions(made, data)["rfid"]}
        if self.frames is not None and self.frames.can_see(data):
            numbers |= self.frames.of_reconstructions(made, data)
        return numbers
