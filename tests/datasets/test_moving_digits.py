"""The dataset of moving digits: their motion, their rendering and their splits."""

import math

import pytest
import torch

from diffsweep.datasets import MovingDigits, load_digits
from diffsweep.datasets.bouncing import MARGIN, fold, trajectory, unfold, walls
from diffsweep.datasets.moving_digits import glyphs, render


@pytest.fixture(scope="module")
def samples():
    return MovingDigits(num_train=400, num_val=200).split("train")


def centres(x):
    """Return the centre of mass of each frame of clips (B, 1, F, S, S), in pixels, (B, F, 2)."""
    ink = (x[:, 0].double() + 1) / 2
    along = torch.arange(x.shape[-1]).double() + 0.5
    across, down = torch.einsum("bfyx,x->bf", ink, along), torch.einsum("bfyx,y->bf", ink, along)
    return torch.stack([across, down], 2) / ink.sum((2, 3))[..., None]


# Motion


def test_a_trajectory_by_hand():
    """Between walls at 5.25 and 10.75, x starts at 8 with speed 2 and is reflected in step 2; y is constant."""
    path = trajectory(torch.tensor([[[8.0, 7.0]]]), torch.tensor([[[2.0, 0.0]]]), 5, 16)
    assert walls(16) == (5.25, 10.75)
    assert path[0, 0, :, 0].tolist() == [8.0, 10.0, 9.5, 7.5, 5.5]
    assert path[0, 0, :, 1].tolist() == [7.0] * 5


