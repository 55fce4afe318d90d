"""Rules on steps, intervals, precision and other settings of Lightning's Trainer."""

import difflib
import importlib.util
import logging
import re
from typing import Any

from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry
from omegaconf import DictConfig, OmegaConf

from diffsweep.callbacks.traces import PROFILERS
from diffsweep.configuration.rules.base import BuiltParts, rule
from diffsweep.precision import precision_of

MODES = ("online", "offline", "disabled")
MOST = 8  # words of Lightning's that a message names
SHOWN = ("enable_checkpointing", "enable_progress_bar", "enable_model_summary")
OF_THE_MACHINE = (  # settings of a Trainer that depend on the machine, or change torch, or that runs set themselves
    *("_target_", "accelerator", "devices", "num_nodes", "strategy", "precision", "plugins", "sync_batchnorm"),
    *(
        "deterministic",
        "benchmark",
        "detect_anomaly",
        "barebones",
        "default_root_dir",
        "logger",
        "callbacks",
        "profiler",
        *SHOWN,
    ),
)


@rule
def validation_is_by_steps(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if the validation interval is set in epochs, which the endless training stream lacks."""
    if (epochs := cfg.trainer.check_val_every_n_epoch) is not None:
        return (
            f"trainer.check_val_every_n_epoch={epochs} must stay null: the training stream has no epochs; use "
            "trainer.val_check_interval=STEPS"
        )
    return None


@rule
def intervals_are_positive(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message unless intervals of the trainer are whole numbers of steps, at least 1.

    These are ``val_check_interval``, ``log_every_n_steps`` and ``accumulate_grad_batches``.
    """
    for key in ("val_check_interval", "log_every_n_steps", "accumulate_grad_batches"):
        if not (isinstance(cfg.trainer[key], int) and cfg.trainer[key] >= 1):
            return f"trainer.{key} is a whole number of steps, at least 1, not {cfg.trainer[key]}"
    return None


@rule
def max_steps_is_positive(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if ``trainer.max_steps`` is below 1: the training stream is endless."""
    if cfg.trainer.max_steps < 1:
        return f"trainer.max_steps must be at least 1, not {cfg.trainer.max_steps}: the training stream is endless"
    return None


@rule
def a_plan_is_of_a_new_run(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if the costs of a run that goes on are to be predicted, or the name of their file is odd.

    Of a run that goes on a part is done already, and its progress shows the time that is left.
    """
    if (plan := cfg.get("plan", False)) is False:
        return None
    plan = "true" if plan is True else plan  # as it is typed
    if cfg.resume_from is not None or cfg.replay:
        begun = "resume" if cfg.resume_from is not None else "debug=replay"
        return f"plan={plan} predicts the costs of a new run: leave {begun} out; a run that goes on shows its time left"
    if isinstance(plan, str) and not plan.endswith(".json"):
        return f"plan={plan}: it is true, false or a file FILE.json for the numbers"
    return None


@rule
def profiler_is_known(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message unless ``trainer.profiler`` is a word of :data:`PROFILERS`, an object, or null."""
    word = cfg.trainer.get("profiler")
    if word is None or OmegaConf.is_dict(word) or word in PROFILERS:
        return None
    return f"trainer.profiler is one of {', '.join(PROFILERS)}, or null, not {word}"


@rule
def logger_mode_is_known(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message unless ``logger.mode`` is ``online``, ``offline`` or ``disabled``."""
    return None if cfg.logger.mode in MODES else f"logger.mode is one of {', '.join(MODES)}, not {cfg.logger.mode}"


@rule
def tensorboard_is_installed(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if a run is to write files for TensorBoard, whose package is not installed."""
    if cfg.logger.tensorboard and importlib.util.find_spec("tensorboard") is None:
        return "logger.tensorboard=true needs tensorboard; pip install 'diffsweep[tensorboard]', or use logger=csv"
    return None


@rule
def trainer_precision_is_known(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message unless ``trainer.precision`` is one in which a run trains and its samples are drawn."""
    try:
        precision_of(cfg.trainer.precision)
    except ValueError as error:
        return str(error)
    return None


@rule
def scaled_gradients_are_not_clipped_when_fused(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if float16 gradients are clipped with a fused optimizer, which unscales them later.

    A command on a finished run has no gradients. The message has what a GPU is needed for too, so that nobody on a CPU
    changes the optimizer first.
    """
    mixed = precision_of(cfg.trainer.precision)
    scaled, of_a_run = mixed.computed is not None and not mixed.has_range_of_float32, "checkpoint" in cfg
    if scaled and not of_a_run and cfg.optimizer.get("fused") and cfg.trainer.gradient_clip_val:
        return (
            f"trainer.precision={cfg.trainer.precision} is of GPUs, and its gradients cannot be clipped with a fused "
            "optimizer; use trainer.precision=bf16-mixed, on a CPU too, or on a GPU optimizer.fused=false"
        )
    return None


@rule
def trainer_accelerator_is_known(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if ``trainer.accelerator`` is a name that Lightning does not have."""
    return _unknown(
        "accelerator", cfg.trainer.get("accelerator"), {"gpu", *AcceleratorRegistry.available_accelerators()}
    )


@rule
def trainer_strategy_is_known(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if ``trainer.strategy`` is a name that Lightning does not have."""
    return _unknown("strategy", cfg.trainer.get("strategy"), set(StrategyRegistry.available_strategies()))


def _unknown(key: str, value: Any, known: set[str]) -> str | None:
    """Return why a word is refused that Lightning does not know, with those that it knows, the nearest first."""
    if not isinstance(value, str) or value in (words := sorted({"auto", *known})):
        return None
    near = difflib.get_close_matches(value, words, n=len(words), cutoff=0.6)
    listed = ", ".join([*near, *(word for word in words if word not in near)][:MOST]) + ", ..." * (len(words) > MOST)
    return f"trainer.{key}={value}: no such {key}{f', did you mean {near[0]}?' if near else ';'} Lightning has {listed}"


@rule
def trainer_devices_are_valid(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message unless ``trainer.devices`` is a positive number, -1 for all, ``auto`` or a list."""
    devices = cfg.trainer.devices
    if cfg.trainer.get("accelerator") == "cpu" and (message := why_not_of_cpu(devices)):
        return message
    if isinstance(devices, int) and devices < 1 and devices != -1:
        return f"trainer.devices={devices} must be at least 1, or of GPUs a list such as [0,1]; -1 is all of them"
    if isinstance(devices, str) and devices != "auto" and not re.fullmatch(r"-1|\d+(,\d+)*,?", devices):
        return f"trainer.devices={devices} is no number of devices; use a number, of GPUs a list such as [0,1], or auto"
    return None


def why_not_of_cpu(devices: Any) -> str | None:
    """Return an error message unless ``trainer.devices`` is one of a CPU: a number of processes, or ``auto``, one."""
    if devices == "auto" or (str(devices).isdigit() and int(devices) > 0):
        return None
    listed = devices.split(",") if isinstance(devices, str) else [] if isinstance(devices, int) else devices
    count = max(1, sum(str(device).strip() not in ("", "-1") for device in listed))
    return (
        f"trainer.devices={devices}: a CPU has no numbered devices, and its number is that of the processes that share "
        f"it, at least 1; type trainer.devices={count}"
    )


@rule
def num_nodes_is_positive(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message unless ``trainer.num_nodes`` is a whole number of machines, at least 1."""
    nodes = cfg.trainer.get("num_nodes", 1)
    if isinstance(nodes, int) and nodes >= 1:
        return None
    return f"trainer.num_nodes is the number of machines, at least 1, not {nodes}"


@rule
def trainer_settings_are_accepted(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if Lightning's Trainer refuses a setting that means the same on every machine.

    Settings of the machine, such as ``devices``, have rules of their own and are left out here. Nothing is checked if a
    setting is itself an object to build.
    """
    plain = OmegaConf.to_container(cfg.trainer, resolve=True)
    assert isinstance(plain, dict)
    settings: dict[str, Any] = {str(key): value for key, value in plain.items() if key not in OF_THE_MACHINE}
    if any(isinstance(value, dict) and "_target_" in value for value in settings.values()):  # a part to build first
        return None
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        settings |= {"accelerator": "cpu", "devices": 1, "logger": False, **dict.fromkeys(SHOWN, False)}
        Trainer(**settings)
    except (MisconfigurationException, TypeError, ValueError) as error:
        return f"trainer: {' '.join(str(error).split())}"
    finally:
        logger.setLevel(level)
    return None
