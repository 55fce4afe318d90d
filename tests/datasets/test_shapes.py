"""The dataset of coloured shapes: rendering, splits, captions, and reading attributes back from pixels."""

import itertools
import math

import pytest
import torch

from diffsweep.datasets import Digits, Shapes
from diffsweep.datasets.shapes_checker import A_SHAPE, fit, read
from diffsweep.datasets.shapes_scene import (
    BACKGROUNDS,
    CENTRE_JITTER,
    COLOURS,
    POSITIONS,
    RADIUS_JITTER,
    SHAPES,
    SIZES,
    VOCABULARY,
    Scene,
    attributes_of,
    captions,
    coverage,
    render,
)

HELD_OUT = [["red", "triangle"], ["green", "circle"], ["blue", "cross"]]


def scene(shape="circle", colour="red", position="in the centre", size="small", background="black", off=(0, 0), by=0):
    """Return one scene by the names of its attributes, with offsets of its centre and its radius."""
    number = [
        list(names).index(name)
        for names, name in zip(
            (SHAPES, COLOURS, POSITIONS, SIZES, BACKGROUNDS), (shape, colour, position, size, background), strict=True
        )
    ]
    centre = torch.tensor([POSITIONS[position]], dtype=torch.float64) + torch.tensor([off], dtype=torch.float64)
    return Scene(*torch.tensor(number)[:, None], centre, torch.tensor([SIZES[size] + by], dtype=torch.float64))


def together(scenes):
    return Scene(*map(torch.cat, zip(*scenes, strict=True)))


@pytest.fixture(scope="module")
def data():
    return Shapes(held_out=HELD_OUT, num_train=6000, num_val=2000)


@pytest.fixture(scope="module")
def val(data):
    return data.split("val")


def scene_attributes(samples):
    return {name: getattr(samples.scene, name) for name in ("shape", "colour", "position", "size")}


# Rendering


def test_a_square_by_hand():
    """Half a side is 0.9 * 2.5 = 2.25 pixels: it covers four pixels wholly and a quarter of the next on each side."""
    across = torch.tensor([0] * 5 + [0.25] + [1] * 4 + [0.25] + [0] * 5, dtype=torch.float64)
    mask = coverage(torch.tensor([1]), torch.tensor([[0.5, 0.5]]), torch.tensor([2.5 / 16]), 16)[0]
    torch.testing.assert_close(mask, torch.minimum(across[:, None], across))
    x = render(scene("square", "orange", by=2.5 / 16 - 0.155), 16)
    levels = (x + 1) * 127.5
    assert levels[0, :, 8, 8].tolist() == pytest.approx([255, 140, 0])
    assert levels[0, :, 8, 5].tolist() == pytest.approx([64, 35, 0])  # 63.75 is not a level
    assert x[0, :, 0, 0].tolist() == [-1, -1, -1]


INSIDE = {  # whether a point is inside, by its offset in radii, y down
    "circle": lambda u, v: math.hypot(u, v) < 1,
    "square": lambda u, v: -0.9 < u < 0.9 and -0.9 < v < 0.9,
    "triangle": lambda u, v: v < 0.9 and abs(u) < (v + 0.9) / 1.8,
    "cross": lambda u, v: (abs(u) < 0.3 and abs(v) < 1) or (abs(v) < 0.3 and abs(u) < 1),
}
AREA = {"circle": math.pi, "square": 1.8**2, "triangle": 1.8, "cross": 4 * 0.6 - 0.6**2}


@pytest.mark.parametrize("shape", SHAPES)
def test_coverage_is_the_covered_part_of_a_pixel(shape):
    """Compare with counting 8 x 8 points in each pixel, for a large shape off the grid."""
    x, y, radius, size = 0.507, 0.481, 0.22, 16
    mask = coverage(torch.tensor([list(SHAPES).index(shape)]), torch.tensor([[x, y]]), torch.tensor([radius]), size)[0]
    along = [(k + 0.5) / (8 * size) for k in range(8 * size)]
    points = torch.tensor([[INSIDE[shape]((b - x) / radius, (a - y) / radius) for b in along] for a in along])
    counted = points.double().unflatten(0, (size, 8)).unflatten(2, (size, 8)).mean((1, 3))
    assert (mask - counted).abs().max() < 0.3  # at corners, where an edge's distance is not the area
    assert (mask - counted).abs().mean() < 0.01
    assert mask.sum().item() / size**2 == pytest.approx(AREA[shape] * radius**2, rel=0.03)


