"""A rehearsal: the training loop of a run for a few steps, in a folder that is deleted, timed and measured.

The loop is that of the training, with its data, callbacks, precision and checkpoints. A quarter of a batch and a half
come first, so that a batch that the device cannot hold is refused before it is tried. Then whole steps are timed, one
validation with its pictures, and the files that it writes.
"""

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.pytorch.callbacks import ProgressBar
from omegaconf import DictConfig, OmegaConf, open_dict

from diffsweep.callbacks import BeginRounds
from diffsweep.callbacks.checkpoints import FOLDER, LAST, KeepCheckpoints
from diffsweep.configuration.build import build_data, build_model, device_of, in_its_precision, products
from diffsweep.configuration.rules.sharding import shards
from diffsweep.datasets import ImageData
from diffsweep.runs.claiming import claim
from diffsweep.runs.cost import Cost, network_cost
from diffsweep.runs.machine import processes_of
from diffsweep.runs.metrics_file import MetricsFile
from diffsweep.runs.planning.ahead import Ahead, fewer, made_ahead
from diffsweep.runs.planning.evaluation import seconds_of_evaluation
from diffsweep.runs.planning.memory import Footprint, Peak, line_through, shares_of
from diffsweep.runs.planning.sharing import ALONE, Sharing, sharing_of
from diffsweep.runs.planning.steps import MOST, WARM_UP, Marks, Steps, TooLarge
from diffsweep.runs.resuming import GoOn
from diffsweep.runs.training import callbacks_of, make_trainer

SECONDS = 8.0  # of timed steps, if these are enough
VAL_BATCHES = 3  # batches of the timed validation
STATISTICS, IMAGES_OF_STATISTICS = "model.statistics", 1024  # of an autoencoder's latents, in the timed validation
SCRATCH = "scratch"


@dataclass(frozen=True)
class Rehearsed:
    """What the parts of a training cost, as a rehearsal has measured it. Times are in seconds, sizes in bytes.

    Attributes:
        directory: the folder of the rehearsed run, which has a checkpoint of the untrained model.
        cost: the parameters and multiply-adds of the network.
        parameters, trained: those of the whole model, and those of them that the optimizer changes.
        num_train: the samples of an epoch.
        step: of an optimizer step, with all its batches.
        validation: of a validation on all held-out batches.
        picture: of the pictures that a validation makes.
        saving: of the checkpoints and tables that a validation writes.
        ends: of building the model and its data, and of what the loop does before its first step and after the last.
        evaluation: of the measurement at the end, by part.
        ahead: what is computed of the data before training.
        memory: the memory of the training, of each of its processes.
        checkpoint, pictures: of a checkpoint, and of the pictures of a validation.
        sharing: how several processes share the work; times are those of the first one.
    """

    directory: Path
    cost: Cost
    parameters: int
    trained: int
    num_train: int
    step: float
    validation: float
    picture: float
    saving: float
    ends: float
    evaluation: dict[str, float]
    ahead: Ahead
    memory: Footprint
    checkpoint: int
    pictures: int
    sharing: Sharing = ALONE


def rehearse(cfg: DictConfig, directory: Path, shift: int = 0, seconds: float | None = None) -> Rehearsed:
    """Run a few steps of a training and of its measurement in a folder, and return what its parts cost.

    Args:
        cfg: a checked configuration of ``train``, whose stages have runs.
        directory: the folder, which gets the configuration and a checkpoint as a run has them.
        shift: the bytes that a process of this run alone takes beside those of this process, which may have measured
            other runs; at most 0.
        seconds: how long steps are timed; None for SECONDS.

    Raises:
        TooLarge: the device has too little memory for the batch.
    """
    settings = _settings(cfg, directory)
    share = fewer(settings)
    peak, times = Peak(device_of(cfg)), dict[tuple[str, str], list[float]]()
    before = peak.begin()
    shift = 0 if peak.device.type == "cuda" else shift
    begin = time.perf_counter()
    data, model = build_data(settings), in_its_precision(settings, build_model(settings))
    data.split("train")
    begun = time.perf_counter()
    ahead = made_ahead(settings, model, data, share, directory / SCRATCH)
    claim(settings)
    processes, on_cpu = processes_of(cfg), peak.device.type == "cpu"
    together = processes // int(cfg.trainer.get("num_nodes", 1)) if on_cpu else 1  # which share cores and memory
    steps = Steps(peak, before, SECONDS if seconds is None else seconds, together)
    callbacks = [
        Marks(times, "first"),
        *(callback for callback in callbacks_of(settings) if not isinstance(callback, ProgressBar)),
        *(KeepCheckpoints(directory / FOLDER), GoOn(data), BeginRounds()),
        *(steps, Marks(times, "last")),
    ]
    trainer = make_trainer(_of_a_few_steps(settings), callbacks, [MetricsFile(directory / "metrics.csv")])
    fitting = time.perf_counter()
    try:
        with _threads_of(together), products(settings):
            trainer.fit(model, data)
            fitted = time.perf_counter()
            model.to(peak.device)
            validation, of_it = _validation(cfg, times, data, processes)
            evaluation = seconds_of_evaluation(settings, model, data, directory / SCRATCH, validation, processes)
    except torch.OutOfMemoryError as error:
        raise TooLarge from error
    highest = peak.highest()
    (rows, _, half), (batch, activations, whole) = steps.points
    slope = max(line_through((rows, half), (batch, whole)), line_through((0, 0), (batch, activations)))
    sharing = sharing_of(cfg, steps.known.gradients, begun - begin)
    kept, gathered = steps.known, 0
    if shards(cfg):  # all weights are on each device while it validates and measures
        kept, gathered = shares_of(kept, processes), kept.weights
    less = sum(steps.known) - sum(kept)
    of_step = whole + shift + sharing.buckets - less
    memory = Footprint(
        peak.device.type,
        kept,
        0 if peak.device.type == "cuda" else before + shift,
        batch,
        activations,
        slope if rows < batch else 0.0,
        of_step,
        max(of_step, highest + shift - less + gathered),
        steps.capacity,
        sharing.buckets,
    )
    return Rehearsed(
        directory,
        network_cost(settings),
        sum(parameter.numel() for parameter in model.parameters()),
        sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        round(len(data.loader_samples("train")) / ahead.share),
        steps.step,
        validation,
        of_it["validation_epoch_end"],
        of_it["validation_end"],
        begun - begin + fitted - fitting - steps.loop - of_it["all"],
        evaluation,
        ahead,
        memory,
        (directory / FOLDER / LAST).stat().st_size,
        sum(path.stat().st_size for path in directory.glob("samples/*")),
        sharing,
    )


