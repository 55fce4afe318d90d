"""Tests of every option of every group, and of rows in which each pair of options occurs."""

import itertools
import math
import random
from pathlib import Path
from unittest import mock

import pytest
import torch
import yaml
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig
from slower import each_once, some

from diffsweep.configuration import conf
from diffsweep.configuration.build import build_data, build_model
from diffsweep.configuration.check import STAGE
from diffsweep.configuration.preflight import preflight
from diffsweep.configuration.signatures import keywords_of
from diffsweep.errors import UserError
from diffsweep.models import AutoencoderModel, DiffusionModel
from diffsweep.proofs.data import with_stand_ins

CONF = Path(__file__).parents[2] / "conf"
NULLABLE = {"debug", "experiment"}  # groups that choose nothing by default
OUTSIDE = {"callbacks", "debug", "experiment", "logger", "paths", "trainer"}  # groups that no loss or sample depends on
NAMED = {
    key for entry in yaml.safe_load((CONF / "base.yaml").read_text())["defaults"] if entry != "_self_" for key in entry
}
# Experiments that are combined with other options. Published settings and sweeps are in test_experiments.
COMBINED = ("cifar10_latent", "shapes_text")
GROUPS = {
    folder.name: [*(COMBINED if folder.name == "experiment" else conf.options(folder.name))]
    + ["null"] * (folder.name in NULLABLE)
    for folder in sorted(CONF.iterdir())
    if folder.name in NAMED
}


def text_of(group, option):
    return (CONF / group / f"{option}.yaml").read_text()


# options that need files; they are tested in test_concepts, test_pretrained_text, test_public and test_i3d
DOWNLOADED = {
    *("comparisons=parquet", "autoencoder=public"),
    *(f"concept={name}" for name in ("dreambooth", "inst", "inst_clip", "textual_inversion")),
    *("conditioning=text_clip", "conditioning=text_t5"),
    *(f"metrics={name}" for name in ("fvd", "inception", "dinov2", "clip")),
}
# An option with a stage requires another trained run and is tested with it, except first stages, which are replaced by
# untrained ones.
LEARNED = ("autoencoder=kl", "autoencoder=vq")
# These are for clips, but most rows are of images, which would be refused; see test_video and test_base_and_residual.
OF_CLIPS = ("noise=shared", "noise=progressive", "backbone=base_and_residual")
OF_A_BASE = ("comparisons", "concept", "preference", "scorer")  # groups of a model that starts from a trained one
FAMILIES = {  # options that do not start from another of their group: published sizes add no combinations
    name: [
        option
        for option in choices
        if option == "null"
        or f"{name}={option}" in LEARNED
        or not (
            conf.parents(name, option)
            or STAGE in text_of(name, option)
            or f"{name}={option}" in {*DOWNLOADED, *OF_CLIPS}
            or (name in OF_A_BASE and option != "none")
        )
    ]
    for name, choices in GROUPS.items()
}
RESERVED = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}


def overrides(row):
    """Return the overrides of a row, without those that are null by default."""
    return tuple(override for override in row if not override.endswith("=null"))


def pairwise(groups):
    """Return rows with one option of each group, such that every pair of options of two groups is in some row.

    The algorithm is in-parameter-order (Lei and Tai 1998). The two largest groups are crossed, each pair once, which
    is the least number of rows of any cover. The others follow, the larger ones first: each row gets the option with
    most pairs that no row has yet. The few pairs that are left have rows of their own.
    """
    names = sorted(groups, key=lambda name: -len(groups[name]))
    (a, first), (b, second) = ((name, groups[name]) for name in names[:2])
    # each option occurs early, since the fast suite has the first rows
    shifted = itertools.product(range(len(second)), range(len(first)))
    rows = [{a: first[i], b: second[(i + shift) % len(second)]} for shift, i in shifted]
    for count, name in enumerate(names[2:], 2):
        left = {(other, x, y) for other in names[:count] for x in groups[other] for y in groups[name]}
        for row in rows:
            row[name] = max(groups[name], key=lambda y: sum((*item, y) in left for item in row.items()))
            left -= {(*item, row[name]) for item in row.items()}
        for other, x, y in sorted(left):
            rows.append({**{each: groups[each][0] for each in names[:count]}, other: x, name: y})
    return [tuple(f"{name}={row[name]}" for name in groups) for row in rows]


