"""Combinations that do not work, each a rule with a name that says why and what to use instead.

A rule asks what the parts are, never what they are called.
"""

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from omegaconf import DictConfig

from diffsweep.backbones import BaseAndResidual, Encoder
from diffsweep.configuration.check import is_of_kind, locate
from diffsweep.configuration.stage_nodes import run_key
from diffsweep.diffusion import INDEPENDENT, Eps, NetworkDenoiser
from diffsweep.errors import UserError
from diffsweep.guidance import Guidance, chain
from diffsweep.models import AutoencoderModel, DiffusionModel, NoisyClassifier
from diffsweep.models.autoencoder import NOTHING

_TOLD = {  # the parts of a condition
    "num_classes": "classes",
    "vector_dim": "features of the whole",
    "num_scalars": "numbers",
    "context_dim": "tokens",
    "image_channels": "an image",
}

STEADY = 1000.0  # of errors of the output in x0, at most

Rule = Callable[[DictConfig, Mapping[str, Any]], str | None]


def guidances(parts: Mapping[str, Any]) -> list[Guidance]:
    """The guidances of a configuration, from the outermost in, around a network that does not compute.

    Raises:
        ValueError: one of their settings is out of its range.
    """
    denoiser = NetworkDenoiser(parts["backbone"], parts["schedule"], parts["prediction"], parts["noise"])
    return chain(parts["guidance"](denoiser, times=parts["sampler"].times(parts["schedule"])))


