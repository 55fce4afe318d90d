"""Cascades: the exact joint distribution, the condition in training, classes for all stages, and what does not fit."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from diffsweep.autoencoders import Identity, LowResolution
from diffsweep.conditioning import Unconditional
from diffsweep.configuration.loading import load_sampled
from diffsweep.configuration.preflight import preflight
from diffsweep.configuration.stage_nodes import saved_config
from diffsweep.diffusion import Condition, Denoised, Denoiser, GaussianDenoiser, Noise, expand_to
from diffsweep.errors import UserError
from diffsweep.layers.conditions import with_image
from diffsweep.models import CascadeModel, DiffusionModel, LowerStage, ModelParts
from diffsweep.models.cascade import KEPT, blurred
from diffsweep.runs.training import train
from diffsweep.samplers import DDIM, Ancestral
from diffsweep.schedules import Cosine
from diffsweep.tasks import (
    Counterfactual,
    Edit,
    Inpaint,
    Interpolate,
    Reconstruct,
    Restore,
    Translate,
)

SCHEDULE = Cosine(num_steps=1000)
MEAN = torch.tensor([0.1, -0.2, 0.3, 0.0], dtype=torch.float64)  # of images of 2 x 2 pixels
SQUARES = torch.full((1, 4), 0.25, dtype=torch.float64)  # A: the mean of the four pixels


def covariance():
    root = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 0.2
    return root @ root.T + 0.01 * torch.eye(4, dtype=torch.float64)


class Exact(Denoiser):
    """The exact denoiser of a Gaussian given ``cond.image``, its mean of pixels noised up to a time."""

    def forward(self, x_t, t, cond=None):
        s = (cond.scalars[:, 0] / 1000).double()
        alpha_s, sigma_s = (part[:, None, None] for part in SCHEDULE(s))
        alpha, sigma = SCHEDULE(t.double())
        y = cond.image.double().flatten(2)[:, 0, :1]  # (B, 1): all four pixels are equal
        prior = torch.linalg.inv(covariance())
        precision = prior + (alpha / sigma) ** 2 * torch.eye(4) + (alpha_s / sigma_s) ** 2 * SQUARES.T @ SQUARES
        shift = prior @ MEAN + alpha / sigma**2 * x_t.double().flatten(1)
        shift = shift + (alpha_s / sigma_s**2)[:, :, 0] * y @ SQUARES
        x0 = torch.linalg.solve(precision, shift).reshape(x_t.shape).to(x_t)
        return Denoised(x0, (x_t - expand_to(alpha, x_t) * x0) / expand_to(sigma, x_t), 0.0)


class Untrained(nn.Module):
    """A network that is never evaluated."""


def model_of(kind, denoiser, space, **more):
    parts = {"schedule": SCHEDULE, "prediction": None, "objective": None, "time_sampling": None}
    settings = {"sampler": DDIM(steps=200, clip="none"), "guidance": lambda inner, times: inner, "optimizer": None}
    model = kind(
        Untrained(), **parts, conditioning=Unconditional(), autoencoder=space, **settings, lr_scheduler=None, **more
    )
    model.denoiser = denoiser
    model.unused = nn.Parameter(torch.zeros(1))  # it gives the model its floating-point type
    return model.double()


def cascade(truncated):
    """A cascade of exact stages of images of 2 x 2 pixels, whose lower stage draws their mean."""
    low = GaussianDenoiser(SCHEDULE, SQUARES @ MEAN, SQUARES @ covariance() @ SQUARES.T)
    base = model_of(DiffusionModel, low, LowResolution(1, 1, 2, 2))
    lower = LowerStage(
        lambda: base, Ancestral(steps=200, clip="none"), channels=1, augmentation=0.3, truncated=truncated
    )
    return model_of(CascadeModel, Exact(SCHEDULE), Identity(1, 2), cascade=lower)


@pytest.mark.parametrize("truncated", [False, True])
def test_exact_stages_draw_the_joint_distribution(truncated):
    model, count = cascade(truncated), 20000
    x, noise = model.start(torch.arange(count), 0)
    drawn = model.sample_from(x, noise).flatten(1)  # (N, 4)
    spread = covariance().diagonal().sqrt()
    torch.testing.assert_close(drawn.mean(0), MEAN, rtol=0, atol=5 * float(spread.max()) / count**0.5)
    error = (torch.cov(drawn.T) - covariance()) / torch.outer(spread, spread)
    assert error.abs().max() < 5 * (2 / count) ** 0.5


def test_unnoised_images_are_those_of_the_data_and_training_noises_them_up_to_the_largest_time():
    model = cascade(truncated=False)
    x = torch.rand(400, 1, 2, 2, dtype=torch.float64) * 2 - 1
    lower, noise = model.cascade, Noise(0, torch.arange(400))
    low = x.mean((2, 3), keepdim=True).expand_as(x)
    lower.augmentation = 0.0
    given = lower.of_data(x, noise, training=False)
    torch.testing.assert_close(given["image"], low)
    assert torch.equal(given["scalars"], torch.zeros(400, 1))

    given = lower.of_data(x, noise, training=True)
    s = given["scalars"][:, 0] / 1000
    assert 0.45 < s.max() < 0.5
    assert abs(s.mean() - 0.25) < 5 * 0.5 / (12 * 400) ** 0.5
    alpha, sigma = (part[:, None, None, None] for part in SCHEDULE(s.double()))
    eps = ((given["image"] - alpha * low) / sigma)[:, 0, 0, 0]
    assert abs(eps.mean()) < 5 / 400**0.5
    assert abs(eps.std() - 1) < 5 / 800**0.5


def test_a_blur_keeps_the_mean_and_has_its_width_for_each_image():
    x = torch.zeros(2, 3, 9, 9, dtype=torch.float64)
    x[:, :, 4, 4] = 1
    width = torch.tensor([0.4, 0.6], dtype=torch.float64)
    found = blurred(x, width)
    torch.testing.assert_close(found.sum((2, 3)), torch.ones(2, 3, dtype=torch.float64))
    side = torch.exp(-0.5 / width**2)
    torch.testing.assert_close(found[:, 0, 4, 5] / found[:, 0, 4, 4], side)
    torch.testing.assert_close(found[:, 2, 3, 5] / found[:, 2, 4, 4], side**2)
    torch.testing.assert_close(blurred(torch.full_like(x, 0.3), width), torch.full_like(x, 0.3))


def test_guidance_leads_away_from_a_condition_with_the_same_image():
    cond = Condition(vector=torch.arange(3), image=torch.rand(3, 1, 4, 4), scalars=torch.rand(3, 1), kept=KEPT)
    both = cond.cat(cond.opposite())
    assert both.null_rows("vector").tolist() == [False] * 3 + [True] * 3
    assert both.null_rows("image") is both.null_rows("scalars") is None
    assert torch.equal(both.image, torch.cat([cond.image, cond.image]))

    opposite = replace(cond, negative=Condition(vector=torch.zeros(3).long())).opposite()
    assert torch.equal(opposite.vector, torch.zeros(3).long())
    assert torch.equal(opposite.image, cond.image)
    assert opposite.kept == KEPT


def test_a_network_is_given_the_kept_image_of_rows_without_a_class():
    x, image = torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4)
    cond = Condition(vector=torch.zeros(2).long(), image=image).null(torch.tensor([True, False]))
    assert torch.equal(with_image(x, cond, 1)[:, 1], torch.stack([torch.zeros(4, 4), image[1, 0]]))
    assert torch.equal(with_image(x, replace(cond, kept=KEPT), 1)[:, 1], image[:, 0])


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["model=cascade", "cascade.augmentation=0.6"], "cascade.augmentation=0.6 lies outside the times of training"),
        (["model=cascade", "cascade.max_augmentation=1"], "below 1, not 1"),
        (["model=cascade", "cascade.truncated=true", "cascade.augmentation=0"], "must be above 0"),
        (["model=cascade", "cascade.blur=[0.6,0.4]"], "0 < least <= most"),
        (["model=cascade", "conditioning=image"], "so does conditioning=image"),
        (["model=cascade", "cascade.factor=3"], "factor=3 does not divide the images' side of 8"),
        (["model=cascade", "cascade=none"], "requires a lower stage of a cascade"),
        (["cascade=noise"], "model=ddpm"),
        (["model=cascade", 'cascade.base.train=["model=ddpm"]'], "so none are left to add"),
        (
            ["model=cascade", 'cascade.base.train=["model=ddpm","conditioning=class","autoencoder=low_res"]'],
            "num_classes=10",
        ),
    ],
)
def test_stages_that_do_not_fit_are_refused_in_a_line(compose, overrides, reason):
    """Among others by the rules lower_stage_is_of_a_lower_resolution, lower_stage_has_the_condition and
    lower_stage_and_conditioning_provide_different_parts.
    """
    with pytest.raises(UserError, match=reason) as error:
        preflight(compose(*overrides))
    assert "\n" not in str(error.value)


@pytest.mark.slow  # three trainings
def test_a_cascade_of_three_stages_with_classes_is_trained_and_used_as_one_model(configure, tmp_path):
    middle = '["model=cascade","autoencoder=low_res","cascade.factor=4","callbacks=minimal"]'
    words = ("model=cascade", "conditioning=class", "conditioning.dropout=0.1", "guidance=classifier_free")
    cfg = configure(
        tmp_path / "run", *words, "dataset=shapes", "dataset.num_train=64", "dataset.num_val=16",
        f"cascade.base.train={middle}", "trainer.max_steps=2", "backbone.channels=8",
    )  # fmt: skip
    train(cfg)
    model = load_sampled(saved_config(tmp_path / "run"))
    assert model.autoencoder.shape == (3, 16, 16)
    middle = model.cascade.base
    assert middle.autoencoder.shape == (3, 8, 8)
    assert middle.cascade.base.autoencoder.shape == (3, 4, 4)
    assert middle.cascade.base.conditioning.sizes == {"num_classes": 4}

    sampler = DDIM(steps=2, clip="none")  # clipping would hide the little that two steps of training do
    for lower in (model.cascade, middle.cascade):
        lower.sampler = sampler
    together = model.sample(torch.arange(4), 0, sampler=sampler)
    alone = model.sample(torch.tensor([2]), 0, model.condition_of({"label": torch.tensor([2])}), sampler)
    torch.testing.assert_close(together[2:3], alone, rtol=1e-3, atol=1e-3)
    assert len(model.denoisers) == 3
    other = model.sample(torch.tensor([2]), 0, model.condition_of({"label": torch.tensor([1])}), sampler)
    assert not torch.equal(other, alone)


@pytest.mark.parametrize("kind", [Counterfactual, Edit, Inpaint, Interpolate, Reconstruct, Restore, Translate])
def test_a_task_that_starts_from_images_is_refused_since_the_lower_stage_draws_the_condition(kind):
    lower = cascade(truncated=False).cascade
    reason = kind().unsuited_because(ModelParts(nn.Identity(), Unconditional(), [], None, lower))
    assert "conditioned on what its lower stage draws" in reason
    assert "\n" not in reason
