"""The commands of the recipes page that evaluate published checkpoints: each composes and passes the checks."""

import json
import re
import shlex

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from scripts import SmallInception, write_script

from diffsweep.configuration.compose import compose
from diffsweep.configuration.conf import CONF
from diffsweep.configuration.preflight import preflight
from diffsweep.interchange.pipelines import read_pipeline
from diffsweep.interchange.published import FORMS
from diffsweep.runs.training import claim

TEXT = (CONF / "experiment" / "README.md").read_text()
BLOCK = re.search(r"## Published checkpoints.*?```bash\n(.*?)```", TEXT, re.DOTALL)[1].replace("\\\n", " ")
RECIPES = [[line for line in part.splitlines() if line.startswith("python")] for part in BLOCK.split("\n\n")]
UNET = {  # of google/ddpm-cifar10-32
    "_class_name": "UNet2DModel",
    "sample_size": 32,
    "block_out_channels": [128, 256, 256, 256],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
VAE = {"_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}
VAE |= {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def files(write_parquet, tmp_path_factory):
    """A folder with small stand-ins for the files that the commands name, where they are of any size."""
    folder = tmp_path_factory.mktemp("published")
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    for name in ("train.parquet", "imagenet.parquet"):
        write_parquet(
            folder / name, {"img": [Image.fromarray(image) for image in pixels], "label": [k % 10 for k in range(12)]}
        )
    write_script(folder / "inception-2015-12-05.pt", SmallInception())
    for side in (128, 256):
        np.savez(folder / f"VIRTUAL_imagenet{side}_labeled.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    write_json(folder / "sd-vae-ft-ema" / "config.json", VAE)
    write_json(folder / "ddpm-cifar10-32" / "model_index.json", {"unet": ["diffusers", "UNet2DModel"]})
    write_json(folder / "ddpm-cifar10-32" / "unet" / "config.json", UNET)
    scheduler = {"_class_name": "DDPMScheduler", "variance_type": "fixed_large", "clip_sample": True}
    write_json(folder / "ddpm-cifar10-32" / "scheduler" / "scheduler_config.json", scheduler)
    return folder


def words_of(command, files, runs):
    """Return the name of a command and its overrides, with stand-ins for files and other places for runs."""
    _, script, *words = shlex.split(command)
    found = []
    for word in words:
        key, _, value = word.partition("=")
        if value.startswith("outputs/"):
            value = str(runs / value.removeprefix("outputs/"))
        elif key == "dataset.path":
            value = str(files / value.replace("imagenet", "imagenet.parquet"))
            found += [f"dataset.cache_dir={runs}", "dataset.num_val=4"]
            found += ["dataset.image_column=img"] if "imagenet" in value else []
        elif (files / value).exists() and key != "weights":
            value = str(files / value)
        found.append(f"{key}={value}")
    return script.removeprefix("src/").removesuffix(".py"), found


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe[-1].split()[2].removeprefix("run=outputs/"))
def test_a_published_checkpoint_can_be_imported_and_evaluated(recipe, files, tmp_path):
    assert [line.split()[1] for line in recipe][-2:] == ["src/import.py", "src/evaluate.py"]
    for line in recipe:
        command, words = words_of(line, files, tmp_path)
        typed = dict(word.split("=", 1) for word in words)
        if command == "evaluate":
            cfg = compose(command, [*words, "trust=[torchscript]"])
            preflight(cfg)
            assert cfg.metrics.num_samples == 50_000
            assert f"{cfg.sampler.steps:,} steps" in BLOCK
            continue
        assert typed.get("form") in {None, *(form.name for form in FORMS)}
        run = typed["output"]
        if (files / typed["weights"]).is_dir():
            given = [word for word in words if not word.startswith(("weights=", "output="))]
            cfg = compose("train", [*read_pipeline(files / typed["weights"]).overrides, *given, f"hydra.run.dir={run}"])
        else:
            cfg = compose(command, words)
        preflight(cfg)
        claim(cfg)
        write_json(tmp_path / run / "checkpoints" / "last.ckpt", {})
        assert OmegaConf.load(tmp_path / run / "config.yaml").choices.dataset in ("cifar10", "parquet")


def test_every_form_of_published_weights_has_a_recipe_or_is_named():
    section = TEXT[TEXT.index("## Published checkpoints") : TEXT.index("## FID")]
    for word in (
        "improved-diffusion",
        "guided-diffusion",
        "DiT",
        "U-ViT",
        "latent-diffusion",
        "score_sde_pytorch",
        "EDM",
    ):
        assert word in section
    assert len(RECIPES) == 9
