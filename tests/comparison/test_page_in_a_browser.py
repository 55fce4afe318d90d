"""The page of a comparison in a headless Chrome: no request, no message, sorting, colours, width, without scripts.

``CHROME=/path/to/chrome pytest -m slow tests/comparison/test_page_in_a_browser.py``; without the variable a browser is
looked for on the path, and without any the tests are skipped.
"""

import json
import tempfile

import browser
import numpy as np
import pytest
from PIL import Image

from diffsweep.comparison.summary import summarise

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser.find() is None, reason="no browser: set CHROME, or install chromium"),
]
FIDS = {"linear": 6.0, "cosine": 10.5, "sigmoid": 4.25, "sqrt": None}
ATTACK = (
    "<script>document.title='attacked'</script><img src=http://example.com/x.png onerror=document.title='attacked'>"
)
ORDER = "[...document.querySelectorAll('table[data-sort=sort] tbody th')].map(e => e.textContent.trim().split(' ')[0])"
HEADS = "[...document.querySelectorAll('th[aria-sort]')]"
SORTED = f"{HEADS}.filter(e => e.ariaSort != 'none').map(e => [e.dataset.c, e.ariaSort])"


@pytest.fixture(scope="module")
def page():
    with tempfile.TemporaryDirectory() as folder, browser.browser(folder) as page:
        yield page


@pytest.fixture
def address(write_sweep, page):
    """The address of the page of a sweep with samples and curves, one of whose runs has failed with a bad message."""
    values = {(name, seed): fid and fid + seed / 10 for name, fid in FIDS.items() for seed in (0, 1)}
    folder = write_sweep(
        values, states={6: "failed", 7: "failed"}, images_per_second=lambda name, seed: 10.0 + len(name)
    )
    for run in folder.glob("*_seed-*"):
        pixels = np.random.default_rng(0).integers(0, 256, (90, 90), dtype=np.uint8)
        Image.fromarray(pixels).save(run / "final.png")
    manifest = json.loads((folder / "sweep.json").read_text())
    manifest["jobs"][6]["error"] = ATTACK
    manifest["words"].append(ATTACK)
    (folder / "sweep.json").write_text(json.dumps(manifest))
    summarise(folder)
    page.show()
    page.requests.clear()
    page.messages.clear()
    return (folder / "summary.html").as_uri()


def test_the_page_requests_nothing_and_runs_no_script_of_a_value(page, address):
    page.open(address)
    assert page.requests == [address]
    assert page.messages == []
    assert page.value("document.title") == "sweep: FID"
    assert ATTACK in page.value("document.body.textContent")
    assert page.value("[...document.images].every(e => e.complete && e.naturalWidth > 0)")
    assert page.value("document.images.length") == 4  # runs that fail may leave pictures
    assert page.value("document.querySelectorAll('.chart').length") >= 3
    assert page.value("[...document.querySelectorAll('.chart')].every(e => e.getBoundingClientRect().height > 40)")


def test_scripts_and_pictures_from_elsewhere_are_refused(page, address):
    """Even if a value were not escaped, the policy of the page would refuse what it adds."""
    page.open(address)
    page.value(f"document.body.insertAdjacentHTML('beforeend', {json.dumps(ATTACK)})")
    page.value(
        "document.body.append(Object.assign(document.createElement('script'), {text: 'document.title=\"attacked\"'}))"
    )
    assert page.value("document.title") == "sweep: FID"
    page.value("new Promise(done => setTimeout(done, 100))")
    assert any("Content Security Policy" in message for message in page.messages)


