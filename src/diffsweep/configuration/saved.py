"""Read the configuration that a run has saved, with the names that classes and keys have today."""

import functools
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

from diffsweep.configuration import resolvers  # noqa: F401 - registers the resolvers wherever runs are read
from diffsweep.configuration.moved import in_new_names
from diffsweep.errors import UserError

CONFIG = "config.yaml"


def load_config(directory: str | Path) -> DictConfig:
    """Return a copy of the configuration that a run has saved, with interpolations unresolved.

    Former names of classes and keys are replaced by today's.

    Args:
        directory: the run's directory, which training printed.

    Raises:
        UserError: the directory does not exist, or its ``config.yaml`` is missing or was not written by ``train.py``.
    """
    return saved_of(directory).copy()


def saved_of(directory: str | Path) -> DictConfig:
    """Return the configuration that a run has saved, shared by all callers, which must not change it.

    It is the one of :func:`load_config`. The file is read again only if it has changed.

    Raises:
        UserError: the directory does not exist, or its ``config.yaml`` is missing or was not written by ``train.py``.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"{directory} is no run: no such folder")
    file = directory / CONFIG
    if not file.is_file():
        raise UserError(f"{directory} is no run: it has no {CONFIG}; give the folder that training printed at its end")
    config = _read(file, written(file))
    if not isinstance(config, DictConfig) or "choices" not in config:
        raise UserError(f"{directory} is no run: its {CONFIG} was not written by train.py")
    groups = [str(group) for group in config.choices if group in config]
    if computed := [group for group in groups if OmegaConf.is_interpolation(config, group)]:
        raise UserError(
            f"{directory} is no run: the {computed[0]} of its {CONFIG} must be a mapping, not an interpolation"
        )
    return config


def written(file: Path) -> tuple[int, int, int]:
    """Return the inode, the time in ns and the size in bytes of a file, which change when it is written anew."""
    state = file.stat()
    return state.st_ino, state.st_mtime_ns, state.st_size


@functools.lru_cache(maxsize=8)  # Hydra reads it once for each of 25 groups: 25 ms a time
def _read(file: Path, state: tuple[int, int, int]) -> DictConfig | ListConfig:
    """Return the content of a file with the names of today."""
    content = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    return OmegaConf.create(in_new_names(content) if isinstance(content, dict) else content)
