"""Families that train by a bound end with bits per dimension, on a chain that fits their schedule."""

import json

import pytest

from diffsweep.configuration.build import build_likelihood
from diffsweep.runs.training import train


@pytest.mark.parametrize("family", ["improved_ddpm", "vdm"])
def test_a_run_ends_with_bits_per_dimension(tmp_path, configure, family, capsys):
    short = ("trainer.max_steps=1", "trainer.val_check_interval=1", "likelihood.num_samples=4")
    result = train(configure(tmp_path / "run", f"model={family}", *short))
    content = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert result == content["metrics"]["bits_per_dim"] > 2
    assert content["likelihood_protocol"]["bound"]["steps"] == 50
    assert "bits/dim" in capsys.readouterr().out
    assert len((tmp_path / "run" / "bound_terms.csv").read_text().splitlines()) in (51, 52)


def test_the_chain_has_no_more_steps_than_the_schedule(compose):
    steps = {
        override: build_likelihood(compose("model=improved_ddpm", override)).steps
        for override in ("schedule.num_steps=20", "schedule.num_steps=400", "likelihood.steps=7")
    }
    assert list(steps.values()) == [20, 50, 7]


@pytest.mark.parametrize("family", ["improved_ddpm", "vdm"])
def test_latents_have_no_bits_per_dimension_of_the_data(compose, family):
    assert build_likelihood(compose(f"model={family}")) is not None
    assert build_likelihood(compose(f"model={family}", "autoencoder=kl")) is None
    assert build_likelihood(compose(f"model={family}", "likelihood=none")) is None