def test_nothing_is_cut_off():
    """The largest shapes at the outermost places, on a canvas of twice the size, do not leave the image."""
    corners = [(dx * CENTRE_JITTER, dy * CENTRE_JITTER) for dx in (-1, 1) for dy in (-1, 1)]
    outermost = together(
        scene(shape, position=position, size="large", off=off, by=RADIUS_JITTER)
        for shape, position, off in itertools.product(SHAPES, POSITIONS, corners)
    )
    inside = coverage(outermost.shape, outermost.centre, outermost.radius, 16)
    canvas = coverage(outermost.shape, outermost.centre / 2 + 0.25, outermost.radius / 2, 32)
    torch.testing.assert_close(canvas[:, 8:24, 8:24], inside)
    torch.testing.assert_close(canvas.sum((1, 2)), inside.sum((1, 2)))


def test_colours_and_backgrounds_differ_clearly():
    every = torch.tensor([*COLOURS.values(), *BACKGROUNDS.values()]) / 127.5
    assert torch.pdist(every).min() > 0.75


def test_an_image_is_the_same_in_any_batch(val):
    x, label, caption = (val.part(name) for name in ("x", "label", "caption"))
    for index in (torch.tensor([1999, 3, 3, 700]), torch.arange(17, 40), torch.tensor([5])):
        batch = val.rows(index)
        assert batch.keys() == {"x", "label", "caption", "scalars"}
        assert torch.equal(batch["scalars"], val.part("scalars")[index])
        assert torch.equal(batch["x"], x[index])
        assert torch.equal(batch["label"], label[index])
        assert batch["caption"] == [caption[i] for i in index]


def test_captions_and_labels_render_nothing(monkeypatch):
    samples = Shapes(num_train=50).split("train")
    monkeypatch.setattr("diffsweep.datasets.shapes.render", None)
    assert len(samples["caption"]) == len(samples["label"]) == 50
    with pytest.raises(TypeError):
        samples["x"]


def test_the_images_equal_recorded_values():
    """The recorded values hold on every machine."""
    data = Shapes(held_out=HELD_OUT)
    assert data.split("train")["caption"][:2] == [
        "a large orange square at the top right",
        "a small pink cross in the centre",
    ]
    assert data.fingerprint == "shapes-16-20000-2000-384fbc68d74f"


def test_no_two_samples_are_the_same(data):
    x = data.split("all")["x"]
    assert len({row.tobytes() for row in x.numpy()}) == 8000


# Splits


def test_training_shows_all_but_held_out_pairs_uniformly_and_validation_all():
    """Counts are within five standard deviations of the expected ones."""
    data = Shapes(held_out=HELD_OUT, num_val=20_000)
    held = {(list(SHAPES).index(s), list(COLOURS).index(c)) for c, s in HELD_OUT}
    for name, left in (("train", 29), ("val", 32)):
        shown = scene_attributes(data.split(name))
        counts = (shown["shape"] * 8 + shown["colour"]).bincount(minlength=32)
        expected = torch.full((32,), 20_000 / left)
        if name == "train":
            expected[[s * 8 + c for s, c in held]] = 0
        assert ((counts - expected).abs() <= 5 * expected.sqrt()).all()
        for attribute, many in (("position", 9), ("size", 2)):
            of_pair = torch.stack([shown[attribute], shown["shape"]], 1)  # independent of the shape
            counts = (of_pair[:, 0] * 4 + of_pair[:, 1]).bincount(minlength=many * 4).unflatten(0, (many, 4))
            expected = counts.sum(0) / many
            assert ((counts - expected).abs() <= 5 * expected.sqrt()).all()


