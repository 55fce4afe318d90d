"""Write a diffusion model as a folder that ``DiffusionPipeline.from_pretrained`` of diffusers loads.

Where a pipeline of diffusers gives the run's images, the folder is one of it; otherwise it holds the code of
:class:`~diffsweep.interchange.pipeline.DiffsweepPipeline`, which is loaded with ``trust_remote_code=True``.
"""

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffsweep.autoencoders import FirstStage
from diffsweep.conditioning import Conditioning
from diffsweep.diffusion import Condition
from diffsweep.errors import UserError
from diffsweep.guidance import ClassifierFreeGuidance
from diffsweep.guidance.base import guidances_of
from diffsweep.interchange import autoencoders, networks
from diffsweep.interchange.schedulers import Scheduler, scheduler_of
from diffsweep.interchange.texts import Texts, texts_of
from diffsweep.interchange.weights import Converted
from diffsweep.models import DiffusionModel

CODE = "pipeline"  # the file of the pipeline's code in the folder, without .py
# Pipelines of diffusers for unconditional U-Nets in pixels, by the class of the scheduler.
OF_PIXELS = {
    "DDPMScheduler": "DDPMPipeline",
    "DPMSolverMultistepScheduler": "DDPMPipeline",
    "DDIMScheduler": "DDIMPipeline",
}
STABLE_DIFFUSION = "StableDiffusionPipeline"
CLASSES_OF_DIT = 1000  # DiTPipeline has the null class of ImageNet
TOLERANCE = 1e-3  # of the outputs of a network and its counterpart in diffusers


@dataclass(frozen=True)
class Pipeline:
    """A model as a pipeline of diffusers.

    Attributes:
        pipeline: the pipeline.
        call: the arguments of a call of the pipeline that gives samples as the run does, without their number.
        classes: the number of classes; None for a model without classes.
        prompts: texts for an example; None for a model without texts.
        difference: the largest difference of the outputs of the network and its counterpart, for random inputs.
    """

    pipeline: Any
    call: dict[str, Any]
    classes: int | None
    prompts: list[str] | None
    difference: float

    @property
    def ships_code(self) -> bool:
        """Whether the class is none of diffusers, so that the folder has its code."""
        return not type(self.pipeline).__module__.startswith("diffusers.")

    @property
    def example(self) -> str:
        """Lines of Python that load the pipeline from ``FOLDER`` and draw images."""
        count: dict[str, Any] = {"class_labels": [0, 1, 2, 3][: self.classes]} if self.classes else {"batch_size": 4}
        count = count if self.prompts is None else {"prompt": self.prompts}
        arguments = ", ".join(f"{key}={value!r}" for key, value in {**count, **self.call}.items())
        trust = ", trust_remote_code=True" if self.ships_code else ""
        return (
            "from diffusers import DiffusionPipeline\n\n"
            f'pipeline = DiffusionPipeline.from_pretrained("FOLDER"{trust})\n'
            f"images = pipeline({arguments}).images\n"
        )

    def save(self, folder: Path) -> None:
        """Write the pipeline into a folder: model_index.json, a subfolder for each part, and code if it ships any."""
        self.pipeline.save_pretrained(folder, safe_serialization=True)
        if self.ships_code:
            index = folder / "model_index.json"
            content = json.loads(index.read_text())
            content["_class_name"] = [CODE, type(self.pipeline).__name__]
            index.write_text(json.dumps(content, indent=2) + "\n")
            code = Path(inspect.getfile(type(self.pipeline))).read_text(encoding="utf-8")
            (folder / f"{CODE}.py").write_text(code, encoding="utf-8")


