"""Samples are measured batch by batch: the numbers are those of all at once, and few images are in memory."""

import weakref
from types import SimpleNamespace

import pytest
import torch

from diffsweep.datasets import Digits, joined_rows, rows_of
from diffsweep.degradations import Downsampling
from diffsweep.metrics import GenerationMetrics
from diffsweep.metrics.copies import searched
from diffsweep.metrics.neighbours import nearest_distances
from diffsweep.metrics.references import choice
from diffsweep.metrics.restoration import mean_restoration, restoration, restoration_of_each
from diffsweep.runs.evaluation import SHOWN, draw_and_keep
from diffsweep.tasks.drawing import draw_for

DATA = Digits()


class Pixels:
    """An extractor whose features are pixels: those of a sample do not depend on its batch, not even in bits."""

    name, weights_hash, num_features = "pixels", "none", 8

    def __call__(self, x):
        return x.flatten(1)[:, 3::8].clone(), 3 * x.flatten(1)[:, 20:30]


class Drawer(torch.nn.Module):
    """A model that draws real digits with some noise, and counts the batches of images that are still in memory."""

    device, denoisers, most = torch.device("cpu"), (), 0
    sampler = SimpleNamespace(moves=lambda denoiser, measured: [])

    def __init__(self):
        super().__init__()
        self.alive = 0

    def guided(self, sampler):
        return None

    def condition_of(self, request):
        return None

    def agreement_of_each(self, x, request):
        return {}

    def request_for(self, rows, samples):
        return {"label": rows % 10}

    def start(self, rows, seed):
        return rows, None

    def drop(self):
        self.alive -= 1

    def sample_from(self, rows, noise, cond, callback):
        x = DATA.split("all")["x"]
        images = (x[rows % len(x)] + torch.sin(rows * 1.0)[:, None, None, None] / 4).numpy()
        weakref.finalize(images, self.drop)  # when no view of the images is left
        self.alive += 1
        self.most = max(self.most, self.alive)
        return torch.from_numpy(images)


def metrics_of(tmp_path, **settings):
    settings = {"is_splits": 2, "kid_subsets": 3, "kid_subset_size": 50, "resamples": 4, "infinity": True, **settings}
    return GenerationMetrics(Pixels, reference="train", cache_dir=str(tmp_path), **settings)


@pytest.fixture(scope="module")
def at_once(tmp_path_factory):
    """The numbers of 1,200 samples that are all in memory, in one batch."""
    model, rows = Drawer(), torch.arange(1200)
    metrics = metrics_of(tmp_path_factory.mktemp("cache"), num_samples=1200, batch_size=1200)
    return metrics(model.sample_from(rows, None, None, None), DATA, model.request_for(rows, None))


@pytest.mark.parametrize("batch_size", [7, 256, 5000])
def test_numbers_equal_those_of_all_samples_at_once_in_bits(tmp_path, at_once, batch_size):
    metrics = metrics_of(tmp_path, num_samples=1200, batch_size=batch_size)
    drawn, each = draw_and_keep(Drawer(), metrics, DATA, seed=0)
    assert metrics.compare(each["metrics"], DATA) == at_once
    assert {"fid", "kid", "precision", "is", "copy_ratio", "class_accuracy", "fid_infinity", "fid_low"} < at_once.keys()
    first = torch.arange(SHOWN)
    assert torch.equal(drawn.x, Drawer().sample_from(first, None, None, None))
    assert torch.equal(drawn.request["label"], first % 10)


def test_the_copy_ratio_is_of_a_thousand_samples_chosen_of_all(at_once):
    """Written out with all images: medians of the distances from the nearest training image."""
    x, train, held_out = (
        Drawer().sample_from(torch.arange(1200), None, None, None),
        DATA.split("train")["x"],
        DATA.split("val")["x"],
    )
    levels = (DATA.levels - 1) / 2
    fake = ((x[choice(1200, 1000)].clamp(-1, 1) + 1) * levels).round() / levels - 1
    medians = [nearest_distances(part, [train]).median() for part in (fake, held_out)]
    assert at_once["copy_ratio"] == float(medians[0] / medians[1])
    assert len(searched(1200, DATA)) == 1000


@pytest.mark.parametrize("count", [200, 1200])
def test_images_are_dropped_when_their_numbers_are_known(tmp_path, count):
    """At most one batch is in memory, whatever the number of samples: nothing that is kept is a view of images."""
    model = Drawer()
    metrics = metrics_of(tmp_path, num_samples=count, batch_size=20)
    _, each = draw_and_keep(model, metrics, DATA, seed=0)
    assert model.most == 1
    assert model.alive == 0
    assert len(each["metrics"]["features"]["features"]) == count


def test_samples_that_are_kept_all_stay():
    """The count of images in memory would find any that stay."""
    model = Drawer()
    parts = draw_for(model, 100, 0, 20, lambda rows, x, request: x[:, :, 0]).parts
    assert model.most == model.alive == len(parts) == 5


def test_errors_of_restored_images_are_the_same_in_batches():
    clean = DATA.split("val")["x"][:50]
    degradation = Downsampling(2)
    request = {"clean": clean, "image": degradation.image(clean), "known": degradation.known(clean)}
    samples = clean + 0.1 * torch.randn_like(clean)
    parts = [restoration_of_each(samples[rows], rows_of(request, rows)) for rows in torch.arange(50).split(7)]
    assert mean_restoration(joined_rows(parts)) == pytest.approx(restoration(samples, request), rel=1e-6)
