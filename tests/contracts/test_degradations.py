"""Every option of conf/degradation keeps the contract of degradations; each kind does what its name states."""

import functools
import io
import math

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from torch.nn import functional

from diffsweep.configuration import conf
from diffsweep.datasets import Shapes
from diffsweep.datasets.shapes_scene import coverage
from diffsweep.degradations import (
    Blur,
    Border,
    BoundingBox,
    Box,
    Downsampling,
    Edges,
    GaussianNoise,
    Greyscale,
    Jpeg,
    LinearDegradation,
    OneOf,
    Segmentation,
    Strokes,
)
from diffsweep.diffusion import Known, Noise, PixelMask

OPTIONS = conf.options("degradation")
every = pytest.mark.parametrize("option", OPTIONS)
ROWS = 64


def settings(option):
    """Return the keywords of an option, as Hydra composes them, in a thousandth of its time."""
    content, merged = dict(conf.content("degradation", option)), {}
    for entry in content.pop("defaults", []):
        name, _, place = entry.partition("@")
        if place:
            merged.setdefault("parts", {})[place.removeprefix("parts.")] = settings(name)
        elif name != "_self_":
            merged |= settings(name)
    return merged | content


@functools.cache
def made(option):
    return instantiate(settings(option), _convert_="all")


def test_the_settings_are_those_of_a_configuration(compose):
    for option in ("palette", "mask_expand"):
        assert OmegaConf.to_container(compose(f"degradation={option}").degradation) == settings(option)


def images(count=ROWS, channels=3, side=16, dtype=torch.float32):
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(0), dtype=dtype) * 2 - 1


def noise_of(indices, seed=0):
    return Noise(seed, torch.as_tensor(indices))


def test_the_options_are_of_every_kind():
    kinds = {type(made(option)) for option in OPTIONS}
    of_pictures = {BoundingBox, Edges, Segmentation}
    assert kinds == {Blur, Border, Box, Downsampling, GaussianNoise, Greyscale, Jpeg, OneOf, Strokes} | of_pictures
    for option in OPTIONS:
        if made(option).binary:
            image = made(option).image(images(8))
            assert torch.equal(image.square(), torch.ones_like(image))
            assert made(option).extra_channels == 0


@every
def test_an_image_has_the_samples_size_and_depends_on_the_sample_alone(option):
    degradation, x = made(option), images()
    degradation.check(3, 16)
    image = degradation.image(x, noise_of(range(ROWS)))
    assert image.shape == (ROWS, 3 + degradation.extra_channels, 16, 16)
    assert image.dtype == x.dtype
    assert not torch.equal(image[:, :3], x)
    order = torch.tensor([5, 2, 63])
    torch.testing.assert_close(degradation.image(x[order], noise_of(order)), image[order], rtol=0, atol=1e-6)
    other = degradation.image(x, noise_of(range(ROWS), seed=1))
    assert torch.equal(other, image) != degradation.random
    if degradation.random:
        with pytest.raises(ValueError, match="draws random numbers"):
            degradation.image(x)
    else:
        assert torch.equal(degradation.image(x), image)


@every
def test_what_is_known_is_a_measurement_of_the_same_random_numbers(option):
    degradation, x, noise = made(option), images(), noise_of(range(ROWS))
    known = degradation.known(x, noise)
    if not isinstance(degradation, LinearDegradation):
        assert known is None
        return
    assert torch.equal(degradation.picture(known), degradation.image(x, noise))
    torch.testing.assert_close(known.project(x), x, rtol=0, atol=1e-4)  # x agrees with itself
    some = known[torch.tensor([3, 1])]
    torch.testing.assert_close(some.measurement.apply(x[[3, 1]]), known.y[[3, 1]])
    joined = known[:2].cat([known[2:]])
    torch.testing.assert_close(joined.measurement.apply(x), known.y)