ROWS = pairwise(FAMILIES)
MATHS = {name: options if name not in OUTSIDE else options[:1] for name, options in FAMILIES.items()}
SHALLOW = ("backbone.channel_mult=[1,2]", "backbone.attention_factors=[2]")  # digits have no pixels for more levels
CLASSIFIER = "model=noisy_classifier"
CLIPS = ("dataset=moving_digits", "metrics=moving_digits")
BASE = 'adaptation.base.train=["model=ddpm"]'
LEARNS = ("model=preference", "scorer=class_probability")
COMPANIONS = {  # the other choices that an option requires
    "adaptation=controlnet": (BASE,),
    "adaptation=frozen": (BASE, *LEARNS, "preference=reward_weighted", "adaptation.train=[denoiser.backbone.middle.*]"),
    "adaptation=full": (BASE, *LEARNS, "preference=supervised"),
    "adaptation=lora": (BASE, "adaptation.targets=[denoiser.backbone.*.conv_in]"),
    "cascade=blur": ("model=cascade",),
    "cascade=noise": ("model=cascade",),
    "comparisons=scored": (BASE, *LEARNS, "preference=kto", "adaptation=full"),
    "scorer=attribute": (
        *("model=preference", "adaptation=full", "preference=dpo", "dataset=shapes", "metrics=classifier"),
        'adaptation.base.train=["model=ddpm","dataset=shapes","metrics=none"]',
    ),
    "execution=compiled_blocks": ("backbone=dit",),
    "guidance=distilled": ("model=guidance_distillation",),
    "lr_scheduler=rounds": ("model=progressive_distillation",),
    "teacher=trained": ("model=guidance_distillation",),
    "discretisation=doubling": ("model=consistency",),
    "discretisation=grid": ("model=consistency",),
    "discretisation=growing": ("model=consistency",),
    "discretisation=shrinking": ("model=consistency",),
    "sampler=consistency": ("model=consistency",),
    "autoencoder=kl_f8": ("dataset=shapes", "metrics=classifier"),
    "autoencoder=vq_f8": ("dataset=shapes", "metrics=classifier"),
    "dataset=moving_digits": ("backbone=unet3d", "metrics=moving_digits"),
    "dataset=video_folder": ("backbone=unet3d", "metrics=none"),
    "discriminator=patch": ("model=autoencoder_kl",),
    "experiment=cifar10_latent": ("dataset=cifar10",),
    "metrics=moving_digits": ("dataset=moving_digits", "backbone=unet3d"),
    "perceptual=classifier": ("model=autoencoder_kl",),
    "perceptual=lpips": ("model=autoencoder_kl", "dataset=shapes", "metrics=classifier"),
    "backbone=adm_128": SHALLOW,
    "backbone=adm_256": SHALLOW,
    "backbone=adm_classifier_128": (*SHALLOW, CLASSIFIER),
    "backbone=adm_classifier_256": (*SHALLOW, CLASSIFIER),
    "backbone=adm_classifier_64": (CLASSIFIER,),
    "backbone=base_and_residual": ("model=video", "noise=shared", "prediction=eps"),
    "backbone=dit3d": CLIPS,
    "backbone=encoder_unet": (CLASSIFIER,),
    "backbone=unet3d": CLIPS,
    "backbone=unet_efficient": (*SHALLOW, "backbone.num_res_blocks=1"),
    "conditioning=class_token": ("backbone.attention_factors=[2]",),
    "conditioning=class_scalars": ("dataset=shapes", "metrics=classifier"),
    "conditioning=scalars": ("dataset=shapes", "metrics=classifier"),
    "conditioning=text": ("dataset=shapes", "metrics=classifier"),
    "dataset=cifar10": ("metrics=classifier",),
    "dataset=hub": ("metrics=classifier",),
    "dataset=image_folder": ("metrics=classifier",),
    "dataset=parquet": ("metrics=classifier",),
    "dataset=shapes": ("metrics=classifier",),
    "guidance=classifier": ("model=classifier_guided",),
    "guidance=classifier_free": ("model=classifier_free",),
    "guidance=composed": ("model=classifier_free",),
    "guidance=reconstruction_free": ("model=classifier_free",),
    "guidance=repaint": ("guidance.jump_length=1",),
    "guidance=repaint_free": ("model=classifier_free",),
    "guidance=repaint_reconstruction": ("guidance.outer.jump_length=1",),
    "noise=progressive": ("model=video",),
    "noise=shared": ("model=video",),
    "objective=hybrid": ("prediction.variance=learned_range",),
    "objective=vlb": ("prediction.variance=learned_range",),
    "schedule=flow": ("prediction=flow",),
    "schedule=learned": ("objective=vlb",),
    "guidance=autoguidance": ('guidance.weak.train=["trainer.max_steps=4"]',),
    "time_sampling=importance": ("objective=vlb", "prediction.variance=learned_range"),
}


