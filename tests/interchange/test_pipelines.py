"""Pipelines of diffusers become runs that sample as the pipelines do, and that can be finetuned."""

import inspect
import json

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler, LDMPipeline, UNet2DModel, VQModel
from slower import some
from weights import redrawn

import diffsweep
from diffsweep.errors import UserError
from diffsweep.interchange.pipelines import read_pipeline

SIZES = {"in_channels": 3, "out_channels": 3, "block_out_channels": (16, 32), "norm_num_groups": 4, "sample_size": 16}
BLOCKS = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
SHAPES = ("dataset=shapes", "dataset.image_size=16", "dataset.num_train=64", "dataset.num_val=16")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A folder with a DDIM pipeline of random weights, and the pipeline."""
    torch.manual_seed(0)
    unet = redrawn(UNet2DModel(**SIZES, **BLOCKS, layers_per_block=1, attention_head_dim=None), 0.08)
    made = DDIMPipeline(unet.eval(), DDIMScheduler(beta_schedule="scaled_linear", beta_end=0.01))
    folder = tmp_path_factory.mktemp("pipelines") / "a pipeline"
    made.save_pretrained(folder)
    made.set_progress_bar_config(disable=True)
    return folder, made


@pytest.mark.slow  # a pipeline of texts becomes one in the fast suite
def test_a_pipeline_becomes_a_run(command, fast, pipeline, tmp_path, monkeypatch, checkpoint):
    folder, theirs = pipeline
    run = tmp_path / "run"
    done = command("import", f"weights='{folder}'", f"output={run}", *fast, *SHAPES, "sampler.steps=10")
    assert done.code == 0, done.err
    loaded = diffsweep.load(run)
    x, _ = loaded.model.start(torch.arange(3), 0)
    monkeypatch.setattr("diffusers.pipelines.ddim.pipeline_ddim.randn_tensor", lambda *_, **__: x)
    images = theirs(3, num_inference_steps=10, use_clipped_model_output=True, output_type="np").images
    expected = torch.from_numpy(images).permute(0, 3, 1, 2)
    samples = (loaded.sample(3, seed=0) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(samples, expected, rtol=0, atol=2e-4)
    assert samples.std() > 0.05
    done = command("train", f"resume={run}", "trainer.max_steps=2")
    assert done.code == 0, done.err
    assert checkpoint(run)["global_step"] == 2
    again = command("import", f"weights='{folder}'", f"output={run}", *fast, *SHAPES)
    assert again.code == 2


@pytest.mark.parametrize("words", some([(), (*SHAPES[:1], "dataset.image_size=32")], 1))
def test_a_dataset_of_other_sizes_is_one_line(command, fast, pipeline, tmp_path, words):
    done = command("import", f"weights='{pipeline[0]}'", f"output={tmp_path / 'run'}", *fast, *words)
    assert done.code == 2
    assert "dataset" in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_folders_that_are_no_such_pipelines_are_named(pipeline, tmp_path):
    with pytest.raises(UserError, match=r"has no model_index\.json"):
        read_pipeline(tmp_path)
    folder, _ = pipeline
    index = json.loads((folder / "model_index.json").read_text())
    (tmp_path / "unet").symlink_to(folder / "unet")
    for changes, config, expected in (
        ({"text_encoder": ["transformers", "T5EncoderModel"]}, {}, "text_encoder of the class T5EncoderModel"),
        ({"text_encoder_2": ["transformers", "CLIPTextModel"]}, {}, "has a text_encoder_2"),
        ({}, {"_class_name": "HeunDiscreteScheduler", "use_karras_sigmas": True}, "use_karras_sigmas"),
        ({}, {"_class_name": "PNDMScheduler"}, "skip_prk_steps=False"),
        ({}, {"_class_name": "DPMSolverSinglestepScheduler"}, "of the class DPMSolverSinglestepScheduler"),
        (
            {},
            {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading", "steps_offset": 1},
            "steps_offset=1",
        ),
        ({"unet": [None, None]}, {}, "has no unet or transformer"),
        ({}, {"trained_betas": [0.1, 0.2]}, "trained_betas"),
        ({}, {"num_train_timesteps": 500}, "num_train_timesteps=500"),
        ({}, {"_class_name": "KarrasVeScheduler"}, "of the class KarrasVeScheduler"),
        ({}, {"prediction_type": "flow"}, "prediction_type=flow"),
    ):
        (tmp_path / "model_index.json").write_text(json.dumps({**index, **changes}))
        (tmp_path / "scheduler").mkdir(exist_ok=True)
        scheduler = {**DDPMScheduler().config, "_class_name": "DDPMScheduler", **config}
        (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler, default=str))
        with pytest.raises(UserError, match=expected):
            read_pipeline(tmp_path)
    assert "sampler" not in " ".join(read_pipeline(folder, ["sampler"]).overrides)


@pytest.mark.slow
def test_a_pipeline_of_latents_with_classes_becomes_a_run(command, fast, tmp_path):
    """It is exported from a run, and read again: a DiT in the latents of an autoencoder, with guidance."""
    from diffusers import DiffusionPipeline
    from interchange_models import autoencoder, model_of

    from diffsweep.autoencoders import KLAutoencoder
    from diffsweep.diffusion import Stream
    from diffsweep.interchange.diffusers_folder import pipeline_of

    network = autoencoder(KLAutoencoder, 16)
    sizes = ("dataset.image_size=16", "autoencoder.channels=4", "autoencoder.factor=2", "backbone.depth=2")
    choices = ("model=ldm", "backbone=dit", "conditioning=class", "backbone.time_endpoint=true", "sampler=ddim")
    model = model_of(*sizes, *choices, "schedule=linear", network=network)
    folder, run = tmp_path / "pipeline", tmp_path / "run"
    pipeline_of(model).save(folder)
    done = command("import", f"weights={folder}", f"output={run}", *fast, *SHAPES, "sampler.steps=8")
    assert done.code == 0, done.err
    assert (run / "autoencoder" / "config.json").is_file()
    loaded, indices = diffsweep.load(run), torch.arange(3)
    normal = loaded.model.noise_of(indices, 0).normal(*model.autoencoder.shape, stream=Stream.PRIOR)
    pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    images = pipeline(class_labels=[0, 1, 2], latents=normal, output_type="pt").images
    samples = loaded.sample(3, seed=0, labels=[0, 1, 2])
    torch.testing.assert_close((samples / 2 + 0.5).clamp(0, 1), images, rtol=0, atol=2e-4)


@pytest.mark.slow
def test_a_pipeline_of_quantised_latents_becomes_a_run(command, fast, tmp_path):
    """An LDMPipeline with a VQModel gives the images of the run, which is written as such a pipeline again."""
    from diffusers import DiffusionPipeline

    torch.manual_seed(0)
    down, up = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2
    sizes = {**SIZES, "down_block_types": down, "up_block_types": up, "latent_channels": 3, "num_vq_embeddings": 40}
    vqvae = redrawn(VQModel(**{**sizes, "sample_size": 16}, scaling_factor=0.7), 0.15).eval()
    unet = redrawn(UNet2DModel(**{**SIZES, "sample_size": 8}, **BLOCKS, layers_per_block=1), 0.08).eval()
    theirs = LDMPipeline(vqvae=vqvae, unet=unet, scheduler=DDIMScheduler(clip_sample=False))
    folder, run, out = tmp_path / "pipeline", tmp_path / "run", tmp_path / "out"
    theirs.save_pretrained(folder)
    done = command("import", f"weights={folder}", f"output={run}", *fast, *SHAPES, "sampler.steps=8")
    assert done.code == 0, done.err
    done = command("export", f"run={run}", f"output={out}")
    assert done.code == 0, done.err
    model = diffsweep.load(run).model
    x, noise = model.start(torch.arange(3), 0)
    samples = (model.sample_from(x, noise, None) / 2 + 0.5).clamp(0, 1)
    for pipeline in (theirs, DiffusionPipeline.from_pretrained(out)):
        assert type(pipeline) is LDMPipeline
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(inspect.getmodule(LDMPipeline), "randn_tensor", lambda *_, **__: x)
            images = torch.from_numpy(pipeline(3, num_inference_steps=8, output_type="np").images).permute(0, 3, 1, 2)
        torch.testing.assert_close(samples, images, rtol=0, atol=1e-4)
    assert samples.std() > 0.05