@every
def test_measurements_have_their_transpose_and_pseudo_inverse(option):
    """By matrices of a single channel or, of grey, of all three, against torch's pseudo-inverse."""
    degradation = made(option)
    if not isinstance(degradation, LinearDegradation):
        return
    x, noise = images(4, side=8, dtype=torch.float64), noise_of(range(4))
    measurement = degradation.measurement(x, noise)
    y = torch.randn_like(measurement.apply(x))
    inner = (measurement.apply(x) * y).flatten(1).sum(1), (x * measurement.adjoint(y)).flatten(1).sum(1)
    torch.testing.assert_close(*inner, rtol=1e-10, atol=1e-10)

    def of_unit_vectors(change, shape):
        size = math.prod(shape)
        return change(torch.eye(size, dtype=torch.float64).reshape(size, *shape)).flatten(1).T

    def row(count):
        return measurement.each(lambda part: part[1:2].expand(count, *part.shape[1:]))

    a = of_unit_vectors(row(192).apply, (3, 8, 8))
    size = math.prod(y.shape[1:])
    inverse = of_unit_vectors(row(size).pseudo_inverse, y.shape[1:])
    for product, expected in ((a @ inverse @ a, a), (inverse @ a @ inverse, inverse)):
        torch.testing.assert_close(product, expected, rtol=0, atol=1e-9 * inverse.abs().max().item())
    for product in (a @ inverse, inverse @ a):
        torch.testing.assert_close(product, product.T, rtol=0, atol=1e-9)


@every
def test_a_measurement_holds_after_projection_in_float32(option):
    degradation, x = made(option), images()
    if isinstance(degradation, LinearDegradation):
        known = degradation.known(x, noise_of(range(ROWS)))
        start = torch.zeros_like(x)
        torch.testing.assert_close(known.measurement.apply(known.project(start)), known.y, rtol=0, atol=1e-4)


MASKS = [option for option in OPTIONS if option.startswith("mask_")]


@pytest.mark.parametrize("option", MASKS)
@pytest.mark.parametrize("side", [2, 5, 16])
def test_masks_hide_some_pixels_and_not_all(option, side):
    degradation, x = made(option), images(side=side)
    if side == 2 and option == "mask_strokes":
        with pytest.raises(ValueError, match="strokes hide a part of an image of at least 4 pixels, not 2"):
            degradation.check(3, side)
        return
    image = degradation.image(x, noise_of(range(ROWS)))
    mask = image[:, 3:].bool()
    assert mask.shape == (ROWS, 1, side, side)
    assert torch.equal(image[:, 3:], mask.float())
    assert torch.equal(image[:, :3], torch.where(mask, x, 0.0))
    assert mask.flatten(1).any(1).all()
    assert (~mask).flatten(1).any(1).all()


def test_a_box_has_drawn_sides_and_lies_anywhere():
    unknown = Box((0.25, 0.5)).unknown(16, 16, noise_of(range(2000)))
    heights, widths = unknown.any(2).sum(1), unknown.any(1).sum(1)
    assert torch.equal(unknown.flatten(1).sum(1), heights * widths)  # a full rectangle
    assert set(heights.tolist()) == set(widths.tolist()) == set(range(4, 9))
    assert (heights.bincount()[4:] - 400).abs().max() < 5 * 400**0.5
    assert torch.corrcoef(torch.stack([heights, widths]).double())[0, 1].abs() < 0.1
    fixed = Box(0.5).unknown(16, 16, noise_of(range(4000)))
    first = fixed.any(2).double().argmax(1).bincount(minlength=9)
    assert len(first) == 9
    assert (first - 4000 / 9).abs().max() < 5 * (4000 / 9) ** 0.5
    centre = Box(1 / 4, place="centre").unknown(8, 8, None)[0]
    assert centre[3:5, 3:5].all()
    assert centre.sum() == 4


@pytest.mark.parametrize(
    ("missing", "rows", "columns"),
    [
        ("left", slice(None), slice(0, 3)),
        ("right", slice(None), slice(5, 8)),
        ("top", slice(0, 3), slice(None)),
        ("bottom", slice(5, 8), slice(None)),
    ],
)
def test_a_border_is_at_its_edge(missing, rows, columns):
    unknown = Border(0.4, missing).unknown(8, 8, None)[0]  # 3.2 pixels are 3
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[rows, columns] = True
    assert torch.equal(unknown, expected)
    drawn = Border(0.4, "any").unknown(8, 8, noise_of(range(400)))
    assert 60 < (drawn == expected).flatten(1).all(1).sum() < 140  # a quarter


def test_all_but_a_square_in_the_middle_is_hidden():
    unknown = Border(0.75, "all").unknown(16, 16, None)[0]
    assert (~unknown).sum() == 16
    assert not unknown[6:10, 6:10].any()


