"""The experiments: published networks have the published sizes, all pass the checks, and sweeps list their jobs."""

import itertools
from pathlib import Path

import pytest
import torch
from composing import composed
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from slower import some
from torch import nn

from diffsweep.conditioning import ClassToken
from diffsweep.configuration.build import sized
from diffsweep.configuration.comments import header_of
from diffsweep.configuration.conf import CONF, options
from diffsweep.configuration.jobs import jobs, parsed, sweep_of, with_sweep_of_experiment
from diffsweep.configuration.preflight import preflight
from diffsweep.configuration.sizes import instantiated
from diffsweep.configuration.texts import choices
from diffsweep.errors import UserError

EXPERIMENTS = options("experiment")
SWEEPS = [name for name in EXPERIMENTS if sweep_of(name)]
OF_RUNS = ("ablate_samplers", "guidance_curve")  # sweeps of evaluate.py
OF_ONE_JOB = [name for name in EXPERIMENTS if name not in SWEEPS]


# Of VDM's public network: Fourier features of x are 12 further channels, the condition is a further number beside the
# embedding of the time, and the embedding's projections in its 67 blocks have no biases.
VDM = 12 * 128 * 9 + 512 - (32 + 2 + 33) * 128
PUBLISHED = {  # parameters of the public network, and how many ours has more
    "ddpm_cifar10": (35_746_307, 0),
    "iddpm_cifar10": (52_546_438, 0),
    "iddpm_imagenet64": (121_063_942, 0),
    "adm_g_imagenet128": (421_529_606, 1024),
    "dit_xl_2_imagenet256": (674_834_720, 0),
    "uvit_s_2_cifar10": (44_255_328, 0),
    "ldm_4_imagenet256": (400_920_579, 512),
    "vdm_cifar10": (30_578_179, -VDM),
    # 55,733,891 with the 9 x 128 weights that embed the augmentation
    "edm_cifar10": (55_733_891 - 9 * 128, 0),
    "score_sde_cifar10": (61_804_419, 0),
    "video_ucf101": (1_141_713_155, 0),  # ours: the paper states no number
}


def numbers(module):
    return sum(parameter.numel() for parameter in module.parameters())