def test_an_unseen_shape_is_in_neither_split_and_others_stay():
    every, some = (Shapes(unseen=names, num_train=3000, num_val=1000) for names in ([], ["cross", "circle"]))
    for split in ("train", "val"):
        before, after = (data.split(split).scene for data in (every, some))
        stay = (before.shape == 1) | (before.shape == 2)
        assert 0.4 < stay.double().mean() < 0.6
        assert all(torch.equal(old[stay], new[stay]) for old, new in zip(before, after, strict=True))
        assert set(after.shape.tolist()) == {1, 2}
    assert every.fingerprint != some.fingerprint


def test_jitter_fills_its_range(data):
    drawn = data.split("train").scene
    off = drawn.centre - torch.tensor(list(POSITIONS.values()), dtype=torch.float64)[drawn.position]
    more = drawn.radius - torch.tensor(list(SIZES.values()), dtype=torch.float64)[drawn.size]
    for value, most in ((off[:, 0], CENTRE_JITTER), (off[:, 1], CENTRE_JITTER), (more, RADIUS_JITTER)):
        assert value.abs().max() <= most
        assert value.var().item() == pytest.approx(most**2 / 3, rel=0.06)  # uniform
    assert torch.corrcoef(torch.cat([off, more[:, None]], 1).T).triu(1).abs().max() < 0.06


def test_holding_pairs_out_changes_no_other_scene():
    free, held = (Shapes(held_out=pairs, num_train=3000).split("train").scene for pairs in ([], HELD_OUT))
    same = [(colour, shape) not in {tuple(p) for p in HELD_OUT} for colour, shape in named(free)]
    assert 0.05 < 1 - sum(same) / 3000 < 0.15
    for name in ("shape", "colour"):
        assert torch.equal(getattr(free, name)[same], getattr(held, name)[same])
    for name in ("position", "size", "background", "centre", "radius"):
        assert torch.equal(getattr(free, name), getattr(held, name))
    assert not {tuple(p) for p in HELD_OUT} & set(named(held))


def named(drawn):
    colours, shapes = list(COLOURS), list(SHAPES)
    return [(colours[c], shapes[s]) for c, s in zip(drawn.colour.tolist(), drawn.shape.tolist(), strict=True)]


def test_more_samples_leave_the_first_as_they_are(data):
    more = Shapes(held_out=HELD_OUT, num_train=6100, num_val=2300)
    for name, count in (("train", 6000), ("val", 2000)):
        index = torch.arange(count - 5, count)
        assert torch.equal(more.split(name).rows(index)["x"], data.split(name).rows(index)["x"])
    assert torch.equal(
        data.split("all").rows(torch.tensor([0, 6000]))["x"],
        torch.cat([data.split(name).rows(torch.tensor([0]))["x"] for name in ("train", "val")]),
    )


def test_the_fingerprint_changes_with_all_that_pixels_depend_on():
    small = {"num_train": 200, "num_val": 100, "held_out": HELD_OUT}
    prints = [
        Shapes(**{**small, **change}).fingerprint
        for change in (
            *({}, {"image_size": 17}, {"num_train": 201}, {"num_val": 101}, {"held_out": HELD_OUT[:2]}),
            *({"held_out": []}, {"batch_size": 3}, {"seed": 5}, {"num_workers": 2}, {"held_out": HELD_OUT[::-1]}),
        )
    ]
    assert len(set(prints[:6])) == 6
    assert set(prints[6:]) == {prints[0]}


# Captions


def test_captions_by_hand():
    drawn = together([scene("circle", "red", "at the top left", "small"), scene("cross", "pink", size="large")])
    assert captions(drawn) == ["a small red circle at the top left", "a large pink cross in the centre"]
    others = attributes_of(["A top-left, small, red circle!", "the large pink cross centre"])
    assert all(map(torch.equal, attributes_of(captions(drawn)), others))


