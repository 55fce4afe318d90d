"""The pages that a stranger reads first: each command and each program in them runs, and each link leads somewhere."""

import json
import re
import shlex
import tarfile
from pathlib import Path

import pytest
from composing import composed
from written_runs import write_sweep

from diffsweep.configuration.jobs import jobs

ROOT = Path(__file__).resolve().parents[1]
FRONT, RECIPES, REFERENCE = (ROOT / name for name in ("README.md", "conf/experiment/README.md", "conf/README.md"))
PAGES = [
    FRONT,
    RECIPES,
    REFERENCE,
    *(ROOT / name for name in ("notebooks/README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
]
COMMAND = re.compile(r"^    (?:\$ )?python src/(\w+)\.py(.*)|`python src/(\w+)\.py([^`]*)`", re.MULTILINE)
HELP = {"-h", "--help", "--cfg", "-m"}

# What makes a command take a second or two: fewer and smaller steps.
STAGE = '"trainer.max_steps=2","trainer.val_check_interval=2","metrics=none","dataset.batch_size=32"'
SMALLER = {
    "train": "debug=fast trainer=cpu logger=csv callbacks=minimal metrics=none dataset.batch_size=8",
    "sample": "",
    "evaluate": "num_samples=80 metrics=digits",
    "preview": "num_samples=80",
    "verify": "",
    "benchmark": "repeats=3 train_steps=2 sample_batch=2",
    "export": "",
    "compare": "",
    "runs": "",
    "dashboard": "",
    "doctor": "min_free=0",
}
SMALLER_WITH = {
    "model=ldm": f'autoencoder.model.train=["model=autoencoder_kl","autoencoder.model=null",{STAGE}]',
    "model=classifier_guided": f'guidance.classifier.train=["model=noisy_classifier",{STAGE}]',
    "model=video": "dataset.num_train=32 dataset.num_val=6 dataset.num_frames=4",
    "guidance=repaint": "sampler.steps=20",
    "experiment=shapes_text": "dataset.num_train=64 dataset.num_val=16",
    "dataset=parquet": "dataset.num_val=8",
    "dataset=webdataset": "dataset.num_val=8",
}
SMALL_VALUES = {"trainer.max_steps": "6", "num_samples": "80", "sampler.steps": "3"}
FAST = (
    "",
    "resume=RUN",
    "task=edit",
    "num_samples=64",
    "--help",
    "--cfg",
    "dataset.path=photos",
    "baseline=linear",
)  # others are slow


def commands(*pages):
    """Return the commands of pages, each as its name and its words, without comments."""
    found = [(a or c, b or d) for page in pages for a, b, c, d in COMMAND.findall(page.read_text(encoding="utf-8"))]
    return [(name, shlex.split(words, comments=True)) for name, words in dict.fromkeys(found)]


def programs(page):
    """Return the Python programs of a page."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def named(line):
    return " ".join([line[0], *line[1]])


@pytest.fixture(scope="module")
def values(tmp_path_factory, configure, finished_clips, finished_text):
    """``values(words)``: what ``RUN`` and the files of the pages stand for, real runs and images in two classes."""
    import numpy as np
    import pyarrow
    from PIL import Image
    from pyarrow import parquet

    from diffsweep.runs.training import train

    folder = tmp_path_factory.mktemp("place")
    for kind in ("cats", "dogs"):
        (folder / "photos" / kind).mkdir(parents=True)
        for i in range(24):
            pixels = np.random.default_rng(i).integers(0, 255, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / kind / f"{i}.jpg")
    photos, file = sorted(folder.glob("photos/*/*.jpg")), folder / "photos.parquet"
    columns = {
        "image": [{"bytes": photo.read_bytes()} for photo in photos],
        "label": [int(photo.parent.name == "dogs") for photo in photos],
    }
    parquet.write_table(pyarrow.table(columns), file)
    parquet.write_table(pyarrow.table({"img": columns["image"], "label": columns["label"]}), folder / "cifar.parquet")
    captions = [
        {"file_name": f"{kind}/{i}.jpg", "text": f"one of the {kind}"} for kind in ("cats", "dogs") for i in range(24)
    ]
    (folder / "photos" / "metadata.jsonl").write_text("\n".join(map(json.dumps, captions)), encoding="utf-8")
    (folder / "shards").mkdir()
    with tarfile.open(folder / "shards" / "0.tar", "w") as tar:
        for number, photo in enumerate(photos):
            tar.add(photo, f"{number}.jpg")
    (folder / "digits").mkdir()
    for i in range(30):
        pixels = np.random.default_rng(i).integers(0, 255, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "digits" / f"{i}.png")
    train(configure(folder / "classes", "model=classifier_free"))
    images = folder / "classes"
    scores = {("linear", 0): 5.0, ("linear", 1): 6.0, ("cosine", 0): 4.0, ("cosine", 1): 4.5}
    sweep = write_sweep(folder / "sweep", scores)

    def values(words):
        clips = {"task=extend", "task=double_rate", "task=upscale"} & set(words)
        run = finished_clips if clips else finished_text if "task=translate" in words else images
        files = {"photos.parquet": file, "FILE": file, "outputs/sweeps/SWEEP": sweep, "FOLDER": folder / "digits"}
        if any("cifar10" in word or word.endswith("=NAME") for word in words):
            files["FILE"] = folder / "cifar.parquet"
        files |= {
            "photos": folder / "photos",
            "shards/*.tar": folder / "shards" / "*.tar",
            "USER/NAME": folder / "photos",
        }
        return {"RUN": run, "NAME": "cifar10_latent", **files}

    return values


def replaced(words, values):
    """Return words with other values: of keys, where ``values`` has the key, or else of what a value stands for."""
    pairs = [word.partition("=") for word in words]
    return [f"{key}={values.get(key, values.get(value, value))}" if equals else key for key, equals, value in pairs]


@pytest.mark.parametrize("line", commands(FRONT, RECIPES), ids=named)
def test_every_command_of_the_pages_is_composed(line, values):
    name, words = line
    first = jobs([word for word in words if word not in HELP and "=" in word])[0]
    of_texts = ["dataset=shapes", "conditioning=text"] if any("prompts" in word for word in words) else []
    assert composed(name, *replaced(first, values(words)), *of_texts)


def of_the_front_page():
    """Return the commands of the front page; those whose kind other fast tests run are slow."""
    return [
        pytest.param(
            line, marks=[] if line[0] != "benchmark" and set(line[1] or [""]) & set(FAST) else [pytest.mark.slow]
        )
        for line in commands(FRONT)
        if line[0] != "import"  # of published weights, gigabytes
    ]


@pytest.mark.parametrize("line", of_the_front_page(), ids=named)
def test_every_command_of_the_front_page_runs(line, values, command, tmp_path):
    name, words = line
    typed = replaced(words, values(words) | SMALL_VALUES)
    if not {"--help", "--cfg"} & set(words):
        complete = any(word.startswith(("resume=", "images=")) for word in words)  # they take no settings of training
        smaller = [] if complete else SMALLER[name].split()
        smaller += [word for key, more in SMALLER_WITH.items() if key in words for word in more.split()]
        keys = {word.partition("=")[0] for word in typed}
        typed += [word for word in smaller if word.partition("=")[0] not in keys] + [f"paths.output_dir={tmp_path}"]
    done = command(name, *typed)
    assert done.code in (0, None), done.err


def test_the_first_program_of_the_front_page_runs(fast, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    few = ", ".join(f'"{word}"' for word in ("trainer.max_steps=2", *fast))
    names = {}
    exec(programs(FRONT)[0].replace('"trainer.max_steps=500"', few), names)
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