@contextmanager
def _threads_of(processes: int) -> Iterator[None]:
    """Compute in the body of a ``with`` statement with the threads that Lightning gives each of some processes."""
    before = torch.get_num_threads()
    if processes > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, before // processes))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _settings(cfg: DictConfig, directory: Path) -> DictConfig:
    """Return the configuration of a rehearsal: on one device, in a folder, with the dearest steps from the first on."""
    settings = cfg.copy()
    settings.paths.run_dir = str(directory)
    devices = cfg.trainer.devices
    settings.trainer.devices = [devices[0]] if OmegaConf.is_list(devices) else 1
    with open_dict(settings):
        for key in ("num_nodes", "strategy"):
            settings.trainer.pop(key, None)
    if OmegaConf.select(settings, "discriminator.start"):
        settings.discriminator.start = 0
    if OmegaConf.select(settings, STATISTICS):
        settings.model.statistics = min(settings.model.statistics, IMAGES_OF_STATISTICS)
    return settings


def _of_a_few_steps(settings: DictConfig) -> DictConfig:
    """Return a configuration whose Trainer takes a few steps and then validates on a few batches."""
    few = settings.copy()
    few.trainer.max_steps = few.trainer.val_check_interval = WARM_UP + MOST
    few.trainer.log_every_n_steps = min(few.trainer.log_every_n_steps, MOST)
    limit = few.trainer.limit_val_batches
    if limit and (isinstance(limit, float) or limit > VAL_BATCHES):
        few.trainer.limit_val_batches = VAL_BATCHES
    return few


def _validation(
    cfg: DictConfig, times: dict[tuple[str, str], list[float]], data: ImageData, processes: int = 1
) -> tuple[float, dict[str, float]]:
    """Return the seconds of a validation on all batches of a process, and of the parts after the timed batches.

    These are its pictures (``validation_epoch_end``), what it saves (``validation_end``), and ``all`` of it.
    """
    if ("validation_start", "first") not in times:  # trainer.limit_val_batches=0
        return 0.0, {"validation_epoch_end": 0.0, "validation_end": 0.0, "all": 0.0}
    (begin,) = times["validation_start", "first"]
    ends = times.get(("validation_batch_end", "first"), [])
    each = [end - start for start, end in zip([begin, *ends], ends, strict=False)]
    limit = cfg.trainer.limit_val_batches
    batches = math.ceil(math.ceil(len(data.loader_samples("val")) / processes) / 256)
    batches = int(limit * batches) if isinstance(limit, float) else min(limit, batches)
    more = each[1:] or each
    of_batches = sum(each) + (batches - len(each)) * sum(more) / max(1, len(more))
    parts = {
        hook: times[hook, "last"][0] - times[hook, "first"][0] for hook in ("validation_epoch_end", "validation_end")
    }
    images = min(OmegaConf.select(cfg, STATISTICS) or 1, len(data.split("train")))
    of_model = times["validation_end", "first"][0] - times["validation_epoch_end", "last"][0]
    of_model *= max(1, images / IMAGES_OF_STATISTICS)
    return of_batches + of_model, parts | {"all": times["validation_end", "last"][0] - begin}