def test_strokes_are_connected_and_as_wide_as_they_are_set():
    strokes = Strokes(count=1, width=0.2, segments=3, length=0.4)
    unknown = strokes.unknown(32, 32, noise_of(range(100)))
    share = unknown.flatten(1).double().mean(1)
    assert share.max() <= 0.75
    assert share.min() > 0.01
    grown = torch.zeros_like(unknown)  # from one pixel of each
    grown.flatten(1).scatter_(1, unknown.flatten(1).double().argmax(1)[:, None], True)
    for _ in range(100):
        grown = functional.max_pool2d(grown.float(), 3, 1, 1).bool() & unknown
    assert torch.equal(grown, unknown)  # connected
    more = Strokes(count=8, width=0.3, most=0.5).unknown(16, 16, noise_of(range(100)))
    assert more.flatten(1).double().mean(1).max() <= 0.5


@pytest.mark.parametrize("method", ["bicubic", "nearest"])
def test_smaller_images_are_those_of_torch(method):
    x, degradation = images(side=12), Downsampling(3, method)
    mode = {"bicubic": "bicubic", "nearest": "nearest-exact"}[method]
    small = functional.interpolate(x, size=(4, 4), mode=mode, antialias=method == "bicubic")
    torch.testing.assert_close(degradation.known(x).y, small, rtol=0, atol=1e-6)
    if method == "nearest":
        assert torch.equal(small, x[..., 1::3, 1::3])


def test_bicubic_images_are_those_of_pillow():
    """On smooth images, since Pillow rounds to bytes."""
    at = torch.linspace(-1, 1, 24)
    x = (torch.sin(3 * at)[:, None] * torch.cos(2 * at) * 0.8)[None, None]
    small = Downsampling(4, "bicubic").known(x).y
    pixels = ((x[0, 0] + 1) * 127.5).round().byte().numpy()
    theirs = torch.tensor(list(Image.fromarray(pixels).resize((6, 6), Image.Resampling.BICUBIC).getdata()))
    torch.testing.assert_close((small.flatten() + 1) * 127.5, theirs.float(), rtol=0, atol=1.01)


def test_area_keeps_means_and_every_enlargement_keeps_constants():
    x = images(side=8)
    means = x.unflatten(2, (2, 4)).unflatten(4, (2, 4)).mean((3, 5))
    torch.testing.assert_close(Downsampling(4).known(x).y, means)
    for enlarge in ("bicubic", "bilinear", "nearest"):
        flat = torch.full((1, 3, 8, 8), 0.3)
        torch.testing.assert_close(Downsampling(4, enlarge=enlarge).image(flat), flat)
    repeated = means.repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(Downsampling(4, enlarge="nearest").image(x), repeated)


def test_a_blur_damps_waves_by_the_transform_of_a_gaussian():
    """In the middle of a long line a wave of frequency w is damped by exp(-s^2 w^2 / 2)."""
    side, sigma = 64, 1.5
    at = torch.arange(side, dtype=torch.float64)
    for w in (0.2, 0.6):
        x = torch.cos(w * at)[None, None, None].expand(1, 1, side, side)
        y = Blur(sigma).known(x).y[0, 0]
        expected = math.exp(-((sigma * w) ** 2) / 2) * x[0, 0]
        torch.testing.assert_close(y[20:44, 20:44], expected[20:44, 20:44], rtol=0, atol=0.01)


def test_widths_of_a_blur_are_uniform_and_their_matrices_made_once(monkeypatch):
    """Each drawn matrix is that of a blur of one of 64 widths, and a second batch computes none."""
    blur, x = Blur((0.5, 2.0)), torch.zeros(4096, 1, 8, 8)
    rows = blur.measurement(x, noise_of(range(4096))).rows
    tables = torch.stack([Blur(0.5 + 1.5 * k / 63).measurement(x).rows[0] for k in range(64)])
    drawn = torch.cdist(rows.flatten(1), tables.flatten(1)).min(1)
    assert drawn.values.max() < 1e-6
    counts = drawn.indices.bincount(minlength=64)
    assert (counts - 64).abs().max() < 5 * 8
    monkeypatch.setattr(torch.linalg, "svd", None)
    again = blur.measurement(x[:9], noise_of(range(9))).rows
    assert torch.equal(again, rows[:9])


