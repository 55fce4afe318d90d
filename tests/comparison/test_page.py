"""The page of a comparison: whole, small, without addresses outside, and with every value escaped."""

import base64
import io
import itertools
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from diffsweep.comparison import page
from diffsweep.comparison.charts import Axis, ChartPoint, Series, chart, limits_of
from diffsweep.comparison.embedded import embedded
from diffsweep.comparison.markup import element
from diffsweep.comparison.records import read
from diffsweep.comparison.summary import summarise
from diffsweep.comparison.variants import Comparison

LARGEST = 500_000
VALUES = {(name, seed): 6.0 - 2.0 * k + 0.1 * seed for k, name in enumerate(("linear", "cosine")) for seed in (0, 1, 2)}
VOID = {"meta", "img", "input", "br"}
ATTACK = '"><script>alert(1)</script><img src=x onerror=alert(1)>'


class Parsed(HTMLParser):
    """The elements of a page with their attributes, the cells of its tables, and its texts outside of scripts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts, self.rows = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == [], "elements that are not closed"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"script", "style"} & set(self.open):
            return
        self.texts.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def named(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def parsed(comparison, title="sweep", command=None):
    return Parsed(page.as_html(comparison, title, command))


def save_samples(folder, size=250):
    """Write a picture of coloured noise, which cannot be compressed, as the samples of each run."""
    generator = np.random.default_rng(0)
    for run in folder.glob("*_seed-*"):
        pixels = generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(run / "final.png")


def test_every_variant_is_in_the_table_with_mean_and_interval(write_sweep):
    found = parsed(Comparison(read([write_sweep(VALUES)])))
    assert [text.strip() for text in found.rows[1][:3]] == ["linear baseline", "3", "6.10 \u00b1 0.25"]
    assert [text.strip() for text in found.rows[2][:3]] == ["cosine best", "3", "4.10 \u00b1 0.25"]
    assert [text for text in found.texts if text.startswith("cosine is better than linear by 2 \u00b1 0 FID")]


def test_the_end_of_a_sweep_writes_the_page_with_its_command(write_sweep):
    folder = write_sweep(VALUES)
    assert f"{folder}/summary.html" in summarise(folder)
    found = Parsed((folder / "summary.html").read_text())
    assert "python src/train.py -m schedule=... seed=..." in found.texts
    assert "validation loss" in found.texts  # the head of a column and of a chart


@pytest.mark.slow
def test_two_hundred_runs_with_samples_are_below_the_limit(write_sweep):
    values = {(k, seed): 10.0 + k / 7 + seed for k in range(100) for seed in (0, 1)}
    folder = write_sweep(
        values,
        key="sampler.steps",
        **{"is": lambda k, seed: k + 0.123456},
        images_per_second=lambda k, seed: 100.0 / (k + 1) + seed,
        kid=lambda k, seed: k / 1e4 + 1e-7,
        precision=lambda k, seed: k / 201,
    )
    save_samples(folder)
    text = page.as_html(Comparison(read([folder])), "sweep")
    assert 200_000 < len(text.encode()) < LARGEST
    found = Parsed(text)
    assert "87 more verdicts" in found.texts
    assert {row[0].split()[0] for row in found.rows[1:101]} == {str(k) for k in range(100)}
    assert sum(len(row) == len(found.rows[0]) for row in found.rows) >= 101
    pictures = [attributes["src"] for attributes in found.named("img")]
    assert len(pictures) == 60
    for address in pictures:
        kind, _, content = address.partition(",")
        assert kind.startswith("data:image/")
        with Image.open(io.BytesIO(base64.b64decode(content))) as image:
            assert image.width >= 90


def test_nothing_is_loaded_and_only_the_scripts_of_the_page_may_run(write_sweep):
    folder = write_sweep(VALUES, images_per_second=lambda schedule, seed: 10.0 + len(schedule))
    save_samples(folder)
    text = page.as_html(Comparison(read([folder])), "sweep", "python src/train.py -m seed=0,1,2")
    found = Parsed(text)
    assert not re.search(r"https?:|//[a-z]|url\(|@import", re.sub(r"base64,[^\"]*", "", text.replace("\n  //", "")))
    assert not {"link", "iframe", "object", "a", "form", "base"} & {tag for tag, _ in found.elements}
    for tag, attributes in found.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith("data:")
    (policy,) = [meta["content"] for meta in found.named("meta") if "http-equiv" in meta]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("place", ["value", "name", "title", "protocol", "error"])
def test_values_are_escaped(write_sweep, place):
    folder = write_sweep(VALUES)
    manifest = json.loads((folder / "sweep.json").read_text())
    job = manifest["jobs"][0]
    if place == "value":
        job["overrides"][0] = f"schedule={ATTACK}"
    elif place == "error":
        job |= {"state": "failed", "error": ATTACK}
    elif place == "name":
        job["name"] = ATTACK.replace("/", "|")
        (folder / f"0_schedule-{'linear'}_seed-0").rename(folder / job["name"])
    (folder / "sweep.json").write_text(json.dumps(manifest))
    if place == "protocol":
        for path in folder.glob("*/metrics.json"):
            content = json.loads(path.read_text())
            content["protocol"]["data"] = ATTACK + path.parent.name
            path.write_text(json.dumps(content))
    comparison = Comparison(read([folder]))
    text = page.as_html(comparison, ATTACK if place == "title" else "sweep", ATTACK)
    assert "<script>alert" not in text
    found = Parsed(text)
    assert any("<script>alert" in data for data in found.texts)
    assert len(found.named("script")) == 1
    assert found.named("img") == []


def test_a_refusal_is_shown_with_the_fields_that_differ_and_nothing_is_best(write_sweep):
    folder = write_sweep(VALUES, protocol=lambda schedule: {"num_samples": len(schedule) * 10, "data": schedule})
    found = parsed(Comparison(read([folder])))
    assert [attributes for attributes in found.named("p") if attributes.get("class") == "refusal"]
    assert any(text.startswith("FID is not ranked: it was measured under different protocols") for text in found.texts)
    assert ["data", "linear", "0_schedule-linear_seed-0"] in found.rows
    assert ["data", "cosine", "3_schedule-cosine_seed-0"] in found.rows
    assert "best" not in found.texts


def test_runs_that_failed_or_of_one_variant_have_a_page(write_sweep):
    failed = parsed(Comparison(read([write_sweep({**VALUES, ("sigmoid", 0): None}, states={6: "failed"})])))
    assert any("6_schedule-sigmoid_seed-0 has failed" in text for text in failed.texts)
    assert sum(row[0].strip() == "sigmoid" for row in failed.rows) == 1
    single = parsed(Comparison(read([write_sweep({("linear", 0): 1.0}, name="single")])))
    assert [row[0].strip() for row in single.rows[:2]] == ["runs", "all runs baseline"]


def test_headings_labels_and_colours_are_accessible(write_sweep):
    folder = write_sweep(VALUES, images_per_second=lambda schedule, seed: 10.0 + len(schedule))
    save_samples(folder)
    found = parsed(Comparison(read([folder])))
    levels = [int(tag[1]) for tag, _ in found.elements if tag in ("h1", "h2", "h3")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(attributes.get("alt") for attributes in found.named("img"))
    for attributes in found.named("svg"):
        assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"
    assert all(attributes.get("scope") for attributes in found.named("th"))
    assert ("html", {"lang": "en"}) in found.elements


def luminance(colour):
    linear = [(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4) for c in (colour / 255)]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def contrast(a, b):
    """The ratio of the Web Content Accessibility Guidelines, in [1, 21], of two colours like #1f6fb4."""
    values = sorted(luminance(np.array([int(text[k : k + 2], 16) for k in (1, 3, 5)])) for text in (a, b))
    return (values[1] + 0.05) / (values[0] + 0.05)