def pipeline_of(model: DiffusionModel) -> Pipeline:
    """Return a trained diffusion model as a pipeline of diffusers on the CPU, with the run's sampler and guidance.

    Raises:
        UserError: diffusers cannot express a part; the message names the option.
    """
    if len(model.autoencoder.shape) != 3:
        raise UserError("dataset.num_frames: clips have no pipeline in diffusers that fits; images do")
    prediction, schedule = model.denoiser.prediction, model.denoiser.schedule
    if (prediction.time_scale, prediction.time_offset) != (1, 0):
        raise UserError(
            f"prediction.time_scale={prediction.time_scale} prediction.time_offset={prediction.time_offset}: "
            "format=diffusers has 1 and 0 only; use another format"
        )
    texts = texts_of(model.conditioning, model.denoiser.backbone)
    scheduler = scheduler_of(model.sampler, schedule, prediction)
    network = networks.converted(model.denoiser.backbone, model.autoencoder.shape[-1])
    vae = autoencoders.converted(model.autoencoder.trained) if isinstance(model.autoencoder, FirstStage) else None
    classes, scale = None if texts else _classes(model.conditioning), _guidance_scale(model, texts)
    time_scale = 1.0 if schedule.num_steps is None else 1000 / schedule.num_steps
    parts = {"scheduler": made_scheduler(scheduler), _key(network): _with_weights(network)}
    if vae is not None:
        parts["vae"] = _with_weights(vae)
    if texts is not None:
        parts |= {"text_encoder": texts.encoder, "tokenizer": texts.tokenizer}
        stable = vae is not None and _is_stable_diffusion(network, vae, scheduler, texts, scale, time_scale)
        name = STABLE_DIFFUSION if stable else None
        if (
            stable and "steps_offset" in parts["scheduler"].config
        ):  # the pipeline warns of other offsets, which trailing steps do not use
            parts["scheduler"].register_to_config(steps_offset=1)
    else:
        name = _stock(network, vae, scheduler, classes, time_scale)
    call: dict[str, Any] = {}
    if name is None:
        pipeline = _shipped(parts, network, vae, scheduler, model, classes, texts, scale, time_scale)
    else:
        pipeline, call = _of_diffusers(name, parts), {"num_inference_steps": model.sampler.steps}
        call |= {"guidance_scale": scale} if name in ("DiTPipeline", STABLE_DIFFUSION) else {}
        call |= {} if name == "DiTPipeline" else scheduler.step
        if texts is not None and texts.negative:
            call["negative_prompt"] = [texts.negative] * len(texts.prompts)
    difference = _difference(model, parts[_key(network)], network, texts)
    if not difference < TOLERANCE:
        raise RuntimeError(f"the network and {network.kind} of diffusers differ by {difference:.2g} for equal inputs")
    return Pipeline(pipeline, call, classes, texts.prompts if texts is not None else None, difference)


def made_scheduler(scheduler: Scheduler) -> Any:
    """Return the scheduler of diffusers that a description stands for."""
    import diffusers

    return getattr(diffusers, scheduler.kind)(**scheduler.config)


def _key(network: Converted) -> str:
    """Return the name of the network in a pipeline, ``transformer`` or ``unet``."""
    return "transformer" if "Transformer" in network.kind else "unet"


def _with_weights(part: Converted) -> Any:
    module = networks.made(part.kind, part.config)
    module.load_state_dict(part.weights, strict=False)  # buffers follow from the configuration
    return module


def _stock(
    network: Converted, vae: Converted | None, scheduler: Scheduler, classes: int | None, time_scale: float
) -> str | None:
    """Return the name of the pipeline of diffusers that gives the run's images, or None."""
    norms = [*network.norm_groups, *(vae.norm_groups if vae is not None else ())]
    if norms or network.exact_frequencies or time_scale != 1 or scheduler.straight:
        return None
    if network.kind == "UNet2DModel" and classes is None:
        return OF_PIXELS.get(scheduler.kind) if vae is None else "LDMPipeline" if not scheduler.step else None
    of_imagenet = network.kind == "DiTTransformer2DModel" and classes == CLASSES_OF_DIT
    return "DiTPipeline" if of_imagenet and vae is not None and not scheduler.step else None


def _is_stable_diffusion(
    network: Converted, vae: Converted, scheduler: Scheduler, texts: Texts, scale: float, time_scale: float
) -> bool:
    """Return whether StableDiffusionPipeline gives the run's images.

    It has eta alone of the arguments of steps, no clipping, timesteps of spacing ``leading`` with an offset of 1 only,
    and guides away from a text, for scales above 1.
    """
    config = scheduler.config
    return (
        (network.kind, vae.kind) == ("UNet2DConditionModel", "AutoencoderKL")
        and not (network.norm_groups or vae.norm_groups or network.exact_frequencies or scheduler.straight)
        and time_scale == 1
        and scheduler.step.keys() <= {"eta"}
        and not config.get("clip_sample")
        and (config.get("timestep_spacing") == "trailing" or config.get("steps_offset") == 1)
        and not texts.masks_padding
        and texts.null_token is None
        and (scale == 1 or (scale > 1 and texts.negative is not None))
    )


