"""Fill in what a configuration leaves open about its data, such as the number of classes, from the data themselves."""

from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffsweep.configuration.following import print_once
from diffsweep.errors import UserError

VOCABULARY = "dataset.vocabulary"


def fill_in_found(cfg: DictConfig) -> None:
    """Set the keys of the dataset that are null and that its class finds in the data, in place, and print them.

    The line is on stderr, once for each dataset. Nothing is done for a dataset without keys that are null, or with a
    class that is refused or does not exist, which the checks report.

    Raises:
        UserError: the data cannot be read, or have no column of images.
    """
    node = cfg.get("dataset")
    settings = _values(node) if isinstance(node, DictConfig) else {}
    if VOCABULARY not in str(OmegaConf.to_container(cfg.get("conditioning") or OmegaConf.create(), resolve=False)):
        settings.pop("vocabulary", None)  # which takes reading all captions
    if None not in settings.values():
        return
    from diffsweep.configuration.check import is_of_kind, locate  # imports torch
    from diffsweep.datasets import ImageData

    try:
        found = locate(str(settings.get("_target_")), cfg.trust)
    except UserError:
        return
    if not is_of_kind(found, ImageData):
        return
    kind: type[ImageData] = found  # type: ignore[assignment]
    try:
        values, text = kind.found(settings)
    except ValueError as error:
        raise UserError(str(error)) from error
    for key, value in values.items():
        node[key] = value
    if text:
        print_once(text)


def _values(node: DictConfig) -> dict[str, Any]:
    """Return the settings of a node that can be resolved: an environment variable may not be set yet."""
    values = {}
    for key in map(str, node):
        try:
            value = node[key]
        except OmegaConfBaseException:
            continue
        values[key] = OmegaConf.to_container(value, resolve=False) if OmegaConf.is_config(value) else value
    return values
