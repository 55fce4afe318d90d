"""Every measurement y = A x_0 keeps its contract, and guidance by it is right on Gaussian data.

For these the conditional distribution has a closed form.
"""

import math
from typing import NamedTuple

import pytest
import torch

from diffsweep.diffusion import (
    AsPredicted,
    Condition,
    Frames,
    GaussianDenoiser,
    Grey,
    Known,
    Measurement,
    PixelMask,
    SharedNoise,
    SquareMeans,
    V,
)
from diffsweep.guidance import Reconstruction, Replacement
from diffsweep.samplers import DDIM, Ancestral, Heun
from diffsweep.schedules import VP, Flow

ROWS, IMAGE, CLIP = 3, (2, 4, 4), (2, 3, 2, 4)
GREY = Grey((0.3, 0.9))
FRAMES = Frames(torch.tensor([[True, False, True], [False, True, False], [False, False, False]]))


def pixels(*shape):
    """Return masks that differ in each row; one row has all pixels."""
    mask = torch.rand(ROWS, *shape, generator=torch.Generator().manual_seed(4)) < 0.4
    mask[1] = True
    return PixelMask(mask)


MEASUREMENTS = {
    "pixels": (IMAGE, pixels(1, 4, 4)),
    "numbers": (IMAGE, pixels(2, 4, 4)),
    "means": (IMAGE, SquareMeans(2)),
    "grey": (IMAGE, GREY),
    "some_grey_means": (IMAGE, pixels(1, 2, 2) @ GREY @ SquareMeans(2)),
    "frames": (CLIP, FRAMES),
    "pixels_of_clips": (CLIP, pixels(1, 3, 2, 4)),
    "means_of_clips": (CLIP, SquareMeans(2)),
    "means_of_frames": (CLIP, FRAMES @ SquareMeans(2)),
    "grey_clips": (CLIP, GREY),
    "grey_frames": (CLIP, FRAMES @ GREY),
}
every = pytest.mark.parametrize("name", MEASUREMENTS)


class Dense(NamedTuple):
    """The matrices of one row's measurement: A (M, D), and its own transpose and pseudo-inverse (D, M)."""

    apply: torch.Tensor
    adjoint: torch.Tensor
    pseudo_inverse: torch.Tensor


def dense(name, row):
    """Return the matrices by the images of unit vectors."""
    shape, measurement = MEASUREMENTS[name]

    def of_unit_vectors(change, *shape):
        size = math.prod(shape)
        return change(torch.eye(size, dtype=torch.float64).reshape(size, *shape)).flatten(1).T

    def rows(count):
        return measurement.each(lambda part: part[row : row + 1].expand(count, *part.shape[1:]))

    matrix = of_unit_vectors(rows(size := math.prod(shape)).apply, *shape)
    of_y = rows(1).apply(torch.zeros(1, *shape)).shape[1:]
    return Dense(
        matrix,
        *(of_unit_vectors(getattr(rows(math.prod(of_y)), part), *of_y) for part in ("adjoint", "pseudo_inverse")),
    ), size


def draws(shape, count=ROWS, seed=0):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def known(name, x_0):
    """Return the measurement of x_0, with arbitrary values where a mask hides it."""
    measurement = MEASUREMENTS[name][1]
    y = measurement.apply(x_0)
    return Known(measurement, torch.where(measurement.apply(torch.ones_like(x_0)) != 0, y, torch.nan))


@every
def test_the_adjoint_is_the_transpose_and_the_pseudo_inverse_that_of_moore_and_penrose(name):
    shape, measurement = MEASUREMENTS[name]
    x = draws(shape)
    y = torch.randn_like(measurement.apply(x))
    inner = (measurement.apply(x) * y).flatten(1).sum(1), (x * measurement.adjoint(y)).flatten(1).sum(1)
    torch.testing.assert_close(*inner, rtol=1e-12, atol=1e-12)
    for row in range(ROWS):
        (a, transpose, inverse), _ = dense(name, row)
        torch.testing.assert_close(transpose, a.T, rtol=0, atol=1e-15)
        for product, expected in (
            (a @ inverse @ a, a),
            (inverse @ a @ inverse, inverse),
            (a @ inverse, (a @ inverse).T),
            (inverse @ a, (inverse @ a).T),
        ):
            torch.testing.assert_close(product, expected, rtol=0, atol=1e-14)


@every
def test_the_projection_is_the_nearest_point_that_has_the_measurement(name):
    """It is x0 + A^+ (y - A x0), by torch's pseudo-inverse; values under a mask are not read."""
    shape, measurement = MEASUREMENTS[name]
    x, x_0 = draws(shape), draws(shape, seed=1)
    given = known(name, x_0)
    residual, nearest = given.residual(x), given.project(x)
    torch.testing.assert_close(measurement.apply(nearest), measurement.apply(x_0), rtol=0, atol=1e-14)
    for row in range(ROWS):
        (a, *_), _ = dense(name, row)
        apart = a @ (x_0 - x)[row].flatten()
        torch.testing.assert_close(residual[row].flatten(), apart, rtol=0, atol=1e-14)
        expected = x[row].flatten() + torch.linalg.pinv(a) @ apart
        torch.testing.assert_close(nearest[row].flatten(), expected, rtol=0, atol=1e-13)