def nodes(cfg):
    """Yield every node of a configuration that has a target."""
    if isinstance(cfg, DictConfig):
        if "_target_" in cfg:
            yield cfg
        for key in cfg:
            yield from nodes(cfg[key])
    elif isinstance(cfg, ListConfig):
        for item in cfg:
            yield from nodes(item)


def keywords_are_those_of_the_targets(cfg):
    found = list(nodes(cfg))
    assert {"model", "schedule", "sampler"} <= set(cfg)
    assert len(found) > 10
    for node in found:
        parameters, anything = keywords_of(get_object(node._target_))
        given = {str(key) for key in node if key not in RESERVED}
        assert anything or given <= set(parameters)
        needed = {name for name, parameter in parameters.items() if parameter.default is parameter.empty}
        if not node.get("_partial_") and (cfg.get("callbacks") is None or node not in cfg.callbacks.values()):
            assert needed <= given


# Groups whose options are independent: their first options are checked in one row, then their second ones, each time
# with another backbone. They form two sets, since some objectives have a weighting of their own.
APART = (
    ("schedule", "weighting", "likelihood", "conditioning", "guidance", "sampler", "metrics"),
    (
        "prediction",
        "time_sampling",
        "objective",
        "degradation",
        "logger",
        "lr_scheduler",
        "optimizer",
        "trainer",
        "callbacks",
    ),
)
DEFAULTS = {
    f"{group}={option}"
    for entry in yaml.safe_load((CONF / "base.yaml").read_text())["defaults"]
    if entry != "_self_"
    for group, option in entry.items()
}


def together():
    """Return rows of options that pass the checks together, with every option but the defaults in one of them."""
    every = {
        group: [f"{group}={o}" for o in options if o != "null" and f"{group}={o}" not in DEFAULTS | DOWNLOADED]
        for group, options in GROUPS.items()
    }
    alone = {option: COMPANIONS[option] for options in every.values() for option in options if option in COMPANIONS}
    free = {group: [option for option in options if option not in alone] for group, options in every.items()}
    rows = [row for groups in APART for row in itertools.zip_longest(*(free[group] for group in groups))]
    rows = itertools.zip_longest(free["backbone"], rows, fillvalue=())
    rows = [tuple(filter(None, (backbone, *others))) for backbone, others in rows]
    occurred = {option for row in rows for option in row}
    for option in sorted(
        (o for options in every.values() for o in options if o not in occurred), key=lambda o: o not in alone
    ):
        if option not in occurred:
            rows.append((option, *alone.get(option, ())))
            occurred |= set(rows[-1])
    return rows


def presets_slow(rows):
    """Return rows as parameters; a preset that no other option is with is slow: other tests build it from its file."""

    def is_preset(row):
        group, _, name = row[0].partition("=")
        return group in ("autoencoder", "backbone", "dataset") and bool(conf.parents(group, name))

    return [
        pytest.param(
            row,
            marks=pytest.mark.slow if is_preset(row) and set(row[1:]) <= set(COMPANIONS.get(row[0], ())) else (),
        )
        for row in rows
    ]


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("row", presets_slow(together()), ids=",".join)
def test_every_option_passes_the_checks_before_a_run(compose, row):
    """The keywords are those of the targets, and the networks can be built."""
    cfg = compose(*row)
    chosen = {group: option for group, _, option in (override.partition("=") for override in row) if group in GROUPS}
    assert {group: str(cfg.choices[group]) for group in chosen} == chosen
    keywords_are_those_of_the_targets(cfg)
    preflight(cfg)


