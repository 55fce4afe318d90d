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

    A whole check costs more than what is built, so only the group's resolved classes are checked again.

    Args:
        cfg: a configuration that has been checked.
        group: such as ``sampler``.
        more: keywords that are objects.

    Raises:
        UserError: a class is not allowed, or a value is out of its range; the message is the constructor's.
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
    """Fill in the output channels, a multiple of ``space.channels``, and the sizes of the condition.

    The output channels follow from two groups, prediction and autoencoder, and the sizes of the condition from an
    object, so neither can be an interpolation in ``conf/``.

    Raises:
        UserError: the prediction or the conditioning cannot be built.
    """
    cfg.space.out_channels = instantiated(cfg, "prediction").heads * cfg.space.channels
    for name, size in instantiated(cfg, "conditioning").sizes.items():
        cfg.condition[name] = size
