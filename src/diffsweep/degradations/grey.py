r"""Grey images, for colourisation: :math:`y = \sum_c w_c x_c`, a weighted sum over the channels of x_0."""

from collections.abc import Sequence

from torch import Tensor

from diffsweep.degradations.base import LinearDegradation
from diffsweep.diffusion import Grey, Known, Measurement, Noise

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Greyscale(LinearDegradation):
    """A degradation to grey values, which a network reads in each of the C channels.

    Args:
        weights: the weight of each channel: ``luma`` (ITU-R BT.601, for red, green and blue), ``mean`` (1 / C each), or
            a list of C numbers.

    Raises:
        ValueError: an unknown name, or a list without numbers.
    """

    def __init__(self, weights: str | Sequence[float] = "luma") -> None:
        if isinstance(weights, str):
            if weights not in ("luma", "mean"):
                raise ValueError(f"degradation.weights is luma, mean or a list of numbers, not {weights}")
        elif not any(weights):
            raise ValueError(f"degradation.weights needs a number that is not 0, not {list(weights)}")
        self.weights = weights if isinstance(weights, str) else tuple(float(weight) for weight in weights)

    def of_channels(self, channels: int) -> tuple[float, ...]:
        """Return the weights of C channels."""
        if self.weights == "mean":
            return (1 / channels,) * channels
        return LUMA if isinstance(self.weights, str) else self.weights

    def check(self, channels: int, image_size: int) -> None:
        if (count := len(self.of_channels(channels))) != channels:
            raise ValueError(
                f"degradation.weights has {count} weights of grey, and images have {channels} "
                f"channel{'s' if channels > 1 else ''}; use degradation.weights=mean, or {channels} of them"
            )

    def measurement(self, x: Tensor, noise: Noise | None = None) -> Measurement:
        return Grey(self.of_channels(x.shape[1]))

    def given(self, images: Tensor) -> tuple[Tensor, Known | None]:
        known = self.known(images)
        return self.picture(known), known

    def picture(self, known: Known) -> Tensor:
        assert isinstance(known.measurement, Grey)
        return known.y.expand(-1, len(known.measurement.weights), *known.y.shape[2:])
