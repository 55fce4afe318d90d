"""Make the plans of several runs, which share rehearsals and stages."""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffsweep.configuration.build import device_of
from diffsweep.configuration.stage_nodes import given_config, run_key, stage_nodes, trainable_config
from diffsweep.errors import UserError
from diffsweep.layers import release
from diffsweep.runs.machine import check_machine
from diffsweep.runs.memory import divide, why_not_divided
from diffsweep.runs.planning.memory import Peak
from diffsweep.runs.planning.plans import Alternative, RunPlan, made, name_of
from diffsweep.runs.planning.rehearsal import Rehearsed, rehearse
from diffsweep.runs.planning.steps import TooLarge
from diffsweep.runs.stages import directory_of, is_finished

# What a run costs does not depend on these parts of its configuration.
NO_COST = ("paths", "logger", "choices", "sweep", "optimized_metric", "plan", "verify", "halve_batch", "lr_scheduler")
CHECKPOINTING = "backbone.checkpointing"


class Planner:
    """A maker of plans that share rehearsals and stages, within a context that deletes the files of the rehearsals.

    Args:
        seconds: how long the steps of a rehearsal are timed; None for the usual time.
        report: called with a line before each rehearsal.
    """

    def __init__(self, seconds: float | None = None, report: Callable[[str], object] = lambda line: None) -> None:
        self.seconds, self.report = seconds, report
        self._rehearsed: dict[str, tuple[Rehearsed, tuple[Alternative, ...]]] = {}
        self._stages: dict[str, tuple[RunPlan, Path]] = {}
        self._process: int | None = None  # the bytes that this process took before its first rehearsal
        self._shift = 0  # those beside what it takes now

    def __enter__(self) -> "Planner":
        self._folder = Path(tempfile.mkdtemp(prefix="plan-"))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def plan(self, cfg: DictConfig) -> RunPlan:
        """Return the plan of a training.

        Args:
            cfg: its checked configuration.

        Raises:
            UserError: the machine lacks what the training requires, a stage is missing, or not even one sample fits
                into the memory of the device.
        """
        now = Peak(device_of(cfg)).release()
        self._process = now if self._process is None else self._process
        self._shift = self._process - now
        return self._plan(cfg)

    def _plan(self, cfg: DictConfig) -> RunPlan:
        """Return the plan of a run after its stages, which are trained in the same process."""
        check_machine(cfg)
        cfg = cfg.copy()
        stages = self._with_stages(cfg)
        key = cost_key(cfg)
        if key not in self._rehearsed:
            self._rehearsed[key] = self._measured(cfg)
        return made(cfg, *self._rehearsed[key], stages)

    def _with_stages(self, cfg: DictConfig) -> dict[str, RunPlan]:
        """Give a configuration the runs of its stages, rehearsed ones where none is trained, whose plans it returns."""
        planned = {}
        for path, node in stage_nodes(cfg):
            key = run_key(path, node)
            if node.get("run") is not None:
                given_config(cfg, path, node)
            elif node.get("train") is None:
                raise UserError(f"{key} is missing: give the directory of a trained run")
            else:
                stage = trainable_config(cfg, path, node)
                directory = directory_of(stage)
                run = directory.absolute()
                if not is_finished(directory):
                    if directory.name not in self._stages:
                        plan = self._plan(stage)
                        self._stages[directory.name] = plan, plan.rehearsed.directory
                    planned[directory.name], run = self._stages[directory.name]
                OmegaConf.update(cfg, key, str(run), force_add=True)
        return planned

    def _measured(self, cfg: DictConfig) -> tuple[Rehearsed, tuple[Alternative, ...]]:
        """Rehearse a run, with smaller batches where its own do not fit, and return what fits then."""
        self.report(f"plan: a few steps of {name_of(cfg)}")
        changes: list[Alternative] = []
        measured = self._tried(cfg)
        too_large = measured is None or measured.memory.fits is False
        if too_large and OmegaConf.select(cfg, CHECKPOINTING) is False:
            again = cfg.copy()
            OmegaConf.update(again, CHECKPOINTING, True)
            other = self._tried(again)
            if other is not None and other.memory.fits is not False:
                changes.append(Alternative(f"{CHECKPOINTING}=true", other.memory.peak))
        divided = cfg.copy()
        same = why_not_divided(cfg) is None  # else the steps would have other samples or another loss
        while (measured is None or measured.memory.fits is False) and divided.dataset.batch_size > 1:
            words = divide(divided)
            measured = self._tried(divided) or measured
            if measured is not None and measured.memory.fits is not False and same:
                changes.append(Alternative(words, measured.memory.peak))
        if measured is None:
            raise UserError(
                f"{name_of(cfg)} does not fit into the memory of the device even with dataset.batch_size=1; "
                "try trainer.precision=bf16-mixed or a smaller network"
            )
        return measured, tuple(changes)

    def _tried(self, cfg: DictConfig) -> Rehearsed | None:
        """Return what a rehearsal measures; None if the device has too little memory for the batch."""
        try:
            return rehearse(cfg, Path(tempfile.mkdtemp(dir=self._folder)), self._shift, self.seconds)
        except TooLarge:
            pass  # the memory is released when the error, which refers to the tensors of its frames, is gone
        release()
        return None


def cost_key(cfg: DictConfig) -> str:
    """Return a text that is equal for runs whose parts cost the same, so that one rehearsal serves them.

    Left out are the seed, the numbers of steps and of the steps between validations, the learning rate and other
    numbers of the optimizer, and what only names the run.
    """
    settled = cfg.copy()
    settled.paths.update(dict.fromkeys(settled.paths, ""))
    settled.seed, settled.trainer.max_steps, settled.trainer.val_check_interval = 0, 1, 1
    content: Any = OmegaConf.to_container(settled, resolve=True)
    for key in NO_COST:
        content.pop(key, None)
        content["model"].pop(key, None)
    for optimizer in (content["optimizer"], content["model"].get("optimizer") or {}):
        for key in [key for key, value in optimizer.items() if isinstance(value, float)]:
            del optimizer[key]
    return json.dumps(content, sort_keys=True, default=str)