def backbone_puts_out_what_the_model_learns(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """A classifier's network puts out classes, a diffusion model's an image; an autoencoder has networks of its own."""
    if isinstance(parts["backbone"], Encoder) != issubclass(parts["model"], NoisyClassifier):
        return (
            "this backbone puts out classes, which diffusion has no use for; use model=noisy_classifier, or backbone=unet"
            if isinstance(parts["backbone"], Encoder)
            else "this backbone puts out an image, and a classifier needs classes; use backbone=encoder_unet, or a model that generates"
        )
    return None


def backbone_takes_what_the_data_are(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """Clips (B, C, F, H, W) are for networks that see frames, images for those that do not; an autoencoder has networks of its own."""
    num_frames, frames = cfg.space.num_frames, getattr(parts["backbone"], "frames", False)
    if issubclass(parts["model"], AutoencoderModel) or frames == (num_frames is not None):
        return None
    backbone, dataset = cfg.choices.backbone, cfg.choices.dataset
    if issubclass(parts["model"], NoisyClassifier):
        return f"dataset={dataset} has clips, and classifiers are of images; use what needs none, such as metrics=moving_digits, fvd or none"
    if frames:
        return f"backbone={backbone} is a network of clips, and dataset={dataset} has images; use backbone=unet or dit, or dataset=moving_digits"
    return f"dataset={dataset} has clips of {num_frames} frames, and backbone={backbone} is a network of images; use backbone=unet3d or dit3d"


def frames_share_noise(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """Noise is shared by the frames of clips, where there is diffusion of them; a run of before there was a choice has none."""
    if not parts["noise"].correlated:
        return None
    if cfg.model.get("noise") is None:
        return f"model={cfg.choices.model} has no noise that frames could share, as noise={cfg.choices.noise} has; use noise=independent"
    if cfg.space.num_frames is None:
        return (
            f"noise={cfg.choices.noise} is shared by the frames of clips, and dataset={cfg.choices.dataset} has images; use noise=independent, or "
            "model=video"
        )
    return None


def objective_knows_the_noise(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """A bound is about densities, and a score is that of the noise's own covariance."""
    if parts["noise"].correlated and parts["objective"].needs_independent_noise:
        return (
            f"objective={cfg.choices.objective} is a bound, or about scores, of noise that is independent; use objective=simple, or "
            "noise=independent"
        )
    return None


def likelihood_knows_the_noise(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """The bound's terms and the ODE's prior are densities of independent noise."""
    if parts["noise"].correlated and "_target_" in cfg.likelihood:
        return f"likelihood={cfg.choices.likelihood} is of noise that is independent; use likelihood=none, or noise=independent"
    return None


def two_networks_say_the_noise(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """What is split into base and residual is the noise of a clip, of which images beside it have no part."""
    if not isinstance(parts["backbone"], BaseAndResidual):
        return None
    if not isinstance(parts["prediction"], Eps):
        return f"two networks put out the noise, in two parts, and prediction={cfg.choices.prediction} asks for something else; use prediction=eps"
    if cfg.model.get("images_per_clip"):
        return "images beside clips have no part in the base of their noise; use model.images_per_clip=0, or one network (backbone=unet3d)"
    return None


def only_what_there_is_is_measured(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """Images belong to models that make some, likelihoods to diffusion models."""
    model = parts["model"]
    if not hasattr(model, "show"):
        if "_target_" in cfg.metrics:
            return "a classifier has no samples to measure, only its accuracy; use metrics=none"
        if any(getattr(callback, "shows", False) for callback in parts["callbacks"].values()):
            return "a classifier draws no samples to show while it trains; use callbacks=minimal"
    if "_target_" in cfg.likelihood and not issubclass(model, DiffusionModel):
        return "only a diffusion model has a likelihood to measure; use likelihood=none"
    return None


def likelihood_is_of_pixels(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """Bits per dimension of latents are no bits of images."""
    if "_target_" in cfg.likelihood and not parts["autoencoder"].bounded:
        return "in latents there is no likelihood of the images; use likelihood=none, or autoencoder=identity"
    return None


def clip_has_a_range(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """x0 is held where data are."""
    if parts["sampler"].clip != "none" and not parts["autoencoder"].bounded:
        return f"sampler.clip={parts['sampler'].clip} holds x0 in [-1, 1], and latents have no such bounds; use sampler.clip=none"
    return None


def x0_is_held_or_steady(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """Where x0 follows from the output by a large factor, so do the output's errors, unless x0 is clipped."""
    schedule, sampler = parts["schedule"], parts["sampler"]
    t = torch.tensor(sampler.start, dtype=torch.float64)
    factor = abs(float(parts["prediction"].coefficients(*schedule(t)).c_out))
    if sampler.clip == "none" and factor > STEADY:
        return (
            f"a walk starts where x0 is off by {factor:.0f} times the error of the network's output, and nothing clips it; use "
            "prediction=v, or a schedule that keeps more of the signal (schedule=linear, scaled_linear)"
        )
    return None


def image_has_the_spaces_size(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """What stands beside x has its size."""
    if "image_channels" in parts["conditioning"].provides and not parts["autoencoder"].bounded:
        return "an image of pixels cannot stand beside latents; use conditioning=image_film, or autoencoder=identity"
    return None


def losses_have_their_autoencoder(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """Perceptual loss and discriminator are of reconstructions."""
    given = [name for name in ("perceptual", "discriminator") if parts[name] is not None]
    trained = any("perceptual" in (stage.node.get("inherit") or ()) for stage in parts["stages"].values())
    if given and not trained and not issubclass(parts["model"], AutoencoderModel):
        return f"{given[0]}={cfg.choices[given[0]]} is a loss of autoencoders, and this run trains none; use model=autoencoder_kl, or model=ldm"
    return None


def autoencoder_has_a_network(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """The identity learns nothing."""
    if issubclass(parts["model"], AutoencoderModel) and cfg.model.autoencoder is None:
        return f"autoencoder={cfg.choices.autoencoder}: {NOTHING}"
    return None


def autoencoder_is_trained_from_its_beginning(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """A run that is given is one that is used."""
    if issubclass(parts["model"], AutoencoderModel) and cfg.autoencoder.get("run") is not None:
        return "autoencoder.run gives a trained autoencoder to latent diffusion, and this model trains one; use resume=RUN to go on, or model=ldm"
    return None


def times_exist(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """The sampler's spacing must have its times on this schedule."""
    try:
        parts["sampler"].times(parts["schedule"])
    except ValueError as error:
        return str(error)
    return None


def x0_follows_from_eps(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """Where alpha is 0 at t = 1, x0 = (x_t - sigma eps) / alpha has no value."""
    schedule, prediction = parts["schedule"], parts["prediction"]
    alpha, sigma = schedule(torch.ones((), dtype=torch.float64))
    if all(math.isfinite(value) for value in prediction.coefficients(alpha, sigma)):
        return None
    return (
        "at t = 1 this schedule has no signal left, so x0 does not follow from eps; use prediction=v, x0, flow or edm"
    )


def objective_has_its_grid(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """L_t of the hybrid loss is a term of a chain of T steps."""
    if parts["objective"].needs_grid and parts["schedule"].num_steps is None:
        return "this objective is a sum over the T steps of a discrete schedule, and this schedule is continuous; use objective=vlb, or schedule=cosine"
    return None


def learned_variance_is_trained(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """Only a bound on a discrete chain has a gradient for the variance."""
    if parts["prediction"].heads == 1:
        return None
    if not parts["objective"].trains_variance:
        return "nothing trains the learned variance with this objective; use objective=hybrid, or prediction.variance=fixed_small"
    if parts["schedule"].num_steps is None:
        return "in continuous time the bound does not depend on the variance, so nothing trains it; use prediction.variance=fixed_small, or a discrete schedule"
    return None


def bound_has_a_variance(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """The hybrid loss trains nothing but the variance by the bound, and the bound of a chain is loose without a right one."""
    if (
        parts["objective"].trains_variance
        and parts["schedule"].num_steps is not None
        and parts["prediction"].heads == 1
    ):
        return "the bound of a chain is about its variance too, and it is fixed; use prediction.variance=learned_range, or objective=simple"
    return None


def learned_schedule_is_trained(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """Any loss but the bound is least where the schedule makes it easiest: the schedule would collapse."""
    if parts["schedule"].learned and not parts["objective"].trains_schedule:
        return "a learned schedule minimises the variational bound, any other loss would make it collapse; use objective=vlb, or another schedule"
    return None


def times_have_their_grid(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """A history of each step needs steps."""
    if parts["time_sampling"].needs_grid and parts["schedule"].num_steps is None:
        return "importance sampling keeps losses of each step of a discrete schedule, and this schedule is continuous; use time_sampling=stratified"
    return None


def importance_is_of_the_bound(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """Times drawn by the size of the loss pay where its terms differ by orders of magnitude: those of the bound."""
    if parts["time_sampling"].needs_bound and not parts["objective"].is_bound:
        return "importance sampling is for the terms of the variational bound; use objective=vlb, or time_sampling=stratified"
    return None


def bound_has_unbiased_times(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """A density that weights do not undo changes what the bound bounds."""
    if parts["objective"].is_bound and not parts["time_sampling"].unbiased:
        return "with times of another density the loss is no bound; use time_sampling=uniform, stratified or, on a grid, importance"
    return None


def weighting_is_used(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """An objective that is a bound, or has its own lambda(t), has no other weights."""
    if not parts["objective"].takes_weighting and not parts["weighting"].is_uniform:
        return "this objective has weights of its own; use objective=simple, or weighting=uniform"
    return None


def score_weight_has_a_rate(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """g(t)^2 is a rate in continuous time."""
    if parts["objective"].needs_rate and parts["schedule"].num_steps is not None:
        return "the likelihood's weight g(t)^2 needs a continuous schedule; use schedule=vp, or objective.weight=sigma2"
    return None


def guidance_suits_the_walk(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """A scale for each step needs as many as there are steps."""
    try:
        guidances(parts)
    except ValueError as error:
        return str(error)
    return None


def network_takes_the_condition(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """What is told must be heard: by the network, or by guidance."""
    accepts = getattr(parts["backbone"], "accepts", {})
    used = {name for guidance in guidances(parts) for name in guidance.uses}
    for name, size in parts["conditioning"].provides.items():
        if name not in accepts and name not in used:
            heard = ", ".join(_TOLD[other] for other in accepts) or "nothing"
            return (
                f"the conditioning gives {_TOLD[name]}, and this network takes {heard}; use backbone.{name}={size} where the backbone has "
                "that key (backbone=unet and dit have), or another conditioning"
            )
        if name in accepts and accepts[name] != size:
            return f"the conditioning gives {_TOLD[name]} of size {size}, and the network takes size {accepts[name]}; use backbone.{name}={size}"
    return None


def guidance_fits(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """Guidance leads to a condition, and classifier-free guidance away from a null condition that has been trained."""
    conditioning, accepts = parts["conditioning"], getattr(parts["backbone"], "accepts", {})
    for guidance in guidances(parts):
        if guidance.needs_condition and not conditioning.provides:
            return (
                "guidance has nothing to lead to: the model is unconditional; use model=classifier_free, or conditioning=class, or "
                "guidance=none"
            )
        if missing := sorted(guidance.uses - set(conditioning.provides)):
            return f"this guidance needs {', '.join(_TOLD[name] for name in missing)}; use conditioning=class"
        if guidance.needs_null and not set(conditioning.provides) & set(accepts):
            return (
                "the network is not told the condition, so it has no conditional answer to lead to; use guidance=classifier, or "
                "backbone.num_classes=${condition.num_classes}"
            )
        if guidance.needs_null and conditioning.dropout == 0 and getattr(conditioning, "negative", None) is None:
            return (
                "the null condition, which guidance leads away from, is never trained with conditioning.dropout=0; train with "
                "conditioning.dropout=0.1, or use guidance=none"
            )
    return None


def task_suits_the_model(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """Every task knows what it needs of the space, the sampler and guidance."""
    if parts["task"] is None:
        return None
    reason = parts["task"].incompatible_because(parts["autoencoder"], parts["sampler"], guidances(parts))
    return f"task={cfg.choices.task}: {reason}" if reason else None


def frames_are_said_once(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """How many frames clips have is the task's to say, where it draws them in windows or from clips that are there."""
    if parts["task"] is None or parts["task"].length_key is None or cfg.num_frames is None:
        return None
    return (
        f"num_frames={cfg.num_frames} is of clips that are drawn at once and from nothing; with task={cfg.choices.task} leave it out, and use "
        f"{parts['task'].length_key}"
    )


def metrics_see_the_data(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """Features of one kind of image say nothing of another, and nothing of clips."""
    shape, data = getattr(parts["metrics"], "shape", None), parts["dataset"]
    if shape is None or (
        len(shape) == len(data.shape) and all(n in (None, m) for n, m in zip(shape, data.shape, strict=True))
    ):
        return None
    fitting = (
        "metrics=classifier, features of a classifier of the data themselves"
        if data.num_frames is None
        else "metrics=fvd, which sees any clips"
    )
    return (
        f"metrics={cfg.choices.metrics} sees {'clips' if len(shape) == 4 else 'images'} of shape {shape}, and dataset={cfg.choices.dataset} has "
        f"{data.shape}; use {fitting}, or metrics=none"
    )


def metrics_see_enough_frames(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """A network over time needs some."""
    least, frames = getattr(parts["metrics"], "least_frames", 0), parts["dataset"].num_frames
    if frames is None or frames >= least:
        return None
    return f"metrics={cfg.choices.metrics} needs clips of {least} frames at least, and these have {frames}; use dataset.num_frames={least}, or metrics=none"


def validation_by_steps(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """Validation runs by steps, because the training stream has no epochs."""
    if cfg.trainer.check_val_every_n_epoch is not None:
        return "trainer.check_val_every_n_epoch must stay null: the training stream has no epochs; use trainer.val_check_interval=STEPS"
    return None


def intervals_are_positive(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """Something happens every so many steps."""
    for key in ("val_check_interval", "log_every_n_steps", "accumulate_grad_batches"):
        if not (isinstance(cfg.trainer[key], int) and cfg.trainer[key] >= 1):
            return f"trainer.{key} is a whole number of steps, at least 1, not {cfg.trainer[key]}"
    return None


def run_ends(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """Without max_steps a run over an endless stream would never end."""
    if cfg.trainer.max_steps < 1:
        return f"trainer.max_steps must be at least 1, not {cfg.trainer.max_steps}: the training stream has no end of its own"
    return None


def logger_mode_exists(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """W&B knows three modes that make sense here."""
    modes = ("online", "offline", "disabled")
    return None if cfg.logger.mode in modes else f"logger.mode is one of {', '.join(modes)}, not {cfg.logger.mode}"


def scaled_gradients_can_be_clipped(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """A fused optimizer unscales float16's gradients itself, after they would have to be clipped."""
    if (
        str(cfg.trainer.precision) in ("16", "16-mixed")
        and cfg.optimizer.get("fused")
        and cfg.trainer.gradient_clip_val
    ):
        return "float16 gradients cannot be clipped with a fused optimizer; use optimizer.fused=false, or trainer.precision=bf16-mixed"
    return None


def variance_is_used(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """A solver of an ODE, and a walk that has a variance of its own, do not ask for the learned one."""
    if parts["prediction"].heads > 1 and not parts["sampler"].uses_variance:
        return "this sampler has no use for the learned variance; sampler=ancestral has"
    return None


def walk_starts_at_noise(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """What is left of the data at an earlier time, noise alone does not have."""
    if parts["sampler"].start < 1 and "task" not in cfg and "metrics" in cfg and "_target_" in cfg.metrics:
        return (
            f"samples start at t = {cfg.sampler.start} from noise alone, without what is left of the data there; sample.py task=edit "
            "starts from images"
        )
    return None


def network_is_told(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """A network that could be told something, and is not, always answers for the null condition."""
    accepts = getattr(parts["backbone"], "accepts", {})
    if missing := sorted(set(accepts) - set(parts["conditioning"].provides)):
        return f"the network takes {', '.join(_TOLD[name] for name in missing)}, which the conditioning does not give"
    return None


def stages_are_given(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """A model that nothing says how to train must be there."""
    for path, stage in parts["stages"].items():
        if stage.cfg is None:
            return (
                f"{run_key(path, stage.node)} is missing: give the directory of a trained run, or overrides that train one, quoted: "
                f"'{path}.train=[\"trainer.max_steps=200\"]'"
            )
    return None


def stages_are_of_their_kind(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """What needs a model says of which class."""
    for path, stage in parts["stages"].items():
        if kind := stage.node.get("kind"):
            found, wanted = locate(stage.cfg.model._target_, cfg.trust), locate(kind, cfg.trust)
            if not is_of_kind(found, wanted):
                return f"{_stage(path, stage)} is a {found.__name__}, and a {wanted.__name__} is needed; give a run of one in {run_key(path, stage.node)}"
    return None


def stages_know_the_data(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """A model says nothing of data that it was not trained on, unless it transfers."""
    data = parts["dataset"].fingerprint
    for path, stage in parts["stages"].items():
        known = "dataset" not in (stage.node.get("inherit") or ()) or stage.fingerprint == data
        if not known and not locate(stage.cfg.model._target_, cfg.trust).transfers:  # type: ignore[attr-defined]
            theirs, ours = stage.cfg.choices.dataset, cfg.choices.dataset
            told = f"dataset={theirs} ({stage.fingerprint}), and this run has dataset={ours} ({data})"
            return f"{_stage(path, stage)} knows {told}; use dataset={theirs}, or {_another(path, stage)}"
    return None


def stages_are_known_to_transfer(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """Latents of other data have another mean and deviation than they were standardised by."""
    for path, stage in parts["stages"].items():
        if "dataset" in (stage.node.get("inherit") or ()) and stage.fingerprint != parts["dataset"].fingerprint:
            return (
                f"{_stage(path, stage)} knows dataset={stage.cfg.choices.dataset} ({stage.fingerprint}), and this run has "
                f"dataset={cfg.choices.dataset}: its latents are standardised by the other data"
            )
    return None


def stages_share_the_space(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """What one model makes or reads of a space, the other has to mean too."""
    for path, stage in parts["stages"].items():
        inherited = "autoencoder" in (stage.node.get("inherit") or ()) and stage.cfg is not None
        if inherited and (told := parts["autoencoder"].differs_from(stage.space)):
            return f"{_stage(path, stage)} does not fit: {told}; leave these as it has them, or {_another(path, stage)}"
    return None


def stages_know_the_schedule(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """A model of noisy data knows the noise of one schedule."""
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    for path, stage in parts["stages"].items():
        if "schedule" in (stage.node.get("inherit") or ()):
            theirs, ours = stage.schedule, parts["schedule"]
            if theirs.learned or ours.learned:
                return f"a learned schedule is its own model's, and {_stage(path, stage)} has to know this run's; use another schedule"
            levels = zip(theirs(t), ours(t), strict=True)
            if theirs.num_steps != ours.num_steps or not all(
                torch.allclose(a, b, rtol=0, atol=1e-9) for a, b in levels
            ):
                told = f"{_spoken(stage.cfg, theirs)}, and this run has {_spoken(cfg, ours)}"
                return f"{_stage(path, stage)} knows {told}; use the same, or {_another(path, stage)}"
    return None


def stages_know_the_noise(cfg: DictConfig, parts: Mapping[str, Any]) -> str | None:
    """A model of noisy data knows the noise that frames share, too."""
    frames = cfg.space.num_frames or 1
    for path, stage in parts["stages"].items():
        if "schedule" in (stage.node.get("inherit") or ()):
            theirs = (stage.noise or INDEPENDENT).covariance(frames)
            if not torch.equal(theirs, parts["noise"].covariance(frames)):
                known = stage.cfg.choices.get("noise", "independent")
                return (
                    f"{_stage(path, stage)} knows noise={known}, and this run has noise={cfg.choices.noise}, or another share of it; use the "
                    f"same, or {_another(path, stage)}"
                )
    return None


def _stage(path: str, stage: Any) -> str:
    """A stage as the user gave it."""
    run = stage.node.get("run")
    return f"{run_key(path, stage.node)}={run}" if run is not None else f"the model that {path}.train describes"


def _another(path: str, stage: Any) -> str:
    """What gives a stage that fits."""
    if stage.node.get("run") is None:
        return f"leave it out of {path}.train"
    if stage.node.get("train") is None:
        return f"give another run in {run_key(path, stage.node)}"
    return f"{run_key(path, stage.node)}=null, which finds or trains one that fits"


def _spoken(cfg: DictConfig, schedule: Any) -> str:
    """A schedule as the user chose it."""
    return f"schedule={cfg.choices.schedule}" + (f" of {schedule.num_steps} steps" if schedule.num_steps else "")


NOTES: tuple[Rule, ...] = (
    network_is_told,
    variance_is_used,
    walk_starts_at_noise,
    x0_is_held_or_steady,
    stages_are_known_to_transfer,
)  # works, but may not be what was meant: one line says so

RULES: tuple[Rule, ...] = (
    backbone_puts_out_what_the_model_learns,
    backbone_takes_what_the_data_are,
    frames_share_noise,
    objective_knows_the_noise,
    likelihood_knows_the_noise,
    two_networks_say_the_noise,
    only_what_there_is_is_measured,
    likelihood_is_of_pixels,
    clip_has_a_range,
    image_has_the_spaces_size,
    autoencoder_has_a_network,
    autoencoder_is_trained_from_its_beginning,
    logger_mode_exists,
    times_exist,
    x0_follows_from_eps,
    objective_has_its_grid,
    learned_variance_is_trained,
    bound_has_a_variance,
    learned_schedule_is_trained,
    times_have_their_grid,
    importance_is_of_the_bound,
    bound_has_unbiased_times,
    weighting_is_used,
    score_weight_has_a_rate,
    guidance_suits_the_walk,
    network_takes_the_condition,
    guidance_fits,
    task_suits_the_model,
    frames_are_said_once,
    metrics_see_the_data,
    metrics_see_enough_frames,
    validation_by_steps,
    intervals_are_positive,
    run_ends,
    scaled_gradients_can_be_clipped,
    stages_are_given,
    stages_are_of_their_kind,
    stages_know_the_data,
    stages_share_the_space,
    losses_have_their_autoencoder,
    stages_know_the_schedule,
    stages_know_the_noise,
)


def apply(cfg: DictConfig, parts: Mapping[str, Any]) -> None:
    """Raise UserError at the first rule that is broken; warn of what may not be what was meant.

    Args:
        cfg: a checked configuration.
        parts: what its groups build, by group.
    """
    for rule in RULES:
        with torch.no_grad():
            message = rule(cfg, parts)
        if message:
            raise UserError(f"{message} [rule {rule.__name__}]")
    for note in NOTES:
        if message := note(cfg, parts):
            print(f"warning: {message} [{note.__name__}]", file=sys.stderr)
