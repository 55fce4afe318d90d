"""How many samples are drawn at once: by a fake memory, and in halves where a batch has none."""

from types import SimpleNamespace

import pytest
import torch

from diffsweep.configuration.build import build_data
from diffsweep.configuration.compose import compose
from diffsweep.configuration.loading import load_model
from diffsweep.metrics import GenerationMetrics, load_digits_classifier
from diffsweep.runs import batch_that_fits as fitting
from diffsweep.runs.batch_that_fits import batch_that_fits, memory_of_call
from diffsweep.tasks.drawing import Halves, draw

GPU = SimpleNamespace(device=torch.device("cuda"))
MB = 10**6


def short_of_memory(*_):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture
def memory(monkeypatch):
    """``memory(MB)``: a GPU with so much of it, where a call takes 100 MB and 2 MB for each sample."""

    def of(size):
        monkeypatch.setattr(fitting, "memory_of_call", lambda model, data, rows: (100 + 2 * rows) * MB)
        monkeypatch.setattr(fitting, "capacity_of", lambda device, process: size * MB)

    return of


@pytest.mark.parametrize(
    ("size", "count", "expected"), [(1100, 50_000, 256), (1100, 100, 128), (10**6, 50_000, 1024), (1, 50_000, 1)]
)
def test_the_largest_power_of_two_within_the_memory_is_drawn(memory, capsys, size, count, expected):
    """100 MB + 2 MB B within 70 % of 1,100 MB: B is at most 335. A batch is at most 1024, and no larger than needed."""
    memory(size)
    assert batch_that_fits(GPU, None, count) == expected
    assert capsys.readouterr().out.startswith(f"draws {expected} samples at once")


def test_all_processes_draw_as_many_as_the_one_with_the_least_memory(memory, monkeypatch):
    memory(1100)
    monkeypatch.setattr(fitting, "largest", lambda number: max(number, -64))  # another process has memory for 64
    assert batch_that_fits(GPU, None, 50_000) == 64


def test_a_device_without_memory_for_the_measurement_draws_the_smallest_batch(memory, monkeypatch):
    memory(1100)
    monkeypatch.setattr(fitting, "memory_of_call", short_of_memory)
    assert batch_that_fits(GPU, None, 50_000) == 4


def test_on_a_cpu_nothing_is_measured():
    assert batch_that_fits(SimpleNamespace(device=torch.device("cpu")), None, 50_000) == 64


def test_the_memory_of_a_call_of_a_trained_model_is_measured(finished):
    cfg = compose("evaluate", [f"run={finished}", "sampler=ddim", "sampler.steps=2"])
    assert memory_of_call(load_model(cfg), build_data(cfg), 2) > 0


def test_samples_are_the_same_in_halves(finished, monkeypatch, capsys):
    """A device with memory for 3 samples: of 10 at once 5 are tried, then 3."""
    model = load_model(compose("sample", [f"run={finished}", "sampler=ddim", "sampler.steps=2"]))
    whole = draw(model, 14, seed=1, batch_size=10)
    original, sizes = type(model).sample_from, []

    def sample_from(self, x, *arguments, **keywords):
        if len(x) > 3:
            short_of_memory()
        sizes.append(len(x))
        return original(self, x, *arguments, **keywords)

    monkeypatch.setattr(type(model), "sample_from", sample_from)
    parts = draw(model, 14, seed=1, batch_size=10)
    torch.testing.assert_close(parts.x, whole.x, rtol=1e-4, atol=1e-4)
    assert sizes == [3, 3, 3, 1, 3, 1]
    lines = [line for line in capsys.readouterr().err.splitlines() if "out of memory" in line]
    assert [line.split("with ")[1:] for line in lines] == [
        ["10 samples at once; goes on ", "5, which draws the same samples"],
        ["5 samples at once; goes on ", "3, which draws the same samples"],
    ]


def test_a_single_sample_without_memory_stops():
    with pytest.raises(torch.OutOfMemoryError):
        Halves()(torch.arange(4), short_of_memory)


def test_metrics_whose_batch_follows_the_memory_compute_features_of_64_at_once(tmp_path):
    metrics = GenerationMetrics(load_digits_classifier, 100, batch_size="auto", cache_dir=str(tmp_path))
    assert (metrics.drawn_at_once, metrics.batch_size) == (None, 64)
    for bad in (0, "all", 2.5):
        with pytest.raises(ValueError, match=f"batch_size must be auto or at least 1, not {bad}"):
            GenerationMetrics(load_digits_classifier, 100, batch_size=bad, cache_dir=str(tmp_path))


@pytest.mark.gpu
def test_more_samples_take_more_memory_of_a_gpu(finished):
    cfg = compose("evaluate", [f"run={finished}"])
    model, data = load_model(cfg).to("cuda"), build_data(cfg)
    first, second, third = (memory_of_call(model, data, rows) for rows in (64, 128, 256))
    assert third - second == pytest.approx(2 * (second - first), rel=0.2)
    assert 1 <= batch_that_fits(model, data, 50_000) <= 1024
