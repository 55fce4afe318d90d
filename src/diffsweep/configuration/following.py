"""Choose options that follow the data: where a default does not fit the dataset, the one that does takes its place.

``conf/_following.yaml`` lists for each such group the options that are tried, and what of the dataset each needs. An
option fits if its ``shape``, of the samples that it takes, is that of the data, with null for any number.
"""

import functools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffsweep.configuration.conf import CONF, SELECTORS, SHARED, content, defaults, read_yaml
from diffsweep.shell import one_line

OPTION = "option"  # the key of an entry that names the option; the others are the least numbers of the dataset

FOUND = ("path", "name", "image_size", "num_val")  # keys of a dataset that are null if it has no data


def options_that_fit(cfg: DictConfig, command: str, overrides: Sequence[str]) -> list[str]:
    """Return overrides that replace defaults which do not fit the dataset, such as ``metrics=classifier``; or none.

    A default is replaced only if its group is not typed and no model or experiment chooses another option. A line on
    stderr states each replacement.

    Args:
        cfg: the composed configuration of the command.
        command: such as ``train``.
        overrides: of the command line.
    """
    try:
        if "dataset" not in cfg or any(cfg.dataset.get(key, "") is None for key in FOUND):
            return []  # no data were found, as in the configuration of a stage before it gets those of its run
        _shape(cfg.dataset)
    except OmegaConfBaseException:  # a value that cannot be resolved, which the checks report
        return []
    typed = {override.lstrip("+~").partition("=")[0] for override in overrides}
    if typed & set(SELECTORS):  # a run keeps what it was measured by
        return []
    found = []
    for group, entries in _entries().items():
        default = defaults(command).get(group)
        if group in typed or group not in cfg or cfg.choices.get(group) != default or _fits(cfg[group], cfg.dataset):
            continue
        option = next(entry[OPTION] for entry in entries if _meets(group, entry, cfg.dataset))
        sizes = " x ".join(str(size) for size in _shape(cfg.dataset))
        nothing = ", which measures nothing" if option == "none" else ""
        print_once(
            f"{group}={option}{nothing}: {group}={default} does not fit dataset={cfg.choices.dataset} ({sizes}); "
            f"type {group}= to choose"
        )
        found.append(f"{group}={option}")
    return found


def _shape(dataset: DictConfig) -> tuple[int, ...]:
    """Return the shape of a sample of the data: (C, H, W), or of clips (C, F, H, W)."""
    frames = () if dataset.get("num_frames") is None else (dataset.num_frames,)
    return (dataset.channels, *frames, dataset.image_size, dataset.image_size)


def _fits(node: DictConfig, dataset: DictConfig) -> bool:
    """Return whether an option takes samples of the shape of the data."""
    shape, data = node.get("shape"), _shape(dataset)
    return shape is None or (len(shape) == len(data) and all(n in (None, m) for n, m in zip(shape, data, strict=True)))


def _meets(group: str, entry: Mapping[str, Any], dataset: DictConfig) -> bool:
    """Return whether an entry's option fits the data, and these have at least the numbers that the entry needs."""
    node = OmegaConf.create(dict(content(group, entry[OPTION])))
    least = {key: number for key, number in entry.items() if key != OPTION}
    return _fits(node, dataset) and all((dataset.get(key) or 0) >= number for key, number in least.items())


@functools.cache
def _entries() -> Mapping[str, Any]:
    return read_yaml(CONF / f"{SHARED}following.yaml")


@functools.cache  # a sweep composes many jobs on the same data
def print_once(text: str) -> None:
    """Print a line to stderr, unless this process has printed it before."""
    print(one_line(text), file=sys.stderr)
