"""What a denoiser is conditioned on, beside ``x_t`` and ``t``."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from diffsweep.diffusion.measurement import Measurement

_OF_X = ("independent", "known")  # about x itself, whatever it is conditioned on


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of a batch of samples: the value of a measurement of each.

    Args:
        measurement: A.
        y: A x_0, (B, ...).
    """

    measurement: Measurement
    y: Tensor

    def residual(self, x: Tensor) -> Tensor:
        """Return y - A x, of samples x (B, ...)."""
        return self.measurement.residual(self.y.to(x), x)

    def project(self, x: Tensor) -> Tensor:
        """Return the point nearest to x whose measurement is y."""
        return self.measurement.project(self.y.to(x), x)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, rows: slice | Tensor) -> "Known":
        """Return what is known of some of the samples."""
        return self.each(lambda part: part[rows])

    @property
    def device(self) -> torch.device:
        return self.y.device

    def to(self, device: torch.device) -> "Known":
        """Return the same on another device."""
        return self.each(lambda part: part.to(device))

    def each(self, change: Callable[[Tensor], Tensor]) -> "Known":
        """Return the same with every tensor changed; all of them have the batch first."""
        return Known(self.measurement.each(change), change(self.y))

    def cat(self, others: Sequence["Known"]) -> "Known":
        """Return what is known of several batches in one."""
        return Known(
            self.measurement.cat([other.measurement for other in others]), torch.cat([self.y, *(o.y for o in others)])
        )


@dataclass(frozen=True)
class Condition:
    """A batch of conditions; a part that a model does not use is None. Every part has the batch first.

    Attributes:
        vector: class ids, int64 of shape (B,), or of each frame (B, F) (embedded by the backbone), or features, float of shape (B, D).
        tokens: a sequence, (B, L, D).
        token_mask: True where a token counts, (B, L).
        image: an image of the sample's size, (B, C, H, W), for concatenation; of clips one for all frames, or one of each,
            (B, C, F, H, W).
        control: inputs of a control network, like ``image``.
        is_null: True for rows without a condition, (B,); None where all rows have theirs.
        scalars: plain numbers such as sizes, (B, S), of which the backbone takes Fourier features.
        independent: of clips, bool, (B, F): True for frames that are images of their own, which see no other frame and which no
            other frame sees (joint training, arXiv:2204.03458).
        known: a measurement of x_0 and its value y = A x_0, which guidance holds samples to; networks do not read it.
        negative: what guidance leads away from, in place of the null condition; as long as this one.
    """

    vector: Tensor | None = None
    tokens: Tensor | None = None
    token_mask: Tensor | None = None
    image: Tensor | None = None
    control: Tensor | None = None
    is_null: Tensor | None = None
    scalars: Tensor | None = None
    independent: Tensor | None = None
    known: Known | None = None
    negative: "Condition | None" = None

    def _parts(self) -> Iterator[tuple[str, Any]]:
        """The parts that are there but the negative condition: tensors, and what is known."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and field.name != "negative":
                yield field.name, value

    def _each(self, change: Callable[[Any], Any]) -> "Condition":
        """Every part changed, those of the negative condition too."""
        negative = None if self.negative is None else self.negative._each(change)
        parts: dict[str, Any] = {name: change(part) for name, part in self._parts()}
        return Condition(**parts, negative=negative)

    def __len__(self) -> int:
        return next((len(part) for _, part in self._parts()), 0)

    def __getitem__(self, rows: slice | Tensor) -> "Condition":
        """The conditions of some of the rows."""
        return self._each(lambda part: part[rows])

    def to(self, device: torch.device) -> "Condition":
        """The same condition on another device."""
        return self._each(lambda part: part.to(device))

    @property
    def device(self) -> torch.device:
        return next(part.device for _, part in self._parts())

    def null(self, rows: Tensor | None = None) -> "Condition":
        """The null condition in ``rows`` (bool, (B,); all of them by default): same shapes, marked in ``is_null``."""
        marked = torch.ones(len(self), dtype=torch.bool, device=self.device) if rows is None else rows
        return replace(self, is_null=marked if self.is_null is None else self.is_null | marked)

    def opposite(self) -> "Condition":
        """What guidance leads away from: the negative condition, or else the null condition; of the same frames."""
        if self.negative is None:
            return self.null()
        of_x: dict[str, Any] = {name: part for name, part in self._parts() if name in _OF_X}
        return replace(self.negative, **of_x) if of_x else self.negative

    def of_frames(self, frames: int) -> "Condition":
        """The conditions of frames that are rows of their own, clip by clip, (B F): what is said of each frame is its row's, what is said
        of the clip is repeated. What joins frames, or is for guidance, is left out."""

        def rows(name: str, part: Tensor) -> Tensor:
            if name == "vector" and part.ndim == 2 and not part.is_floating_point():
                return part.flatten()
            if part.ndim == 5:
                return part.transpose(1, 2).flatten(0, 1)
            return part if frames == 1 else part.repeat_interleave(frames, dim=0)

        parts: dict[str, Any] = {name: rows(name, part) for name, part in self._parts() if name not in _OF_X}
        return Condition(**parts)

    def cat(self, *others: "Condition") -> "Condition":
        """One batch from several, for one batched network call; all must have the same parts. Negative conditions are left out."""
        every = [self, *others]
        if any(condition.is_null is not None for condition in every):  # unmarked rows have their condition
            every = [c.null(torch.zeros(len(c), dtype=torch.bool, device=c.device)) for c in every]
        names = [name for name, _ in every[0]._parts()]
        for other in every[1:]:
            if [name for name, _ in other._parts()] != names:
                raise ValueError(f"conditions with different parts cannot be joined: {names} and {other}")
        joined: dict[str, Any] = {
            name: torch.cat([getattr(c, name) for c in every]) for name in names if name != "known"
        }
        known = [condition.known for condition in every if condition.known is not None]
        return Condition(**joined, known=known[0].cat(known[1:]) if known else None)