@every
def test_rows_are_taken_and_joined_moved_and_kept_beside_other_parts(name):
    shape, measurement = MEASUREMENTS[name]
    x, given = draws(shape), Known(measurement, measurement.apply(draws(shape, seed=1)))
    cond = Condition(vector=torch.arange(ROWS), known=given)
    order = torch.tensor([2, 0, 1])
    for other, rows in ((cond[order], order), (cond[:1].cat(cond[1:]), slice(None)), (cond.opposite(), slice(None))):
        assert torch.equal(other.known.project(x[rows]), given.project(x)[rows])
    twice = cond.cat(cond.opposite()).known
    assert len(twice) == 2 * ROWS
    assert torch.equal(twice.residual(torch.cat([x, x])), given.residual(x).repeat(2, *[1] * len(shape)))
    assert cond.to(torch.device("meta")).known.residual(x.to("meta")).device.type == "meta"
    assert cond.of_frames(3).known is None


def law(shape):
    """Return mean and covariance of Gaussian data, in which all numbers depend on one another."""
    size = math.prod(shape)
    root = torch.randn(size, size, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return torch.linspace(-0.4, 0.5, size, dtype=torch.float64), root @ root.T / (3 * size)


def given_y(a, y, mean, covariance):
    """Return mean and covariance of x_0 given A x_0 = y, for A of any rank."""
    gain = covariance @ a.T @ torch.linalg.pinv(a @ covariance @ a.T, hermitian=True)
    return mean + gain @ (y - a @ mean), covariance - gain @ a @ covariance


@every
@pytest.mark.parametrize("schedule", [VP(), Flow()], ids=["vp", "flow"])
def test_reconstruction_by_the_posterior_covariance_is_the_conditional_mean(name, schedule):
    """E[x_0 | x_t, y] is computed in the other order here: first given y, then given x_t."""
    shape, _ = MEASUREMENTS[name]
    mean, covariance = law(shape)
    denoiser = AsPredicted(GaussianDenoiser(schedule, mean, covariance), V())
    guided = Reconstruction(denoiser, weight="covariance", tolerance=1e-13, iterations=100)
    x_0, noise = draws(shape, seed=1), draws(shape, seed=2)
    for t in torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64):
        alpha, sigma = schedule(t)
        x_t = alpha * x_0 + sigma * noise
        denoised = guided(x_t, t, Condition(known=known(name, x_0)))
        torch.testing.assert_close(alpha * denoised.x0 + sigma * denoised.eps, x_t, rtol=1e-9, atol=1e-9)
        for row in range(ROWS):
            (a, *_), size = dense(name, row)
            centre, left = given_y(a, a @ x_0[row].flatten(), mean, covariance)
            marginal = alpha**2 * left + sigma**2 * torch.eye(size)
            expected = centre + alpha * left @ torch.linalg.solve(marginal, x_t[row].flatten() - alpha * centre)
            torch.testing.assert_close(denoised.x0[row].flatten(), expected, rtol=1e-6, atol=1e-7)


@every
def test_the_published_form_is_alpha_over_two_times_the_gradient(name):
    """For x0 = m + G x_t it is x0 - s alpha / 2 grad |y - A x0(x_t)|^2, then projected onto y.

    Replacement is the projection alone.
    """
    shape, _ = MEASUREMENTS[name]
    (mean, covariance), schedule, t = law(shape), VP(), torch.tensor(0.4, dtype=torch.float64)
    denoiser, (alpha, sigma) = GaussianDenoiser(schedule, mean, covariance), schedule(t)
    x_0, x_t = draws(shape, seed=1), draws(shape, seed=2)
    cond = Condition(known=known(name, x_0))
    gain = alpha * torch.linalg.solve(alpha**2 * covariance + sigma**2 * torch.eye(len(mean)), covariance)  # (D, D)
    ours, replaced = (guided(x_t, t, cond).x0 for guided in (Reconstruction(denoiser, 3.0), Replacement(denoiser)))
    for row in range(ROWS):
        (a, *_), _ = dense(name, row)
        plain = denoiser(x_t, t).x0[row].flatten()
        y = a @ x_0[row].flatten()
        for x0, moved in ((ours, plain + 3.0 * alpha * gain.T @ a.T @ (y - a @ plain)), (replaced, plain)):
            expected = moved + torch.linalg.pinv(a) @ (y - a @ moved)
            torch.testing.assert_close(x0[row].flatten(), expected, rtol=1e-7, atol=1e-8)