@pytest.mark.parametrize("option", sorted(DOWNLOADED))
def test_options_that_need_files_from_elsewhere_compose(compose, option):
    """These options are in no row of the test above."""
    group, _, name = option.partition("=")
    cfg = compose(option)
    assert cfg.choices[group] == name
    keywords_are_those_of_the_targets(cfg)


@pytest.mark.parametrize(("group", "option"), [(g, o) for g in GROUPS for o in GROUPS[g] if o != "null"])
def test_every_file_is_a_mapping_that_names_no_other_projects_code(group, option):
    content = yaml.safe_load((CONF / group / f"{option}.yaml").read_text())
    assert isinstance(content, dict)
    targets = [value for key, value in _walk(content) if key == "_target_"]
    assert all(target.partition(".")[0] in ("diffsweep", "torch", "lightning") for target in targets)


def _walk(node):
    if isinstance(node, dict):
        for key, value in node.items():
            yield key, value
            yield from _walk(value)


@pytest.mark.parametrize("override", ["schedule=5", "schedule=null"])
def test_an_option_that_is_no_word_is_refused(compose, override):
    with pytest.raises(UserError, match=override.partition("=")[0]):
        compose(override)


def test_the_cover_has_every_pair_of_options():
    occurred = {pair for row in ROWS for pair in itertools.combinations(row, 2)}
    for a, b in itertools.combinations(FAMILIES, 2):
        for x, y in itertools.product(FAMILIES[a], FAMILIES[b]):
            assert (f"{a}={x}", f"{b}={y}") in occurred


class StandIn:
    """An untrained classifier and denoiser in place of the trained models that guidance requires."""

    def __init__(self, model):
        self.denoiser, self.weight = model.denoiser, torch.randn(math.prod(model.autoencoder.shape), 10)

    def log_prob(self, x_t, t):
        return (x_t.flatten(1) @ self.weight).log_softmax(1)


def runs_or_is_refused(cfg):
    """Return whether a configuration is accepted, and then check its training and sampling.

    It is refused in one line (False), or (True) its loss is the same in a second call and decreases along its
    gradient, and it samples; a classifier gives probabilities.
    """
    refused = None
    try:
        preflight(cfg)
    except UserError as error:
        refused = str(error)
    if refused is not None:
        assert refused
        assert "\n" not in refused
        return False

    def untrained(**_):
        return instantiate(cfg.autoencoder.network)()

    with mock.patch("diffsweep.configuration.loading.trained", untrained):
        return runs(cfg)


