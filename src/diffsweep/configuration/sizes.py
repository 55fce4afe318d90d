"""Fill in the sizes that follow from built parts: the output channels and the sizes of the condition.

Lightning is not imported, so that ``--cfg job`` is quick.
"""

import sys
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from diffsweep.configuration.check import check_resolved
from diffsweep.errors import UserError


def instantiated(cfg: DictConfig, group: str, **more: Any) -> Any:
    """Return the object that a group of a checked configuration describes.

    Only the resolved classes of the group are checked again, since a check of the whole configuration would take longer
    than the construction.

    Args:
        cfg: a configuration that has been checked (:func:`~diffsweep.configuration.check.check`).
        group: the key of the group, such as ``sampler``.
        more: further keyword arguments for its class, such as objects that a configuration cannot hold.

    Raises:
        UserError: a class is not allowed, or its constructor refuses a value with a ValueError, whose message is kept.
    """
    check_resolved(cfg, group)
    try:
        return instantiate(cfg[group], _convert_="all", **more)
    except Exception as error:
        cause = error.__cause__
        if isinstance(cause, (ValueError, *_refusals_of_lightning())):  # by a constructor; its message gives the reason
            raise UserError(str(cause)) from error
        raise


def _refusals_of_lightning() -> tuple[type[Exception], ...]:
    """Return the class of errors by which Lightning refuses values, if Lightning has been imported."""
    module = sys.modules.get("lightning.fabric.utilities.exceptions")
    return () if module is None else (module.MisconfigurationException,)


def fill_in_sizes(cfg: DictConfig) -> None:
    """Set ``space.out_channels`` and the entries of ``condition`` of a configuration, in place.

    ``space.out_channels``, the channels of the network's output, is ``space.channels`` times the ``heads`` of the
    prediction: 2 with a learned variance, else 1. The entries of ``condition``, such as ``num_classes``, are
    the sizes that the conditioning, a cascade's lower stage and a teacher provide. They follow from built objects, so
    ``conf/`` cannot give them by interpolations.

    Raises:
        UserError: the prediction or the conditioning cannot be built.
    """
    cfg.space.out_channels = instantiated(cfg, "prediction").heads * cfg.space.channels
    for part in (instantiated(cfg, group) for group in ("conditioning", "cascade", "teacher")):
        for name, size in ({} if part is None else part.sizes).items():
            cfg.condition[name] = size
