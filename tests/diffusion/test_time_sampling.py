"""Training times have their densities and weights."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from diffsweep.diffusion import Importance, LogitNormal, LogNormal, Noise, Stratified, Stream, Uniform, stratified
from diffsweep.schedules import EDM, VE, VP, Cosine, Flow, Linear


def midpoints(count):
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


@pytest.mark.parametrize("num_steps", [1, 7, 49, 1000])
def test_uniform_covers_exactly_the_grid(num_steps):
    u = (torch.arange(10 * num_steps, dtype=torch.float64) + 0.5) / (10 * num_steps)
    t, weight = Uniform()(Linear(num_steps), u)
    values, counts = t.unique(return_counts=True)
    torch.testing.assert_close(values, torch.arange(1, num_steps + 1, dtype=torch.float64) / num_steps, rtol=0, atol=0)
    assert (counts == 10).all()
    assert (weight == 1).all()


def test_drawn_times_lie_on_the_grid_in_float32():
    u = Noise(0, torch.arange(20_000)).uniform(stream=Stream.TIME)
    t, _ = Uniform()(Linear(1000), u)
    assert t.dtype == torch.float32
    torch.testing.assert_close(t * 1000, (t * 1000).round(), rtol=0, atol=1e-3)
    assert t.min() > 0.0009
    assert t.max() <= 1


@pytest.mark.parametrize("num_steps", [1, 3, 1000, 1024, 1025])
def test_the_ends_of_the_unit_interval_are_the_ends_of_the_grid(num_steps):
    u = torch.tensor([0.0, 1 - 2**-24])
    t, _ = Uniform()(Linear(num_steps), u)
    torch.testing.assert_close(t, torch.tensor([1 / num_steps, 1.0]))


@pytest.mark.parametrize("count", [1, 2, 10, 297, 1188])
def test_stratified_has_exactly_one_number_in_each_stratum(count):
    u = stratified(count)
    assert torch.equal((u * count).floor().long().sort().values, torch.arange(count))
    torch.testing.assert_close(u.sort().values, (torch.arange(count).double() + 0.5) / count, rtol=1e-12, atol=0)


def test_stratified_neighbours_are_far_apart_and_any_run_is_nearly_uniform():
    """50 numbers in a row of the golden-ratio sequence leave no gap above 3 / 50."""
    u = stratified(1000)
    assert u.diff().abs().min() > 0.3
    for start in (0, 333, 950):
        run = u[start : start + 50].sort().values
        assert run.diff().max() < 3 / 50
    assert torch.equal(stratified(1000), u)


# Stratified


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 2, 7, 128])
def test_each_cell_of_a_stratified_batch_is_hit_once(count, dtype):
    for first in torch.rand(20, dtype=torch.float64):
        t, weight = Stratified()(Flow(), torch.full((count,), float(first), dtype=dtype))
        u = 1 - (t.double() - 1e-5) / (1 - 2e-5)
        assert torch.equal((u * count).floor().clamp(0, count - 1).sort().values, torch.arange(count).double())
        assert (weight == 1).all()


def test_a_stratified_batch_of_the_size_of_the_grid_has_each_step_once():
    t, _ = Stratified()(Linear(1000), torch.rand(1000, dtype=torch.float64))
    torch.testing.assert_close(t.sort().values, torch.arange(1, 1001, dtype=torch.float64) / 1000, rtol=0, atol=0)


def test_stratified_times_are_the_formula_of_the_paper():
    """Sample i of B has (u_0 + i / B) mod 1; of the numbers u only the first is used."""
    schedule, u = VE(), torch.tensor([0.7, 0.1, 0.9, 0.4], dtype=torch.float64)
    t, _ = Stratified()(schedule, u)
    expected = schedule.time_at(torch.tensor([0.7, 0.95, 0.2, 0.45], dtype=torch.float64))
    torch.testing.assert_close(t, expected, rtol=1e-12, atol=0)


def test_each_time_of_a_stratified_batch_is_uniform():
    schedule = VE()
    times = torch.stack([Stratified()(schedule, first.expand(5))[0] for first in midpoints(1000)])
    for i in range(5):
        torch.testing.assert_close(times[:, i].sort().values, midpoints(1000), rtol=0, atol=1e-9)


def test_stratified_means_vary_far_less_than_uniform_ones():
    """The variance of the mean of 32 times is about 1 / 32 of that of uniform times.

    For a periodic function it is 0.
    """
    u = torch.rand(500, 32, dtype=torch.float64)
    for function, most in ((torch.exp, 1 / 20), (lambda t: torch.cos(2 * math.pi * t), 1e-12)):
        plain, even = (
            torch.stack([function(sampling(VE(), row)[0]).mean() for row in u])
            for sampling in (Uniform(), Stratified())
        )
        expected = function(midpoints(10_000)).mean()
        assert abs(plain.mean() - expected) < 5 * plain.std() / len(u) ** 0.5
        assert abs(even.mean() - expected) < 5 * even.std() / len(u) ** 0.5 + 1e-9
        assert even.var() < most * plain.var()


# Importance


class Resampler:
    """The loss-second-moment resampler of improved-diffusion, in plain Python: lists that drop their oldest losses."""

    def __init__(self, num_steps, history, uniform):
        self.losses = [[] for _ in range(num_steps)]
        self.history, self.uniform = history, uniform

    def weights(self):
        num_steps = len(self.losses)
        if any(len(losses) < self.history for losses in self.losses):
            return np.full(num_steps, 1 / num_steps)
        root = np.array([math.sqrt(sum(loss**2 for loss in losses) / self.history) for losses in self.losses])
        return root / root.sum() * (1 - self.uniform) + self.uniform / num_steps

    def update(self, steps, losses):
        for step, loss in zip(steps, losses, strict=True):
            self.losses[step - 1] = [*self.losses[step - 1], loss][-self.history :]


def update(sampling, steps, losses):
    """Update a time sampling with the losses of steps, which count from 1."""
    num_steps = len(sampling.counts)
    sampling.update(Linear(num_steps), torch.as_tensor(steps).float() / num_steps, torch.as_tensor(losses).float())


def each_time(sampling):
    """Return every time that is drawn and its weight, from the middles of the cells of u that belong to them."""
    p = sampling.probabilities()
    return sampling(Linear(len(p)), p.cumsum(0) - p / 2)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("num_steps", "history", "batch"), [(7, 3, 5), (7, 10, 64), (3, 2, 50), (1, 1, 4), (40, 4, 300)]
)
def test_importance_is_the_resampler_of_improved_diffusion(num_steps, history, batch, seed):
    """They agree batch by batch, also with times that repeat within a batch more often than the history is long."""
    drawn = np.random.default_rng(seed)
    ours, plain = Importance(num_steps, history, 0.01), Resampler(num_steps, history, 0.01)
    for _ in range(12):
        steps = drawn.integers(1, num_steps + 1, batch)
        losses = drawn.lognormal(0, 2, batch).astype(np.float32)
        update(ours, steps, losses)
        plain.update(steps.tolist(), losses.tolist())
        np.testing.assert_allclose(ours.probabilities().numpy(), plain.weights(), rtol=1e-12)
        kept = [sorted(row[:count].tolist()) for row, count in zip(ours.losses, ours.counts, strict=True)]
        assert kept == [sorted(part) for part in plain.losses]


def test_the_newest_losses_of_one_batch_are_kept_in_order():
    """Six losses of step 2 into a history of 4, and then two more, leave the last four."""
    sampling = Importance(3, history=4)
    update(sampling, [2, 2, 1, 2, 2, 2, 3, 2], [1.0, 2.0, 50.0, 3.0, 4.0, 5.0, 60.0, 6.0])
    assert sorted(sampling.losses[1].tolist()) == [3.0, 4.0, 5.0, 6.0]
    update(sampling, [2, 2], [7.0, 8.0])
    assert sorted(sampling.losses[1].tolist()) == [5.0, 6.0, 7.0, 8.0]
    assert sampling.losses[[0, 2], 0].tolist() == [50.0, 60.0]
    assert sampling.counts.tolist() == [1, 8, 1]


def test_a_batch_updates_as_its_losses_one_by_one():
    steps, losses = torch.randint(1, 6, (80,)), torch.rand(80)
    whole, single = Importance(5, 4), Importance(5, 4)
    update(whole, steps, losses)
    for step, loss in zip(steps, losses, strict=True):
        update(single, [step], [loss])
    assert torch.equal(whole.losses, single.losses)
    assert torch.equal(whole.counts, single.counts)


def test_importance_is_uniform_until_every_history_is_full():
    sampling = Importance(4, history=2)
    flat = torch.full((4,), 0.25, dtype=torch.float64)
    for step in (1, 2, 3):
        update(sampling, [step] * 5, [float(step)] * 5)
        assert torch.equal(sampling.probabilities(), flat)
    update(sampling, [4], [9.0])
    assert torch.equal(sampling.probabilities(), flat)
    t, weight = sampling(Linear(4), midpoints(8))
    assert t.tolist() == [0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1.0, 1.0]
    assert (weight == 1).all()
    update(sampling, [4], [9.0])
    assert not torch.equal(sampling.probabilities(), flat)


def test_importance_is_by_the_second_moment_mixed_with_a_thousandth():
    """The losses 3, 4 and 1, 7 give sqrt(12.5) and 5."""
    sampling = Importance(2, history=2)
    update(sampling, [1, 2, 1, 2], [3.0, 1.0, 4.0, 7.0])
    roots = torch.tensor([math.sqrt(12.5), 5.0], dtype=torch.float64)
    expected = 0.999 * roots / roots.sum() + 0.0005
    torch.testing.assert_close(sampling.probabilities(), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("uniform", [0.001, 0.5, 1.0])
def test_weighted_losses_have_exactly_the_mean_of_the_losses(uniform):
    """The sum over all times that can be drawn shows it, for any losses and not only those of the history."""
    sampling = Importance(50, history=3, uniform=uniform)
    update(sampling, torch.arange(1, 51).repeat(3), torch.rand(150) ** 8 * 100)
    p = sampling.probabilities()
    t, weight = each_time(sampling)
    torch.testing.assert_close(t, torch.arange(1, 51).double() / 50, rtol=1e-6, atol=0)
    torch.testing.assert_close(weight, 1 / (50 * p), rtol=1e-12, atol=0)
    for losses in (torch.rand(50).double(), torch.rand(50).double() * 1e6, torch.ones(50).double()):
        torch.testing.assert_close((p * weight * losses).sum(), losses.mean(), rtol=1e-12, atol=0)


def test_importance_draws_with_its_probabilities():
    sampling = Importance(5, history=1, uniform=0.1)
    update(sampling, [1, 2, 3, 4, 5], [1.0, 0.0, 10.0, 2.0, 0.5])
    t, _ = sampling(Linear(5), midpoints(100_000))
    drawn = torch.bincount((t * 5).round().long() - 1, minlength=5) / 100_000
    torch.testing.assert_close(drawn.double(), sampling.probabilities(), rtol=0, atol=2e-5)


def test_steps_without_probability_are_never_drawn():
    """They are not drawn at the ends of the unit interval either."""
    sampling = Importance(5, history=1, uniform=0.0)
    update(sampling, [1, 2, 3, 4, 5], [0.0, 1.0, 0.0, 2.0, 0.0])
    for u in (torch.tensor([0.0, 1 - 2**-24]), torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64), midpoints(999)):
        t, weight = sampling(Linear(5), u)
        assert set((t * 5).round().tolist()) == {2.0, 4.0}
        assert weight.isfinite().all()


def test_importance_lowers_the_variance_of_the_loss():
    """Losses of the bound span orders of magnitude; with p in proportion to them the estimate hardly varies."""
    sampling, losses = Importance(100, history=2), torch.logspace(2, -2, 100, dtype=torch.float64)
    update(sampling, torch.arange(1, 101).repeat(2), losses.repeat(2))
    t, weight = sampling(Linear(100), midpoints(10_000))
    weighted, plain = weight * losses[(t * 100).round().long() - 1], losses
    assert float(weighted.mean()) == pytest.approx(float(losses.mean()), rel=1e-2)
    assert weighted.var() < plain.var() / 1000


def test_the_history_is_in_the_state_dict():
    sampling = Importance(6, history=2)
    update(sampling, torch.arange(1, 7).repeat(3), torch.rand(18))
    assert set(sampling.state_dict()) == {"losses", "counts"}
    other = Importance(6, history=2)
    other.load_state_dict(sampling.state_dict())
    for part in (sampling, other):
        update(part, [1, 1, 5], [3.0, 4.0, 5.0])
    assert torch.equal(other.probabilities(), sampling.probabilities())
    assert not list(sampling.parameters())


def test_times_of_float32_are_counted_as_their_steps():
    """At T = 4000 the time k / T is rounded."""
    sampling = Importance(4000, history=1)
    t, _ = sampling(Cosine(4000), midpoints(4000).float())
    sampling.update(Cosine(4000), t, torch.ones(4000))
    assert (sampling.counts == 1).all()


@pytest.mark.parametrize(("history", "uniform"), [(0, 0.1), (10, -0.1), (10, 1.1)])
def test_importance_refuses_values_that_make_no_sense(history, uniform):
    with pytest.raises(ValueError, match="history"):
        Importance(10, history, uniform)


# Log-normal and logit-normal


@pytest.mark.parametrize(("mean", "std"), [(-1.2, 1.2), (0.3, 0.5)])
@pytest.mark.parametrize("schedule", [EDM(), VE(), VP(), Flow()])
def test_log_sigma_is_normal(schedule, mean, std):
    """log(sigma / alpha) has the quantiles of the normal distribution wherever the schedule reaches."""
    u = midpoints(10_000)
    t, weight = LogNormal(mean, std)(schedule, u)
    log_sigma = -schedule.log_snr(t) / 2
    inside = (t > schedule.t_min) & (t < schedule.t_max)
    assert inside.double().mean() > 0.97
    quantiles = torch.from_numpy(norm(mean, std).ppf(u.numpy()))
    torch.testing.assert_close(log_sigma[inside], quantiles[inside], rtol=1e-8, atol=1e-8)
    assert (weight == 1).all()


def test_moments_of_log_sigma_on_the_edm_schedule():
    """Table 1: P_mean = -1.2, P_std = 1.2."""
    sigma = 80 * LogNormal()(EDM(), midpoints(100_000))[0]
    assert float(sigma.log().mean()) == pytest.approx(-1.2, abs=1e-3)
    assert float(sigma.log().std()) == pytest.approx(1.2, abs=1e-3)
    skewness = ((sigma.log() + 1.2) / 1.2).pow(3).mean()
    assert abs(float(skewness)) < 1e-3


@pytest.mark.parametrize("schedule", [Linear(1000), Cosine(30), Linear(1)])
def test_log_normal_on_a_grid_is_the_next_time_up(schedule):
    """It is the first that is at least as noisy as the draw, or the last."""
    u = midpoints(2000)
    t, _ = LogNormal()(schedule, u)
    k = (t * schedule.num_steps).round()
    torch.testing.assert_close(t, k / schedule.num_steps, rtol=0, atol=0)
    wanted = torch.from_numpy(-2 * norm(-1.2, 1.2).ppf(u.numpy()))
    below = schedule.log_snr((k - 1) / schedule.num_steps)
    assert (wanted < below + 1e-9).all()
    assert ((wanted >= schedule.log_snr(t) - 1e-9) | (k == schedule.num_steps)).all()


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.5, 0.7)])
def test_logit_of_t_is_normal(mean, std):
    u = midpoints(10_000)
    for schedule in (Flow(), VE(), VP()):
        t, weight = LogitNormal(mean, std)(schedule, u)
        quantiles = torch.from_numpy(norm(mean, std).ppf(u.numpy()))
        torch.testing.assert_close(t.logit(), quantiles, rtol=1e-9, atol=1e-9)
        assert (weight == 1).all()


@pytest.mark.parametrize("num_steps", [1, 10, 1000])
def test_logit_normal_on_a_grid_is_the_next_time_up(num_steps):
    u = midpoints(2000)
    t, _ = LogitNormal(0.2, 0.9)(Linear(num_steps), u)
    exact = 1 / (1 + np.exp(-norm(0.2, 0.9).ppf(u.numpy())))
    np.testing.assert_allclose(t.numpy(), np.ceil(exact * num_steps) / num_steps, rtol=1e-15)


@pytest.mark.parametrize("kind", [LogNormal, LogitNormal])
def test_larger_numbers_are_noisier_times(kind):
    u = torch.tensor([0.0, 1e-6, 0.2, 0.5, 0.9, 1 - 2**-24])
    for schedule in (EDM(), VE(), VP(), Flow(), Linear(1000)):
        t, _ = kind()(schedule, u)
        assert (t.diff() >= 0).all()
        assert t[0] >= schedule.t_min * (1 - 1e-6)
        assert t[-1] <= schedule.t_max * (1 + 1e-6)


@pytest.mark.parametrize("kind", [LogNormal, LogitNormal])
def test_refuses_a_width_that_is_not_positive(kind):
    with pytest.raises(ValueError, match="std"):
        kind(std=0.0)
