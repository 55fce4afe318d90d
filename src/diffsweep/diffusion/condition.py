"""The condition of a denoiser: the c of :math:`p(x_0 | c)` for the network, and a measurement :math:`y = A x_0`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from diffsweep.diffusion.measurement import Measurement, PixelMask

_PARTS_ABOUT_X = ("independent", "known", "pasted")  # parts about x itself, whatever the network is conditioned on
_NESTED = ("negative", "lower")  # conditions inside a condition


@dataclass(frozen=True, eq=False)
class Known:
    """The known value y of a linear measurement A of a batch of samples, :math:`y = A x_0`.

    Args:
        measurement: the linear map A, for example a mask of pixels.
        y: its value, (B, ...), of the shape of A x_0.
    """

    measurement: Measurement
    y: Tensor

    def residual(self, x: Tensor) -> Tensor:
        """Return y - A x, of the shape of y, for samples x (B, ...).

        Raises:
            ValueError: A x does not have the shape of y.
        """
        return self.measurement.residual(self.y.to(x), x)

    def project(self, x: Tensor) -> Tensor:
        """Return, of the samples x' that agree with the measurement, A x' = y, those nearest to x, of the shape of x.

        Raises:
            ValueError: A x does not have the shape of y.
        """
        return self.measurement.project(self.y.to(x), x)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, rows: slice | Tensor) -> "Known":
        """Return the measurements of some of the samples."""
        return self.each(lambda part: part[rows])

    @property
    def device(self) -> torch.device:
        """Return the device of y."""
        return self.y.device

    def to(self, device: torch.device) -> "Known":
        """Return the same measurements with all their tensors on another device."""
        return self.each(lambda part: part.to(device))

    def each(self, change: Callable[[Tensor], Tensor]) -> "Known":
        """Return the measurements with ``change`` applied to y and to each tensor of A, such as a mask.

        The first axis of each tensor is the batch.
        """
        return Known(self.measurement.each(change), change(self.y))

    def cat(self, others: Sequence["Known"]) -> "Known":
        """Return this batch of measurements and ``others`` as one batch.

        Raises:
            ValueError: the measurements are of different kinds.
        """
        return Known(
            self.measurement.cat([other.measurement for other in others]), torch.cat([self.y, *(o.y for o in others)])
        )


@dataclass(frozen=True, eq=False)
class Pasted:
    """Known pixels of images, which take the place of those of a sample, with a seam over which both are blended.

    At the d-th known pixel from a straight edge of the mask the weight of the known pixel is (2 d - 1) / (2 s + 1), and
    1 for d > s, the seam. Unknown pixels are those of the sample.

    Args:
        known: a mask of pixels and their values, (B, C, H, W).
        seam: s, in pixels; 0: all known pixels are pasted as they are.
    """

    known: Known
    seam: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        """Return images x (B, C, H, W) with the known pixels pasted in."""
        pasted = self.known.project(x)
        if self.seam == 0:
            return pasted
        assert isinstance(self.known.measurement, PixelMask)
        mask = self.known.measurement.mask.to(x)
        edged = functional.pad(mask, [self.seam] * 4, mode="replicate")
        share = functional.avg_pool2d(edged, 2 * self.seam + 1, stride=1)
        weight = (2 * share - 1).clamp(min=0)
        return torch.where(share == 1, pasted, x + weight * (pasted - x))

    def __len__(self) -> int:
        return len(self.known)

    def __getitem__(self, rows: slice | Tensor) -> "Pasted":
        """Return the pixels of some of the samples."""
        return Pasted(self.known[rows], self.seam)

    @property
    def device(self) -> torch.device:
        """Return the device of the pixels."""
        return self.known.device

    def to(self, device: torch.device) -> "Pasted":
        """Return the same pixels on another device."""
        return Pasted(self.known.to(device), self.seam)

    def cat(self, others: Sequence["Pasted"]) -> "Pasted":
        """Return the pixels of this batch and of ``others`` as one batch; the seam is that of this one."""
        return Pasted(self.known.cat([other.known for other in others]), self.seam)


@dataclass(frozen=True)
class Condition:
    """A batch of conditions of several kinds; kinds that a model does not use are None.

    The first axis of every part is the batch.

    Attributes:
        vector: class ids, int64, (B,), or one for each frame (B, F), which the backbone embeds; or features, float,
            (B, D).
        tokens: a sequence of embeddings, such as of a text, (B, L, D).
        token_mask: bool, (B, L): True for tokens that are used, False for padding.
        image: an image of the sample's size that is concatenated to the network's input, (B, C, H, W); for clips one
            for all frames, or one for each, (B, C, F, H, W).
        control: the images that control networks read (ControlNet, arXiv:2302.05543), side by side on the axis of
            channels, (B, C, H, W), in pixels also where x are latents.
        control_weight: factors of what control networks add in each row, (B,); None: 1. Given here, it is 0 in the
            opposite of a condition, which is then without control.
        is_null: bool, (B,): True for rows for which the network takes the null condition instead of the other parts;
            None if no row is null.
        scalars: numbers such as image sizes, (B, S), of which the backbone takes Fourier features.
        independent: for clips, bool, (B, F): True for frames that are separate images, which exchange nothing with
            other frames (joint training of images and clips, arXiv:2204.03458).
        known: a measurement of x_0 and its value y = A x_0, which guidance makes samples agree with; networks do not
            read it.
        pasted: known pixels that are put into decoded samples after sampling; networks do not read them.
        negative: the condition that guidance leads away from, in place of the null condition; as many rows as this one.
        lower: the condition under which the lower stage of a cascade draws the image; as many rows as this one.
        kept: names of parts that the network is given in rows of ``is_null`` too, such as the image of a
            super-resolution network, which is never without one.
    """

    vector: Tensor | None = None
    tokens: Tensor | None = None
    token_mask: Tensor | None = None
    image: Tensor | None = None
    control: Tensor | None = None
    control_weight: Tensor | None = None
    is_null: Tensor | None = None
    scalars: Tensor | None = None
    independent: Tensor | None = None
    known: Known | None = None
    pasted: Pasted | None = None
    negative: "Condition | None" = None
    lower: "Condition | None" = None
    kept: tuple[str, ...] = ()

    def _parts(self) -> Iterator[tuple[str, Any]]:
        """Yield name and value of every part that is not None, except conditions inside this one."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and field.name not in (*_NESTED, "kept"):
                yield field.name, value

    def _each(self, change: Callable[[Any], Any]) -> "Condition":
        """Return the condition with every part changed, and those of the conditions inside it too."""
        nested: dict[str, Any] = {name: getattr(self, name) for name in _NESTED}
        nested = {name: cond._each(change) for name, cond in nested.items() if cond is not None}
        parts: dict[str, Any] = {name: change(part) for name, part in self._parts()}
        return Condition(**parts, **nested, kept=self.kept)

    def __len__(self) -> int:
        return next((len(part) for _, part in self._parts()), 0)

    def __getitem__(self, rows: slice | Tensor) -> "Condition":
        """Return the conditions of some of the rows."""
        return self._each(lambda part: part[rows])

    def to(self, device: torch.device) -> "Condition":
        """Return the same conditions with all their tensors on another device."""
        return self._each(lambda part: part.to(device))

    @property
    def device(self) -> torch.device:
        """Return the device of the first part that is not None."""
        return next(part.device for _, part in self._parts())

    def null(self, rows: Tensor | None = None) -> "Condition":
        """Return the condition with some rows marked in ``is_null`` as having none; all other parts stay as they are.

        Rows that were marked before stay marked.

        Args:
            rows: True for the rows to mark, bool, (B,); all rows by default.
        """
        marked = torch.ones(len(self), dtype=torch.bool, device=self.device) if rows is None else rows
        return replace(self, is_null=marked if self.is_null is None else self.is_null | marked)

    def null_rows(self, part: str) -> Tensor | None:
        """Return the rows in which the network takes the null condition for one part, bool, (B,); None for no row.

        They are those of ``is_null``, and none for a part that is ``kept``.

        Args:
            part: the name of the part, such as ``image``.
        """
        return None if part in self.kept else self.is_null

    def opposite(self) -> "Condition":
        """Return the condition that guidance leads away from: the negative condition if any, else the null condition.

        In both, the parts that are ``kept`` are those of this condition, and so are ``independent`` and ``known``,
        since they are about x itself.
        """
        without: dict[str, Any] = (
            {} if self.control_weight is None else {"control_weight": torch.zeros_like(self.control_weight)}
        )
        if self.negative is None:
            return replace(self.null(), **without)
        names = (*_PARTS_ABOUT_X, *self.kept)
        of_x: dict[str, Any] = {name: part for name, part in self._parts() if name in names} | without
        return replace(self.negative, **of_x, kept=self.kept) if of_x else self.negative

    def of_frames(self, frames: int) -> "Condition":
        """Return the conditions of single frames, (B F) rows, clip by clip, for a network of images.

        A part that has one value for each frame, class ids (B, F) or images (B, C, F, H, W), gives each row its own.
        Other parts are of the whole clip and repeated. The parts ``independent``, ``known`` and ``negative`` are left
        out.

        Args:
            frames: F, the number of frames of a clip.
        """

        def rows(name: str, part: Tensor) -> Tensor:
            if name == "vector" and part.ndim == 2 and not part.is_floating_point():
                return part.flatten()
            if part.ndim == 5:
                return part.transpose(1, 2).flatten(0, 1)
            return part if frames == 1 else part.repeat_interleave(frames, dim=0)

        parts: dict[str, Any] = {name: rows(name, part) for name, part in self._parts() if name not in _PARTS_ABOUT_X}
        return Condition(**parts, kept=self.kept)

    def cat(self, *others: "Condition") -> "Condition":
        """Return the rows of this condition and of ``others`` as one batch; negative conditions are left out.

        If any of them has ``is_null``, rows of the others are marked False.

        Raises:
            ValueError: the conditions do not have the same parts, or measurements of different kinds.
        """
        every = [self, *others]
        if any(condition.is_null is not None for condition in every):  # unmarked rows have their condition
            every = [c.null(torch.zeros(len(c), dtype=torch.bool, device=c.device)) for c in every]
        names = [name for name, _ in every[0]._parts()]
        for other in every[1:]:
            if (parts := [name for name, _ in other._parts()]) != names:
                raise ValueError(f"conditions with different parts cannot be joined: {names} and {parts}")
        joined: dict[str, Any] = {name: _joined([getattr(condition, name) for condition in every]) for name in names}
        return Condition(**joined, kept=self.kept)


def _joined(parts: Sequence[Any]) -> Any:
    """Return a part of several conditions as that of one batch."""
    return torch.cat(list(parts)) if isinstance(parts[0], Tensor) else parts[0].cat(parts[1:])