def test_noise_has_its_level_and_jpeg_is_that_of_pillow():
    x = torch.zeros(200, 1, 16, 16)
    assert abs(GaussianNoise(0.3).image(x, noise_of(range(200))).std().item() - 0.3) < 0.005
    ranged = GaussianNoise((0.1, 0.5)).image(x, noise_of(range(200))).flatten(1).std(1)
    assert ranged.min() < 0.15
    assert ranged.max() > 0.45
    x = images(3)
    image = Jpeg(10).image(x)
    for row, own in zip(x, image, strict=True):
        file = io.BytesIO()
        pixels = ((row + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(file, "JPEG", quality=10)
        theirs = torch.tensor(list(Image.open(file).getdata())).reshape(16, 16, 3).permute(2, 0, 1)
        torch.testing.assert_close(own, theirs / 127.5 - 1, rtol=0, atol=1e-6)
    grey = images(2, channels=1)
    errors = [(Jpeg(quality).image(grey) - grey).square().mean() for quality in (5, 30, 95)]
    assert errors[0] > errors[1] > errors[2]


def test_one_of_several_is_drawn_for_each_sample_equally_often():
    parts = {"grey": Greyscale("mean"), "box": Box(0.5, "centre"), "blur": Blur(1.0)}
    degradation, x, noise = OneOf(parts), images(3000, side=8), noise_of(range(3000))
    assert degradation.extra_channels == 1
    chosen, image = degradation.chosen(noise), degradation.image(x, noise)
    assert (chosen.bincount(minlength=3) - 1000).abs().max() < 5 * 1000**0.5
    assert degradation.known(x, noise) is None
    for number, (name, part) in enumerate(parts.items()):
        rows = chosen == number
        own = part.image(x[rows])
        torch.testing.assert_close(image[rows, : own.shape[1]], own, rtol=0, atol=1e-6)
        assert image[rows, own.shape[1] :].eq(1).all()
        alone = OneOf(parts, only=name)
        assert not alone.random
        torch.testing.assert_close(alone.image(x)[rows], image[rows], rtol=0, atol=1e-6)
        torch.testing.assert_close(alone.known(x).y, part.known(x).y)


def test_a_segment_is_the_pixels_that_a_shape_covers_and_the_box_is_around_it():
    """Of shapes whose colour lies apart from the background; k-means in few steps stays near."""
    samples = Shapes(num_train=1, num_val=200).split("val")
    x, scene = samples["x"], samples.scene
    covered = coverage(scene.shape, scene.centre, scene.radius, 16)
    figure = Segmentation().image(x)[:, 0] > 0
    sure = (covered > 0.6) | (covered < 0.4)
    assert (figure == (covered > 0.5))[sure].float().mean() > 0.9995
    assert (Segmentation(steps=10).image(x)[:, 0] > 0)[covered > 0.6].float().mean() > 0.99
    box = BoundingBox().image(x)[:, 0] > 0
    for mask, own in zip(figure, box, strict=True):
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        expected = torch.zeros(16, 16, dtype=torch.bool)
        expected[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
        assert torch.equal(own, expected)
    flat = torch.full((1, 3, 8, 8), 0.2)
    for degradation in (Segmentation(3), BoundingBox()):
        assert degradation.image(flat).eq(-1).all()


def test_segments_of_plain_colours_are_found_in_any_number():
    colours = torch.tensor([[-1.0, -1, -1], [1, -1, -1], [-1, 1, -1], [1, 1, 1]])
    numbers = torch.zeros(1, 12, 12, dtype=torch.long)
    numbers[:, 2:5, 2:5], numbers[:, 2:5, 7:10], numbers[:, 7:10, 4:8] = 1, 2, 3
    x = colours[numbers].movedim(-1, 1)
    for steps in (0, 5):
        found = Segmentation(4, steps).numbers(x)
        pairs = set(zip(numbers.flatten().tolist(), found.flatten().tolist(), strict=True))
        assert len(pairs) == 4  # one number of a segment for each colour
        assert (0, 0) in pairs
    grey = Segmentation(4).image(x)[0, 0].unique()
    torch.testing.assert_close(grey, torch.tensor([-1, -1 / 3, 1 / 3, 1]))


def test_edges_of_a_step_are_a_line_beside_it_in_any_direction():
    at = torch.arange(16.0)
    for down, right in ((0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (1.0, -1.0)):
        offset = (down * (at[:, None] - 7.6) + right * (at - 7.4 if right > 0 else at - 7.6)) / math.hypot(down, right)
        x = (2 * (offset > 0).float() - 1)[None, None].expand(1, 3, 16, 16)
        edge = Edges(sigma=0.0).image(x)[0, 0] > 0
        assert edge.any()
        assert offset[edge].abs().max() < 1.5
        middle = edge[4:12, 4:12]
        lines = middle.sum(1) if right else middle.sum(0)
        assert lines.ge(1).all()
        assert lines.le(1 if down * right == 0 else 2).all()  # one pixel, or, diagonally, two that touch at a side
    ramp = (0.02 * at)[None, None, None].expand(1, 1, 16, 16)
    assert Edges().image(ramp).eq(-1).all()
    faint = torch.zeros(1, 1, 16, 16)
    faint[..., 8:] = 0.3  # its gradient of 0.15 is below high
    assert Edges(0.1, 0.25, 0.0).image(faint).eq(-1).all()
    faint[..., :3, 8:] = 1.0  # which a part of the edge exceeds
    assert Edges(0.1, 0.25, 0.0).image(faint)[0, 0, 8:, 6:9].gt(0).any(1).all()


def test_a_network_reads_what_only_a_measurement_gives():
    small = images(side=4)
    down = Downsampling(2)
    assert down.picture(Known(down.measurement(images(side=8)), small)).shape == (ROWS, 3, 8, 8)
    mask = torch.rand(ROWS, 1, 16, 16) < 0.5
    image = Box().picture(Known(PixelMask(mask), images()))
    assert torch.equal(image[:, 3:], mask.float())


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Downsampling(1), "degradation.factor must be at least 2, not 1"),
        (lambda: Downsampling(2, "lanczos"), "degradation.method is one of area, bicubic, nearest, not lanczos"),
        (lambda: Downsampling(2, enlarge="area"), "degradation.enlarge is one of bicubic, bilinear, nearest"),
        (lambda: Downsampling(3).check(3, 8), "degradation.factor=3 does not divide the image's 8 pixels"),
        (lambda: Downsampling(8).check(3, 8), "use a smaller divisor of 8"),
        (lambda: Box(1.0), "degradation.share hides a part of the image, so it is above 0 and below 1, not 1.0"),
        (lambda: Box(0.0), "degradation.share hides a part"),
        (lambda: Box((0.5, 0.2)), r"degradation.share is a number in \[0, 1\], or a range of such, \[low, high\]"),
        (lambda: Box(0.5, "corner"), "degradation.place is one of any, centre, not corner"),
        (lambda: Box().check(1, 1), "a mask hides a part of an image of at least 2 pixels"),
        (lambda: Border(0.5, "middle"), "degradation.missing is one of left, right, top, bottom, any, all"),
        (lambda: Strokes(count=0), "degradation.count is a number"),
        (lambda: Strokes(width=0.5), "degradation.width is a number"),
        (lambda: Strokes(segments=0), "degradation.segments and length must be above 0"),
        (lambda: Strokes(most=1.0), "degradation.most hides a part"),
        (lambda: Greyscale("sepia"), "degradation.weights is luma, mean or a list of numbers, not sepia"),
        (lambda: Greyscale([0.0]), "degradation.weights needs a number that is not 0"),
        (lambda: Greyscale().check(1, 8), "degradation.weights has 3 weights of grey, and images have 1 channel; use"),
        (lambda: Jpeg(0), "degradation.quality is a number in"),
        (lambda: Jpeg().check(2, 8), "JPEG has 1 or 3 channels, and images have 2"),
        (lambda: Blur(0.0), "degradation.sigma is a number of at least 0.001"),
        (lambda: GaussianNoise(-1), "degradation.level is a number of at least 0"),
        (lambda: Segmentation(1), "degradation.segments must be at least 2, a figure and its background, not 1"),
        (lambda: BoundingBox(-1), "degradation.steps must be at least 0, not -1"),
        (lambda: Edges(0.3, 0.2), "degradation.low=0.3 must be above 0 and at most degradation.high=0.2"),
        (lambda: Edges(sigma=-1.0), "degradation.sigma must be at least 0 pixels, not -1"),
        (lambda: OneOf({}), "degradation.parts is empty"),
        (lambda: OneOf({"a": Box()}, only="b"), "degradation.only is one of a, or null for all of them, not b"),
        (lambda: OneOf({"a": Greyscale(), "b": Box()}).check(1, 8), "degradation.weights has 3 weights"),
    ],
)
def test_wrong_settings_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