def runs(cfg):
    """Check the training and sampling of an accepted configuration; see :func:`runs_or_is_refused`."""
    model, data = build_model(cfg), build_data(cfg)
    model.train(not isinstance(model, AutoencoderModel))  # in training mode a codebook changes
    batch = {**data.split("train")[torch.arange(8)], "position": torch.arange(8)}
    loss, again = model.training_step(batch, 0), model.training_step(batch, 0)
    assert torch.isfinite(loss)
    assert torch.equal(loss, again)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    squares = sum(float(gradient.square().sum()) for gradient in gradients if gradient is not None)
    assert squares > 0
    assert any(
        _moved(parameters, gradients, -size / squares**0.5, lambda: model.training_step(batch, 0)) < loss
        for size in (1e-3, 1e-4, 1e-5)  # steep where an objective divides by small sigmas
    )
    for parameter in parameters:
        if not parameter.any():  # the output of a head that starts at 0 does not depend on the noise
            torch.nn.init.normal_(parameter, std=0.1)
    model.eval()
    if isinstance(model, AutoencoderModel):
        made = model.autoencoder.reconstruct(batch["x"]).x
        assert made.shape == batch["x"].shape
        torch.testing.assert_close(model.autoencoder.reconstruct(batch["x"][[5, 2]]).x, made[[5, 2]], rtol=0, atol=1e-4)
        return True
    if not isinstance(model, DiffusionModel):
        x, t = batch["x"], torch.linspace(0.1, 1, 8)
        log_prob = model.log_prob(x, t)
        torch.testing.assert_close(log_prob.exp().sum(1), torch.ones(8))
        torch.testing.assert_close(model.log_prob(x[[5, 2]], t[[5, 2]]), log_prob[[5, 2]], rtol=0, atol=1e-4)
        return True
    model.guidance = with_stand_ins(model.guidance, StandIn(model))

    def sample(indices, seed):
        return model.sample(indices, seed, model.request(indices, data.split("val"))[1])

    samples = sample(torch.arange(8), seed=0)
    assert samples.shape == batch["x"].shape
    assert torch.isfinite(samples).all()
    near = max(1e-4, 1000 * (model.sampler.tolerance or 0))  # an adaptive solver chooses its steps for a batch at once
    torch.testing.assert_close(sample(torch.tensor([5, 2]), seed=0), samples[[5, 2]], rtol=0, atol=near)
    assert not torch.allclose(sample(torch.arange(8), seed=1), samples, atol=1e-3)
    return True


def _moved(parameters, gradients, step, function):
    """Return the function's value at the parameters moved along their gradients, which are restored."""
    before = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter += step * gradient
    value = function()
    with torch.no_grad():
        for parameter, old in zip(parameters, before, strict=True):
            parameter.copy_(old)
    return value


SMALL = ("backbone.channels=8", "sampler.steps=2")


def small(row):
    """Return overrides that make the networks of a row small."""
    return (*SMALL, *(["autoencoder.network.channels=8"] if set(row) & set(LEARNED) else []))


@pytest.mark.parametrize("row", each_once(ROWS, ",".join))
def test_every_pair_of_options_trains_and_samples_or_is_refused(compose, row):
    cfg = compose(*overrides(row), *small(row))
    assert all(
        str(cfg.choices[group]) == option for group, _, option in (pair.partition("=") for pair in overrides(row))
    )
    keywords_are_those_of_the_targets(cfg)
    runs_or_is_refused(cfg)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(50))
def test_combinations_train_and_sample_or_are_refused(compose, part):
    """The rows are drawn at random from the full product, which is too large to test."""
    draw = random.Random(part)
    for _ in range(20):
        row = [f"{name}={draw.choice(choices)}" for name, choices in MATHS.items()]
        runs_or_is_refused(compose(*overrides(row), *small(row)))


@pytest.mark.slow
@pytest.mark.parametrize("family", GROUPS["model"])
@pytest.mark.parametrize("group", ["schedule", "prediction", "objective", "weighting", "time_sampling"])
def test_one_part_of_a_family_is_varied_at_a_time(compose, family, group):
    """Each family with each option of each part trains and samples or is refused by a rule; some of them train."""
    ran = [runs_or_is_refused(compose(f"model={family}", f"{group}={option}", *SMALL)) for option in GROUPS[group]]
    assert any(ran)


VARIED = ("schedule", "prediction", "weighting", "time_sampling", "backbone", "sampler", "guidance", "conditioning")


def in_latents():
    """Return rows in latents with each option of the varied groups that requires no other choice."""
    columns = [
        [f"{group}={option}" for option in FAMILIES[group] if f"{group}={option}" not in COMPANIONS] for group in VARIED
    ]
    samplers = columns[VARIED.index("sampler")]
    samplers.sort(key=lambda name: name == "sampler=ode")  # last, with the default schedule: on a stiff one it is slow
    return [("model=ldm", *filter(None, row)) for row in itertools.zip_longest(*columns)]


@pytest.mark.parametrize("row", some(in_latents(), 5, ids=",".join))  # the cover above has latents too
def test_each_option_trains_and_samples_in_latents(compose, row):
    assert runs_or_is_refused(compose(*row, *SMALL, "autoencoder.network.channels=8"))
