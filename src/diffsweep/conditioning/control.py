"""The images that control networks read, such as the edges or the segments of a sample (ControlNet, arXiv:2302.05543).

In training they are computed from the training images; in sampling from held-out images, or they are given. They are in
the condition beside what the model is conditioned on, and rows of the null condition keep them, so that classifier-free
guidance compares two estimates of one control image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffsweep.degradations import Degradation
from diffsweep.diffusion import Condition, Noise

if TYPE_CHECKING:  # it imports Lightning, which takes seconds
    from diffsweep.datasets import Batch, Samples

KEPT = ("control",)  # the part of the condition that rows of the null condition keep
BIN = 2 / 255  # of pixels in [-1, 1]
ERROR = "_error"  # the end of the names of squared differences


class ControlImages:
    """The control images of one or several control networks, which lie side by side on the axis of channels.

    Args:
        degradations: what each control network reads of an image: see :class:`~diffsweep.degradations.Degradation`.
        channels: C of the data.
        image_size: the side of the data's images, in pixels.
        guess: whether guidance leads away from an estimate without control, so that a control image can do without a
            text or class (the guess mode of ControlNet).

    Raises:
        ValueError: images that cannot be so degraded.
    """

    def __init__(
        self, degradations: Sequence[Degradation], channels: int, image_size: int, guess: bool = False
    ) -> None:
        for degradation in degradations:
            degradation.check(channels, image_size)
        self.degradations, self.channels, self.image_size = tuple(degradations), channels, image_size
        self.guess = guess

    def beside(self, other: ControlImages) -> ControlImages:
        """Return these control images and, after them, those of another control network."""
        both = (*self.degradations, *other.degradations)
        return ControlImages(both, self.channels, self.image_size, self.guess or other.guess)

    @property
    def sizes(self) -> list[int]:
        """The channels of each control network's images."""
        return [self.channels + degradation.extra_channels for degradation in self.degradations]

    def of(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """Return the control images of images x (B, C, H, W), (B, sum of ``sizes``, H, W).

        Args:
            x: the images, in [-1, 1].
            noise: the random numbers of the samples, which a random degradation requires.
        """
        return torch.cat([degradation.image(x, noise) for degradation in self.degradations], 1)

    def prepared(self, batch: Batch, noise: Noise | None = None) -> Batch:
        """Return a batch with the entry ``control``, which a batch of images ``x`` gets from these.

        Args:
            batch: samples with ``x``, or a request, which has it already or is without control.
            noise: the random numbers of training samples; None for others, whose ``index`` keys theirs.
        """
        if "control" in batch or "x" not in batch:
            return batch
        if noise is None and "index" in batch:
            noise = Noise(0, batch["index"])
        return {**batch, "control": self.of(batch["x"], noise)}

    def condition(self, cond: Condition | None, batch: Batch, noise: Noise | None = None) -> Condition | None:
        """Return a condition with the control images of its batch; as it is where the batch has none.

        Args:
            cond: the condition of the batch; None for a model without conditions.
            batch: samples with ``x``, or a request.
            noise: as of :meth:`prepared`.
        """
        control: Tensor | None = self.prepared(batch, noise).get("control")
        if control is None:
            return cond
        weight = control.new_ones(len(control)) if self.guess else None
        cond = Condition() if cond is None else cond
        return replace(cond, control=control, control_weight=weight, kept=(*cond.kept, *KEPT))

    def request(self, indices: Tensor, samples: Samples | None) -> Batch:
        """Return the control images of held-out samples as a request, ``control``; empty without samples.

        Args:
            indices: the numbers of the samples to draw, int64, (B,), which take held-out samples in turn.
            samples: held-out data; None if not at hand.
        """
        if samples is None:
            return {}
        rows = indices.cpu() % len(samples)
        return {"control": self.of(samples[rows]["x"], Noise(0, rows))}

    def pictures(self, control: Tensor) -> list[Tensor]:
        """Return the control images of each control network as pictures, a list of (B, C, H, W)."""
        return [part[:, : self.channels].cpu() for part in control.split(self.sizes, 1)]

    def agreement(self, x: Tensor, control: Tensor) -> dict[str, float]:
        """Return how well images agree with the control images that they were drawn for, by name.

        It is :func:`mean_agreement` of :meth:`agreement_of_each`, with the same arguments.

        Args:
            x: images, (B, C, H, W) in [-1, 1].
            control: their control images, (B, sum of ``sizes``, H, W).

        Returns:
            ``control_iou``, the mean over images of the intersection over the union of the white pixels of the control
            image and of that of the drawn one, where it is black and white; else ``control_error``, the root of the
            mean squared difference of both, in bins of 256. Those of the second control network are ``control_2_iou``
            and so on. A random degradation has none.
        """
        return mean_agreement(self.agreement_of_each(x, control))

    def agreement_of_each(self, x: Tensor, control: Tensor) -> dict[str, Tensor]:
        """Return the intersection over the union, or the mean squared difference, of each image, float (B,), by name.

        Args:
            x, control: as those of :meth:`agreement`.
        """
        each: dict[str, Tensor] = {}
        parts = control.cpu().split(self.sizes, 1)
        for number, (degradation, wanted) in enumerate(zip(self.degradations, parts, strict=True), 1):
            name = "control" if number == 1 else f"control_{number}"
            if degradation.random:
                continue
            shown = degradation.image(x.cpu().clamp(-1, 1))
            if degradation.binary:
                each[f"{name}_iou"] = intersection_over_union(shown[:, 0] > 0, wanted[:, 0] > 0)
            else:
                each[f"{name}{ERROR}"] = (shown - wanted).square().flatten(1).mean(1)
        return each


def mean_agreement(each: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the numbers of :meth:`ControlImages.agreement` from those of all images, float (N,) by name."""
    return {
        name: float(values.double().mean().sqrt()) / BIN if name.endswith(ERROR) else float(values.mean())
        for name, values in each.items()
    }


def intersection_over_union(a: Tensor, b: Tensor) -> Tensor:
    """Return |a and b| / |a or b| of masks, bool, (B, H, W), as (B,) float; 1 where both are empty."""
    both, either = ((a & b).flatten(1).sum(1), (a | b).flatten(1).sum(1))
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)
