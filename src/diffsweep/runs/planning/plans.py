"""Plans of runs: what a training will cost, from the costs of its parts that a rehearsal has measured.

The hours of a run of N steps are N times those of a step, those of its validations with their pictures and files, and
those of its measurement at the end. Trained models that it requires and that no earlier run has trained (stages) are
planned too. Runs of a sweep whose costs cannot differ share one rehearsal, and a stage that several of them require is
counted once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from omegaconf import DictConfig

from diffsweep.runs.planning.memory import Footprint
from diffsweep.runs.planning.rehearsal import Rehearsed
from diffsweep.runs.resuming import samples_of_a_step

CHECKPOINTS = 3  # last.ckpt, best.ckpt and, while the run lasts, the one before the last
TRAINING, VALIDATION, PICTURES, SAVING = "training", "validations", "pictures", "checkpoints"
EVALUATION, ENDS, AHEAD = "measurement", "start and end", "data ahead"
SUMS, OTHERS = "sums of gradients", "start of the others"  # of several processes


class Alternative(NamedTuple):
    """Settings with which a run that is too large fits into the memory of the device.

    Attributes:
        words: as they are typed.
        peak: the predicted peak of memory with them, in bytes.
    """

    words: str
    peak: int


@dataclass(frozen=True)
class RunPlan:
    """What a training will cost. Times are in seconds, sizes in bytes.

    Attributes:
        name: its model, data and network.
        rehearsed: what its parts cost.
        steps: the optimizer steps.
        batch, accumulated: the samples of a batch, and the batches of a step on each device.
        samples: of a step, on all devices.
        validations: how many the training has.
        parts: the predicted seconds of the run, by part, without its stages.
        stages: plans of the trained models that are required and not yet trained, by the name of their directory.
        changes: where the run does not fit into memory, what fits.
    """

    name: str
    rehearsed: Rehearsed
    steps: int
    batch: int
    accumulated: int
    samples: int
    validations: int
    parts: dict[str, float]
    stages: "dict[str, RunPlan]" = field(default_factory=dict)
    changes: tuple[Alternative, ...] = ()

    @property
    def images(self) -> int:
        """Return the training samples that the run takes."""
        return self.steps * self.samples

    @property
    def epochs(self) -> float:
        """Return how often the run takes each training sample on average."""
        return self.images / self.rehearsed.num_train

    @property
    def memory(self) -> Footprint:
        """Return the memory of the run."""
        return self.rehearsed.memory

    @property
    def flops(self) -> float:
        """Return the floating-point operations of a step: three times those of the forward passes of its samples."""
        return 3 * 2e9 * self.rehearsed.cost.gmac * self.samples

    @property
    def own_seconds(self) -> float:
        """Return the predicted seconds of the run without its stages."""
        return sum(self.parts.values())

    @property
    def own_disk(self) -> dict[str, int]:
        """Return the bytes of the files of the run, without its stages: the most that it takes at once, by kind."""
        found = {
            "checkpoints": CHECKPOINTS * self.rehearsed.checkpoint,
            "pictures": self.validations * self.rehearsed.pictures,
            AHEAD: self.rehearsed.ahead.size,
        }
        return {name: size for name, size in found.items() if size}

    @property
    def device_seconds(self) -> float:
        """Return the predicted seconds of all of its devices together, without its stages."""
        return self.own_seconds * self.rehearsed.sharing.processes

    @property
    def seconds(self) -> float:
        """Return the predicted seconds with those of the stages."""
        return seconds_of_all([self])

    @property
    def disk(self) -> int:
        """Return the bytes of all files with those of the stages."""
        return disk_of_all([self])

    def numbers(self) -> dict[str, Any]:
        """Return the numbers of the plan as plain values, for JSON."""
        measured, memory = self.rehearsed, self.memory
        return {
            "name": self.name,
            "network": measured.cost._asdict(),
            "parameters": measured.parameters,
            "trained_parameters": measured.trained,
            "flops_of_a_step": self.flops,
            "steps": self.steps,
            "samples": self.images,
            "processes": asdict(measured.sharing),
            "epochs": self.epochs,
            "memory": {
                **memory.known._asdict(),
                "device": memory.device,
                "process": memory.process,
                "activations": memory.activations,
                "buckets": memory.buckets,
                "working": memory.working,
                "step": memory.step,
                "peak": memory.peak,
                "capacity": memory.capacity,
                "largest_batch": memory.largest_batch,
            },
            "changes": [change._asdict() for change in self.changes],
            "hours": {name: seconds / 3600 for name, seconds in self.parts.items()} | {"all": self.seconds / 3600},
            "disk": {**self.own_disk, "all": self.disk},
            "stages": {name: plan.numbers() for name, plan in self.stages.items()},
        }


def stages_of_all(plans: Iterable[RunPlan]) -> dict[str, RunPlan]:
    """Return the stages of plans, and the stages of these, each once, by the names of their directories."""
    found: dict[str, RunPlan] = {}
    for plan in plans:
        found |= stages_of_all(plan.stages.values()) | plan.stages
    return found


def seconds_of_all(plans: Sequence[RunPlan]) -> float:
    """Return the predicted seconds of runs one after the other, with each stage once."""
    return sum(plan.own_seconds for plan in [*plans, *stages_of_all(plans).values()])


def disk_of_all(plans: Sequence[RunPlan]) -> int:
    """Return the bytes of the files of runs, with each stage once."""
    return sum(sum(plan.own_disk.values()) for plan in [*plans, *stages_of_all(plans).values()])


def made(cfg: DictConfig, measured: Rehearsed, changes: tuple[Alternative, ...], stages: dict[str, RunPlan]) -> RunPlan:
    """Return the plan of a run from the costs of its parts.

    Args:
        cfg: its configuration.
        measured: the costs.
        changes: what fits, where it does not.
        stages: the plans of its stages that are not yet trained.
    """
    steps = cfg.trainer.max_steps
    validations = steps // min(cfg.trainer.val_check_interval, steps)
    parts = {
        TRAINING: steps * measured.step,
        SUMS: steps * measured.sharing.beyond(measured.step / cfg.trainer.accumulate_grad_batches),
        VALIDATION: validations * measured.validation,
        PICTURES: validations * measured.picture,
        SAVING: validations * measured.saving,
        ENDS: measured.ends,
        OTHERS: measured.sharing.starting,
        **{f"{EVALUATION}: {name}": seconds for name, seconds in measured.evaluation.items()},
        AHEAD: measured.ahead.seconds,
    }
    return RunPlan(
        name_of(cfg),
        measured,
        steps,
        cfg.dataset.batch_size,
        cfg.trainer.accumulate_grad_batches,
        samples_of_a_step(cfg),
        validations,
        {name: seconds for name, seconds in parts.items() if seconds},
        stages,
        changes,
    )


def name_of(cfg: DictConfig) -> str:
    """Return the model, the data and the network of a run as they are typed."""
    return " ".join(f"{group}={cfg.choices[group]}" for group in ("model", "dataset", "backbone"))
