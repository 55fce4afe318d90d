"""The command verify.py: its certificate, its table and plots, its exit code, and proofs before training."""

import json
from pathlib import Path

import pytest

from diffsweep.proofs import base

OUTSIDE = """
import torch
from diffsweep.proofs import Check, proof

@proof()
def clean_at_the_start(subject):
    _, sigma = subject.schedule(torch.zeros((), dtype=torch.float64))
    yield Check("noise at t = 0", float(sigma), most=1e-6)
"""


@pytest.fixture(autouse=True)
def fewer_steps(monkeypatch):
    """Use fewer steps: solvers are accurate after 60 steps, and their orders show in 128."""
    monkeypatch.setattr(base, "MANY", 60)
    monkeypatch.setattr("diffsweep.proofs.order.COUNTS", (8, 16, 32, 64, 128))


@pytest.mark.slow  # all checks of a command
def test_a_right_combination_passes(command, tmp_path, monkeypatch):
    """Proofs of a trusted package outside diffsweep run too."""
    (tmp_path / "proofs_for_tests.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)
    out, chosen = tmp_path / "out", ("schedule=cosine", "prediction=v", "sampler=dpm_solver_pp", "sampler.steps=20")
    done = command("verify", *chosen, "trust=[proofs_for_tests]", f"output={out}")
    assert done.code == 0, done.err
    content = json.loads((out / "verify.json").read_text())
    assert content["passed"] is True
    assert content["choices"] == {
        "schedule": "cosine",
        "prediction": "v",
        "sampler": "dpm_solver_pp",
        "guidance": "none",
        "noise": "independent",
    }
    measured = next(check for check in content["checks"] if check["name"] == "order of convergence (2)")
    assert 1.8 <= measured["measured"] <= 2.3
    assert f"{measured['measured']:.3g}  pass  at least 1.8" in done.out
    assert (out / "verify.png").stat().st_size > 10_000
    for name in ("verify.json", "verify.png"):
        assert str(out / name) in done.out
    names = [check["name"] for check in content["checks"]]
    assert names[0] == "round trip of the prediction: x0"
    assert names[-1] == "noise at t = 0"
    assert "clean_at_the_start" not in [proof.__name__ for proof in base.proofs_of([])]


def test_trust_in_a_missing_package_is_one_line(command):
    done = command("verify", "trust=[nowhere_for_tests]")
    assert done.code == 2
    assert "trust=[nowhere_for_tests]: it cannot be imported: ModuleNotFoundError" in done.err.splitlines()[-1]


def test_a_wrong_combination_exits_with_1_and_names_the_checks(command, tmp_path):
    done = command("verify", "model=edm", "sampler=heun", "sampler.spacing=uniform", f"output={tmp_path / 'out'}")
    assert done.code == 1
    assert "FAIL" in done.out
    line = done.err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert "Wasserstein" in line
    assert "sampler.spacing" in line
    assert json.loads((tmp_path / "out" / "verify.json").read_text())["passed"] is False


@pytest.mark.slow
def test_a_sweep_is_a_table_and_a_plot_and_goes_on_after_a_failure(command, tmp_path):
    out = tmp_path / "sweep"
    done = command(
        "verify",
        "-m",
        "schedule=edm",
        "prediction=edm",
        "sampler=heun",
        "sampler.spacing=uniform,karras",
        f"output={out}",
    )
    assert done.code == 1
    rows = [line.split() for line in done.out.splitlines() if line.strip().startswith("sampler.spacing-")]
    assert [row[0] for row in rows] == ["sampler.spacing-uniform", "sampler.spacing-karras"]
    assert [row[-2:] for row in rows] == [["(2)", "FAIL"], ["(2)", "pass"]]
    uniform, karras = (float(row[4]) for row in rows)  # at 100 evaluations
    assert karras < uniform / 10
    assert "1 of 2 did not pass: sampler.spacing-uniform" in done.err
    lines = (out / "errors.csv").read_text().splitlines()
    assert lines[0] == "name,kind,evaluations,error"
    assert len(lines) == 1 + 2 * 2 * 10
    assert (out / "errors.png").stat().st_size > 10_000


@pytest.mark.slow
def test_training_can_begin_with_proofs(command, fast):
    done = command("train", *fast, "trainer.max_steps=2", "verify=true", "sampler=dpm_solver_pp", "sampler.steps=5")
    assert done.code == 0, done.err
    (certificate,) = Path("outputs").glob("train/*/verify.json")
    assert json.loads(certificate.read_text())["passed"] is True
    assert str(certificate) in done.out


@pytest.mark.slow
def test_a_combination_that_fails_is_not_trained(command, fast):
    done = command(
        "train", *fast, "verify=true", "schedule=edm", "prediction=edm", "sampler=heun", "sampler.spacing=uniform"
    )
    assert done.code == 1
    assert "checks failed" in done.err
    (certificate,) = Path("outputs").glob("train/*/verify.json")
    assert not (certificate.parent / "checkpoints").exists()
