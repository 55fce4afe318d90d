"""The times of each spacing: closed forms, diffusers' and improved-diffusion's."""

import numpy as np
import pytest
import torch

from diffsweep.samplers import DDIM
from diffsweep.schedules import Cosine, Linear


def times(spacing, steps, schedule=None, **ends):
    return DDIM(spacing=spacing, steps=steps, **ends).times(schedule if schedule is not None else Linear(1000))


def close(ours, expected, atol=1e-12):
    torch.testing.assert_close(ours, torch.as_tensor(expected, dtype=torch.float64), rtol=0, atol=atol)


def test_uniform():
    close(times("uniform", 4), [1, 0.75, 0.5, 0.25, 0])
    close(times("uniform", 3, start=0.8, stop=0.2), [0.8, 0.6, 0.4, 0.2])


def test_uniform_over_the_grid_is_the_full_chain():
    close(times("uniform", 1000) * 1000, np.arange(1000, -1, -1), atol=1e-9)


def test_quadratic():
    close(times("quadratic", 4), [1, 9 / 16, 1 / 4, 1 / 16, 0])
    close(times("quadratic", 2, start=0.9, stop=0.1), [0.9, 0.3, 0.1])


def test_trailing_and_leading_by_hand():
    close(times("trailing", 3, Linear(10)) * 10, [10, 7, 3, 0])
    close(times("leading", 3, Linear(10)) * 10, [7, 4, 1, 0])
    close(times("trailing", 2, Linear(10), start=0.8, stop=0.2) * 10, [8, 5, 2])
    close(times("leading", 2, Linear(10), start=0.8, stop=0.2) * 10, [6, 3, 2])
    close(times("leading", 5, Linear(10), stop=0.1) * 10, [10, 8, 6, 4, 2, 1])  # the strides of Stable Diffusion


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 25, 49, 50, 99, 100, 250, 333, 500, 1000])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_grid_spacings_are_those_of_diffusers(spacing, steps):
    """Timestep i of diffusers is step k = i + 1; its timesteps lack the last 0."""
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(num_train_timesteps=1000, timestep_spacing=spacing, steps_offset=0)
    theirs.set_timesteps(steps)
    ours = times(spacing, steps) * 1000
    assert ours[:-1].round().long().tolist() == (theirs.timesteps + 1).tolist()
    assert ours[-1] == 0
    close(ours, ours.round(), atol=1e-9)


def space_timesteps(num_timesteps, sections):
    """Return the steps that a strided chain keeps, from 0: improved-diffusion's respacing as it is published."""
    if isinstance(sections, str) and sections.startswith("ddim"):
        count = int(sections[len("ddim") :])
        return next(
            set(range(0, num_timesteps, i)) for i in range(1, num_timesteps) if len(range(0, num_timesteps, i)) == count
        )
    size, first, kept = num_timesteps // len(sections), 0, []
    for section in sections:
        stride = 1 if section <= 1 else (size - 1) / (section - 1)
        position = 0.0
        for _ in range(section):
            kept.append(first + round(position))
            position += stride
        first += size
    return set(kept)


@pytest.mark.parametrize("steps", [10, 25, 50, 100, 250])
def test_leading_is_improved_diffusions_ddim_stride(steps):
    ours = times("leading", steps)[:-1]
    assert {round(k) - 1 for k in (ours * 1000).tolist()} == space_timesteps(1000, f"ddim{steps}")


@pytest.mark.parametrize("steps", [10, 50, 100, 250, 1000])
def test_trailing_between_the_ends_of_the_grid_is_improved_diffusions_section(steps):
    """One section of N steps keeps both ends of the grid: N - 1 intervals from t = 1 to t = 1/T."""
    ours = times("trailing", steps - 1, stop=1 / 1000)
    assert {round(k) - 1 for k in (ours * 1000).tolist()} == space_timesteps(1000, [steps])


@pytest.mark.parametrize("schedule", [Linear(1000), Cosine(1000)], ids=["linear", "cosine"])
def test_log_snr_makes_equal_steps_between_finite_ends(schedule):
    ours = schedule.log_snr(times("log_snr", 12, schedule, start=0.95, stop=0.03))
    torch.testing.assert_close(ours.diff(), ours.diff().mean().expand(12), rtol=1e-7, atol=0)


@pytest.mark.parametrize("schedule", [Linear(1000), Cosine(1000)], ids=["linear", "cosine"])
def test_karras_makes_equal_steps_in_the_seventh_root_of_sigma_over_alpha(schedule):
    """EDM eq. 5: sigma_i = (max^(1/7) + i / (n - 1) (min^(1/7) - max^(1/7)))^7."""
    alpha, sigma = schedule(times("karras", 12, schedule, start=0.95, stop=0.03))
    begin, end = (float(r) ** (1 / 7) for r in (sigma / alpha)[[0, -1]])
    expected = [(begin + i / 12 * (end - begin)) ** 7 for i in range(13)]
    torch.testing.assert_close(sigma / alpha, torch.tensor(expected, dtype=torch.float64), rtol=1e-7, atol=0)


@pytest.mark.parametrize("spacing", ["log_snr", "karras"])
def test_clean_data_is_a_step_of_its_own(spacing):
    """The log-SNR is infinite at t = 0, so the steps in log-SNR end at the first grid point."""
    ours = times(spacing, 10, Cosine(1000))
    assert ours[0] == 1
    assert ours[-2] == 1 / 1000
    assert ours[-1] == 0
    inner = times(spacing, 9, Cosine(1000), stop=1 / 1000)
    torch.testing.assert_close(ours[:-1], inner)


@pytest.mark.parametrize("spacing", ["log_snr", "karras", "uniform", "trailing", "quadratic"])
def test_one_step_goes_from_1_to_0(spacing):
    close(times(spacing, 1), [1, 0])
