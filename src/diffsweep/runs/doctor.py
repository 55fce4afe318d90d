"""The command ``doctor.py``: what this machine has for runs, and what would fail."""

import importlib.util
import netrc
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlparse

from omegaconf import DictConfig
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import diffsweep
from diffsweep import shell
from diffsweep.errors import Failed
from diffsweep.runs.advisories import advisories_of

GB = 1e9
OLDEST_SUPPORTED = (3, 11)  # older versions of Python get no security fixes
OK, WARNING, FAULT = "ok", "warning", "FAULT"


class Finding(NamedTuple):
    """One line of the report.

    Attributes:
        state: ``ok``, ``warning`` (runs work, but see the text) or ``FAULT`` (a run would fail).
        subject: what was looked at, such as ``disk``.
        text: what was found, and what to do about it.
    """

    state: str
    subject: str
    text: str


def doctor(cfg: DictConfig) -> None:
    """Run ``doctor.py``: print a line for each thing that runs need, in one screen.

    Raises:
        Failed: a run would fail; the message counts the faults.
    """
    print(f"diffsweep {diffsweep.__version__}, Python {platform.python_version()}, {platform.platform(terse=True)}\n")
    found = []
    for finding in findings(Path(cfg.paths.output_dir), Path(cfg.paths.cache_dir), cfg.min_free * GB):
        print(f"  {finding.state:<7}  {finding.subject:<10}  {finding.text}", flush=True)
        found.append(finding)
    print("\n  Packages of packages: pip install pip-audit && pip-audit")
    if faults := [finding.subject for finding in found if finding.state == FAULT]:
        raise Failed(f"runs would fail on this machine: see the lines of {', '.join(faults)}")


def findings(outputs: Path, cache: Path, min_free: float) -> Iterator[Finding]:
    """Yield the findings about this machine, one after the other as they are made.

    Args:
        outputs: the folder of all runs.
        cache: the folder of decoded data and features.
        min_free: the bytes that must be free in ``outputs``.
    """
    yield _python()
    yield from _bytecode()
    versions = {str(canonicalize_name(each.name)): each.version for each in metadata.distributions()}
    yield from _packages(versions)
    yield from _advisories(versions)
    yield from _devices()
    for folder in dict.fromkeys((outputs, cache, Path(tempfile.gettempdir()))):
        yield _writing(folder)
    yield _disk(outputs, min_free)
    yield _wandb()


def _python() -> Finding:
    if sys.version_info[:2] < OLDEST_SUPPORTED:
        least = ".".join(map(str, OLDEST_SUPPORTED))
        return Finding(WARNING, "Python", f"{platform.python_version()} gets no security fixes any more; use {least}")
    return Finding(OK, "Python", platform.python_version())


def _bytecode() -> Iterator[Finding]:
    """Yield a warning if Python compiles all modules anew whenever a command starts."""
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None or not sys.dont_write_bytecode:
        return
    if not Path(importlib.util.cache_from_source(torch.origin)).is_file():
        text = "is not kept, so that each command starts seconds later: unset PYTHONDONTWRITEBYTECODE, or python -m "
        yield Finding(WARNING, "bytecode", f"{text}compileall -q {shell.shown(Path(torch.origin).parents[1])}")


def _packages(versions: Mapping[str, str]) -> Iterator[Finding]:
    """Yield whether required packages are installed in versions that are new enough, and which extras are complete."""
    try:
        requirements = [Requirement(text) for text in metadata.requires("diffsweep") or ()]
    except metadata.PackageNotFoundError:
        yield Finding(FAULT, "packages", "diffsweep is not installed: pip install -e .")
        return
    needed: dict[str, list[Requirement]] = {"": []}
    for each in requirements:
        extra = "" if each.marker is None else str(each.marker).partition('extra == "')[2].partition('"')[0]
        if each.marker is None or each.marker.evaluate({"extra": extra}):
            needed.setdefault(extra, []).append(each)
    lacking = {extra: [each for each in all_ if not _has(each, versions)] for extra, all_ in needed.items()}
    for each in lacking[""]:
        had = versions.get(canonicalize_name(each.name), "nothing")
        yield Finding(FAULT, "packages", f"{each.name}{each.specifier} is required, {had} installed: pip install -e .")
    if not lacking[""]:
        yield Finding(OK, "packages", f"all {len(needed[''])} that are required")
    extras = [extra for extra in needed if extra and extra != "dev"]
    yield Finding(OK, "extras", ", ".join(extra for extra in extras if not lacking[extra]) or "none")
    if absent := [extra for extra in extras if lacking[extra]]:
        names = sorted({each.name for extra in absent for each in lacking[extra]})
        yield Finding(OK, "", f"not installed: {', '.join(absent)} (lacking {', '.join(names)})")


def _has(requirement: Requirement, versions: Mapping[str, str]) -> bool:
    if requirement.name == "diffsweep":  # the extras that are made of other extras
        return True
    version = versions.get(canonicalize_name(requirement.name))
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _advisories(versions: Mapping[str, str]) -> Iterator[Finding]:
    found = advisories_of(versions)
    for each in found:
        text = f"{each.package} {versions[each.package]}: {each.danger} ({each.identifier}); {each.remedy}"
        yield Finding(WARNING, "security", text)
    if not found:
        yield Finding(OK, "security", "no known advisory of a package that diffsweep uses")


def _devices() -> Iterator[Finding]:
    """Yield the processor with its memory, and the GPUs that torch sees."""
    memory = ""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = f", {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / GB:.0f} GB of memory"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding(OK, "CPU", f"{cores} cores{memory}")
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding(FAULT, "torch", f"cannot be imported: {error}")
        return
    if not torch.cuda.is_available():
        mps = torch.backends.mps.is_available()
        yield Finding(OK, "GPU", "Apple's, by mps" if mps else f"none that torch {torch.__version__} can use")
        return
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
        name = torch.cuda.get_device_name(number)
        yield Finding(OK, f"GPU {number}", f"{name}, {free / GB:.0f} of {total / GB:.0f} GB free, {bf16}")


def _writing(folder: Path) -> Finding:
    """Return whether a file can be written into a folder, or into the nearest one above it that exists."""
    nearest = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest) as file:
            file.write(b"diffsweep")
            file.flush()
    except OSError as error:
        return Finding(FAULT, "writing", f"{shell.shown(folder)}: {error.strerror}; name another by paths.output_dir=")
    return Finding(OK, "writing", shell.shown(folder))


def _disk(outputs: Path, min_free: float) -> Finding:
    nearest = next(each for each in (outputs.absolute(), *outputs.absolute().parents) if each.exists())
    free = shutil.disk_usage(nearest).free
    text = f"{free / GB:.1f} GB free for {shell.shown(outputs)}"
    if free < min_free:
        return Finding(FAULT, "disk", f"{text}, less than min_free={min_free / GB:g}; see python src/runs.py sort=disk")
    return Finding(OK, "disk", text)


def _wandb() -> Finding:
    """Return whether a key of W&B is known, which runs that are sent need; the key itself is never shown."""
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        stored = netrc.netrc(os.environ.get("NETRC")).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        stored = None
    known = "WANDB_API_KEY" in os.environ or stored is not None
    key = f"a key for {host} is known" if known else f"no key for {host} (wandb login)"
    return Finding(OK, "W&B", f"offline by default; logger.mode=online sends runs; {key}")