def test_training_captions_leave_attributes_out_at_random(data):
    """Each of three attributes is named in 60 % of training captions; images and held-out captions are as they were."""
    short = Shapes(held_out=HELD_OUT, num_train=6000, num_val=50, caption_detail=0.6)
    train, index = short.split("train"), torch.arange(6000)
    read, truth = attributes_of(train["caption"]), scene_attributes(train)
    assert torch.equal(read.shape, truth["shape"])
    named = torch.stack([getattr(read, name) >= 0 for name in ("size", "colour", "position")], 1)
    for column, name in enumerate(("size", "colour", "position")):
        rows = named[:, column]
        assert torch.equal(getattr(read, name)[rows], truth[name][rows])
    error = (0.24 / 6000) ** 0.5
    assert (named.double().mean(0) - 0.6).abs().max() < 5 * error
    counts = (named * torch.tensor([1, 2, 4])).sum(1).bincount(minlength=8) / 6000
    expected = torch.tensor([0.6 ** bin(k).count("1") * 0.4 ** (3 - bin(k).count("1")) for k in range(8)])
    assert (counts - expected).abs().max() < 0.03  # independently of each other
    assert train.rows(index[30:40])["caption"] == train["caption"][30:40]
    assert torch.equal(train.rows(index[:40])["x"], data.split("train").rows(index[:40])["x"])
    assert all((values >= 0).all() for values in attributes_of(short.split("val")["caption"]))
    assert short.fingerprint != Shapes(held_out=HELD_OUT, num_train=6000, num_val=50).fingerprint


def test_without_details_a_caption_names_the_shape_alone():
    data = Shapes(num_train=9, num_val=2, caption_detail=0.0)
    assert data.split("train")["caption"] == [f"a {list(SHAPES)[k]}" for k in data.split("train")["label"]]
    with pytest.raises(ValueError, match="caption_detail is a probability, from 0 to 1"):
        Shapes(caption_detail=1.5)


def test_every_caption_gives_its_scenes_attributes(val):
    attributes, words = attributes_of(val["caption"]), set(VOCABULARY)
    for name, shown in scene_attributes(val).items():
        assert torch.equal(getattr(attributes, name), shown)
    assert {word for caption in val["caption"] for word in caption.split()} == words


def test_a_caption_may_leave_words_out():
    attributes = attributes_of(["a red circle", "a shape at the top", "", "something small at the bottom right"])
    assert attributes.shape.tolist() == [0, -1, -1, -1]
    assert attributes.colour.tolist() == [0, -1, -1, -1]
    assert attributes.position.tolist() == [-1, 1, -1, 8]
    assert attributes.size.tolist() == [-1, -1, -1, 0]


@pytest.mark.parametrize(
    ("caption", "match"),
    [
        ("a red blue circle", "several of red, orange"),
        ("a circle and a cross", "several of circle"),
        ("a small large cross", "several of small"),
        ("a cross at the top bottom", "no known position; positions are at the top left"),
        ("a cross in the centre left", "no known position"),
    ],
)
def test_a_caption_that_contradicts_itself_is_refused(caption, match):
    with pytest.raises(ValueError, match=match):
        attributes_of([caption])


# Reading attributes from pixels


@pytest.mark.parametrize(("size", "count"), [(16, 1500), (24, 300), (32, 500), (64, 150)])
def test_every_attribute_is_read_back(size, count):
    samples = Shapes(image_size=size, num_val=count).split("val")
    seen = read(samples["x"])
    assert seen.found.all()
    for name, shown in scene_attributes(samples).items():
        assert torch.equal(getattr(seen, name), shown)


@pytest.mark.slow
@pytest.mark.parametrize("size", [16, 24, 32, 64])
def test_accuracy_on_ten_thousand(size):
    data = Shapes(image_size=size, num_val=10_000)
    batch = data.split("val").rows(torch.arange(10_000))
    right = data.aligned(batch["x"], batch)
    assert (right["colour_and_shape"] & right["position"] & right["size"]).double().mean() >= 0.999


def test_noise_costs_little(val):
    """On 10,000 images none was wrong at standard deviation 0.1, and 8 at 0.2."""
    batch = val.rows(torch.arange(500))
    noise = torch.randn(batch["x"].shape)
    for sigma, least in ((0.1, 1.0), (0.2, 0.99)):
        right = Shapes().aligned(batch["x"] + sigma * noise, batch)
        assert (right["colour_and_shape"] & right["position"] & right["size"]).double().mean() >= least


