"""Models of texts as pipelines of diffusers: Stable Diffusion's where it gives the run's images, and back."""

import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from interchange_models import autoencoder, model_of
from slower import some
from small_clip import save_small_clip, small_clip
from weights import redrawn

import diffsweep
from diffsweep.autoencoders import KLAutoencoder
from diffsweep.diffusion import Stream
from diffsweep.interchange.diffusers_folder import pipeline_of

PROMPTS = ["a small red circle", "the large blue square at the top", "green"]
UNET = ("backbone.channels=16", "backbone.norm_groups=4", "backbone.attention_factors=[2]", "backbone.num_heads=2")
TEXT = ("conditioning=text_clip", "conditioning.context_dim=16", "conditioning.encoder.max_length=10")
GUIDED = ("conditioning.dropout=0.1", "guidance=classifier_free", "guidance.scale=2.5")
SD = ("conditioning.null_condition=empty_text",)
LATENT = ("model=ldm", "autoencoder.channels=4", "dataset.image_size=16", "prediction=eps", "sampler=ddim")
NEGATIVE = ("conditioning.negative=blue", "guidance=classifier_free", "guidance.scale=2.5")
TRAILING = ("sampler.spacing=trailing",)
OFFSET = ("schedule=scaled_linear", "sampler.spacing=leading", "sampler.stop=0.001")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_small_clip(tmp_path_factory.mktemp("clip"))


def samples(model, pipeline, call, negative=None):
    """Return images of a model and of a pipeline for three prompts from the same start."""
    indices = torch.arange(len(PROMPTS))
    request = {"caption": PROMPTS}
    if model.conditioning.negative is not None:
        request["negative"] = {"caption": [model.conditioning.negative] * len(PROMPTS)}
    with torch.no_grad():
        cond = model.conditioning(request)
    x, noise = model.start(indices, seed=3)
    ours = model.sample_from(x, noise, cond)
    if isinstance(pipeline, StableDiffusionPipeline):  # it starts at standard normal noise
        call = (
            {**call, "negative_prompt": call["negative_prompt"][:1] * len(PROMPTS)}
            if "negative_prompt" in call
            else call
        )
        latents = x
    else:
        latents = noise.normal(*x.shape[1:], stream=Stream.PRIOR)
    theirs = pipeline(prompt=PROMPTS, latents=latents, output_type="pt", **call)
    return (ours / 2 + 0.5).clamp(0, 1), theirs.images


CASES = {
    "StableDiffusionPipeline": (*LATENT, *GUIDED, *SD, *OFFSET),
    "StableDiffusionPipeline negative": (*LATENT, *NEGATIVE, "sampler.spacing=trailing"),
    "StableDiffusionPipeline conditional": (*LATENT, *TRAILING, "sampler=unipc", "sampler.warm_start=euler"),
    "DiffsweepPipeline null token": (*LATENT, *GUIDED, "sampler.spacing=trailing"),
    "DiffsweepPipeline pixels": (*GUIDED, *SD, "sampler=ddim"),
    "DiffsweepPipeline pixels negative": (*NEGATIVE, *TRAILING, "sampler=ddim"),
}  # fmt: skip


@pytest.mark.parametrize("name", some(CASES, 2))
def test_a_text_model_is_a_pipeline_with_its_images(clip, tmp_path, name):
    latent = "model=ldm" in CASES[name]
    network = autoencoder(KLAutoencoder, 16) if latent else None
    cache = (f"conditioning.encoder.cache_dir={tmp_path}", f"conditioning.encoder.name={clip}")
    model = model_of(*UNET, *TEXT, *CASES[name], *cache, network=network)
    written = pipeline_of(model)
    assert written.difference < 1e-4
    written.save(tmp_path / "pipeline")
    trust = {"trust_remote_code": True} if written.ships_code else {}
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "pipeline", **trust)
    pipeline.set_progress_bar_config(disable=True)
    assert type(pipeline).__name__ == name.partition(" ")[0]
    assert "prompt=" in written.example
    ours, theirs = samples(model, pipeline, written.call)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert (ours[0] - ours[1]).abs().max() > 0.01


SIZES = {"in_channels": 3, "out_channels": 3, "block_out_channels": (16, 32), "norm_num_groups": 4}
BLOCKS = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
VAE_BLOCKS = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
SHAPES = ("dataset=shapes", "dataset.image_size=16", "dataset.num_train=64", "dataset.num_val=16")


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory):
    """A folder with a StableDiffusionPipeline of random weights, and the pipeline."""
    torch.manual_seed(0)
    text_encoder, tokenizer = small_clip()
    latents = {**SIZES, "in_channels": 4, "out_channels": 4, "sample_size": 8}
    unet = UNet2DConditionModel(
        **latents,
        **BLOCKS,
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=16,
        use_linear_projection=True,
    )
    vae = AutoencoderKL(**SIZES, **VAE_BLOCKS, latent_channels=4, sample_size=16)
    made = StableDiffusionPipeline(
        unet=redrawn(unet, 0.08).eval(),
        vae=redrawn(vae, 0.15).eval(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=PNDMScheduler(1000, 0.00085, 0.012, "scaled_linear", skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    folder = tmp_path_factory.mktemp("pipelines") / "stable diffusion"
    made.save_pretrained(folder)
    made.set_progress_bar_config(disable=True)
    return folder, made


def test_stable_diffusion_becomes_a_run(command, fast, stable_diffusion, tmp_path):
    folder, theirs = stable_diffusion
    run = tmp_path / "run"
    done = command("import", f"weights='{folder}'", f"output={run}", *fast, *SHAPES, "sampler.steps=6")
    assert done.code == 0, done.err
    model = diffsweep.load(run).model
    ours, images = samples(model, theirs, {"num_inference_steps": 6, "guidance_scale": 7.5})
    torch.testing.assert_close(ours, images, rtol=0, atol=1e-4)
    assert (ours[0] - ours[1]).abs().max() > 0.01


@pytest.mark.slow
def test_the_run_of_stable_diffusion_samples_evaluates_and_finetunes(
    command, fast, stable_diffusion, tmp_path, checkpoint
):
    run = tmp_path / "run"
    done = command("import", f"weights='{stable_diffusion[0]}'", f"output={run}", *fast, *SHAPES, "sampler.steps=2")
    assert done.code == 0, done.err
    prompt = "conditioning.prompts=[a small red circle]"
    done = command("sample", f"run={run}", prompt, "num_samples=2", f"output={tmp_path / 'samples'}")
    assert done.code == 0, done.err
    classifier = "metrics.features.model.train=['model=classifier','trainer.max_steps=4']"
    numbers = ("metrics=classifier", "metrics.num_samples=16", "metrics.kid_subset_size=8", classifier)
    done = command("evaluate", f"run={run}", *numbers)
    assert done.code == 0, done.err
    done = command("train", f"resume={run}", "trainer.max_steps=2")
    assert done.code == 0, done.err
    assert checkpoint(run)["global_step"] == 2
