"""Compare the single frames of generated clips with those of real clips, by FID and IS with an extractor for images."""

import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from diffsweep.datasets import ImageData
from diffsweep.metrics.distances import inception_score
from diffsweep.metrics.extraction import Extraction, FeatureExtractor, Features
from diffsweep.metrics.frechet import frechet_distance
from diffsweep.metrics.motion import digit_crops
from diffsweep.metrics.references import choice, halves, random_parts, reference_split


class FrameFeatures:
    """A feature extractor for the frames of clips, which gives each frame to an extractor for images.

    For clips (N, C, F, H, W) in [-1, 1] it returns features (N F, D) and logits (N F, K), clip by clip. Subclasses
    override :meth:`images` to extract features of a part of each frame.

    Args:
        features: returns the extractor for images when called.
    """

    view = "frames"  # the name of what :meth:`images` returns
    one_digit = False  # whether it is only defined for clips with one digit
    confidence: str | None = None  # the metric's name of the mean largest class probability; None does not measure it

    def __init__(self, features: Callable[[], FeatureExtractor]) -> None:
        self.of_images = features()
        self.num_features = self.of_images.num_features
        self.name = f"{self.of_images.name} of {self.view}"
        self.weights_hash = f"{self.of_images.weights_hash} of {self.view}"  # cached features depend on both

    def images(self, x: Tensor) -> Tensor:
        """Return the images (N, F, C, H, W) of clips (N, C, F, H, W) to extract features of: here all whole frames."""
        return x.transpose(1, 2)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # N images in each call: the batch size was chosen for what an extractor can hold.
        parts = [self.of_images(some) for some in self.images(x).flatten(0, 1).split(len(x))]
        features, logits = zip(*((part[0], part[1]) for part in parts), strict=True)
        return torch.cat(features), torch.cat(logits)  # (N F, D), (N F, K)


class DigitFrames(FrameFeatures):
    """A feature extractor for clips with one digit, which gives each frame's digit alone to a classifier of digits.

    The classifier gets the squares of 8x8 pixels around the digits, :func:`~diffsweep.metrics.motion.digit_crops`. For
    clips (N, 1, F, H, W) in [-1, 1] features are (N F, D) and logits (N F, K), clip by clip.
    """

    view = "digit crops"
    one_digit = True
    confidence = "digit_confidence"

    def images(self, x: Tensor) -> Tensor:
        return digit_crops(x)


class FrameMetrics:
    """Metrics that compare the frames of generated clips with those of real clips: FID and IS of single frames.

    Args:
        frames: returns the feature extractor of frames when called.
        reference: the real clips to compare with: those of the split ``train`` or ``all``, or ``halves``, the mean over
            ten random halves of all clips.
        is_splits: number of parts that IS is averaged over.
        batch_size: clips in each call of the extractor.
        cache_dir: the folder where features of real frames are kept.
    """

    def __init__(
        self,
        frames: Callable[[], FrameFeatures],
        reference: str,
        is_splits: int,
        batch_size: int,
        cache_dir: str | Path,
    ) -> None:
        self.extraction = Extraction(frames, batch_size, cache_dir)
        self.reference = reference
        self.is_splits = is_splits

    @property
    def frames(self) -> FrameFeatures:
        """Return the feature extractor of frames, which is made at first use and kept."""
        return self.extraction.features

    def protocol(self) -> dict[str, str]:
        """Return the name and hash of the extractor of frames, which ``metrics.json`` keeps with the values."""
        return {"frames": self.frames.name, "frames_sha256": self.frames.of_images.weights_hash}

    def applies_to(self, data: ImageData) -> bool:
        """Return whether the dataset's frames can be measured.

        All can, but an extractor of crops around one digit requires clips with a law of motion, which have one digit.
        """
        return data.physics is not None or not self.frames.one_digit

    def share_real(self, data: ImageData) -> None:
        """Compute the features of real frames that are compared, of which each process takes a share, and cache them.

        All processes must call it.

        Args:
            data: the dataset that clips are compared with.
        """
        for split in {reference_split(self.reference): 0, "val": 1}:
            self.extraction.share_split(data, split)  # type: ignore[arg-type]

    def __call__(self, found: Features, count: int, data: ImageData) -> dict[str, float]:
        """Return the metrics of the frames of generated clips by name.

        Args:
            found: the features of the frames of all clips, clip by clip, (N F, D).
            count: N, the number of clips.
            data: the dataset that they are compared with.

        Returns:
            ``frame_fid`` and ``frame_is`` of the samples, and ``frame_is_real`` of N clips of the reference;
            ``frame_fid_real``, the distance of other real frames from the reference, of N clips or all if they are
            fewer: of held-out clips with ``reference=train``, of the other half with ``halves``, and left out with
            ``all``; and, if the extractor names it, the mean largest class probability, such as ``digit_confidence``,
            with that of held-out clips as ``..._real``.
        """
        fake, fake_logits, _ = found
        real_logits = self.extraction.real(data, reference_split(self.reference)).logits
        pairs = self._pairs(data, count)
        numbers = {"frame_fid": statistics.fmean(frechet_distance(fake, real) for _, real in pairs)}
        others = [frechet_distance(other, real) for other, real in pairs if other is not None]
        if others:
            numbers["frame_fid_real"] = statistics.fmean(others)
        numbers["frame_is"] = inception_score(fake_logits, self.is_splits)
        numbers["frame_is_real"] = statistics.fmean(
            inception_score(some.flatten(0, 1), self.is_splits)
            for some in random_parts(real_logits.unflatten(0, (-1, len(fake) // count)), count)
        )
        if (name := self.frames.confidence) is not None:
            numbers[name] = confidence(fake_logits)
            numbers[f"{name}_real"] = confidence(self.extraction.real(data, "val")[1])
        return numbers

    def _pairs(self, data: ImageData, count: int) -> list[tuple[Tensor | None, Tensor]]:
        """Return pairs of features: of real frames in place of ``count`` clips, or None, and of the reference."""
        split = reference_split(self.reference)
        real = self.extraction.real(data, split)[0]
        if self.reference == "halves":  # of clips, since frames of one clip are too alike to be in both
            clips = real.unflatten(0, (len(data.split(split)), -1))  # (M, F, D)
            return [(other[:count].flatten(0, 1), half.flatten(0, 1)) for other, half in halves(clips)]
        if self.reference == "all":
            return [(None, real)]
        held_out = self.extraction.real(data, "val")[0].unflatten(0, (data.num_val, -1))
        return [(held_out[choice(len(held_out), count)].flatten(0, 1), real)]


def confidence(logits: Tensor) -> float:
    """Return the mean over samples of the largest of the class probabilities that logits (N, K) give, in [1 / K, 1]."""
    return logits.double().softmax(1).amax(1).mean().item()
