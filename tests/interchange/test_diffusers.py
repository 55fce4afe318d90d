"""Folders for diffusers: the pipelines that it loads give the samples of the run from the same noise."""

import inspect
import json

import pytest
import torch
from diffusers import DiffusionPipeline
from interchange_models import autoencoder, model_of
from slower import some

from diffsweep.autoencoders import KLAutoencoder, VQAutoencoder
from diffsweep.diffusion import Condition, Stream
from diffsweep.errors import UserError
from diffsweep.interchange.diffusers_folder import pipeline_of

UNET = ("backbone.channels=16", "backbone.norm_groups=4", "backbone.attention_factors=[2]")
CLASSES = ("conditioning=class", "guidance=classifier_free", "guidance.scale=1.7")
TRAILING = ("sampler.spacing=trailing",)
LONGER = ("schedule.num_steps=250", "sampler.steps=10")
EULER = ("sampler.clip=none",)
OFFSET = ("sampler.spacing=leading", "sampler.stop=0.001")


def loaded(model, folder):
    """Return the pipeline that diffusers loads after it was written, with the arguments of its calls."""
    written = pipeline_of(model)
    assert written.difference < 1e-4
    written.save(folder)
    trust = {"trust_remote_code": True} if written.ships_code else {}
    pipeline = DiffusionPipeline.from_pretrained(folder, **trust)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, written


def samples(model, monkeypatch, pipeline, call, classes):
    """Return our images and those of a pipeline in [0, 1], (B, C, H, W), from the same noise."""
    indices = torch.arange(4)
    cond = None if classes is None else Condition(vector=indices % classes)
    x, noise = model.start(indices, seed=3)
    ours = model.sample_from(x, noise, cond)
    draws = iter([noise.at(i).like(x) for i in range(model.sampler.steps)])
    scheduler = inspect.getmodule(type(pipeline.scheduler))
    if hasattr(scheduler, "randn_tensor"):
        monkeypatch.setattr(scheduler, "randn_tensor", lambda *_, **__: next(draws))
    labels = {} if classes is None else {"class_labels": (indices % classes).tolist()}
    if "latents" in inspect.signature(pipeline.__call__).parameters:
        normal = noise.normal(*x.shape[1:], stream=Stream.PRIOR)
        images = pipeline(4, latents=normal, output_type="pt", **labels, **call).images
    else:
        monkeypatch.setattr(inspect.getmodule(type(pipeline)), "randn_tensor", lambda *_, **__: x)
        count = labels or {"batch_size": 4}
        images = pipeline(**count, output_type="np", **call).images
        images = torch.from_numpy(images).permute(0, 3, 1, 2)
    return (ours / 2 + 0.5).clamp(0, 1), images


STOCK = {
    "DDPMPipeline": (*UNET, "sampler=ancestral", *TRAILING),
    "DDIMPipeline": (*UNET, "sampler=ddim", "sampler.eta=0.5"),
    "LDMPipeline": (*UNET, "model=ldm", "sampler=ddim"),
    "DDPMPipeline learned": (*UNET, "model=improved_ddpm", "schedule.num_steps=1000", "sampler.spacing=leading"),
    "DDPMPipeline DPM": (*UNET, "sampler=dpm_solver_pp", "sampler.warm_start=euler", *TRAILING, "prediction=v"),
    "DDPMPipeline sde": (*UNET, "sampler=dpm_solver_pp", "sampler.variant=sde", *TRAILING, *EULER),
    "DDIMPipeline x0": (*UNET, "sampler=ddim", "sampler.clip=dynamic", "prediction=x0", "schedule=linear"),
    "DDIMPipeline of stable diffusion": (*UNET, "sampler=ddim", *EULER, *OFFSET),
    "DDIMPipeline betas": (*UNET, "schedule=quadratic", "sampler=ddim"),
    "DDIMPipeline public": (
        *UNET,
        "sampler=ddim",
        "schedule=linear",
        "backbone.time_endpoint=true",
        "backbone.pad_end=true",
    ),
}
SHIPPED = {
    "dit classes": ("backbone=dit", "backbone.depth=2", *CLASSES, "sampler=ancestral"),
    "groups": ("sampler=ddim", "backbone.attention_factors=[2]", "backbone.channels=32", *CLASSES),
    "flow": (*UNET, "model=flow", "sampler=euler", *EULER),
    "classes": (*UNET, *CLASSES, "sampler=ancestral", "schedule=linear"),
    "learned variance": (*UNET, *CLASSES, "model=improved_ddpm", "conditioning=class", "sampler.spacing=leading"),
    "250 steps": (*UNET, *LONGER, "sampler=ddim"),
    "biggan": (*UNET, "backbone.block=biggan", "backbone.time_embedding=scale_shift", "sampler=unipc", *TRAILING,
        "sampler.warm_start=euler"),
    "euler": (*UNET, "sampler=euler", *EULER),
    "euler_ancestral": (*UNET, "sampler=euler_ancestral", *EULER, *CLASSES),
    "heun": (*UNET, "sampler=heun", *EULER, "sampler.public_form=true", "sampler.spacing=leading", "schedule=linear"),
    "lms": (*UNET, "sampler=lms", *EULER, "sampler.warm_start=euler", "sampler.spacing=leading"),
    "plms": (*UNET, "sampler=plms", *EULER, "sampler.public_form=true"),
    "plms of stable diffusion": (*UNET, "sampler=plms", *EULER, *OFFSET, "sampler.public_form=true"),
    "dit": ("backbone=dit", "backbone.depth=2", "backbone.channels=24", "sampler=ddim"),
    "dit of diffusers": ("backbone=dit", "backbone.depth=2", *CLASSES, "sampler=ddim", "backbone.time_endpoint=true"),
}  # fmt: skip


