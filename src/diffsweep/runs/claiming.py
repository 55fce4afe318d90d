"""Claim the directory of a run: one process at a time trains in it, and its configuration is written with versions."""

import importlib.metadata
import platform
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from diffsweep import shell
from diffsweep.callbacks.checkpoints import FOLDER, LAST
from diffsweep.comparison.records import LOCK
from diffsweep.configuration.saved import CONFIG
from diffsweep.errors import UserError
from diffsweep.files import in_use, owned, write_text

PACKAGES = ("diffsweep", "torch", "lightning", "hydra-core", "omegaconf", "torchmetrics", "numpy")


@contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """Hold the lock of a run's directory, by which others know that the run is in progress.

    Raises:
        UserError: another process trains the run now.
    """
    with ExitStack() as held:
        try:
            held.enter_context(owned(directory / LOCK))
        except BlockingIOError as error:
            raise _taken(directory) from error
        yield


def refuse_busy(directory: Path) -> None:
    """Raise a UserError if another process trains the run of a directory now."""
    if in_use(directory / LOCK):
        raise _taken(directory)


def _taken(directory: Path) -> UserError:
    return UserError(f"{shell.shown(directory)} is trained by another process now; wait for its end")


def refuse_taken(cfg: DictConfig) -> None:
    """Raise a UserError unless the run's directory has no run yet or, when resuming, has a checkpoint.

    Raises:
        UserError: the run's directory has another run, or no checkpoint to resume from.
    """
    directory = Path(cfg.paths.run_dir)
    if cfg.resume_from is not None:
        if not (directory / FOLDER / LAST).is_file():
            raise UserError(
                f"{shell.shown(directory)} cannot be resumed: it has no {FOLDER}/{LAST}; start the run again"
            )
    elif (directory / CONFIG).exists():
        raise UserError(
            f"{shell.shown(directory)} has a run already; use {shell.typed('resume', directory)} to continue it, "
            "or another directory"
        )


def claim(cfg: DictConfig) -> None:
    """Claim the run's directory by writing the configuration into it, with the versions of packages and the commit.

    The configuration contains the directories of its stages, the other trained models that the run needs.

    Raises:
        UserError: the run's directory has another run, or no checkpoint to resume from.
    """
    refuse_taken(cfg)
    saved = OmegaConf.to_container(cfg, resolve=False)
    versions = {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()}
    record = {"resume_from": None, "versions": versions, "git": git_state()}
    content = OmegaConf.create({**saved, **record})  # type: ignore[dict-item]
    write_text(Path(cfg.paths.run_dir) / CONFIG, OmegaConf.to_yaml(content))


def git_state() -> dict[str, str | bool]:
    """Return the ``commit`` of diffsweep's code, and whether the working tree has changes of it, as ``changed``.

    The dict is empty outside a git repository. Files that git does not track do not count.
    """

    def git(*arguments: str) -> str:
        folder = Path(__file__).parent
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "changed": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.CalledProcessError):
        return {}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
