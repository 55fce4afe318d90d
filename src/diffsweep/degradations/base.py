r"""The base classes of degradations, which map clean images x_0 to what a network or guidance knows of them.

A network reads the degraded copy as an image of the sample's size beside x_t. Of a linear degradation guidance takes
the measurement :math:`y = A x_0` too.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from diffsweep.capabilities import Part
from diffsweep.diffusion import Known, Measurement, Noise, Stream

Range = float | Sequence[float]


class Degradation(Part, ABC):
    """A map from clean images to degraded copies of them; subclasses define :meth:`image`.

    Attributes:
        extra_channels: the channels of :meth:`image` beside those of x: 1 for the mask of masked images, else 0.
        side_multiple: what must divide the height and the width of x.
        binary: whether the degraded images have two values alone, -1 and 1, as those of edges.
        random: whether :meth:`image` draws random numbers, so that it requires ``noise``.
    """

    extra_channels: int = 0
    side_multiple: int = 1
    binary: bool = False
    random: bool = False

    @abstractmethod
    def image(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """Return what a network reads of images x: copies of their size that are degraded; each subclass defines it.

        Args:
            x: clean images, (B, C, H, W) in [-1, 1].
            noise: the random numbers of the samples, by which the degradation of a sample is the same in any batch;
                None for a degradation that draws none.

        Returns:
            (B, C + ``extra_channels``, H, W).

        Raises:
            ValueError: ``noise`` is None and the degradation is random.
        """

    def known(self, x: Tensor, noise: Noise | None = None) -> Known | None:
        """Return the measurement A of images x and y = A x, which guidance takes; None for those that are not linear.

        Args:
            x, noise: see :meth:`image`, which is of the same random numbers.
        """
        return None

    def degraded_side(self, image_size: int) -> int:
        """Return the side in pixels of degraded images as they are stored in files; here that of the images."""
        return image_size

    def given(self, images: Tensor) -> tuple[Tensor, Known | None]:
        """Return what a network reads of images that are degraded already, and their measurement if it has any.

        Args:
            images: degraded images with C channels, (B, C, h, w), with h = w = ``degraded_side`` of the clean ones.

        Raises:
            ValueError: such images do not state what is known, as those under a mask.
        """
        return images, None

    def check(self, channels: int, image_size: int) -> None:
        """Raise a ValueError unless images of C = ``channels`` and H = W = ``image_size`` can be degraded."""
        if image_size % self.side_multiple:
            raise ValueError(f"degradation: {self.side_multiple} does not divide the image's {image_size} pixels")

    def uniform(self, noise: Noise | None, count: int) -> Tensor:
        """Return ``count`` uniform numbers in (0, 1) for each sample, (B, count), of the stream of degradations.

        Raises:
            ValueError: ``noise`` is None.
        """
        if noise is None:
            raise ValueError(f"{type(self).__name__} draws random numbers: call it with the samples' noise")
        return noise.uniform(count, stream=Stream.DEGRADATION)


class LinearDegradation(Degradation):
    """A degradation by a linear measurement A, of which a network reads a picture of y = A x.

    Subclasses define :meth:`measurement` and :meth:`picture`.
    """

    @abstractmethod
    def measurement(self, x: Tensor, noise: Noise | None = None) -> Measurement:
        """Return the measurement A for images of the shape of x, (B, C, H, W); each subclass defines it.

        Args:
            x: images, of which only shape, dtype and device matter.
            noise: the random numbers of the samples; None for a measurement that draws none.
        """

    @abstractmethod
    def picture(self, known: Known) -> Tensor:
        """Return what a network reads of a measurement of this kind, (B, C + ``extra_channels``, H, W).

        So images of which only y is at hand, such as small ones, can be given to a network. Each subclass defines it.

        Args:
            known: the measurement and its value y.
        """

    def known(self, x: Tensor, noise: Noise | None = None) -> Known:
        measurement = self.measurement(x, noise)
        return Known(measurement, measurement.apply(x))

    def image(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        return self.picture(self.known(x, noise))


def bounds(key: str, value: Range, least: float, most: float) -> tuple[float, float]:
    """Return the two ends of the setting ``degradation.{key}``, a number or a range ``[low, high]`` to draw from.

    Raises:
        ValueError: the setting is no number or range in [``least``, ``most``].
    """
    ends = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(ends) != 2 or not least <= ends[0] <= ends[1] <= most:
        limits = f"in [{least:g}, {most:g}]" if most < float("inf") else f"of at least {least:g}"
        raise ValueError(f"degradation.{key} is a number {limits}, or a range of such, [low, high], not {value}")
    return float(ends[0]), float(ends[1])


def one_of(key: str, value: str, allowed: Sequence[str]) -> None:
    """Raise a ValueError unless the setting ``degradation.{key}`` is one of the allowed words."""
    if value not in allowed:
        raise ValueError(f"degradation.{key} is one of {', '.join(allowed)}, not {value}")