def _of_diffusers(name: str, parts: dict[str, Any]) -> Any:
    import diffusers

    renamed = {"vae": "vqvae"} if name == "LDMPipeline" else {}
    more: dict[str, Any] = {}
    if name == STABLE_DIFFUSION:
        more = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return getattr(diffusers, name)(**{renamed.get(key, key): part for key, part in parts.items()}, **more)


def _shipped(
    parts: dict[str, Any],
    network: Converted,
    vae: Converted | None,
    scheduler: Scheduler,
    model: DiffusionModel,
    classes: int | None,
    texts: Texts | None,
    scale: float,
    time_scale: float,
) -> Any:
    """Return a pipeline of the class whose code is written into the folder."""
    from diffsweep.interchange.pipeline import DiffsweepPipeline

    return DiffsweepPipeline(
        **parts,
        time_scale=time_scale,
        noise_scale=scheduler.noise_scale,
        num_inference_steps=model.sampler.steps,
        guidance_scale=scale,
        null_class=classes,
        num_classes=classes,
        step=scheduler.step or None,
        straight=scheduler.straight,
        norm_groups=network.norm_groups or None,
        vae_norm_groups=(vae.norm_groups if vae is not None else {}) or None,
        exact_frequencies=network.exact_frequencies,
        null_token=texts.null_token if texts is not None else None,
        negative_prompt=(texts.negative if texts is not None else None) or None,
        masks_padding=texts is not None and texts.masks_padding,
    )


def _classes(conditioning: Conditioning) -> int | None:
    """Return the number of classes that a model is conditioned on, or None for an unconditional model."""
    if other := sorted(conditioning.sizes.keys() - {"num_classes"}):
        raise UserError(
            f"conditioning provides {', '.join(other)}: exported pipelines have classes, texts or no condition; "
            "format=safetensors has the weights of any network"
        )
    return conditioning.sizes.get("num_classes")


def _guidance_scale(model: DiffusionModel, texts: Texts | None) -> float:
    """Return the scale of classifier-free guidance, 1 for no guidance."""
    found = guidances_of(model.guided(model.sampler))
    if not found:
        return 1.0
    guidance = found[0]
    if len(found) > 1 or not isinstance(guidance, ClassifierFreeGuidance) or guidance.rescale:
        raise UserError("guidance: pipelines have classifier_free without rescaling, or none; add guidance=none")
    if not isinstance(guidance.scale, int | float) or guidance.varies:
        raise UserError("guidance.scale: pipelines have one number for all steps; set guidance.shape and interval so")
    if texts is None and model.conditioning.negative is not None:
        raise UserError("conditioning.negative: pipelines guide away from the null condition; set it to null")
    return float(guidance.scale)


@torch.no_grad()
def _difference(model: DiffusionModel, theirs: Any, network: Converted, texts: Texts | None) -> float:
    """Return the largest difference of the outputs of a backbone and its counterpart, relative to their size."""
    backbone, shape = model.denoiser.backbone.cpu().float(), model.autoencoder.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x, c_noise = torch.randn(3, *shape), torch.tensor([0.0, 400.0, 999.0])
    cond, given = _conditions(model, network, texts)
    ours, output = backbone(x, c_noise, cond), theirs(x, timestep=c_noise, **given).sample
    return float((ours - output).abs().max() / ours.abs().max().clamp(min=1e-12))


def _conditions(
    model: DiffusionModel, network: Converted, texts: Texts | None
) -> tuple[Condition | None, dict[str, torch.Tensor]]:
    """Return three conditions for a backbone, and the arguments of its counterpart for the same."""
    if texts is not None:
        tokens = torch.linspace(-2, 2, 3 * 5 * texts.width).sin().reshape(3, 5, texts.width)
        return Condition(tokens=tokens), {"encoder_hidden_states": tokens}
    classes = _classes(model.conditioning)
    ids, cond = torch.zeros(3, dtype=torch.long), None
    if classes is not None:
        ids, is_null = torch.tensor([0, classes - 1, classes]), torch.tensor([False, False, True])
        cond = Condition(vector=ids.clamp(max=classes - 1), is_null=is_null)
    needed = classes is not None or _key(network) == "transformer"
    return cond, {"class_labels": ids} if needed else {}
