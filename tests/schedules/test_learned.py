"""The learned schedule of variational diffusion models is monotone, and trained on two losses at once."""

import pytest
import torch

from diffsweep.schedules import Learned, minimise_variance

T = torch.linspace(0, 1, 301, dtype=torch.float64)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def bent(seed=0, scale=1.0, width=16):
    """Return a schedule whose shape is far from the initial one."""
    generator = torch.Generator().manual_seed(seed)
    schedule = Learned(width=width)
    with torch.no_grad():
        for module in (schedule.l1, schedule.l2, schedule.l3):
            for parameter in module.parameters():
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
        schedule.gamma_0 += torch.randn((), generator=generator)
        schedule.gamma_1 += torch.randn((), generator=generator)
    return schedule.double()


def ends_and_shape(schedule):
    ends = [schedule.gamma_0, schedule.gamma_1]
    return ends, [parameter for name, parameter in schedule.named_parameters() if not name.startswith("gamma")]


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("seed", range(5))
def test_it_is_monotone_whatever_its_parameters(seed, scale):
    schedule = bent(seed, scale).requires_grad_(False)
    assert (schedule.log_snr(T).diff() < 0).all()
    assert (schedule.log_snr_rate(T) < 0).all()
    assert (schedule.embedded_time(T).diff() > 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_its_ends_are_its_two_parameters(seed):
    schedule = bent(seed, 3.0).requires_grad_(False)
    ends = torch.stack([schedule.gamma_0, schedule.gamma_1])
    torch.testing.assert_close(-schedule.log_snr(tensor(0.0, 1.0)), ends, rtol=1e-14, atol=0)
    torch.testing.assert_close(-schedule.log_snr(T)[[0, -1]], ends, rtol=1e-14, atol=0)
    torch.testing.assert_close(schedule.embedded_time(tensor(0.0, 1.0)), tensor(0.0, 1000.0), rtol=1e-13, atol=1e-10)


def test_its_ends_are_at_first_the_given_ones():
    schedule = Learned(log_snr_min=-7.0, log_snr_max=9.5, width=4).requires_grad_(False)
    assert torch.equal(schedule.log_snr(tensor(0.0, 1.0)), tensor(9.5, -7.0))


def test_its_shape_is_the_formula_of_the_paper():
    """It is n(t) = l1(t) + l3(logistic(l2(l1(t)))) up to the normalisation."""
    schedule = bent(3).requires_grad_(False)

    def network(t):
        straight = schedule.l1.weight.abs()[0, 0] * t + schedule.l1.bias[0]
        hidden = torch.sigmoid(schedule.l2.weight.abs()[:, 0] * straight + schedule.l2.bias)
        return straight + (2 * schedule.l3.weight.abs()[0] * hidden).mean()

    start, end = network(0.0), network(1.0)
    for t in (0.1, 0.5, 0.93):
        gamma = schedule.gamma_0 + (schedule.gamma_1 - schedule.gamma_0) * (network(t) - start) / (end - start)
        torch.testing.assert_close(schedule.log_snr(tensor(t)), -gamma[None], rtol=1e-12, atol=1e-12)


def test_variance_is_preserved_and_no_digit_of_a_small_sigma_is_lost():
    schedule = bent(1).requires_grad_(False)
    alpha, sigma = schedule(T)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(T), rtol=0, atol=1e-14)
    log_snr = schedule.log_snr(T)
    torch.testing.assert_close(sigma, (1 + log_snr.exp()) ** -0.5, rtol=1e-13, atol=0)
    torch.testing.assert_close(alpha, (1 + (-log_snr).exp()) ** -0.5, rtol=1e-13, atol=0)


@pytest.mark.parametrize("seed", range(3))
def test_bisection_inverts_the_log_snr(seed):
    schedule = bent(seed, 2.0)
    log_snr = schedule.log_snr(T)
    back = schedule.time_of(log_snr.detach())
    torch.testing.assert_close(back, T, rtol=0, atol=1e-12)
    assert not back.requires_grad


