"""What must hold for every option of conf/dataset."""

import itertools
from pathlib import Path

import pytest
import torch

from diffsweep.configuration.build import build
from diffsweep.configuration.declarations import families

OPTIONS = sorted(path.stem for path in (Path(__file__).parents[2] / "conf/dataset").glob("*.yaml"))
PRESETS = set(OPTIONS) - set(families("dataset"))  # they differ from another option in settings alone

pytestmark = pytest.mark.parametrize(
    "option", [pytest.param(option, marks=[pytest.mark.slow] * (option in PRESETS)) for option in OPTIONS]
)


def as_set(x):
    """Return the samples as sorted bytes, to compare sets of samples."""
    return sorted(row.tobytes() for row in x.numpy())


@pytest.fixture
def make(compose, option):
    """Return a function that builds the dataset with overrides; synthetic datasets get fewer samples."""
    settings = compose(f"dataset={option}").dataset
    few = ["dataset.num_train=3000", "dataset.num_val=500"] if "num_train" in settings else []
    return lambda *overrides: build(compose(f"dataset={option}", *few, *overrides), "dataset")


def test_samples_have_the_stated_shape_levels_and_classes(make):
    data = make()
    for split in ("train", "val"):
        samples = data.split(split)
        x = samples["x"]
        frames = () if data.num_frames is None else (data.num_frames,)
        assert x.shape[1:] == data.shape == (data.channels, *frames, data.image_size, data.image_size)
        assert x.dtype == torch.float32
        steps = (x + 1) * (data.levels - 1) / 2
        assert x.min() == -1
        assert x.max() == 1
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-4)
        assert samples["label"].unique().tolist() == list(range(data.num_classes))


def test_the_configuration_states_the_sizes_of_the_data(make, compose, option):
    data, cfg = make(), compose(f"dataset={option}").dataset
    for fact in ("channels", "image_size", "num_classes", "levels"):
        assert cfg[fact] == getattr(data, fact)
    assert cfg.get("num_frames") == data.num_frames  # images have none


def test_all_is_train_and_val(make):
    data = make()
    rows = {name: as_set(data.split(name)["x"]) for name in ("train", "val", "all")}
    assert sorted(rows["train"] + rows["val"]) == rows["all"]
    assert not set(rows["train"]) & set(rows["val"])


def test_the_first_epoch_of_the_loader_is_the_training_split(make):
    data = make("dataset.batch_size=100")
    count = len(data.split("train")["x"])
    batches = list(itertools.islice(data.train_dataloader(), -(-count // 100)))
    x = torch.cat([batch["x"] for batch in batches])[:count]
    assert as_set(x) == as_set(data.split("train")["x"])
    assert torch.equal(torch.cat([batch["position"] for batch in batches]), torch.arange(len(batches) * 100))


def test_the_seed_changes_the_order_of_training_data_alone(make):
    one, same, other = make("seed=1"), make("seed=1"), make("seed=2")
    batches = [next(iter(data.train_dataloader()))["x"] for data in (one, same, other)]
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])
    assert all(torch.equal(one.split(name)["x"], other.split(name)["x"]) for name in ("train", "val"))


def test_annotations_are_the_rows_without_the_images(make):
    index = torch.tensor([7, 3, 3])
    samples = make().split("train")
    rows, annotations = samples[index], samples.annotations(index)
    assert annotations.keys() == rows.keys() - {"x"}
    for name, part in annotations.items():
        assert torch.equal(part, rows[name]) if isinstance(part, torch.Tensor) else part == rows[name]


def test_the_fingerprint_does_not_depend_on_the_loaders(make):
    assert make("seed=1", "dataset.batch_size=3").fingerprint == make().fingerprint
