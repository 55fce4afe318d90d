"""Samplers on a noise schedule as diffusers' schedulers of the same solver.

diffusers counts the T steps of a discrete schedule from 0: its timestep i is the time t = (i + 1) / T here.

Images from the same noise differ by at most 1e-4, in float32, where the scheduler is expressed in both directions:

=================================  =================  ==============================================================
diffusers                          sampler            expressed with
=================================  =================  ==============================================================
DDPMScheduler                      ancestral          all variances; thresholding; spacing trailing and leading
DDIMScheduler                      ddim               eta, clipping; steps_offset=1 set_alpha_to_one=False is
                                                      spacing=leading stop=1/T
PNDMScheduler                      plms               public_form=true, no clipping; skip_prk_steps=True alone; the
                                                      offset of DDIMScheduler
EulerDiscreteScheduler             euler              no clipping; not from zero terminal SNR
EulerAncestralDiscreteScheduler    euler_ancestral    the same, and eta=1
HeunDiscreteScheduler              heun               public_form=true, no churn, no clipping; not from zero SNR
LMSDiscreteScheduler               lms                warm_start=euler, no clipping; not from zero terminal SNR
DPMSolverMultistepScheduler        dpm_solver_pp      orders 1, 2, and 3 with public_form=true; the sde of order 2
UniPCMultistepScheduler            unipc              orders 1 and 2, both of bh1 and bh2
FlowMatchEulerDiscreteScheduler    euler              schedule=flow, spacing=uniform, no shift
=================================  =================  ==============================================================

Refused, in both directions: DPMSolverSinglestepScheduler, whose inner points are timesteps of its grid, where those of
dpm_solver lie between in log-SNR; DEISMultistepScheduler, which ends at the noise of timestep 0; the noise levels of
``use_karras_sigmas``, ``use_exponential_sigmas`` and ``use_beta_sigmas``, which begin and end at the levels of
timesteps and not at noise and clean data. ``timestep_spacing=linspace`` is read as trailing, whose timesteps differ
from it by less than a stride, and is never written.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from diffsweep import samplers
from diffsweep.diffusion import X0, Eps, Prediction, V
from diffsweep.diffusion.prediction import Flow as FlowPrediction
from diffsweep.errors import UserError
from diffsweep.interchange.betas import betas_of
from diffsweep.samplers import Sampler
from diffsweep.schedules import Flow, Schedule

WITHOUT_X0 = ("EulerAncestralDiscreteScheduler", "PNDMScheduler")
PREDICTIONS: dict[type[Prediction], str] = {Eps: "epsilon", X0: "sample", V: "v_prediction"}
VARIANCES = {0.0: "fixed_small", 1.0: "fixed_large", None: "learned_range"}
UNBOUNDED = 1e6  # a largest value of dynamic clipping that is never reached


@dataclass(frozen=True)
class Scheduler:
    """A scheduler of diffusers that takes the steps of a sampler of ours.

    Attributes:
        kind: the name of its class, such as ``DDIMScheduler``.
        config: the arguments of its constructor.
        step: further arguments of its ``step``.
        noise_scale: factor of standard normal noise at which it starts.
        straight: whether its noise levels are 1, 1 - 1/n, ... for n steps, which it is given in place of their number.
    """

    kind: str
    config: dict[str, Any]
    step: dict[str, Any] = field(default_factory=dict)
    noise_scale: float = 1.0
    straight: bool = False


def scheduler_of(sampler: Sampler, schedule: Schedule, prediction: Prediction) -> Scheduler:
    """Return the scheduler of diffusers whose samples are those of a sampler from the same noise.

    Raises:
        UserError: no scheduler of diffusers takes the same steps; the message names the option, and what would do.
    """
    if (sampler.start, sampler.temperature) != (1.0, 1.0):
        raise UserError("sampler.start and temperature: diffusers' schedulers have 1 and 1 only")
    if sampler.stop and not _stops_at_first(sampler, schedule):
        raise UserError(
            f"sampler.stop={sampler.stop}: diffusers' schedulers have 0 only, and sampler=ddim and plms with "
            "sampler.spacing=leading also the first step of the schedule"
        )
    if (prediction.time_scale, prediction.time_offset) != (1.0, 0.0):
        raise UserError("prediction.time_scale and time_offset: diffusers gives networks the timestep, 1 and 0")
    make = SOLVERS.get(type(sampler))
    if make is None:
        if why := OTHERWISE.get(type(sampler)):
            raise UserError(why)
        known = ", ".join(sorted(kind.__name__ for kind in SOLVERS))
        raise UserError(f"diffusers has no scheduler that takes the steps of {type(sampler).__name__}; it has {known}")
    if isinstance(schedule, Flow):
        return _flow(sampler, prediction)
    made = make(sampler, schedule, prediction)
    if made.kind in WITHOUT_X0 and made.config["prediction_type"] == "sample":
        raise UserError(f"prediction=x0: {made.kind} of diffusers has eps and v only")
    return made


def _flow(sampler: Sampler, prediction: Prediction) -> Scheduler:
    """Return Euler's method on the straight path of flow matching."""
    if not isinstance(prediction, FlowPrediction):
        raise UserError("schedule=flow: diffusers has it with prediction=flow only")
    if not isinstance(sampler, samplers.DDIM) or sampler.order is None or sampler.spacing != "uniform":
        raise UserError("schedule=flow: use sampler=euler sampler.spacing=uniform sampler.clip=none for diffusers")
    _without_clipping(sampler, "FlowMatchEulerDiscreteScheduler")
    return Scheduler("FlowMatchEulerDiscreteScheduler", {"num_train_timesteps": 1000}, straight=True)