def test_the_rate_is_the_derivative_and_its_gradient_that_of_a_difference():
    schedule, t, h = bent(2), tensor(0.1, 0.4, 0.8), 1e-5
    _, shape = ends_and_shape(schedule)
    difference = (schedule.log_snr(t + h) - schedule.log_snr(t - h)) / (2 * h)
    rate = schedule.log_snr_rate(t)
    torch.testing.assert_close(rate, difference, rtol=1e-7, atol=1e-7)
    weights = tensor(1.0, -2.0, 0.5)
    for ours, theirs in zip(
        torch.autograd.grad((weights * rate).sum(), [*shape, schedule.gamma_0], retain_graph=True),
        torch.autograd.grad((weights * difference).sum(), [*shape, schedule.gamma_0]),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_gradients_of_the_ends_are_the_distances_of_the_shape_from_each():
    """d log SNR / d gamma_0 = shape - 1, d gamma_1: -shape."""
    schedule, t = bent(4), tensor(0.3)
    way = schedule.embedded_time(t).detach() / 1000
    gradients = torch.autograd.grad(schedule.log_snr(t).sum(), [schedule.gamma_0, schedule.gamma_1])
    torch.testing.assert_close(torch.stack(gradients), torch.cat([way - 1, -way]), rtol=1e-12, atol=0)


def test_its_parameters_train_in_the_dtype_of_the_model():
    schedule = Learned(width=8)
    t = torch.tensor([0.2, 0.7])
    alpha, sigma = schedule(t)
    assert alpha.dtype == sigma.dtype == torch.float32
    (schedule.log_snr(t).sum() + schedule.log_snr_rate(t).sum() + alpha.sum()).backward()
    for parameter in schedule.parameters():
        assert parameter.grad.dtype == torch.float32
        assert torch.isfinite(parameter.grad).all()


FEATURES = torch.linspace(-2, 3, 6, dtype=torch.float64)


def of_log_snr(schedule, t):
    return (1 + torch.sin(FEATURES * schedule.log_snr(t) / 5)) ** 2


def of_rate(schedule, t):
    return FEATURES**2 * (schedule.log_snr_rate(t) / 20) ** 2


def of_levels(schedule, t):
    alpha, sigma = schedule(t)
    return (FEATURES * alpha + sigma.sqrt()) ** 2


def of_embedded_time(schedule, t):
    return torch.cos(FEATURES * schedule.embedded_time(t) / 300) + 2


def of_everything(schedule, t):
    """Return a loss like the bound: a rate times an error that depends on the levels, plus terms of the ends."""
    ends = schedule.log_snr(tensor(0.0, 1.0))
    error = of_levels(schedule, t) + of_embedded_time(schedule, t)
    return -schedule.log_snr_rate(t) * error + ends[0].exp() / 1e5 - ends[1]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("toy", [of_log_snr, of_rate, of_levels, of_embedded_time, of_everything])
def test_one_backward_pass_trains_the_ends_on_the_loss_and_the_shape_on_its_square(toy, seed):
    schedule, t = bent(seed), tensor(0.05, 0.2, 0.4, 0.6, 0.8, 0.99)
    ends, shape = ends_and_shape(schedule)
    losses = toy(schedule, t)
    of_square = torch.autograd.grad((losses**2).mean(), shape, retain_graph=True)
    of_mean = torch.autograd.grad(losses.mean(), ends, allow_unused=True, materialize_grads=True)

    with schedule.shape_values() as values:
        losses = toy(schedule, t)
    minimise_variance(values, losses)
    losses.mean().backward()

    for parameter, expected in zip(shape, of_square, strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
        assert expected.abs().max() > 0
    for parameter, expected in zip(ends, of_mean, strict=True):
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-12, atol=1e-12)
        else:
            assert expected == 0


def test_a_network_beside_the_schedule_keeps_its_plain_gradient():
    schedule, t = bent(0), tensor(0.05, 0.2, 0.4, 0.6, 0.8, 0.99)
    network = tensor(0.7).requires_grad_()
    (plain,) = torch.autograd.grad((network * of_everything(schedule, t)).mean(), network)
    with schedule.shape_values() as values:
        losses = network * of_everything(schedule, t)
    minimise_variance(values, losses)
    torch.testing.assert_close(torch.autograd.grad(losses.mean(), network)[0], plain, rtol=1e-13, atol=0)


def test_weights_of_samples_are_those_of_the_square_too():
    """Where times are drawn by importance, the weighted mean of L^2 is minimised."""
    schedule, t, weight = bent(1), tensor(0.1, 0.3, 0.5, 0.7, 0.8, 0.9), tensor(1.0, 0.5, 2.0, 0.1, 3.0, 1.0)
    _, shape = ends_and_shape(schedule)
    expected = torch.autograd.grad((weight * of_levels(schedule, t) ** 2).mean(), shape)
    with schedule.shape_values() as values:
        losses = of_levels(schedule, t)
    minimise_variance(values, losses)
    for ours, theirs in zip(torch.autograd.grad((weight * losses).mean(), shape), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


def test_values_are_the_same_while_the_variance_is_minimised_and_gradients_plain_again_after():
    schedule, t = bent(0), tensor(0.1, 0.3, 0.5, 0.7, 0.8, 0.9)
    _, shape = ends_and_shape(schedule)
    before = of_everything(schedule, t)
    plain = torch.autograd.grad(before.mean(), shape)
    with schedule.shape_values() as values:
        losses = of_everything(schedule, t)
    assert torch.equal(losses, before)
    minimise_variance(values, losses)
    for ours, theirs in zip(torch.autograd.grad(of_everything(schedule, t).mean(), shape), plain, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("low", "high"), [(13.3, -5.0), (1.0, 1.0)])
def test_ends_out_of_order_are_refused(low, high):
    with pytest.raises(ValueError, match="log_snr_min"):
        Learned(log_snr_min=low, log_snr_max=high)


def test_a_network_without_units_is_refused():
    with pytest.raises(ValueError, match=r"schedule\.width"):
        Learned(width=0)
