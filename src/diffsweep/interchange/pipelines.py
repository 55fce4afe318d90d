"""Pipelines of diffusers as runs: the options of ``train.py`` that describe them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from diffsweep import shell
from diffsweep.errors import UserError
from diffsweep.interchange.folders import CONFIG, INDEX, SCHEDULER, read_json
from diffsweep.interchange.options import Described, described

NETWORKS = ("unet", "transformer")
AUTOENCODERS = ("vae", "vqvae")
SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine", "sigmoid": "sigmoid"}
PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
VARIANCES = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",
    "fixed_large": "fixed_large",
    "fixed_large_log": "fixed_large",
    "learned_range": "learned_range",
}
SPACINGS = {"leading": "leading", "trailing": "trailing", "linspace": "trailing"}


class PipelineFolder(NamedTuple):
    """A pipeline of diffusers in a folder.

    Attributes:
        network: the folder of the U-Net or the DiT.
        autoencoder: the folder of the autoencoder; None for a pipeline in pixels.
        described: the network in terms of ours.
        null_class: the class that means none, if it is among the network's classes, as their last.
        overrides: the options of ``train.py`` that describe the pipeline, but for the dataset.
    """

    network: Path
    autoencoder: Path | None
    described: Described
    null_class: int | None
    overrides: list[str]


def read_pipeline(folder: Path) -> PipelineFolder:
    """Return what a pipeline of diffusers is, from its configurations; no weights are read.

    Args:
        folder: the folder of the pipeline, with ``model_index.json``.

    Raises:
        UserError: it is no pipeline, or has a part that no option expresses.
    """
    index = read_json(folder / INDEX)
    parts = {name for name, value in index.items() if isinstance(value, list) and value and value[0] is not None}
    if index.get("norm_groups"):
        raise UserError(
            f"{folder} has norms with other groups than its network's: use the run that it was exported from"
        )
    network = next((folder / name for name in NETWORKS if name in parts), None)
    if network is None:
        raise UserError(f"{folder / INDEX} has no {' or '.join(NETWORKS)}; other pipelines cannot be read")
    if text := sorted(name for name in parts if name.startswith(("text_encoder", "prior", "image_encoder"))):
        raise UserError(f"{folder} has a {text[0]}; pipelines without a condition or with classes can be read")
    autoencoder = next((folder / name for name in AUTOENCODERS if name in parts), None)
    read = described(read_json(network / CONFIG), str(network / CONFIG))
    null = index.get("null_class")
    classes = read.classes if null is None or read.classes is None or read.option == "dit" else read.classes - 1
    if autoencoder is None and read.option == "dit" and classes == 1:
        classes = None  # a DiT of diffusers has classes; an unconditional one has a single one
    read = read._replace(classes=classes)
    scheduler = read_json(folder / "scheduler" / SCHEDULER)
    overrides = [
        *_model(read, classes),
        *_backbone(read),
        *_scheduler(scheduler, str(folder / "scheduler" / SCHEDULER), read, index.get("time_scale", 1.0)),
        *(_space(autoencoder) if autoencoder is not None else ()),
        *(["sampler.clip=none"] if autoencoder is not None else ()),
    ]
    return PipelineFolder(network, autoencoder, read, null if read.option == "unet" else None, overrides)


def _model(read: Described, classes: int | None) -> list[str]:
    return ["model=ddpm", *(["conditioning=class"] if classes is not None else ["conditioning=none"])]


def _backbone(read: Described) -> list[str]:
    values = {key: "null" if value is None else json.dumps(value) for key, value in read.settings.items()}
    return [f"backbone={read.option}", *(f"backbone.{key}={value.strip(chr(34))}" for key, value in values.items())]


def _space(autoencoder: Path) -> list[str]:
    """Return the options of the autoencoder, whose weights are read where they lie."""
    config = read_json(autoencoder / CONFIG)
    factor = 2 ** (len(config.get("block_out_channels", [64])) - 1)
    return [
        "autoencoder=public",
        shell.override("autoencoder.model.path", str(autoencoder.absolute())),
        f"autoencoder.channels={config.get('latent_channels', 4)}",
        f"autoencoder.factor={factor}",
    ]


def _scheduler(config: Mapping[str, Any], source: str, read: Described, time_scale: float) -> list[str]:
    """Return the options of schedule, prediction and sampler."""
    kind = str(config.get("_class_name"))
    if kind == "FlowMatchEulerDiscreteScheduler":
        if config.get("shift", 1.0) != 1 or config.get("use_dynamic_shifting"):
            raise UserError(f"{source} shifts its noise levels, which no option does")
        return ["schedule=flow", "prediction=flow", "sampler=euler", "sampler.clip=none"]
    if kind not in SAMPLERS:
        raise UserError(f"{source} is of the class {kind}; {', '.join(SAMPLERS)} can be read")
    count = config.get("num_train_timesteps", 1000)
    if round(count * time_scale) != 1000:
        raise UserError(f"{source} has num_train_timesteps={count}; networks of diffsweep embed 1000 t")
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise UserError(f"{source} has prediction_type={prediction}; {', '.join(PREDICTIONS)} can be read")
    variance = VARIANCES.get(str(config.get("variance_type")), "fixed_small")
    if (read.heads == 2) != (variance == "learned_range"):  # schedulers without a variance drop the second half
        variance = "learned_range" if read.heads == 2 else "fixed_small"
    clip = "static" if config.get("clip_sample", kind in ("DDPMScheduler", "DDIMScheduler")) else "none"
    if config.get("thresholding"):
        clip = "static" if config.get("sample_max_value", 1.0) <= 1 else "dynamic"
    spacing = config.get("timestep_spacing", "leading" if kind in LEADING else "linspace")
    return [
        *_schedule(config, source, count),
        f"prediction={PREDICTIONS[prediction]}",
        f"prediction.variance={variance}",
        *SAMPLERS[kind](config),
        f"sampler.spacing={SPACINGS[spacing]}",
        f"sampler.clip={clip}",
    ]


def _schedule(config: Mapping[str, Any], source: str, count: int) -> list[str]:
    curve = config.get("beta_schedule", "linear")
    if config.get("trained_betas") is not None or curve not in SCHEDULES or config.get("rescale_betas_zero_snr"):
        name = "trained_betas" if config.get("trained_betas") is not None else f"beta_schedule={curve}"
        raise UserError(f"{source} has {name}, which no option expresses; {', '.join(SCHEDULES)} can be read")
    ends = (("beta_start", 1e-4), ("beta_end", 0.02)) if curve != "squaredcos_cap_v2" else ()
    scaled = [f"schedule.{key}={config.get(key, value) * count / 1000!r}" for key, value in ends]  # ours scale with T
    return [f"schedule={SCHEDULES[curve]}", f"schedule.num_steps={count}", *scaled]


def _dpm(config: Mapping[str, Any]) -> list[str]:
    order = config.get("solver_order", 2)
    third = ["sampler.public_form=true"] if order == 3 else []
    sde = ["sampler.variant=sde"] if config.get("algorithm_type") == "sde-dpmsolver++" else []
    return ["sampler=dpm_solver_pp", f"sampler.order={order}", "sampler.warm_start=euler", *third, *sde]


def _unipc(config: Mapping[str, Any]) -> list[str]:
    order, variant = config.get("solver_order", 2), config.get("solver_type", "bh2")
    return ["sampler=unipc", f"sampler.order={order}", f"sampler.variant={variant}", "sampler.warm_start=euler"]


LEADING = ("DDPMScheduler", "DDIMScheduler", "PNDMScheduler")  # whose timesteps are spaced so by default
SAMPLERS: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "DDPMScheduler": lambda _: ["sampler=ancestral"],
    "DDIMScheduler": lambda _: ["sampler=ddim"],
    "DPMSolverMultistepScheduler": _dpm,
    "UniPCMultistepScheduler": _unipc,
    "EulerDiscreteScheduler": lambda _: ["sampler=euler"],
    "EulerAncestralDiscreteScheduler": lambda _: ["sampler=euler_ancestral"],
    "LMSDiscreteScheduler": lambda _: ["sampler=lms", "sampler.warm_start=euler"],
    "PNDMScheduler": lambda _: ["sampler=plms", "sampler.public_form=true"],
}