def test_texts_and_curves_stand_out_in_light_and_dark_colours():
    blocks = re.findall(r":root[^{]*\{([^}]*--bg:[^}]*)\}", page._asset("page.css"))
    assert len(blocks) == 3
    schemes = [dict(re.findall(r"--(\w+): (#\w+)", block)) for block in blocks]
    assert schemes[1] == schemes[2]  # preferred, and chosen by the switch
    for scheme in schemes:
        for name, least in {"text": 7, "muted": 4.5, "good": 4.5, "bad": 4.5, "focus": 4.5, "other": 3}.items():
            assert contrast(scheme[name], scheme["bg"]) >= least, name
        assert contrast(scheme["muted"], scheme["panel"]) >= 4.5
        assert min(contrast(scheme[f"s{k}"], scheme["bg"]) for k in range(12)) >= 3


def test_points_are_where_their_values_are():
    """Equal ratios are equal lengths on a logarithmic axis, and a point that it cannot show is left out."""
    points = [
        ChartPoint(1.0, 1.0),
        ChartPoint(10.0, 10.0),
        ChartPoint(100.0, 100.0),
        ChartPoint(0.0, 5.0),
        ChartPoint(5.0, float("nan")),
    ]
    picture = chart([Series("name", "v0", points, marks=True)], Axis("x", True), Axis("y", True), "summary")
    x, y = (np.array([float(mark.get(name)) for mark in picture.iter("circle")]) for name in ("cx", "cy"))
    assert len(x) == 3
    assert np.diff(x) == pytest.approx([x[1] - x[0]] * 2, abs=0.11)
    assert np.diff(y) == pytest.approx([y[1] - y[0]] * 2, abs=0.11)
    assert x[0] < x[1]
    assert y[0] > y[1]  # upwards
    texts = [text.text for text in picture.iter("text")]
    assert {"1", "10", "100", "x", "y"} <= set(texts)


def test_limits_hold_values_and_ends_that_are_not_far_off():
    low, high = limits_of([1.0, 2.0], [0.5, 2.5])
    assert low < 0.5
    assert high > 2.5
    low, high = limits_of([1.0, 2.0], [-100.0, 100.0])
    assert -0.5 < low < 0.01
    assert limits_of([3.0])[0] < 3.0 < limits_of([3.0])[1]
    assert limits_of([0.0])[0] < 0.0 < limits_of([0.0])[1]


def test_pictures_are_exact_if_they_fit_and_all_of_one_quality_if_not():
    generator = np.random.default_rng(0)
    pictures = [Image.fromarray(generator.integers(0, 256, (200, 150), dtype=np.uint8)) for _ in range(4)]

    def read_back(address):
        return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))

    whole = embedded(pictures, 1_000_000)
    assert [np.array_equal(np.asarray(read_back(a).convert("L")), p) for a, p in zip(whole, pictures, strict=True)]
    reduced = embedded(pictures, 40_000)
    assert sum(map(len, reduced)) <= 40_000
    assert len({read_back(address).size for address in reduced}) == 1
    fewest = embedded(pictures, 3_000)
    assert 0 < len(fewest) < 4
    assert sum(map(len, fewest)) <= 3_000
    assert embedded(pictures, 0) == []


def test_elements_keep_texts_and_children_in_order():
    node = element("p", "a", element("b", "c"), "d", None, "e", class_="f", data_k=1.23456789, lang=None)
    assert node.attrib == {"class": "f", "data-k": "1.2346"}
    assert "".join(node.itertext()) == "acde"
