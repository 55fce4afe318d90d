"""Measures of motion, compared with the true trajectories of moving digits and with clips that break their law."""

import pytest
import torch

from diffsweep.datasets import MovingDigits, load_digits
from diffsweep.datasets.bouncing import trajectory
from diffsweep.metrics import digit_crops, load_digits_classifier, motion, nearest_path, track

COUNT = 120
SPEED = (0.5, 2.0)


@pytest.fixture(scope="module", params=[8, 20])
def clips(request):
    samples = MovingDigits(num_frames=request.param, num_val=2 * COUNT).split("val")
    return samples[torch.arange(COUNT)], samples


def shuffled(x):
    order = torch.stack([torch.randperm(x.shape[2]) for _ in range(len(x))])
    return x.gather(2, order[:, None, :, None, None].expand_as(x))


BROKEN = {
    "shuffled": shuffled,
    "frozen": lambda x: x[:, :, :1].expand_as(x),
    "noise": lambda x: torch.randn_like(x),
    "teleporting": lambda x: torch.cat([x[:, :, : x.shape[2] // 2], x.roll(1, 0)[:, :, x.shape[2] // 2 :]], 2),
    "oscillating": lambda x: torch.stack([f.roll(i % 2, -1) for i, f in enumerate(x.unbind(2))], 2),
    "black": lambda x: torch.full_like(x, -1),
}


def test_the_centre_is_measured_to_a_tenth_of_a_pixel(clips):
    batch, _ = clips
    error = (track(batch["x"]).centre - batch["trajectory"][:, 0]).norm(dim=2)
    assert error.max() < 0.1
    error = (track(batch["x"] + 0.1 * torch.randn_like(batch["x"])).centre - batch["trajectory"][:, 0]).norm(dim=2)
    assert error.mean() < 0.3


def test_the_speed_is_measured_to_three_percent(clips):
    """By the fitted path, also on each axis, and by the steps without a bounce."""
    batch, samples = clips
    truth = samples.motion.velocity[:COUNT, 0].abs()
    _, velocity = nearest_path(track(batch["x"]).centre, 16, SPEED)
    speed = truth.norm(dim=1)
    assert (velocity.norm(dim=1) / speed - 1).abs().max() < 0.03
    assert (velocity - truth).abs().max() < 0.03
    measured = motion(batch["x"]).speed
    assert (measured / speed - 1).abs().median() < 0.02


@pytest.mark.parametrize("size", [16, 40])
def test_a_path_that_obeys_the_law_is_fitted_exactly(size):
    start = 5.25 + (size - 10.5) * torch.rand(50, 1, 2).double()
    angle, pace = 6.3 * torch.rand(50, 1).double(), 0.5 + 1.5 * torch.rand(50, 1).double()
    velocity = torch.stack([pace * angle.cos(), pace * angle.sin()], 2)
    path = trajectory(start, velocity, 20, size)[:, 0]
    fitted, found = nearest_path(path, size, SPEED)
    torch.testing.assert_close(fitted, path, rtol=0, atol=1e-6)
    torch.testing.assert_close(found, velocity[:, 0].abs(), rtol=0, atol=1e-6)


def test_the_fit_is_as_good_as_a_brute_force_search():
    """For centres that no path fits, no path of a fine grid is nearer than the fitted one."""
    centre = 5.25 + 5.5 * torch.rand(3, 5, 2).double()
    fitted, _ = nearest_path(centre, 16, SPEED)
    ours = (fitted - centre).square().sum((1, 2))
    s, pace, angle = torch.arange(0, 11, 0.1), torch.linspace(0.5, 2, 31), torch.linspace(0, torch.pi / 2, 91)
    v = torch.stack([pace[:, None] * angle.cos(), pace[:, None] * angle.sin()], 2).flatten(0, 1).double()  # (V, 2)
    least = torch.zeros(3, len(v)).double()
    for axis in (0, 1):
        u = s.double()[:, None, None] + v[:, axis, None] * torch.arange(5)  # (S, V, F)
        folded = 10.75 - (5.5 - u.remainder(11)).abs()
        least += (folded - centre[:, None, None, :, axis]).square().sum(3).amin(1)
    assert (ours <= 1.05 * least.amin(1)).all()


def test_the_error_of_one_displaced_frame_is_the_closed_form():
    """A coordinate displaced by d leaves sqrt((1 - h) / F) d after regression, with the frame's leverage h."""
    path = trajectory(torch.tensor([[[6.0, 6.0]]]).double(), torch.tensor([[[0.5, 0.4]]]).double(), 9, 16)[:, 0]
    displaced = path.clone()
    displaced[0, 4, 0] += 0.3  # the middle frame: leverage 1 / F
    fitted, _ = nearest_path(displaced, 16, SPEED)
    error = (fitted - displaced).square().sum(2).mean().sqrt().item()
    assert error == pytest.approx(0.3 * ((1 - 1 / 9) / 9) ** 0.5, rel=1e-6)


def test_real_clips_obey_the_law_and_broken_ones_do_not(clips):
    """The mean error of real clips is 0.025 pixels; that of broken ones is at least 0.5."""
    batch, _ = clips
    real = motion(batch["x"])
    assert real.motion_error.mean() < 0.04
    assert real.motion_error.max() < 0.08
    assert real.speed_variation.mean() < 0.05
    assert real.bounce_violations.max() == 0
    assert real.digit_found.min() == 1
    for name, break_ in BROKEN.items():
        assert motion(break_(batch["x"])).motion_error.mean() > 12 * real.motion_error.mean(), name


def test_each_measure_reacts_to_its_kind_of_mistake(clips):
    batch, _ = clips
    measured = {name: motion(break_(batch["x"])) for name, break_ in BROKEN.items()}
    for name in ("shuffled", "oscillating"):
        assert measured[name].bounce_violations.mean() > 0.3
    for name in ("shuffled", "teleporting", "oscillating"):
        assert measured[name].speed_variation.mean() > 0.3
        assert measured[name].digit_found.min() == 1
    assert measured["frozen"].speed.max() == 0
    for name in ("noise", "black"):
        assert measured[name].digit_found.max() == 0


def test_bounce_violations_by_hand():
    """A square of ink that turns at a wall obeys the law; one that turns in the middle or passes the wall does not."""

    def clip(lefts):
        x = torch.full((1, 1, len(lefts), 16, 16), -1.0)
        for frame, left in enumerate(lefts):
            x[0, 0, frame, 6:10, left : left + 4] = 1.0
        return x

    assert motion(clip([5, 6, 7, 8, 7, 6, 5])).bounce_violations.item() == 0  # the centre turns at 10, near 10.75
    assert motion(clip([4, 5, 6, 5, 4, 5, 6])).bounce_violations.item() == pytest.approx(
        1 / 5
    )  # it turns at 8, against the law, and at 6, by it
    assert motion(clip([8, 9, 10, 11, 12, 11, 10])).bounce_violations.item() == pytest.approx(
        4 / 5
    )  # 11 is near the wall
    assert motion(clip([5, 6, 7, 8, 7, 6, 5])).speed.item() == pytest.approx(1)


def test_crops_are_recognised_by_the_digits_classifier(clips):
    """The classifier of still digits was trained on other digits than these."""
    batch, _ = clips
    crops = digit_crops(batch["x"])
    assert crops.shape == (COUNT, batch["x"].shape[2], 1, 8, 8)
    guess = load_digits_classifier()(crops.flatten(0, 1))[1].argmax(1)
    right = guess == batch["label"].repeat_interleave(crops.shape[1])
    assert right.double().mean() > 0.85


def test_a_crop_has_the_pixels_around_the_digit():
    x = torch.full((1, 1, 3, 16, 16), -1.0)
    digit = load_digits("train")["x"][0, 0]
    places = [(0, 8), (4, 3), (8, 0)]
    for frame, (row, column) in enumerate(places):
        x[0, 0, frame, row : row + 8, column : column + 8] = digit
    along, ink = torch.arange(8) + 0.5, (digit + 1) / 2
    across, down = ((ink.sum(dim) @ along / ink.sum()).item() for dim in (0, 1))
    for crop, (row, column) in zip(digit_crops(x)[0, :, 0], places, strict=True):
        top, left = (min(8, max(0, round(value - 4))) for value in (row + down, column + across))
        assert torch.equal(crop, x[0, 0, places.index((row, column)), top : top + 8, left : left + 8])


@pytest.mark.parametrize("shape", [(2, 3, 8, 16, 16), (2, 1, 2, 16, 16), (2, 1, 16, 16), (2, 1, 8, 16, 12)])
def test_clips_of_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="F >= 3"):
        motion(torch.zeros(shape))
