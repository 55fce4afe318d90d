"""Schedulers of diffusers as options of ``train.py``: schedule, prediction and sampler.

What is expressed and what is refused is listed in :mod:`~diffsweep.interchange.schedulers`, for both directions.
"""

from collections.abc import Callable, Mapping
from typing import Any

from diffsweep.errors import UserError
from diffsweep.interchange.options import Described

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
OTHER_LEVELS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_flow_sigmas")
INSTEAD = "choose one, as in sampler=ddim sampler.steps=50"


def scheduler_options(
    config: Mapping[str, Any], source: str, read: Described, time_scale: float, with_sampler: bool = True
) -> list[str]:
    """Return the overrides of schedule, prediction and sampler that a scheduler of diffusers stands for.

    An example is ``["schedule=linear", "sampler=ddim"]``.

    Args:
        config: the content of ``scheduler_config.json``.
        source: the file, for error messages.
        read: the network in terms of ours.
        time_scale: factor of the timesteps that the network is given.
        with_sampler: whether the sampler is read too.

    Raises:
        UserError: no option expresses the scheduler; the message has the value.
    """
    kind = str(config.get("_class_name"))
    if kind == "FlowMatchEulerDiscreteScheduler":
        if config.get("shift", 1.0) != 1 or config.get("use_dynamic_shifting"):
            raise UserError(f"{source} shifts its noise levels, which no option does")
        sampler = ["sampler=euler", "sampler.clip=none"] if with_sampler else []
        return ["schedule=flow", "prediction=flow", *sampler]
    count = config.get("num_train_timesteps", 1000)
    if round(count * time_scale) != 1000:
        raise UserError(f"{source} has num_train_timesteps={count}; networks of diffsweep embed 1000 t")
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise UserError(f"{source} has prediction_type={prediction}; {', '.join(PREDICTIONS)} can be read")
    variance = VARIANCES.get(str(config.get("variance_type")), "fixed_small")
    if (read.heads == 2) != (variance == "learned_range"):  # schedulers without a variance drop the second half
        variance = "learned_range" if read.heads == 2 else "fixed_small"
    return [
        *_schedule(config, source, count),
        f"prediction={PREDICTIONS[prediction]}",
        f"prediction.variance={variance}",
        *(_sampler(kind, config, source, count) if with_sampler else ()),
    ]


def _schedule(config: Mapping[str, Any], source: str, count: int) -> list[str]:
    curve = config.get("beta_schedule", "linear")
    if config.get("trained_betas") is not None or curve not in SCHEDULES or config.get("rescale_betas_zero_snr"):
        name = "trained_betas" if config.get("trained_betas") is not None else f"beta_schedule={curve}"
        raise UserError(f"{source} has {name}, which no option expresses; {', '.join(SCHEDULES)} can be read")
    ends = (("beta_start", 1e-4), ("beta_end", 0.02)) if curve != "squaredcos_cap_v2" else ()
    scaled = [f"schedule.{key}={config.get(key, value) * count / 1000!r}" for key, value in ends]  # ours scale with T
    return [f"schedule={SCHEDULES[curve]}", f"schedule.num_steps={count}", *scaled]


def _sampler(kind: str, config: Mapping[str, Any], source: str, count: int) -> list[str]:
    if kind not in SAMPLERS:
        raise UserError(f"{source} is of the class {kind}; {', '.join(SAMPLERS)} can be read; {INSTEAD}")
    if other := [key for key in OTHER_LEVELS if config.get(key)]:
        raise UserError(f"{source} has {other[0]}, noise levels that no sampler.spacing has; {INSTEAD}")
    if config.get("final_sigmas_type", "zero") != "zero":
        raise UserError(f"{source} has final_sigmas_type={config['final_sigmas_type']}; zero can be read; {INSTEAD}")
    clip = "static" if config.get("clip_sample", kind in ("DDPMScheduler", "DDIMScheduler")) else "none"
    if config.get("thresholding"):
        clip = "static" if config.get("sample_max_value", 1.0) <= 1 else "dynamic"
    spacing = config.get("timestep_spacing", "leading" if kind in LEADING else "linspace")
    return [
        *SAMPLERS[kind](config, source),
        f"sampler.spacing={SPACINGS[spacing]}",
        f"sampler.stop={_stop(kind, config, source, count, spacing)}",
        f"sampler.clip={clip}",
    ]


def _stop(kind: str, config: Mapping[str, Any], source: str, count: int, spacing: str) -> float:
    """Return the time at which sampling stops: 0, or the first step of the schedule as in Stable Diffusion.

    Raises:
        UserError: the timesteps or the last level are others than with either.
    """
    offset = config.get("steps_offset", 0) if spacing == "leading" else 0
    at_first = kind in AT_FIRST and not config.get("set_alpha_to_one", AT_FIRST[kind])
    if at_first and (spacing, offset) == ("leading", 1):
        return 1 / count
    if at_first or offset:
        end = f"set_alpha_to_one={not at_first}" if kind in AT_FIRST else kind
        raise UserError(
            f"{source} has timestep_spacing={spacing}, steps_offset={config.get('steps_offset', 0)} and {end}, times "
            f"that no sampler.spacing has; {INSTEAD}"
        )
    return 0.0


def _dpm(config: Mapping[str, Any], source: str) -> list[str]:
    order = config.get("solver_order", 2)
    third = ["sampler.public_form=true"] if order == 3 else []
    sde = ["sampler.variant=sde"] if config.get("algorithm_type") == "sde-dpmsolver++" else []
    return ["sampler=dpm_solver_pp", f"sampler.order={order}", "sampler.warm_start=euler", *third, *sde]


def _unipc(config: Mapping[str, Any], source: str) -> list[str]:
    order, variant = config.get("solver_order", 2), config.get("solver_type", "bh2")
    return ["sampler=unipc", f"sampler.order={order}", f"sampler.variant={variant}", "sampler.warm_start=euler"]


def _pndm(config: Mapping[str, Any], source: str) -> list[str]:
    if not config.get("skip_prk_steps", False):
        raise UserError(f"{source} has skip_prk_steps=False, Runge-Kutta steps that no sampler takes; {INSTEAD}")
    return ["sampler=plms", "sampler.public_form=true"]


def _always(*options: str) -> Callable[[Mapping[str, Any], str], list[str]]:
    return lambda _config, _source: list(options)


LEADING = ("DDPMScheduler", "DDIMScheduler", "PNDMScheduler")  # whose timesteps are spaced so by default
AT_FIRST = {"DDIMScheduler": True, "PNDMScheduler": False}  # that have set_alpha_to_one, and its default
SAMPLERS: dict[str, Callable[[Mapping[str, Any], str], list[str]]] = {
    "DDPMScheduler": _always("sampler=ancestral"),
    "DDIMScheduler": _always("sampler=ddim"),
    "DPMSolverMultistepScheduler": _dpm,
    "UniPCMultistepScheduler": _unipc,
    "EulerDiscreteScheduler": _always("sampler=euler"),
    "EulerAncestralDiscreteScheduler": _always("sampler=euler_ancestral"),
    "HeunDiscreteScheduler": _always("sampler=heun", "sampler.public_form=true"),
    "LMSDiscreteScheduler": _always("sampler=lms", "sampler.warm_start=euler"),
    "PNDMScheduler": _pndm,
}