def test_the_table_is_sorted_by_the_address(page, address):
    page.open(address)
    assert page.value(ORDER) == ["linear", "cosine", "sigmoid", "sqrt"]
    page.open(f"{address}#sort=fid")
    assert page.value(ORDER) == ["sigmoid", "linear", "cosine", "sqrt"]
    assert page.value(SORTED) == [["fid", "ascending"]]
    page.open(f"{address}#sort=-fid")
    assert page.value(ORDER) == ["cosine", "linear", "sigmoid", "sqrt"]  # without a number last
    assert page.value(SORTED) == [["fid", "descending"]]
    page.open(f"{address}#sort=schedule&runs=-run")
    assert page.value(ORDER) == ["cosine", "linear", "sigmoid", "sqrt"]
    assert page.value("document.querySelector('table[data-sort=runs]').closest('details').open")
    assert page.value("document.querySelector('table[data-sort=runs] tbody th').textContent").startswith("7_")
    page.open(f"{address}#sort=nonsense")
    assert page.value(ORDER) == ["linear", "cosine", "sigmoid", "sqrt"]
    assert page.messages == []


def test_every_column_is_sorted_by_clicks_and_by_keys(page, address):
    page.open(address)
    page.value("document.querySelector('th[data-c=fid] button').click()")
    assert page.value(ORDER) == ["sigmoid", "linear", "cosine", "sqrt"]
    assert page.value("location.hash") == "#sort=fid"
    page.value("document.querySelector('th[data-c=schedule] button').focus()")
    for key, text, order in (
        ("Enter", "\r", ["cosine", "linear", "sigmoid", "sqrt"]),
        (" ", " ", ["sqrt", "sigmoid", "linear", "cosine"]),
    ):
        page.press(key, text)
        assert page.value(ORDER) == order
    assert page.value("location.hash") == "#sort=-schedule"
    assert page.value(SORTED) == [["schedule", "descending"]]
    columns = page.value("[...document.querySelectorAll('table[data-sort=sort] thead th')].map(e => e.dataset.c)")
    for column in columns:
        page.value(f"document.querySelector('th[data-c=\"{column}\"] button').click()")
        assert page.value(SORTED) == [[column, "ascending"]]
    assert page.messages == []


def test_colours_follow_the_system_and_the_switch(page, address, tmp_path):
    background = "getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(255, 255, 255)", "rgb(13, 17, 23)"
    page.open(address)
    assert page.value(background) == light
    page.value("document.querySelector('input[value=dark]').click()")
    assert page.value(background) == dark
    page.open(address)
    assert page.value(background) == dark  # it is kept
    page.show(media="print")
    assert page.value(background) == light
    page.show(dark=True)
    page.value("document.querySelector('input[value=light]').click()")
    assert page.value(background) == light
    page.value("document.querySelector('input[value=auto]').click()")
    assert page.value(background) == dark
    page.screenshot(tmp_path / "dark.png")
    with Image.open(tmp_path / "dark.png") as picture:
        assert np.median(np.asarray(picture.convert("L"))) < 40


def test_on_a_phone_the_table_alone_scrolls_sideways(page, address):
    page.show(width=360, height=740)
    page.open(address)
    assert page.value("document.documentElement.scrollWidth") == 360
    assert page.value("(box => box.scrollWidth > box.clientWidth)(document.querySelector('table').parentNode)")


def test_without_scripts_the_page_has_everything_but_sorting(page, address):
    page.show(scripts=False)
    page.open(address)
    page.show()  # to evaluate what follows; the page has been read without scripts
    assert page.value(ORDER) == ["linear", "cosine", "sigmoid", "sqrt"]
    assert page.value("document.querySelectorAll('thead button').length") == 0
    assert page.value("document.querySelectorAll('.chart, .samples img').length") >= 7
    page.value("document.querySelector('input[value=dark]').click()")
    assert page.value("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"


def test_a_row_that_is_pointed_at_stands_out_in_the_charts(page, address):
    page.open(address)
    pointed = (
        "document.querySelector('tr[data-k=\"1\"]').dispatchEvent(new PointerEvent('pointerover', {bubbles: true}))"
    )
    page.value(pointed)
    assert page.value("document.querySelectorAll('.chart .on').length") >= 2
    assert page.value("[...document.querySelectorAll('.chart .on')].every(e => e.classList.contains('v1'))")
    faint = "getComputedStyle(document.querySelector('.chart g.v0')).opacity"
    assert float(page.value(faint)) < 0.5