@every
@pytest.mark.parametrize("make", [Replacement, Reconstruction], ids=["replacement", "reconstruction"])
def test_a_sample_has_the_measurement_in_the_end(name, make):
    shape, measurement = MEASUREMENTS[name]
    x_0, denoiser = draws(shape, seed=1), GaussianDenoiser(VP(), *law(shape))
    for sampler in (DDIM(steps=4, clip="none"), Ancestral(steps=4, clip="none"), Heun(steps=4, clip="none")):
        x = sampler(make(denoiser), draws(shape, seed=2), Condition(known=known(name, x_0)))
        torch.testing.assert_close(measurement.apply(x), measurement.apply(x_0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["frames", "means_of_frames", "grey_frames", "means_of_clips", "pixels_of_clips"])
def test_reconstruction_under_noise_that_frames_share(name):
    """It is still the conditional mean, by the joint Gaussian of y and x_t.

    The scalar form is for measurements of each frame by itself.
    """
    shape, measurement = MEASUREMENTS[name]
    (mean, covariance), schedule, noise = law(shape), VP(), SharedNoise(0.4)
    t = torch.tensor(0.5, dtype=torch.float64)
    denoiser, (alpha, sigma) = GaussianDenoiser(schedule, mean, covariance, noise=noise, shape=shape), schedule(t)
    of_noise = torch.einsum("fg,cd,hi->cfhdgi", noise.covariance(3), torch.eye(2), torch.eye(8)).reshape(48, 48)
    x_0, x_t = draws(shape, seed=1), draws(shape, seed=2)
    cond = Condition(known=known(name, x_0))
    ours = Reconstruction(denoiser, weight="covariance", tolerance=1e-13, iterations=100)(x_t, t, cond).x0
    for row in range(ROWS):
        (a, *_), _ = dense(name, row)
        centre, left = given_y(a, a @ x_0[row].flatten(), mean, covariance)
        marginal = alpha**2 * left + sigma**2 * of_noise
        expected = centre + alpha * left @ torch.linalg.solve(marginal, x_t[row].flatten() - alpha * centre)
        torch.testing.assert_close(ours[row].flatten(), expected, rtol=1e-6, atol=1e-7)
    scalar = Reconstruction(denoiser)
    if name == "pixels_of_clips":
        with pytest.raises(ValueError, match=r"PixelMask measures parts of frames.* use noise=independent"):
            scalar(x_t, t, cond)
        return
    plain, whitened, frames = denoiser(x_t, t).x0, torch.zeros_like(x_t), measurement.frames(cond.known.y)
    residual = cond.known.residual(plain)
    for row, a in enumerate(frames):
        inverse = torch.zeros(3, 3, dtype=torch.float64)
        inverse[torch.outer(a, a)] = torch.linalg.inv(noise.covariance(3)[a][:, a]).flatten()
        residual[row] = torch.einsum("fg,cghw->cfhw", inverse, residual[row])
    whitened = measurement.adjoint(residual).flatten(1)
    gain = alpha * torch.linalg.solve(alpha**2 * covariance + sigma**2 * of_noise, covariance).T  # of x_t in x0
    expected = plain + (alpha * whitened @ gain @ of_noise).reshape(x_t.shape)
    torch.testing.assert_close(scalar(x_t, t, cond).x0, cond.known.project(expected), rtol=1e-8, atol=1e-9)


class Blur(Measurement):
    """A user's own measurement, x_c + x_{c+1} / 2 over channels, whose matrix has no equal rows."""

    def apply(self, x):
        return x[:, :1] + x[:, 1:] / 2

    def adjoint(self, y):
        return torch.cat([y, y / 2], 1)

    def pseudo_inverse(self, y):
        return self.adjoint(y) / 1.25


def test_a_users_own_measurement_requires_three_methods():
    x = draws(IMAGE)
    given = Known(blur := Blur(), blur.apply(draws(IMAGE, seed=1)))
    sampled = DDIM(steps=3, clip="none")(Replacement(GaussianDenoiser(VP(), *law(IMAGE))), x, Condition(known=given))
    torch.testing.assert_close(blur.apply(sampled), given.y)
    both = given[:1].cat([given[1:]])
    assert torch.equal(both.y, given.y)
    assert both.measurement is blur


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: FRAMES.apply(draws(IMAGE)), r"a mask of frames \(B, F\) measures clips \(B, C, F, H, W\)"),
        (lambda: FRAMES.apply(draws(CLIP, 2)), "a mask of frames .* the samples are"),
        (lambda: pixels(1, 4, 4).apply(draws(CLIP)), "a mask of pixels .* does not fit"),
        (lambda: pixels(1, 2, 4).apply(draws(IMAGE)), "a mask of pixels .* does not fit"),
        (lambda: SquareMeans(3).apply(draws(IMAGE)), "squares of 3 x 3 pixels do not divide 4 x 4"),
        (lambda: Grey().apply(draws(IMAGE)), "3 weights of grey do not fit the 2 channels"),
        (lambda: Known(FRAMES, draws((2, 3, 1, 4))).project(draws(CLIP)), "does not fit samples whose measurement is"),
        (lambda: Known(GREY, draws(IMAGE)).residual(draws(IMAGE)), "does not fit samples whose measurement is"),
        (lambda: SquareMeans(2) @ FRAMES, "Frames must come last in a product of measurements, not before SquareMeans"),
        (lambda: SquareMeans(2).cat([SquareMeans(4)]), "different measurements cannot be joined"),
        (lambda: FRAMES.cat([GREY]), "different measurements cannot be joined"),
    ],
)
def test_shapes_and_kinds_that_do_not_fit_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()