def test_a_trajectory_equals_small_euler_steps_with_reflections():
    """An independent computation with a thousand Euler steps a frame, which flips the velocity behind a wall."""
    start, velocity = 5.25 + 5.5 * torch.rand(20, 1, 2).double(), 4 * torch.rand(20, 1, 2).double() - 2
    path = trajectory(start, velocity, 8, 16)
    p, v = start.clone(), velocity / 1000
    for step in range(7001):
        if step % 1000 == 0:
            torch.testing.assert_close(p, path[:, :, step // 1000], rtol=0, atol=1e-8)
        p = p + v
        for wall, over in ((5.25, p < 5.25), (10.75, p > 10.75)):
            p, v = torch.where(over, 2 * wall - p, p), torch.where(over, -v, v)


def test_unfolding_is_the_inverse_of_folding():
    u = torch.linspace(-30, 30, 601).double() + 0.013
    p = fold(u, 5.5)
    assert p.min() >= 0
    assert p.max() <= 5.5
    torch.testing.assert_close(unfold(p, u, 5.5), u)


def test_starts_directions_and_speeds_fill_their_ranges():
    """Mean and variance are those of uniform numbers, within five standard deviations of 20,000 draws."""
    motion = MovingDigits().split("train").motion
    start, velocity = motion.start[:, 0], motion.velocity[:, 0]
    speed, angle = velocity.norm(dim=1), torch.atan2(velocity[:, 1], velocity[:, 0])
    for value, low, high in (
        (start[:, 0], 5.25, 10.75),
        (start[:, 1], 5.25, 10.75),
        (speed, 0.5, 2.0),
        (angle, -math.pi, math.pi),
    ):
        width = high - low
        assert value.min() >= low
        assert value.max() <= high
        assert value.mean().item() == pytest.approx((low + high) / 2, abs=5 * width / math.sqrt(12 * len(value)))
        assert value.var().item() == pytest.approx(width**2 / 12, rel=0.05)
    numbers = torch.stack([*start.T, speed, angle, motion.glyph[:, 0].double()])
    assert torch.corrcoef(numbers).triu(1).abs().max() < 0.04


# Rendering


def test_a_digit_between_pixels_is_the_mean_of_its_shifts_by_whole_pixels():
    ink = torch.rand(1, 1, 8, 8)
    on, between = (
        render(ink, torch.tensor(corner).double().reshape(1, 1, 1, 2), 12)[0, 0, 0]
        for corner in ((3.0, 1.0), (3.5, 1.25))
    )
    expected = torch.zeros(12, 12)
    expected[1:9, 3:11] = ink[0, 0]
    torch.testing.assert_close(on, 2 * expected - 1, rtol=0, atol=1 / 255 + 1e-5)
    halfway = (expected + expected.roll(1, 1)) / 2
    mixed = 0.75 * halfway + 0.25 * halfway.roll(1, 0)
    torch.testing.assert_close(between, 2 * mixed - 1, rtol=0, atol=1 / 255 + 1e-5)


@pytest.mark.parametrize(("size", "frames"), [(13, 8), (16, 40), (32, 8)])
def test_the_centre_of_mass_is_the_trajectory(size, frames):
    """Up to the rounding to levels. No digit is cut off: its mass is the same in all frames."""
    samples = MovingDigits(image_size=size, num_frames=frames, num_train=200).split("train")
    batch = samples[torch.arange(200)]
    assert (centres(batch["x"]) - batch["trajectory"][:, 0]).abs().max() < 0.01
    mass = (batch["x"].double() + 1).sum((1, 3, 4)) / 2
    assert (mass / samples.digits.ink[samples.motion.glyph[:200, 0]].sum((1, 2))[:, None] - 1).abs().max() < 0.01


def test_without_subpixels_digits_are_sharp_and_at_most_half_a_pixel_off():
    samples = MovingDigits(num_train=50, num_val=1, subpixel=False).split("train")
    batch = samples[torch.arange(50)]
    glyph = samples.motion.glyph[:50, 0]
    corner = batch["trajectory"][:, 0].double() - samples.digits.centre[glyph][:, None]  # (B, F, 2)
    for clip in range(50):
        for frame in range(8):
            places = [
                (x, y)
                for x in range(9)
                for y in range(9)
                if torch.equal(batch["x"][clip, 0, frame, y : y + 8, x : x + 8], drawn(samples.digits.ink[glyph[clip]]))
            ]
            assert len(places) == 1
            assert (torch.tensor(places[0]) - corner[clip, frame]).abs().max() <= 0.5 + 1e-5
    assert torch.equal(batch["trajectory"], MovingDigits(num_train=50, num_val=1).split("train")["trajectory"])


def drawn(ink):
    """Return ink in [0, 1] rounded to 256 levels, in [-1, 1]."""
    return (ink * 255).round() * (2 / 255) - 1


def test_no_digit_reaches_farther_from_its_centre_than_the_margin():
    digits = glyphs("all")
    rows, columns = digits.ink.amax(2) > 0, digits.ink.amax(1) > 0
    for inked, centre in ((columns, digits.centre[:, 0]), (rows, digits.centre[:, 1])):
        first, last = inked.int().argmax(1), 8 - inked.flip(1).int().argmax(1)
        assert torch.maximum(centre - first, last - centre).max() < MARGIN


def test_where_two_digits_overlap_the_brighter_is_shown():
    data = MovingDigits(num_digits=2, num_train=50)
    samples, one = data.split("train"), MovingDigits(num_train=50).split("train")
    batch, first = samples[torch.arange(50)], one[torch.arange(50)]
    assert batch["trajectory"].shape == (50, 2, 8, 2)
    assert torch.equal(batch["trajectory"][:, :1], first["trajectory"])  # the second digit does not change the first
    assert torch.equal(batch["label"], first["label"])
    assert (batch["x"] >= first["x"]).all()
    of_second = type(one.motion)(*(part[:, 1:] for part in samples.motion))
    second = type(one)(of_second, samples.digits, 8, 16, subpixel=True)[torch.arange(50)]["x"]
    assert torch.equal(torch.maximum(first["x"], second), batch["x"])


def test_labels_are_those_of_the_rendered_digits(samples):
    digits = load_digits("train")
    motion = samples.motion
    assert torch.equal(samples["label"], digits["label"][motion.glyph[:, 0]])
    assert torch.equal(samples.digits.ink[:1500], (digits["x"][:, 0] + 1) / 2)


# Splits


def test_held_out_clips_show_held_out_digits_only():
    data = MovingDigits(num_train=20_000, num_val=3000)
    train, val, every = (data.split(name).motion.glyph for name in ("train", "val", "all"))
    assert train.unique().tolist() == list(range(1500))
    assert val.unique().tolist() == list(range(1500, 1797))
    assert torch.equal(every, torch.cat([train, val]))


def test_a_clip_is_the_same_in_any_batch(samples):
    for index in (torch.tensor([399, 3, 3]), torch.arange(17, 40)):
        batch = samples.rows(index)
        assert batch.keys() == {"x", "label", "trajectory"}
        for name, part in batch.items():
            assert torch.equal(part, samples.part(name)[index])


def test_more_frames_and_more_clips_leave_the_first_as_they_are(samples):
    longer = MovingDigits(num_frames=20, num_train=900).split("train")[torch.arange(400)]
    assert torch.equal(longer["x"][:, :, :8], samples["x"])
    assert torch.equal(longer["trajectory"][:, :, :8], samples["trajectory"])


def test_annotations_render_nothing(samples, monkeypatch):
    monkeypatch.setattr("diffsweep.datasets.moving_digits.render", None)
    assert samples["trajectory"].shape == (400, 1, 8, 2)
    with pytest.raises(TypeError):
        samples["x"]


def test_the_clips_equal_recorded_values():
    """The recorded values hold on every machine."""
    data = MovingDigits()
    assert data.split("train")["label"][:8].tolist() == [0, 9, 0, 4, 1, 1, 3, 1]
    assert data.fingerprint == "moving-digits-8x16-1-20000-500-59b6a25938bf"


def test_the_fingerprint_changes_with_all_that_pixels_depend_on():
    small = {"num_train": 100, "num_val": 50}
    prints = [
        MovingDigits(**{**small, **change}).fingerprint
        for change in (
            *({}, {"image_size": 17}, {"num_frames": 9}, {"num_digits": 2}, {"speed": [0.5, 1.9]}, {"subpixel": False}),
            *({"num_train": 101}, {"num_val": 51}, {"seed": 5}, {"batch_size": 3}),
        )
    ]
    assert len(set(prints[:8])) == 8
    assert set(prints[8:]) == {prints[0]}


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"channels": 3}, "1 channel"),
        ({"levels": 17}, "256 levels"),
        ({"class_names": ["one"]}, "class_names"),
        ({"num_digits": 3}, "num_digits must be 1 or 2, not 3"),
        ({"num_frames": 0}, "num_frames must be at least 1, not 0"),
        ({"num_train": 0}, "num_train must be at least 1"),
        (
            {"image_size": 12},
            r"image_size=12 leaves a digit 1.5 pixels to move, and it moves up to 2.0 a frame; "
            r"use an image_size above 12.5",
        ),
        ({"image_size": 8}, "leaves a digit 0.0 pixels"),
        ({"speed": [2.0, 1.0]}, r"speed must be \[lowest, highest\]"),
        ({"speed": [0.5]}, r"speed must be \[lowest, highest\]"),
        ({"speed": [-1, 1]}, "speed"),
    ],
)
def test_bad_values_are_refused(bad, match):
    with pytest.raises(ValueError, match=match):
        MovingDigits(**bad)
