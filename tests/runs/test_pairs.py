"""Runs of rectified flow: the pairs of the teacher are drawn once, and resuming is exact."""

import pytest
import torch

from diffsweep.runs.training import train

SMALL = ("backbone.channels=8", "sampler.steps=2", "teacher.sampler.steps=3")


@pytest.mark.slow
def test_a_reflow_resumes_exactly_on_its_stored_pairs(configure, resume, checkpoint, tmp_path):
    """The pairs are drawn once, and a run that is stopped at half ends with the weights of the whole one."""
    words = ("model=reflow", *SMALL, "model.num_pairs=64", "dataset.batch_size=16", "metrics=none", "likelihood=none")
    train(configure(tmp_path / "whole", *words, "trainer.max_steps=4"))
    train(configure(tmp_path / "half", *words, "trainer.max_steps=2"))
    train(resume(tmp_path / "half", "trainer.max_steps=4"))
    weights = [checkpoint(tmp_path / name)["state_dict"] for name in ("whole", "half")]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())
    assert "val/straightness" in (tmp_path / "whole" / "metrics.csv").read_text().splitlines()[0]
    assert len(list(tmp_path.glob("**/pairs.safetensors"))) == 1