def _common(sampler: Sampler, schedule: Schedule, prediction: Prediction, spacings: tuple[str, ...]) -> dict[str, Any]:
    """Return the arguments that all schedulers have: schedule, prediction and spacing of the timesteps."""
    if type(prediction) not in PREDICTIONS:
        names = ", ".join(kind.__name__.lower() for kind in PREDICTIONS)
        raise UserError(f"prediction={type(prediction).__name__.lower()}: diffusers has {names} on this schedule")
    betas = betas_of(schedule)
    count = betas["num_train_timesteps"]
    spacing = "trailing" if sampler.spacing == "uniform" and count % sampler.steps == 0 else sampler.spacing
    if spacing not in spacings:
        raise UserError(
            f"sampler.spacing={sampler.spacing} of {sampler.steps} steps: diffusers has {' and '.join(spacings)} on a "
            f"grid of {count}; add sampler.spacing={spacings[0]}"
        )
    if count % sampler.steps and spacing == "trailing" and len(spacings) > 1:
        raise UserError(f"sampler.steps={sampler.steps} does not divide the {count} steps of the schedule")
    return {**betas, "prediction_type": PREDICTIONS[type(prediction)], "timestep_spacing": spacing}


def _thresholds(sampler: Sampler) -> dict[str, Any]:
    """Return the arguments that clip x_0 by diffusers' dynamic thresholding, of which a constant one is a case."""
    most = {"none": None, "static": 1.0, "dynamic": UNBOUNDED}[sampler.clip]
    if most is None:
        return {}
    return {"thresholding": True, "dynamic_thresholding_ratio": 0.995, "sample_max_value": most}


def _clips(sampler: Sampler) -> dict[str, Any]:
    """Return the arguments that clip x_0 in the schedulers that have it as an option."""
    return {"clip_sample": sampler.clip == "static", **(_thresholds(sampler) if sampler.clip == "dynamic" else {})}


def _without_clipping(sampler: Sampler, kind: str) -> None:
    if sampler.clip != "none":
        raise UserError(f"sampler.clip={sampler.clip}: {kind} of diffusers does not clip; add sampler.clip=none")


