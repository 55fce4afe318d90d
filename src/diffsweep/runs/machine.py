"""Check that this machine has the devices that a training is to run on, before its directory is made."""

import logging
import os
import sys
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from omegaconf import DictConfig, OmegaConf

from diffsweep.configuration.rules.trainer import why_not_of_cpu
from diffsweep.configuration.saved import load_config
from diffsweep.errors import UserError
from diffsweep.processes import started, starts_first

OF_ANY_GPU = ("gpu", "cuda")
OF_GPUS = ("fsdp", "deepspeed")  # the first letters of strategies that are of GPUs alone
OF_THE_MACHINE = ("accelerator", "devices", "num_nodes", "strategy", "precision")


def check_processes(cfg: DictConfig) -> None:
    """Raise a UserError if ``torchrun`` or ``srun`` has started another number of processes than a training has.

    Args:
        cfg: a checked configuration of ``train``.

    Raises:
        UserError: with the keys and the number that fits.
    """
    count, wanted, nodes = started(), processes_of(cfg), cfg.trainer.get("num_nodes", 1)
    if count in (None, wanted) or (wanted == 1 and starts_first()):
        return
    on_each = f" on {nodes} machines" if nodes > 1 else ""
    raise UserError(
        f"trainer.devices={cfg.trainer.devices}{on_each} is a training of {wanted} processes, and {count} were started "
        f"by torchrun or srun; start {wanted}, or type trainer=ddp trainer.num_nodes=MACHINES with the "
        "trainer.devices of each machine"
    )


def check_machine(cfg: DictConfig) -> None:
    """Raise a UserError unless this machine has the accelerator, the devices and the precision of a configuration.

    It is no rule of the configuration, since a sweep may be typed on a machine without the GPUs that its jobs get, and
    a run of a GPU may be sampled on a CPU.

    Args:
        cfg: a checked configuration of ``train``.

    Raises:
        UserError: with the key and what to type instead.
    """
    devices, cuda = cfg.trainer.devices, CUDAAccelerator.auto_device_count()
    has_gpu = cuda > 0 or MPSAccelerator.is_available()
    _check_accelerator(cfg, has_gpu, cuda > 0)
    on_cpu = _on_cpu(cfg, has_gpu)
    _check_precision(str(cfg.trainer.precision), on_cpu, "training")
    strategy = str(cfg.trainer.get("strategy", "auto"))
    if on_cpu and strategy.startswith(OF_GPUS):
        raise UserError(f"trainer.strategy={strategy} is of GPUs, and this training is on the CPU; type trainer=ddp")
    if on_cpu and (message := why_not_of_cpu(devices)):
        raise UserError(message)
    wanted = _count(devices)
    if cuda and not on_cpu and wanted > cuda:
        raise UserError(f"trainer.devices={devices}: this machine has {cuda} of them; type trainer.devices={cuda}")
    cores = os.cpu_count() or 1
    if on_cpu and wanted > cores:
        print(f"warning: trainer.devices={devices}: so many processes share {cores} cores of the CPU", file=sys.stderr)
    _try(cfg)


def check_sampling_machine(cfg: DictConfig) -> None:
    """Raise a UserError unless this machine can sample a run as a command requests it, on one device a process.

    The accelerator and the number of devices that the run was trained on may be absent: the run is sampled on what the
    machine has, and a warning is printed. Those that the command changes are checked, and the precision always is.

    Args:
        cfg: a checked configuration of a command that uses a run, such as ``evaluate`` or ``sample``.

    Raises:
        UserError: with the key and what to type instead.
    """
    trained = load_config(cfg.paths.run_dir).trainer
    cuda = torch.cuda.is_available()  # samples are drawn on such devices or on the CPU: see ``device_of``
    if cfg.trainer.accelerator != trained.get("accelerator"):
        _check_accelerator(cfg, cuda, cuda)
    elif cfg.trainer.accelerator in OF_ANY_GPU and not cuda:
        words = f"trainer.accelerator={cfg.trainer.accelerator} of the run: this machine has no such GPU"
        print(f"warning: {words}; samples are drawn on the CPU", file=sys.stderr)
    count = processes_of(cfg)
    if cfg.trainer.devices != trained.get("devices") and count not in (1, started()):
        raise UserError(
            f"trainer.devices={cfg.trainer.devices}: a process samples on one device; leave it out, and start "
            f"evaluate.py by torchrun --nproc_per_node={count} for more"
        )
    _check_precision(str(cfg.trainer.precision), _on_cpu(cfg, cuda), "sampling")


