"""Averages with power-function profiles: closed forms, least squares, snapshots, and averages that were tracked."""

import math

import numpy as np
import pytest
import torch

from diffsweep.callbacks import PowerAverages
from diffsweep.callbacks.power_averages import reconstruction, snapshots
from diffsweep.callbacks.power_profiles import (
    WIDEST,
    Profile,
    decay,
    gamma_of,
    inner_products,
    least_squares,
    width_of,
)
from diffsweep.errors import UserError


@pytest.mark.parametrize(("width", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_the_exponents_of_the_paper(width, gamma):
    assert round(gamma_of(width), 2) == gamma


def test_widths_and_exponents_are_inverse_up_to_the_plain_mean():
    for width in (0.001, 0.01, 0.03, 0.15, 0.2, 0.28, WIDEST):
        assert width_of(gamma_of(width)) == pytest.approx(width, rel=1e-9)
    assert gamma_of(WIDEST) == pytest.approx(0, abs=1e-9)
    for width in (0, -0.1, 0.29, math.nan):
        with pytest.raises(ValueError, match="relative width"):
            gamma_of(width)


def test_the_width_is_the_deviation_of_the_profile():
    """By numerical integrals of the density over [0, 1]."""
    tau = (np.arange(200_000) + 0.5) / 200_000
    for gamma in (0.0, 1.5, 16.97):
        density = (gamma + 1) * tau**gamma
        mean = (density * tau).mean()
        assert width_of(gamma) == pytest.approx(math.sqrt((density * (tau - mean) ** 2).mean()), rel=1e-4)


def test_decays_are_those_of_the_paper_and_go_together():
    """(1 - 1/t)^(gamma + 1), 0 at the first step, and n updates in one are the product of n."""
    for t in (1, 2, 10, 1000):
        assert decay(6.94, t - 1, t) == pytest.approx((1 - 1 / t) ** 7.94, rel=1e-12)
    assert decay(6.94, 40, 50) == pytest.approx(math.prod(decay(6.94, t - 1, t) for t in range(41, 51)), rel=1e-12)


def test_inner_products_are_integrals():
    profiles = [Profile(step, width) for step in (0.5, 0.8, 1.0) for width in (0.05, 0.1, 0.2)]
    tau = (np.arange(100_000) + 0.5) / 100_000
    values = []
    for step, width in profiles:
        gamma = gamma_of(width)
        values.append(np.where(tau <= step, (gamma + 1) * (tau / step) ** gamma / step, 0))
    expected = np.array([[(first * second).mean() for second in values] for first in values])
    np.testing.assert_allclose(inner_products(profiles, profiles), expected, rtol=1e-3)


def test_the_error_is_that_of_the_sum_of_profiles_and_no_factors_have_a_smaller_one():
    kept = [Profile(step, width) for step in (0.25, 0.5, 0.75, 1.0) for width in (0.05, 0.1)]
    tau = (np.arange(100_000) + 0.5) / 100_000

    def values(profile):
        gamma = gamma_of(profile.width)
        return np.where(tau <= profile.step, (gamma + 1) * (tau / profile.step) ** gamma / profile.step, 0)

    wanted = Profile(1.0, 0.15)
    factors, error = least_squares(kept, wanted)
    columns, target = np.stack([values(one) for one in kept], 1), values(wanted)
    difference = columns @ factors - target
    assert error == pytest.approx(np.linalg.norm(difference) / np.linalg.norm(target), rel=1e-3)
    best = np.linalg.lstsq(columns, target, rcond=None)[0]
    np.testing.assert_allclose(factors, best, rtol=0.01, atol=1e-3)


def brownian_motion(steps, size=50):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(steps, size, generator=generator, dtype=torch.float64).cumsum(0) / math.sqrt(steps) + 1


def averaged(weights, width):
    """Return the averages after each step, by the recursion alone."""
    average, found, exponent = torch.zeros_like(weights[0]), [], gamma_of(width) + 1
    for t, weight in enumerate(weights, 1):
        beta = (1 - 1 / t) ** exponent
        average = beta * average + (1 - beta) * weight
        found.append(average)
    return found


@pytest.mark.parametrize(("width", "most"), [(0.03, 0.02), (0.05, 1e-12), (0.07, 1e-3), (0.1, 1e-12), (0.15, 2e-3)])
def test_a_reconstruction_is_the_average_that_was_tracked(width, most):
    """The real error, relative to the spread of the weights, of 32 snapshots; within the bound by Cauchy-Schwarz."""
    weights = brownian_motion(1600)
    tracked = {each: averaged(weights, each) for each in (0.05, 0.1, width)}
    kept = [Profile(step, each) for step in range(50, 1601, 50) for each in (0.05, 0.1)]
    wanted = Profile(1600, width)
    factors, error = least_squares(kept, wanted)
    made = sum(factor * tracked[one.width][one.step - 1] for factor, one in zip(factors, kept, strict=True))
    difference = (made - tracked[width][-1]).norm()
    assert difference / (weights[-1] - weights[0]).norm() < most
    size = math.sqrt(inner_products([wanted], [wanted])[0, 0])
    assert difference <= 1.1 * error * size * weights.norm() + 1e-12


DATA = [0.5, -1.0, 2.0, 0.25, 1.5, -0.75, 1.0, 3.0, -2.0, 0.5]


def weights_of(data):
    """Return the weights of the toy after 1, 2, ... steps."""
    return torch.tensor([1.0, -1.0]) - torch.tensor(data).cumsum(0)[:, None]


def files_of(folder):
    return {one.path.name: torch.load(one.path, weights_only=True) for one in snapshots(folder)}


def test_training_tracks_the_averages_of_the_recursion(toy, fit, tmp_path):
    fit(toy(), [PowerAverages(str(tmp_path / "ema"), snapshot_every=2)], DATA)
    weights = weights_of(DATA)
    found = snapshots(tmp_path / "ema")
    assert [one.profile for one in found] == [
        Profile(step, width) for step in (2, 4, 6, 8, 10) for width in (0.05, 0.1)
    ]
    for one in found:
        saved = torch.load(one.path, weights_only=True)["weights"]
        assert saved.keys() == {"weight"}  # frozen ones have no average
        torch.testing.assert_close(saved["weight"], averaged(weights, one.profile.width)[one.profile.step - 1])


def test_weights_between_updates_count_as_the_next_ones(toy, fit, tmp_path):
    """So that the average of every second step is that of a training in which each weight came twice."""
    fit(toy(), [PowerAverages(str(tmp_path / "ema"), every=2, snapshot_every=4)], DATA[:8])
    weights = weights_of(DATA[:8])[1::2].repeat_interleave(2, 0)
    for one in snapshots(tmp_path / "ema"):
        expected = averaged(weights, one.profile.width)[one.profile.step - 1]
        torch.testing.assert_close(torch.load(one.path, weights_only=True)["weights"]["weight"], expected)


def test_an_average_that_was_tracked_is_reconstructed_to_the_bit(toy, fit, tmp_path):
    """At the end, also of a training whose last step is no multiple of the cadence, and up to an earlier step."""
    fit(toy(), [PowerAverages(str(tmp_path / "ema"), snapshot_every=4)], DATA)
    for step, until in ((10, None), (8, 9)):
        for width in (0.05, 0.1):
            made = reconstruction(tmp_path, width, until)
            (file,) = (tmp_path / "ema").glob(f"step_*{step}_sigma_{width}.pt")
            assert made.profile == (step, width)
            assert made.error == 0
            saved = torch.load(file, weights_only=True)["weights"]["weight"]
            assert torch.equal(made.weights()["weight"], saved)


@pytest.mark.parametrize("settings", [{}, {"every": 2, "snapshot_every": 4}, {"max_snapshots": 2}])
def test_resumed_equals_uninterrupted(toy, fit, tmp_path, settings):
    """Also after a training that ended at the step of the checkpoint, and with files of later steps in the folder."""
    settings = {"snapshot_every": 2, **settings}
    fit(toy(), [PowerAverages(str(tmp_path / "whole"), **settings)], DATA)
    trainer = fit(toy(), [PowerAverages(str(tmp_path / "run"), **settings)], DATA, steps=5)
    trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    (tmp_path / "run" / "step_00000009_sigma_0.05.pt").write_bytes(b"of a training that was killed")
    resumed = PowerAverages(str(tmp_path / "run"), **settings)
    fit(toy(start=5.0), [resumed], DATA, first=5, ckpt_path=tmp_path / "a.ckpt")
    whole, run = files_of(tmp_path / "whole"), files_of(tmp_path / "run")
    extra = {name for name in run if name.startswith("step_00000005")}
    assert run.keys() - extra == whole.keys()
    for name, content in whole.items():
        assert torch.equal(run[name]["weights"]["weight"], content["weights"]["weight"])


def test_widths_cannot_change_when_a_run_is_resumed(tmp_path):
    saved = {"averages": {"step": 3, "updated": 3, "widths": [0.05, 0.1], "weights": [{}, {}]}}
    with pytest.raises(UserError, match=r"callbacks\.averages\.widths cannot change .* \[0\.05, 0\.1\] to \[0\.1\]"):
        PowerAverages(str(tmp_path), [0.1]).on_load_checkpoint(None, None, saved)


def test_snapshots_are_thinned_as_training_goes_on(toy, fit, tmp_path):
    """Of 23 steps and at most 4: those of each step up to 4, of each second up to 8, ..., of each eighth up to 23."""
    for steps, kept in ((4, [1, 2, 3, 4]), (7, [2, 4, 6, 7]), (13, [4, 8, 12, 13]), (23, [8, 16, 23])):
        folder = tmp_path / str(steps)
        fit(toy(), [PowerAverages(str(folder), [0.1], snapshot_every=1, max_snapshots=4)], [0.5] * steps)
        assert [one.profile.step for one in snapshots(folder)] == kept


def test_a_snapshot_in_half_precision_has_half_the_size_and_the_space_is_printed(toy, fit, tmp_path, capsys):
    fit(toy(), [PowerAverages(str(tmp_path / "ema"), snapshot_every=5, float16=True)], DATA)
    printed = capsys.readouterr().out
    assert "at most 2 snapshots in" in printed
    assert "of 8 bytes of weights each, 16 in all" in printed
    saved = torch.load(snapshots(tmp_path / "ema")[-1].path, weights_only=True)["weights"]["weight"]
    assert saved.dtype == torch.float16
    torch.testing.assert_close(saved.float(), averaged(weights_of(DATA), 0.1)[-1], rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"widths": []}, "widths"),
        ({"widths": [0.1, 0.1]}, "widths"),
        ({"widths": [0.3]}, "widths"),
        ({"every": 3}, "snapshot_every"),
        ({"every": 0}, "every"),
        ({"max_snapshots": 1}, "max_snapshots"),
    ],
)
def test_values_that_make_no_sense_are_refused_by_name(tmp_path, settings, key):
    with pytest.raises(ValueError, match=rf"callbacks\.averages\.{key}"):
        PowerAverages(str(tmp_path), **settings)


def test_a_run_without_snapshots_is_refused_with_what_turns_them_on(tmp_path):
    with pytest.raises(UserError, match=r"ema=0\.1 is made of snapshots .* train with callbacks=post_hoc") as error:
        reconstruction(tmp_path, 0.1)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"ema=0\.5: a relative width must be above 0 and at most 0\.2886, not 0\.5"):
        reconstruction(tmp_path, 0.5)