def _stops_at_first(sampler: Sampler, schedule: Schedule) -> bool:
    """Return whether sampling stops at the first step of the schedule, as with the schedulers of Stable Diffusion."""
    ends = isinstance(sampler, (samplers.DDIM, samplers.PLMS)) and not isinstance(sampler, samplers.Euler)
    first = schedule.num_steps is not None and math.isclose(sampler.stop * schedule.num_steps, 1)
    return ends and first and sampler.spacing == "leading"


def _end(sampler: Sampler) -> dict[str, Any]:
    """Return the arguments for the level at which sampling stops, clean data or the first step of the schedule."""
    return {"set_alpha_to_one": False, "steps_offset": 1} if sampler.stop else {"set_alpha_to_one": True}


def _prior(schedule: Schedule) -> float:
    """Return sigma at t = 1, the factor of the noise that sampling starts from."""
    return schedule.at(torch.ones((), dtype=torch.float64)).sigma


def _ddpm(sampler: samplers.Ancestral, schedule: Schedule, prediction: Prediction) -> Scheduler:
    config = _common(sampler, schedule, prediction, ("trailing", "leading"))
    ends_at_zero = config["timestep_spacing"] == "leading" or sampler.steps == config["num_train_timesteps"]
    if prediction.variance_mix != 0 and not ends_at_zero:
        raise UserError(
            "prediction.variance: at its last timestep DDPMScheduler of diffusers adds noise to the image, unless that "
            f"is 0; add sampler.spacing=leading or sampler.steps={config['num_train_timesteps']}"
        )
    variance = {"variance_type": VARIANCES[prediction.variance_mix]}
    return Scheduler("DDPMScheduler", {**config, **variance, **_clips(sampler)}, {}, _prior(schedule))


def _ddim(sampler: samplers.DDIM, schedule: Schedule, prediction: Prediction) -> Scheduler:
    config = _common(sampler, schedule, prediction, ("trailing", "leading"))
    step = {"eta": sampler.eta} if sampler.eta else {}
    step |= {"use_clipped_model_output": True} if sampler.clip != "none" else {}
    return Scheduler("DDIMScheduler", {**config, **_end(sampler), **_clips(sampler)}, step, _prior(schedule))


def _multistep(
    kind: str, algorithm: Callable[[Any], dict[str, Any]]
) -> Callable[[Any, Schedule, Prediction], Scheduler]:
    """Return a function that makes the scheduler of a multistep solver.

    Args:
        kind: the class in diffusers.
        algorithm: maps the sampler to further arguments.
    """

    def make(sampler: Any, schedule: Schedule, prediction: Prediction) -> Scheduler:
        config = _common(sampler, schedule, prediction, ("trailing",))
        if sampler.order is not None and sampler.solver_order > 1:
            _started_by_euler(sampler)
        return Scheduler(kind, {**config, **algorithm(sampler), **_thresholds(sampler)}, {}, _prior(schedule))

    return make


def _dpm_solver_pp(sampler: samplers.DPMSolverPP) -> dict[str, Any]:
    if sampler.variant == "singlestep" or (sampler.solver_order == 3 and not sampler.public_form):
        raise UserError(
            "sampler=dpm_solver_pp: diffusers has variant=multistep of order 2, of order 3 with "
            "sampler.public_form=true, and variant=sde"
        )
    kind = "sde-dpmsolver++" if sampler.variant == "sde" else "dpmsolver++"
    return {"solver_order": sampler.solver_order, "algorithm_type": kind, "lower_order_final": False}


def _unipc(sampler: samplers.UniPC) -> dict[str, Any]:
    if sampler.solver_order == 3:
        raise UserError("sampler.order=3: UniPCMultistepScheduler of diffusers ends at order 2; add sampler.order=2")
    return {"solver_order": sampler.solver_order, "solver_type": sampler.variant}


