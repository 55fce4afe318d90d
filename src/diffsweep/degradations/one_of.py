"""One of several degradations for each sample, for a network that restores images of several kinds."""

import math
from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional

from diffsweep.degradations.base import Degradation
from diffsweep.diffusion import Known, Noise, Stream


class OneOf(Degradation):
    """A degradation that is drawn for each sample from several, each equally often, as for one Palette of all tasks.

    If some of them have a mask as a further channel, it is 1 everywhere for those that have none: all pixels are known,
    as far as they can be. A batch of several has no common measurement, so guidance gets none.

    Args:
        parts: the degradations, by names of your choice.
        only: the name of one that all samples have, to sample a network that was trained on all; None to draw them.

    Raises:
        ValueError: no ``parts``, or none with the name ``only``.
    """

    def __init__(self, parts: Mapping[str, Degradation], only: str | None = None) -> None:
        if not parts:
            raise ValueError("degradation.parts is empty; give degradations, or choose another option of the group")
        if only is not None and only not in parts:
            raise ValueError(f"degradation.only is one of {', '.join(parts)}, or null for all of them, not {only}")
        self.parts, self.only = dict(parts), only
        self.random = parts[only].random if only is not None else True
        self.extra_channels = max(part.extra_channels for part in parts.values())
        self.side_multiple = math.lcm(*(part.side_multiple for part in parts.values()))

    def check(self, channels: int, image_size: int) -> None:
        for part in self.parts.values():
            part.check(channels, image_size)

    def chosen(self, noise: Noise | None) -> Tensor:
        """Return the number of the degradation of each sample, in the order of ``parts``, int64, (B,).

        Raises:
            ValueError: ``noise`` is None.
        """
        if noise is None:
            raise ValueError("OneOf draws random numbers: call it with the samples' noise")
        return (noise.uniform(stream=Stream.DEGRADATION_KIND) * len(self.parts)).long()

    def known(self, x: Tensor, noise: Noise | None = None) -> Known | None:
        return None if self.only is None else self.parts[self.only].known(x, noise)

    def _with_mask(self, image: Tensor, channels: int) -> Tensor:
        """Return an image of one of the parts with the channel of a mask, if another part has one."""
        return functional.pad(image, (0, 0, 0, 0, 0, channels + self.extra_channels - image.shape[1]), value=1.0)

    def degraded_side(self, image_size: int) -> int:
        return image_size if self.only is None else self.parts[self.only].degraded_side(image_size)

    def given(self, images: Tensor) -> tuple[Tensor, Known | None]:
        if self.only is None:
            raise ValueError(f"images are degraded in one way: set degradation.only to one of {', '.join(self.parts)}")
        image, known = self.parts[self.only].given(images)
        return self._with_mask(image, images.shape[1]), known

    def image(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        if self.only is not None:
            return self._with_mask(self.parts[self.only].image(x, noise), x.shape[1])
        chosen = self.chosen(noise).to(x.device)
        assert noise is not None
        image = x.new_ones(len(x), x.shape[1] + self.extra_channels, *x.shape[2:])
        for number, part in enumerate(self.parts.values()):
            rows = (chosen == number).nonzero()[:, 0]
            if len(rows):
                made = part.image(x[rows], noise[rows.to(noise.indices.device)])
                image[rows, : made.shape[1]] = made
        return image