def header(name):
    return " ".join(header_of(CONF / "experiment" / f"{name}.yaml"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_of_published_settings_have_the_published_size(name):
    published, more = PUBLISHED[name]
    cfg = sized(composed("train", f"experiment={name}", "dataset.path=nowhere"))
    with torch.device("meta"):
        assert numbers(instantiated(cfg, "backbone")) == published + more
    assert f"{published:,}" in header(name)
    assert not more or f"{abs(more):,} more" in header(name) or name in ("ldm_4_imagenet256", "vdm_cifar10")


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings_state_their_score_source_and_cost(name):
    text = header(name)
    assert "arXiv:" in text
    assert "table" in text
    assert any(score in text for score in ("FID", "bits per dimension"))
    assert any(word in text for word in ("hours", "days", "steps"))
    with pytest.raises(UserError, match=r"dataset\.path is missing"):
        preflight(composed("train", f"experiment={name}"))


@pytest.fixture(scope="module")
def imagenet(write_parquet, tmp_path_factory):
    """A file of 12 images whose labels are of 1,000 classes."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    columns = {"img": [Image.fromarray(image) for image in pixels], "label": range(12)}
    return write_parquet(tmp_path_factory.mktemp("images") / "train.parquet", columns)


@pytest.fixture
def with_data(request):
    """``with_data(name)`` returns the settings by which an experiment has small data, and no downloads."""

    def with_data(name):
        dataset = composed("train", f"experiment={name}").choices.dataset
        if dataset in ("digits", "shapes", "spotted_shapes"):
            return []
        fixture = {"cifar10": "parquet_file", "parquet": "imagenet", "video_folder": "videos"}[dataset]
        path = request.getfixturevalue(fixture)
        settings = [f"dataset.path={path}", f"dataset.cache_dir={Path(path).parent}", "dataset.num_val=4"]
        settings += {"parquet": ["dataset.image_column=img"], "video_folder": ["dataset.num_frames=4"]}.get(dataset, [])
        autoencoders = {  # the first stage is a public one, or given by its run
            "dit_xl_2_imagenet256": ["autoencoder=kl_f8"],
            "ldm_4_imagenet256": ['autoencoder.model.train=["model=autoencoder_vq","autoencoder.model=null"]'],
        }
        return settings + autoencoders.get(name, [])

    return with_data


@pytest.mark.parametrize("name", OF_ONE_JOB)
def test_every_experiment_passes_the_checks(name, with_data, capsys):
    cfg = composed("train", f"experiment={name}", *with_data(name))
    assert cfg.choices.experiment == name
    preflight(cfg)
    if name in PUBLISHED:
        assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in SWEEPS if name not in OF_RUNS])
def test_every_job_of_a_sweep_passes_the_checks(name):
    """One seed of each: the others differ in nothing that is checked."""
    listed = jobs(with_sweep_of_experiment([f"experiment={name}", "seed=0"]))
    assert len(listed) == len(jobs(with_sweep_of_experiment([f"experiment={name}"]))) / 3
    for job in listed:
        preflight(composed("train", *job))


@pytest.mark.slow
def test_the_samplers_of_a_sweep_pass_the_checks():
    assert OF_RUNS
    for name in OF_RUNS:
        listed = jobs(with_sweep_of_experiment([f"experiment={name}", "seed=0"]))
        assert len(listed) >= 5
        for job in listed[::5]:
            preflight(composed("train", "model=classifier_free", *job))


def test_an_experiment_lists_the_jobs_of_its_sweep():
    listed = jobs(with_sweep_of_experiment(["experiment=ablate_backbones"]))
    expected = itertools.product(["unet", "dit", "uvit"], [0, 1, 2])
    assert listed == [["experiment=ablate_backbones", f"backbone={b}", f"seed={s}"] for b, s in expected]


def test_what_is_typed_replaces_or_multiplies_what_an_experiment_sweeps():
    line = ["seed=7", "experiment=ablate_backbones", "backbone=dit,uvit", "prediction=eps,v"]
    assert with_sweep_of_experiment(line) == line
    assert len(jobs(with_sweep_of_experiment(line[1:]))) == 2 * 2 * 3
    assert with_sweep_of_experiment(["schedule=linear,cosine"]) == ["schedule=linear,cosine"]
    assert with_sweep_of_experiment(["experiment=ddpm_cifar10,vdm_cifar10"]) == ["experiment=ddpm_cifar10,vdm_cifar10"]
    ax = ["experiment=ablate_backbones", "hydra/sweeper=ax"]  # reads the keys itself
    assert with_sweep_of_experiment(ax) == ax
    optuna = ["experiment=ablate_backbones", "seed=1", "hydra/sweeper=optuna"]
    assert with_sweep_of_experiment(optuna)[3:] == ["backbone=unet,dit,uvit"]


def test_hydra_lists_the_same_jobs():
    line = with_sweep_of_experiment(["experiment=ablate_backbones", "prediction=eps,v", "hydra/launcher=basic"])
    own = [override for override in parsed(line) if not override.key_or_group.startswith("hydra")]
    (batch,) = BasicSweeper.split_arguments(own, max_batch_size=None)
    assert batch == jobs(line)


def test_two_sweeps_in_one_line_are_refused():
    with pytest.raises(UserError, match="ablate_backbones is a sweep itself; start it in a line of its own"):
        with_sweep_of_experiment(["experiment=shapes_text,ablate_backbones"])


def test_help_shows_a_sweep_as_it_is_typed():
    assert {"backbone=unet,dit,uvit", "seed=0,1,2"} <= set(choices("experiment", "ablate_backbones"))


def test_the_class_token_is_the_row_of_its_class():
    conditioning = ClassToken(5, context_dim=3, negative=4)
    assert isinstance(conditioning.classes, nn.Embedding)
    cond = conditioning(conditioning.request(torch.tensor([0, 3, 5]), None))
    torch.testing.assert_close(cond.tokens, conditioning.classes.weight[[0, 3, 0]][:, None])
    torch.testing.assert_close(cond.negative.tokens, conditioning.classes.weight[[4, 4, 4]][:, None])
    assert cond.vector is None
    assert conditioning.sizes == {"context_dim": 3}
    with pytest.raises(ValueError, match=r"conditioning\.context_dim must be at least 1, not 0"):
        ClassToken(5, context_dim=0)


def test_a_table_of_tokens_learns_the_classes(configure, tmp_path):
    """The loss has a gradient in the rows of the classes of a batch, and in no others."""
    from diffsweep.configuration.build import build_model

    small = ("backbone.channels=8", "backbone.attention_factors=[2]", "conditioning.context_dim=8")
    model = build_model(configure(tmp_path / "run", "conditioning=class_token", *small))
    for parameter in model.parameters():
        if not parameter.any():  # the output of the network starts at 0, whatever the tokens are
            nn.init.normal_(parameter, std=0.1)
    batch = {"x": torch.randn(4, 1, 8, 8), "label": torch.tensor([3, 7, 3, 1]), "position": torch.arange(4)}
    model.training_step(batch, 0).backward()
    learned = model.conditioning.classes.weight.grad.abs().sum(dim=1) > 0
    assert learned.nonzero().flatten().tolist() == [1, 3, 7]


FEW = ("trainer.max_steps=1", "trainer.val_check_interval=1", "sampler.steps=2")


def directories():
    return sorted(path.parent.name for path in Path("outputs/sweeps").glob("*/*/config.yaml"))


NAMES = ["0_backbone-unet_seed-0", "1_backbone-dit_seed-0", "2_backbone-uvit_seed-0"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", some([(), ("hydra/launcher=basic",)], 1, ids=" ".join))
def test_the_name_of_an_experiment_is_the_whole_command_of_its_sweep(command, fast, launcher):
    sizes = ("backbone.channels=8", *(word for word in fast if "debug" not in word))
    done = command("train", "-m", "experiment=ablate_backbones", "seed=0", *sizes, *FEW, *launcher)
    assert done.code in (0, None), done.err
    names = [name.replace("_seed-0", "") for name in NAMES]  # one seed is typed, and so it does not vary
    assert directories() == names


@pytest.mark.slow
def test_a_sweep_of_evaluations_is_an_experiment_too(command, finished, tmp_path):
    arguments = (f"run={finished}", "experiment=ablate_samplers", "seed=0,1", f"output={tmp_path / 'curve'}")
    few = ("sampler=ddim,ancestral", "sampler.steps=2", "num_samples=8", "metrics=digits", "metrics.kid_subset_size=4")
    done = command("evaluate", "-m", *arguments, *few)
    assert done.code in (0, None), done.err
    assert len((tmp_path / "curve" / "results.csv").read_text().splitlines()) == 1 + 4


def test_a_sweep_without_the_switch_is_refused_unless_it_is_one_job(command, fast):
    done = command("train", "experiment=ablate_backbones", "seed=0", *fast, *FEW)
    assert done.code == 2
    assert done.err.strip() == (
        "error: experiment=ablate_backbones is a sweep over backbone; add -m to run it, or give each of them one value "
        "for a single job"
    )
    assert command("train", "experiment=ablate_backbones", "seed=0", "backbone=dit", *fast, *FEW).code in (0, None)
