"""Runs of many kinds, stopped at step 1, within an epoch and at its end, equal the uninterrupted run bit by bit."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffsweep.models import Model
from diffsweep.runs.training import train

STEPS, EPOCH = 8, 5
STOPS = {"step 1": 1, "within an epoch": 3, "the end of an epoch": EPOCH}
SHORT = (
    "lr_scheduler=constant",
    "trainer.log_every_n_steps=1",
    "lr_scheduler.warmup_steps=6",
    "trainer.val_check_interval=3",
)
BOUND = ("objective=vlb", "prediction.variance=learned_range", "time_sampling=importance", "time_sampling.history=1")
IMAGES = ("dataset=image_folder", "dataset.image_size=8", "dataset.num_val=4", "dataset.batch_size=4")  # of 20
CASES = {  # each with the stop that is in the fast suite; None: in none
    "importance sampler, dropout": ((*IMAGES, *BOUND, "schedule.num_steps=20", "backbone.dropout=0.3"), None),
    "two optimizers, augmentation": (
        (
            *IMAGES,
            "model=autoencoder_kl",
            "autoencoder.network.channels=8",
            "discriminator.network.channels=8",
            "discriminator=patch",
            "discriminator.start=2",
            "autoencoder=kl",
        ),
        None,
    ),
    "labels left out, balanced, dequantised": (
        (
            *IMAGES,
            "model=classifier_free",
            "dataset.balance=classes",
            "dataset.dequantise=true",
            "callbacks.ema.start=2",
        ),
        None,
    ),
    "random crops, mirrors, workers": (
        (*IMAGES, "dataset.crop=random", "dataset.flip=true", "dataset.num_workers=2"),
        None,
    ),
    "streamed": (
        (*IMAGES, "dataset.streaming=true", "dataset.shuffle_buffer=7", "dataset.flip=true"),
        "the end of an epoch",
    ),
    "streamed by workers": (
        (*IMAGES, "dataset.streaming=true", "dataset.shuffle_buffer=7", "dataset.num_workers=2"),
        None,
    ),
    "buckets": ((*IMAGES, "dataset.image_size=16", "dataset.buckets=4", "dataset.flip=true"), None),
    "accumulated": (
        (*IMAGES, "dataset.batch_size=2", "trainer.accumulate_grad_batches=2", "dataset.num_workers=2"),
        None,
    ),
}
ROWS = [
    pytest.param(case, stop, marks=() if CASES[case][1] == stop else pytest.mark.slow)
    for case in CASES
    for stop in STOPS
]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of 24 images in two classes, half of them wide and half tall: 20 are trained on, five batches of 4."""
    folder, numbers = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(24):
        pixels = numbers.integers(0, 256, ((8, 16), (16, 8))[i % 2] + (3,), dtype=np.uint8)
        (folder / "ab"[i // 2 % 2]).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / "ab"[i // 2 % 2] / f"{i:02}.png")
    return folder


@pytest.fixture
def batches(monkeypatch):
    """The positions and the sum of x of each batch that is trained on, in their order."""
    found, original = [], Model.on_train_batch_start

    def on_train_batch_start(self, batch, batch_idx):
        found.append((batch["position"].tolist(), float(batch["x"].double().sum()), tuple(batch["x"].shape)))
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Model, "on_train_batch_start", on_train_batch_start)
    return found


@pytest.fixture
def words(images):
    def words(case):
        chosen = CASES[case][0]
        return (*SHORT, *chosen, *([f"dataset.path={images}"] if "dataset=image_folder" in chosen else []))

    return words


def equal(one, other, path=""):
    """Assert that two values are equal bit by bit, through dicts and lists."""
    assert type(one) is type(other), path
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, path
        assert torch.equal(one, other), path
    elif isinstance(one, dict | list | tuple):
        pairs = one.items() if isinstance(one, dict) else enumerate(one)
        assert len(one) == len(other), path
        for key, value in pairs:
            equal(value, other[key], f"{path}/{key}")
    else:
        assert one == other, path


@pytest.mark.parametrize(("case", "stop"), ROWS)
def test_a_stopped_and_resumed_run_is_the_uninterrupted_one(
    case, stop, words, batches, tmp_path, configure, resume, checkpoint, history
):
    """Weights, average, states of optimizers and samplers, order of samples, and the logged losses."""
    train(configure(tmp_path / "whole", *words(case), f"trainer.max_steps={STEPS}"))
    uninterrupted = list(batches)
    batches.clear()
    train(configure(tmp_path / "run", *words(case), f"trainer.max_steps={STOPS[stop]}"))
    train(resume(tmp_path / "run", f"trainer.max_steps={STEPS}"))
    assert batches == uninterrupted
    assert len({total for _, total, _ in batches}) > len(batches) // 2  # a pair of images may come twice, in two epochs
    whole, ours = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "run")
    for part in ("global_step", "position", "state_dict", "ema", "optimizer_states", "lr_schedulers"):
        equal(ours[part], whole[part], part)
    rows, expected = history(tmp_path / "run"), history(tmp_path / "whole")
    names = [name for name in expected[0] if name.startswith(("step", "train/"))]
    assert [[row[name] for name in names] for row in rows] == [[row[name] for name in names] for row in expected]