def test_the_fit_finds_place_radius_and_colours(val):
    found, drawn = fit(val["x"][:300]), val.scene.rows(slice(300))
    assert (found.centre - drawn.centre).abs().max() < 0.1 / 16  # a tenth of a pixel
    assert (found.radius - drawn.radius).abs().max() < 0.2 / 16
    for fitted, named, number in (
        (found.background, BACKGROUNDS, drawn.background),
        (found.colour, COLOURS, drawn.colour),
    ):
        true = torch.tensor(list(named.values()))[number] / 127.5 - 1
        assert (fitted - true).norm(dim=1).max() < 0.2
        assert (fitted - true).norm(dim=1).median() < 0.01


def test_the_fit_explains_the_energy_of_the_shape():
    """In closed form, |contrast|^2 (sum m^2 - (sum m)^2 / 256): a square covers 16 pixels and a ring of quarters."""
    exact = scene("square", "green", by=2.5 / 16 - 0.155)
    found = fit(render(exact, 16))
    mass, square = 16 + 20 * 0.25, 16 + 20 * 0.25**2
    contrast = sum((level / 127.5) ** 2 for level in COLOURS["green"])
    assert found.explained.item() == pytest.approx(contrast * (square - mass**2 / 256), rel=0.01)
    assert found.second.item() < 0.01


def two(val, apart):
    """Return images of two shapes on one background, whose boxes are apart or overlap."""
    first, second = val.scene.rows(slice(1000)), val.scene.rows(slice(1000, 2000))
    near = (first.centre - second.centre).abs().amax(1) < first.radius + second.radius
    mask = coverage(second.shape, second.centre, second.radius, 16)[:, None]
    colour = torch.tensor(list(COLOURS.values()))[second.colour][:, :, None, None] / 127.5 - 1
    x = render(first, 16) * (1 - mask) + colour * mask
    return x[~near if apart else near].float()


def smooth():
    return torch.nn.functional.interpolate(torch.randn(300, 3, 4, 4), size=16, mode="bicubic").clamp(-1, 1)


NOTHING = {
    "black": lambda: torch.full((1, 3, 16, 16), -1.0),
    "a colour": lambda: render(scene(colour="red"), 16)[:, :, 8:9, 8:9].expand(1, 3, 16, 16),
    "flat": lambda: (torch.rand(300, 3, 1, 1) * 2 - 1).expand(300, 3, 16, 16),
    "a flat background with noise": lambda: 1 - 0.1 * torch.randn(300, 3, 16, 16).abs(),
    "faint noise": lambda: 0.1 * torch.randn(300, 3, 16, 16),
    "noise": lambda: torch.randn(300, 3, 16, 16).clamp(-1, 1),
    "smooth noise": smooth,
    "nan": lambda: torch.full((2, 3, 16, 16), math.nan),
}


@pytest.mark.parametrize("name", NOTHING)
def test_no_shape_is_found_where_none_is(name):
    assert not read(NOTHING[name]()).found.any()


def test_two_shapes_are_not_read_as_one(val):
    apart = two(val, apart=True)
    assert len(apart) > 300
    assert not read(apart).found.any()
    blended = two(val, apart=False)
    assert (
        read(blended).found.double().mean() < 0.5
    )  # of overlapping pairs only those where one shape nearly hides the other


def test_known_colours_in_the_wrong_place_are_not_found():
    """A red circle on white is found; a white circle on red and a brown one on white are not."""
    mask = coverage(torch.tensor([0]), torch.tensor([[0.5, 0.5]]), torch.tensor([0.225]), 16)[:, None]
    red, brown = (torch.tensor(colour)[:, None, None] / 127.5 - 1 for colour in (COLOURS["red"], (150, 110, 70)))
    assert read((1 + mask * (red - 1)).float()).found.all()
    assert not read((red + mask * (1 - red)).float()).found.any()
    assert not read((1 + mask * (brown - 1)).float()).found.any()


def test_a_shape_that_the_data_do_not_have_is_not_found():
    """A ring, and half of a shape."""
    big = {"size": "large", "colour": "red", "background": "white"}
    ring, hole = render(scene(**big), 16), render(scene(size="small", colour="red", background="white"), 16)
    half = ring.clone()
    half[:, :, :, 8:] = -1
    assert read(ring).found.all()
    assert not read(ring - hole + 1).found.any()
    assert not read(half).found.any()


