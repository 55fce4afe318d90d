"""The pages that a stranger reads first: each command and each program in them runs, and each link leads somewhere."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FRONT, RECIPES = ROOT / "README.md", ROOT / "conf" / "experiment" / "README.md"
PAGES = [
    FRONT,
    RECIPES,
    ROOT / "conf" / "README.md",
    ROOT / "notebooks" / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
]
COMMAND = re.compile(r"^    (?:\$ )?python src/(\w+)\.py(.*)|`python src/(\w+)\.py([^`]*)`", re.MULTILINE)
CLIPS = ("task=extend", "task=double_rate", "task=upscale")

# What makes a command take a second or two: it stays the command, of fewer and smaller steps.
TRAINED = ["debug=fast", "trainer=cpu", "logger=csv", "callbacks=minimal", "metrics=none"]
SMALLER = {
    "train": [*TRAINED, "dataset.batch_size=32", "trainer.limit_val_batches=1"],
    "sample": ["num_samples=4", "sampler.steps=3"],
    "evaluate": ["num_samples=64"],
    "verify": [],
    "benchmark": ["repeats=1", "train_steps=1", "sample_batch=2", "sampler.steps=2"],
}
STAGE = "trainer.max_steps=2,trainer.val_check_interval=2,metrics=none,dataset.batch_size=32"
LONGER = {  # whose runs take several seconds, with what makes them smaller
    "model=ldm": [
        "autoencoder.model.train=[model=autoencoder_kl,autoencoder.model=null,trainer.max_steps=2,metrics=none]"
    ],
    "model=classifier_guided": ["guidance.classifier.train=[model=noisy_classifier,trainer.max_steps=2]"],
    "model=video": ["dataset.num_train=32", "dataset.num_val=6", "dataset.num_frames=4", "dataset.batch_size=4"],
    "experiment=shapes_text": ["dataset.num_train=64", "dataset.num_val=16"],
}


def commands(page):
    """Return the commands of a page, each as its name and its words, without their comments."""
    found = [(a or c, b or d) for a, b, c, d in COMMAND.findall(page.read_text(encoding="utf-8"))]
    return [(name, shlex.split(words, comments=True)) for name, words in dict.fromkeys(found)]


def named(line):
    return " ".join([line[0], *line[1]])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the pages speak of: images in folders, and ``photos.parquet`` made of them by README's program."""
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("place")
    for kind in ("cats", "dogs"):
        (folder / "photos" / kind).mkdir(parents=True)
        for i in range(24):
            pixels = np.random.default_rng(i).integers(0, 255, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / kind / f"{i}.jpg")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(programs(FRONT)[1], {})
    return folder


@pytest.fixture(scope="module")
def run_of_classes(tmp_path_factory, configure):
    """A finished run that is conditioned on classes, with a null condition."""
    from diffsweep.runs.training import train

    directory = tmp_path_factory.mktemp("runs") / "classes"
    train(configure(directory, "model=classifier_free"))
    return directory


def programs(page):
    """Return the Python programs of a page."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def replaced(words, place, run):
    """Return the words of a command with real paths in the place of ``RUN`` and of files."""
    values = {"RUN": str(run), "photos.parquet": str(place / "photos.parquet")}
    pairs = [word.partition("=") for word in words]
    few = {"trainer.max_steps": "6", "num_samples": "64", "sampler.steps": "3"}
    return [f"{key}={few.get(key) or values.get(value, value)}" if value else key for key, _, value in pairs]


@pytest.mark.parametrize("line", commands(FRONT), ids=named)
def test_every_command_of_the_front_page_runs(line, place, run_of_classes, command, tmp_path):
    name, words = line
    smaller = [] if {"--help", "--cfg"} & set(words) else list(SMALLER[name])
    typed = replaced(words, place, run_of_classes)
    for word, more in LONGER.items():
        smaller += more if word in words else []
    if "dataset=parquet" in words:
        smaller += ["dataset.num_val=8", "dataset.batch_size=8"]
    if any(word.startswith("resume=") for word in words):
        smaller = [word for word in smaller if word.startswith(("trainer.limit", "metrics"))]
    keys = {word.partition("=")[0] for word in typed}
    smaller = [word for word in smaller if word.partition("=")[0] not in keys or name == "train"]
    done = command(name, *typed, *([*smaller, f"paths.output_dir={tmp_path}"] if smaller else []))
    assert done.code in (0, None), done.err


def test_the_first_program_of_the_front_page_runs(fast, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    few = ", ".join(f'"{word}"' for word in ("trainer.max_steps=2", *fast))
    program = programs(FRONT)[0].replace('"trainer.max_steps=500"', few)
    names = {}
    exec(program, names)
    assert names["x"].shape == (16, 1, 8, 8)
    assert names["denoiser"].schedule is names["schedule"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) + re.findall(r'src="([^"]+)"', text)
    assert not [link for link in links if "://" not in link and not (page.parent / link).exists()]


def test_the_front_page_is_short_and_its_targets_exist():
    text = FRONT.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"^    make (\w+)", text, re.MULTILINE)) <= set(targets)