@pytest.mark.parametrize("name", some(STOCK, 3))
def test_pipelines_of_diffusers_give_the_samples_of_the_run(tmp_path, monkeypatch, name):
    latent = "LDM" in name
    network = autoencoder(KLAutoencoder) if latent else None
    sizes = ("autoencoder.channels=4",) if latent else ()
    model = model_of(*STOCK[name], *sizes, network=network)
    pipeline, written = loaded(model, tmp_path)
    assert type(pipeline).__name__ == name.partition(" ")[0]
    ours, theirs = samples(model, monkeypatch, pipeline, written.call, None)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert ours.std() > 0.02


@pytest.mark.parametrize("name", some(SHIPPED, 3))
def test_the_pipeline_that_is_shipped_gives_the_samples_of_the_run(tmp_path, monkeypatch, name):
    model = model_of(*SHIPPED[name])
    pipeline, written = loaded(model, tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["_class_name"] == ["pipeline", "DiffsweepPipeline"]
    ours, theirs = samples(model, monkeypatch, pipeline, written.call, written.classes)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert ours.std() > 0.02


@pytest.mark.parametrize("kind", [KLAutoencoder, VQAutoencoder])
def test_autoencoders_are_those_of_the_space(kind):
    """Points of the space are diffusers' latents times the scaling factor, on both sides."""
    import diffusers

    from diffsweep.interchange.autoencoders import converted

    network = autoencoder(kind)
    part = converted(network)
    theirs = getattr(diffusers, part.kind)(**part.config).eval()
    theirs.load_state_dict(part.weights)
    x, scaling = torch.randn(2, 3, 8, 8), theirs.config.scaling_factor
    with torch.no_grad():
        encoded = theirs.encode(x)
        latents = encoded.latent_dist.mean if kind is KLAutoencoder else encoded.latents
        z = network.encode(x)
        torch.testing.assert_close(z, latents * scaling, rtol=1e-4, atol=1e-4)
        decoded = theirs.decode(z / scaling).sample
    torch.testing.assert_close(network.decode(z), decoded, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("backbone.block=convnext",), "backbone.block=convnext"),
        (("backbone.skip_scale=0.5",), "backbone.skip_scale=0.5"),
        (("prediction=score",), "prediction=score"),
        (("prediction.time_scale=0.999",), "prediction.time_scale=0.999"),
        (("backbone=uvit",), "no UViT"),
        (("sampler=heun", "sampler.clip=none", "sampler.spacing=leading"), "sampler.public_form=true"),
        (("sampler=deis", "sampler.clip=none"), "ends at the noise of its first timestep"),
        (("sampler=dpm_solver", "sampler.clip=none"), "inner points"),
        (("sampler.stop=0.5",), "sampler.stop=0.5"),
        (("conditioning=text",), "is trained along"),
    ],
)
def test_what_diffusers_lacks_is_named(overrides, expected):
    with pytest.raises(UserError, match=expected):
        pipeline_of(model_of(*UNET[: 0 if "backbone=uvit" in overrides else 3], "sampler=ddim", *overrides))
