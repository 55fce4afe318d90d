"""A control network beside a trained model, which is frozen (ControlNet, arXiv:2302.05543).

What is added to the features of the network is in :mod:`diffsweep.layers.control`; here a model gets it, and the images
that it reads. Several control networks of one base can be joined in one model.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffsweep.adaptation.base import Adaptation
from diffsweep.conditioning import ControlImages
from diffsweep.degradations import Degradation
from diffsweep.diffusion import Prediction
from diffsweep.errors import UserError
from diffsweep.layers import ControlBranch
from diffsweep.models import DiffusionModel, Model
from diffsweep.schedules import Schedule

CONTROLS = "denoiser.backbone.controls."  # how the names of a control network's weights begin


class ControlNet(Adaptation):
    """An adaptation that adds a control network, a trained copy of the network's first half, to a diffusion model.

    Training conditions on degraded copies of the training images, such as their edges, beside what the base is
    conditioned on. As long as the layers that are zero at first are zero, the model is its base, to the bit. Samples
    are drawn for the degraded copies of held-out images, or for given ones (``task=control``).

    Args:
        degradation: what the control network reads of an image: see :class:`~diffsweep.degradations.Degradation`.
        channels: channels of the data's images.
        image_size: the side of the data's images, in pixels.
        weight: the factor of what is added to the features, in sampling; 0 gives samples of the base.
        interval: the least and the most time t at which anything is added, 0 <= least < most <= 1.
        guess: whether guidance leads away from an estimate without control, and features that are near the image count
            less, so that a control image can do without a text or class (guess mode).
        blocks: the number of a transformer's blocks that are copied; None for half of them, or for a U-Net.
        settings: the arguments of :class:`Adaptation`.

    Raises:
        ValueError: images that cannot be so degraded, or a setting that is out of its range.
    """

    provides = frozenset({"base", "control"})
    requires_pixels = True

    def __init__(
        self,
        degradation: Degradation,
        channels: int,
        image_size: int,
        weight: float = 1.0,
        interval: Sequence[float] = (0.0, 1.0),
        guess: bool = False,
        blocks: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if not math.isfinite(weight):
            raise ValueError(f"adaptation.weight must be finite, not {weight}")
        if len(interval) != 2 or not 0 <= interval[0] < interval[1] <= 1:
            raise ValueError(f"adaptation.interval is two times, 0 <= least < most <= 1, not {list(interval)}")
        self.images = ControlImages([degradation], channels, image_size, guess)
        self.weight, self.interval, self.guess, self.blocks = weight, tuple(interval), guess, blocks

    def change(self, model: Model) -> None:
        """Add a control network, whose copy has the weights of the model, and the images that it reads.

        Raises:
            UserError: the model has no network that can be controlled, or ``blocks`` does not suit it.
        """
        if not isinstance(model, DiffusionModel):
            raise UserError(f"a control network steers samples, and {type(model).__name__} draws none")
        denoiser, network = model.denoiser, model.denoiser.backbone
        try:
            if "control" not in getattr(network, "supports", ()):
                raise ValueError(f"{type(network).__name__} cannot be controlled; use a run of backbone=unet or dit")
            half = network.copied_half(self.blocks)  # type: ignore[operator]
        except ValueError as error:
            raise UserError(f"adaptation=controlnet: {error}") from error
        always = self.interval == (0.0, 1.0)
        branch = ControlBranch(
            half,
            self.images.sizes[0],
            factor=model.autoencoder.factor,
            weight=self.weight,
            interval=None if always else partial(_as_read, denoiser.prediction, denoiser.schedule, self.interval),
            guess=self.guess,
        )
        add_control(model, branch, self.images)

    def plain(self, model: Model) -> Mapping[str, Tensor]:
        return {name: weight for name, weight in model.state_dict().items() if not name.startswith(CONTROLS)}

    def join(self, model: Model, trained: Model, weight: float) -> None:
        """Add copies of the control networks of a trained model to another model of the same base, with a weight.

        Args:
            model: the model that gets them, beside those that it has.
            trained: the trained model, as this adaptation has changed it.
            weight: the factor of what they add.

        Raises:
            UserError: the model draws no samples.
        """
        if not isinstance(model, DiffusionModel):
            raise UserError(f"a control network steers samples, and {type(model).__name__} draws none")
        assert isinstance(trained, DiffusionModel)
        assert trained.control is not None
        controls: Any = trained.denoiser.backbone.controls
        branches = [module for module in controls if isinstance(module, ControlBranch)]
        for branch, degradation in zip(branches, trained.control.degradations, strict=True):
            branch = copy.deepcopy(branch)
            branch.weight = weight
            images = ControlImages([degradation], self.images.channels, self.images.image_size, trained.control.guess)
            add_control(model, branch.to(model.device), images)


def add_control(model: DiffusionModel, branch: ControlBranch, images: ControlImages) -> None:
    """Add a control network to the network of a model, and its images after those of others that the model has.

    Args:
        model: the model, which is changed in place.
        branch: the control network.
        images: the images that it reads.
    """
    branch.first = 0 if model.control is None else sum(model.control.sizes)
    model.control = images if model.control is None else model.control.beside(images)
    model.requires_pixels = True
    model.denoiser.backbone.controls.append(branch)  # type: ignore[union-attr, operator]


def _as_read(prediction: Prediction, schedule: Schedule, interval: Sequence[float]) -> tuple[float, float]:
    """Return two times as a network reads them, the lesser number first."""
    least, most = sorted(prediction.c_noise(schedule, torch.tensor(interval, dtype=torch.float64)).tolist())
    return least, most
