"""A user's own task, measurement and part of the benchmark, in one file outside the package.

Rules and proofs of one's own: see test_rules and test_verify.
"""

import json
import sys

import numpy as np
import pytest

MINE = '''
import time

import torch

from diffsweep.benchmarks.base import compare, part
from diffsweep.diffusion import Condition, Known, Measurement
from diffsweep.tasks import Task


class TopRows(Measurement):
    """The upper half of images, y (B, C, H / 2, W)."""

    def apply(self, x):
        return x[..., : x.shape[-2] // 2, :]

    def adjoint(self, y):
        return torch.cat([y, torch.zeros_like(y)], -2)

    pseudo_inverse = adjoint


class Complete(Task):
    """Lower halves for the upper halves of held-out images."""

    def incompatible_because(self, space, sampler, guidances):
        held = any("measurement" in guidance.provides for guidance in guidances)
        return None if held else "the upper half is given, and this guidance does not hold it; use guidance=replacement"

    def run(self, job):
        images, top = job.data.split("val")["x"][: job.num_samples], TopRows()
        cond = Condition(known=Known(top, top.apply(images)))
        x, noise = job.model.start(torch.arange(len(images)), job.seed)
        drawn = job.draw(len(images), lambda rows: (x[rows], noise[rows.tolist()]), {})
        return drawn._replace(x=job.model.sample_from(x, noise, cond)), "completed"


@part
def sums(bench):
    times = [1.0, 2.0, 3.0]
    return {f"sums at a batch of {bench.cfg.sample_batch}": compare(times, [2 * time for time in times])}
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "extensions_for_tests.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "trust=[extensions_for_tests]"
    sys.modules.pop("extensions_for_tests", None)


def test_a_task_with_a_measurement(mine, finished, command, tmp_path):
    chosen = ("sample", f"run={finished}", "task._target_=extensions_for_tests.Complete", mine)
    done = command(*chosen, "num_samples=3", f"output={tmp_path / 'out'}")
    assert done.code == 2
    assert "use guidance=replacement [rule task_suits_the_model]" in done.err
    done = command(*chosen, "guidance=replacement", "num_samples=3", f"output={tmp_path / 'out'}")
    assert done.code == 0, done.err
    assert "completed" in done.out
    drawn = np.load(tmp_path / "out" / "samples.npz")["arr_0"]
    from diffsweep.datasets import Digits

    known = (Digits().split("val")["x"][:3] + 1) * 127.5
    np.testing.assert_allclose(drawn[:, :4].squeeze(-1), known[:, 0, :4], atol=1)


def test_a_part_of_the_benchmark(mine, command, tmp_path):
    few = ("repeats=3", "trainer=cpu", f"output={tmp_path / 'out'}")
    done = command("benchmark", "parts=[sums]", "sample_batch=5", mine, *few)
    assert done.code == 0, done.err
    results = json.loads((tmp_path / "out" / "benchmark.json").read_text())["results"]
    assert results["sums at a batch of 5"]["ratio"] == 0.5
    done = command("benchmark", "parts=[sums]", *few)
    assert done.code == 2
    assert "parts has sums; a benchmark has" in done.err
