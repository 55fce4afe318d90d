"""Trained models that another model uses and does not train: a cascade's lower stage, a student's teacher, a base."""

from collections.abc import Callable
from functools import cached_property
from typing import Generic, TypeVar

import torch

from diffsweep.capabilities import Part
from diffsweep.models.base import Model

M = TypeVar("M", bound=Model)


class Borrowed(Part, Generic[M]):
    """A part of a run with a trained model, which is no submodule of the model that uses it.

    So it is in no checkpoint of that model and has no gradients. It is loaded from its own run at the first use.

    Args:
        base: returns the trained model.
    """

    def __init__(self, base: Callable[[], M]) -> None:
        self._load = base

    @cached_property
    def base(self) -> M:
        """Return the trained model, loaded at the first use."""
        return self._load()

    def on(self, device: torch.device) -> M:
        """Return the trained model on a device, to which it is moved once."""
        return self.base if self.base.device == device else self.base.to(device)