def _check_accelerator(cfg: DictConfig, has_gpu: bool, has_cuda: bool) -> None:
    """Raise a UserError if a GPU is to be used and this machine has none."""
    accelerator = str(cfg.trainer.accelerator)
    if accelerator in OF_ANY_GPU and not (has_gpu if accelerator == "gpu" else has_cuda):
        raise UserError(
            f"trainer.accelerator={accelerator}: this machine has no GPU that torch {torch.__version__} can use; type "
            "trainer=cpu, or trainer=auto for whichever device is found"
        )


def _on_cpu(cfg: DictConfig, has_gpu: bool) -> bool:
    """Return whether a command computes on the CPU of a machine."""
    return bool(cfg.trainer.accelerator == "cpu" or not has_gpu)


def _check_precision(precision: str, on_cpu: bool, what: str) -> None:
    """Raise a UserError if the device of a training or a sampling does not compute in a precision."""
    if on_cpu and precision.startswith("16"):
        raise UserError(
            f"trainer.precision={precision} is of GPUs, and this {what} is on the CPU; type "
            "trainer.precision=bf16-mixed or trainer.precision=32-true"
        )
    cuda = not on_cpu and torch.cuda.is_available()
    if cuda and precision.startswith("bf16") and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError(
            f"trainer.precision={precision}: {torch.cuda.get_device_name()} does not compute in bfloat16; type "
            "trainer.precision=16-mixed optimizer.fused=false, or trainer.precision=32-true"
        )
    if not on_cpu and not cuda and precision.startswith("64"):
        raise UserError(
            f"trainer.precision={precision}: the GPU of this machine has no float64; type trainer=cpu, or "
            "trainer.precision=32-true"
        )


def processes_of(cfg: DictConfig) -> int:
    """Return the number of processes, one for each device of each machine, among which a configuration shares a run."""
    devices, nodes = cfg.trainer.devices, cfg.trainer.get("num_nodes", 1)
    if isinstance(devices, str) and "," not in devices and devices.isdigit():
        devices = int(devices)
    if isinstance(devices, int) and devices > 0:
        count = devices
    elif devices in (-1, "-1", "auto"):  # as many as the machine has
        count = max(1, torch.cuda.device_count())
    else:  # a list
        count = len([part for part in devices.split(",") if part]) if isinstance(devices, str) else len(devices)
    return count * int(nodes)


def _count(devices: Any) -> int:
    """Return how many devices a machine must have; 0 if as many as it has are used."""
    if isinstance(devices, int):
        return max(devices, 0)
    if isinstance(devices, str):
        numbers = [int(part) for part in devices.split(",") if part.strip().isdigit()]
        return max(numbers, default=-1) + 1 if "," in devices else sum(numbers)
    return max(map(int, devices), default=-1) + 1


def _try(cfg: DictConfig) -> None:
    """Raise a UserError if Lightning refuses the settings of the trainer that depend on the machine."""
    plain = OmegaConf.to_container(cfg.trainer, resolve=True)
    assert isinstance(plain, dict)
    settings: dict[str, Any] = {str(key): value for key, value in plain.items() if key in OF_THE_MACHINE}
    if any(isinstance(value, dict) for value in settings.values()):  # a part to build first
        return
    parts = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    settings |= dict.fromkeys(parts, False)
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        Trainer(**settings)
    except (MisconfigurationException, ModuleNotFoundError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}") from error
    finally:
        logger.setLevel(level)
