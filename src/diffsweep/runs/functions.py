"""The functions that run the jobs of each command and summarise its sweeps; they are imported when they are used."""

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from diffsweep.configuration.compose import Composed

TASKS = {
    "preview": "diffsweep.runs.previewing:preview",
    "train": "diffsweep.runs.training:train",
    "import": "diffsweep.runs.importing:import_weights",
    "evaluate": "diffsweep.runs.commands:evaluate",
    "evaluate_images": "diffsweep.runs.image_evaluation:evaluate_images",
    "sample": "diffsweep.runs.commands:sample",
    "export": "diffsweep.runs.exporting:export",
    "benchmark": "diffsweep.runs.benchmarking:benchmark",
    "verify": "diffsweep.runs.verification:verify",
    "compare": "diffsweep.runs.comparing:compare",
    "runs": "diffsweep.runs.listing:runs",
    "dashboard": "diffsweep.runs.dashboard:dashboard",
    "doctor": "diffsweep.runs.doctor:doctor",
}
PLANNER = "diffsweep.runs.planning.command:plan_job"  # of a job with plan=true
SUMMARIES = {  # functions of the folder of a sweep whose jobs have been run
    "train": "diffsweep.runs.comparing:summarise",
    "evaluate": "diffsweep.runs.evaluation_figures:summarise",
    "verify": "diffsweep.runs.verification:summarise",
}


def task_of(command: str) -> Callable[..., Any]:
    """Return the function of a configuration that runs a job of a command and returns its result."""
    return _imported(TASKS[command])


def summary_of(command: str) -> Callable[..., Any] | None:
    """Return the function of a folder that summarises a sweep of a command; None for a command without a summary."""
    return _imported(SUMMARIES[command]) if command in SUMMARIES else None


def finish_and_start(command: str, cfg: "DictConfig") -> Any:
    """Complete and check a configuration that Hydra has composed, run the job, and return its result."""
    from diffsweep.configuration.compose import from_hydra
    from diffsweep.configuration.preflight import preflight

    finished = from_hydra(command, cfg)
    preflight(finished)
    return task_of(command)(finished)


def start(job: "Composed") -> Any:
    """Run a job in this process, or predict what it costs if its configuration requests that, and return its result."""
    from hydra.core.hydra_config import HydraConfig

    HydraConfig.instance().set_config(job.hydra)  # where Lightning finds the folder for further processes
    if job.cfg.get("plan"):
        return _imported(PLANNER)(job)
    return task_of(job.command)(job.cfg)


def _imported(name: str) -> Callable[..., Any]:
    """Import and return the function that ``module:function`` names."""
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found