def _exploding(kind: str, step: Callable[[Any], dict[str, Any]]) -> Callable[[Any, Schedule, Prediction], Scheduler]:
    """Return a function that makes a scheduler which steps in sigma / alpha, as k-diffusion does."""

    def make(sampler: Any, schedule: Schedule, prediction: Prediction) -> Scheduler:
        config = _common(sampler, schedule, prediction, ("trailing", "leading"))
        _without_clipping(sampler, kind)
        first = schedule.at(sampler.times(schedule)[0])
        if first.alpha == 0:
            raise UserError(
                f"schedule.zero_terminal_snr: {kind} of diffusers steps in sigma / alpha, which is infinite"
            )
        return Scheduler(kind, config, step(sampler), _prior(schedule) / first.alpha)

    return make


def _full_noise(sampler: samplers.EulerAncestral) -> dict[str, Any]:
    if sampler.eta != 1:
        raise UserError(f"sampler.eta={sampler.eta}: EulerAncestralDiscreteScheduler of diffusers has 1 only")
    return {}


def _public_heun(sampler: samplers.Heun) -> dict[str, Any]:
    if sampler.s_churn:
        raise UserError(f"sampler.s_churn={sampler.s_churn}: HeunDiscreteScheduler of diffusers adds no noise")
    if not sampler.public_form:
        raise UserError(
            "sampler.public_form=false: HeunDiscreteScheduler of diffusers has the trapezoid rule in sigma / alpha; "
            "add sampler.public_form=true"
        )
    return {}


def _lms_order(sampler: samplers.LMS) -> dict[str, Any]:
    _started_by_euler(sampler)
    return {"order": sampler.memory}


def _started_by_euler(sampler: Any) -> None:
    if sampler.warm_start != "euler":
        raise UserError(
            f"sampler.warm_start={sampler.warm_start}: diffusers starts with euler; add sampler.warm_start=euler"
        )


def _pndm(sampler: samplers.PLMS, schedule: Schedule, prediction: Prediction) -> Scheduler:
    config = _common(sampler, schedule, prediction, ("trailing", "leading"))
    _without_clipping(sampler, "PNDMScheduler")
    if not sampler.public_form:
        raise UserError(
            "sampler.public_form=false: diffusers starts PLMS as the public code; add sampler.public_form=true"
        )
    own = {"skip_prk_steps": True, **_end(sampler)}
    return Scheduler("PNDMScheduler", {**config, **own}, {}, _prior(schedule))


SOLVERS: dict[type[Sampler], Callable[[Any, Schedule, Prediction], Scheduler]] = {
    samplers.Ancestral: _ddpm,
    samplers.DDIM: _ddim,
    samplers.DPMSolverPP: _multistep("DPMSolverMultistepScheduler", _dpm_solver_pp),
    samplers.UniPC: _multistep("UniPCMultistepScheduler", _unipc),
    samplers.Euler: _exploding("EulerDiscreteScheduler", lambda _: {}),
    samplers.EulerAncestral: _exploding("EulerAncestralDiscreteScheduler", _full_noise),
    samplers.Heun: _exploding("HeunDiscreteScheduler", _public_heun),
    samplers.LMS: _exploding("LMSDiscreteScheduler", _lms_order),
    samplers.PLMS: _pndm,
}
OTHERWISE: dict[type[Sampler], str] = {  # samplers whose scheduler takes other steps, and how they differ
    samplers.DEIS: (
        "sampler=deis: DEISMultistepScheduler of diffusers ends at the noise of its first timestep, where deis ends at "
        "clean data; use sampler=dpm_solver_pp or unipc"
    ),
    samplers.DPMSolver: (
        "sampler=dpm_solver: DPMSolverSinglestepScheduler of diffusers evaluates its inner points at timesteps of the "
        "grid and mixes orders; use sampler=dpm_solver_pp, whose scheduler is DPMSolverMultistepScheduler"
    ),
}
