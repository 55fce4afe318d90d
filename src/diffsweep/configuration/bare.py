"""Define the keys and types of commands that build no model: compare, runs, dashboard, doctor, images."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from diffsweep.configuration.sections import Paths

LISTED = {"listed": True}  # of keys whose values are typed with commas, and are no sweep: runs=DIR,DIR
TEXT = {"text": True}  # of keys whose values may hold an equals sign: baseline=schedule=linear


@dataclass
class Bare:
    """The keys that commands have which build nothing."""

    paths: Paths = field(default_factory=Paths)
    choices: dict[str, Any] = field(default_factory=dict)  # filled in
    sweep: str | None = None  # filled in


@dataclass
class Compare(Bare):
    """The keys of compare.py."""

    runs: list[str] = field(default_factory=list, metadata=LISTED)
    metric: str | None = None
    baseline: str | None = field(default=None, metadata=TEXT)
    allow: list[str] = field(default_factory=list, metadata=LISTED)
    diff: list[str] = field(default_factory=list, metadata=LISTED)
    output: str | None = None


@dataclass
class Runs(Bare):
    """The keys of runs.py."""

    state: list[str] = field(default_factory=list, metadata=LISTED)
    sort: str = "age"
    jobs: bool = False
    prune: list[str] = field(default_factory=list, metadata=LISTED)
    older: float = 0.0
    confirm: bool = False


@dataclass
class Dashboard(Bare):
    """The keys of dashboard.py.

    Attributes:
        sweep, metric: the folder of a sweep, and the metric by which the importance of settings is shown.
        output: the file that the workspace is written into; None for ``dashboard.json`` in the sweep.
        save, entity: whether the workspace is made on W&B, too, and of which user or team; None: of the sweep's runs.
    """

    sweep: str | None = None
    metric: str | None = None
    output: str | None = None
    save: bool = False
    entity: str | None = None


@dataclass
class Doctor(Bare):
    """The keys of doctor.py: ``min_free``, the GB that must be free where runs are written."""

    min_free: float = 2.0


@dataclass
class EvaluateImages(Bare):
    """The keys of evaluate.py with ``images=``, which measures images that other programs made."""

    images: str = field(default=MISSING, metadata=TEXT)
    reference: str | None = field(default=None, metadata=TEXT)
    statistics: str | None = field(default=None, metadata=TEXT)
    output: str | None = None
    optimized_metric: str | None = None
    trust: list[str] = field(default_factory=list)
    trainer: Any = MISSING
    metrics: Any = MISSING