def test_the_threshold_separates_images_of_one_and_two_shapes(val):
    """Residual energies of one shape are far below the threshold, those of two shapes far above it."""
    x = val["x"][:1000]
    assert fit(x).explained.min() > 1.9 * A_SHAPE
    assert fit(x + 0.1 * torch.randn_like(x)).second.max() < A_SHAPE / 3
    assert fit(two(val, apart=True)).second.min() > 1.9 * A_SHAPE


# Samples compared with their requests


def aligned(data, drawn, requested):
    right = data.aligned(render(drawn, 16), {"caption": requested})
    return {name: value.tolist() for name, value in right.items()}


def test_each_attribute_counts_for_itself(data):
    drawn = scene("triangle", "red", "at the top left", "small")
    five = together([drawn] * 5)
    right = aligned(
        data,
        five,
        [
            "a small red triangle at the top left",
            "a large red triangle at the top left",
            "a small pink triangle at the top left",
            "a small red circle at the top left",
            "a small red triangle at the left",
        ],
    )
    assert right == {
        "size": [True, False, True, True, True],
        "colour": [True, True, False, True, True],
        "shape": [True, True, True, False, True],
        "position": [True, True, True, True, False],
        "colour_and_shape": [True, True, False, False, True],
        "held_out": [True, True, False, False, True],  # red triangles are held out; the request decides, not the image
    }


def test_unrequested_attributes_are_right_and_all_are_wrong_if_nothing_is_found(data):
    right = aligned(data, scene("circle", "red"), ["a red circle"])
    assert all(value == [name != "held_out"] for name, value in right.items())
    right = data.aligned(torch.randn(4, 3, 16, 16), {"caption": ["a green circle", "a circle", "large", ""]})
    assert right["held_out"].tolist() == [True, False, False, False]
    assert not any(right[name].any() for name in right if name != "held_out")


def test_labels_request_shapes_alone(data, val):
    batch = val.rows(torch.arange(50))
    right = data.aligned(batch["x"], {"label": batch["label"]})
    assert all(right[name].all() for name in ("shape", "colour", "position", "size", "colour_and_shape"))
    assert not right["held_out"].any()
    wrong = data.aligned(batch["x"], {"label": (batch["label"] + 1) % 4})
    assert not wrong["shape"].any()
    assert wrong["colour"].all()


def test_without_a_request_or_with_other_data_aligned_is_none(data):
    assert data.aligned(torch.zeros(2, 3, 16, 16), {}) is None
    assert Digits().aligned(torch.zeros(2, 1, 8, 8), {"label": torch.tensor([1, 2])}) is None


# Bad input


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"image_size": 15}, "image_size of shapes must be at least 16, not 15"),
        ({"channels": 1}, "3 channels"),
        ({"num_classes": 5}, "4 classes"),
        ({"levels": 17}, "256 levels"),
        (
            {"class_names": ["circle", "square", "cross", "triangle"]},
            r"class_names .* \[circle, square, triangle, cross\]",
        ),
        ({"vocabulary": ["a", "red"]}, "vocabulary"),
        ({"num_train": 0}, "num_train must be at least 1"),
        ({"num_val": -1}, "num_val must be at least 1"),
        ({"held_out": [["crimson", "circle"]]}, r"\[crimson, circle\] .* colours are red, .* shapes are circle"),
        ({"unseen": ["star"]}, "star is no shape; shapes are circle"),
        ({"unseen": list(SHAPES)}, "all shapes"),
        ({"held_out": [["circle", "red"]]}, r"\[colour, shape\]"),
        ({"held_out": [["red"]]}, r"\[red\] is not a \[colour, shape\]"),
        (
            {"held_out": [["red", shape] for shape in SHAPES]},
            "all pairs with red, so training never shows it; remove one",
        ),
        ({"held_out": [[colour, "cross"] for colour in COLOURS]}, "all pairs with cross"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_bad_values_are_refused(bad, match):
    with pytest.raises(ValueError, match=match):
        Shapes(**bad)
