"""The suite of a GPU: its cases run with small networks on a CPU, and the large DiT is the published one."""

import json
import sys

import pytest
import torch
from omegaconf import OmegaConf
from slower import some

from diffsweep.benchmarks.base import PARTS
from diffsweep.configuration.compose import compose
from diffsweep.errors import Failed
from diffsweep.runs.benchmarking import benchmark
from diffsweep.runs.cost import network_cost

FEW = ("repeats=3", "trainer=cpu", "execution.backend=aot_eager")
CASES = OmegaConf.to_container(compose("benchmark", ["suite=gpu"]).cases)
LARGE = "DiT-XL/2"


def small(words):
    """Return the options of a case with networks, batches and data of the least sizes."""
    sizes = ["dataset.batch_size=2", "train_steps=1", "sampler.steps=2", "sample_batch=2", "backbone.channels=16"]
    if any(word.startswith("backbone=dit") for word in words):
        sizes += ["backbone.depth=2", "backbone.num_heads=2", "dataset.num_train=32", "dataset.num_val=32"]
    return [*words, *sizes]


def measured(folder, cases, *more):
    cfg = compose("benchmark", ["suite=gpu", *FEW, f"output={folder}", f"paths.output_dir={folder}", *more])
    cfg.cases = cases
    benchmark(cfg)
    return json.loads((folder / "benchmark.json").read_text())


@pytest.mark.slow
def test_its_cases_run_with_small_networks(tmp_path):
    found = measured(tmp_path, {name: small(words) for name, words in CASES.items()})
    assert not found["failed"]
    assert {label.partition(": ")[0] for label in found["results"]} == set(CASES)
    of_dit = [label for label in found["results"] if label.startswith("DiT-B/2: training step, against ")]
    assert len(of_dit) == 2  # a bare loop, and the script of diffusers
    torch._dynamo.reset()


def test_the_large_dit_is_that_of_the_paper():
    """Latents of 4 x 32 x 32 numbers, compiled blocks, bfloat16, a fused optimizer and an average of the weights."""
    cfg = compose("benchmark", CASES[LARGE])
    assert (cfg.space.channels, cfg.space.image_size) == (4, 32)
    assert (cfg.execution.compile, cfg.trainer.precision) == ("blocks", "bf16-mixed")
    assert cfg.optimizer.fused
    assert "ema" in cfg.callbacks
    assert network_cost(cfg).gmac == pytest.approx(118.64, rel=1e-3)


def closed_form(patches, width, depth, patch, channels, out_channels):
    """Return the multiply-adds of a DiT for one image, by hand: of linear layers, and of queries times keys.

    A block has 3 N C^2 for queries, keys and values, N^2 C each for their products and the means of values, N C^2 for
    the output, 8 N C^2 for its perceptron and 6 C^2 for its modulation.
    """
    block = 12 * patches * width**2 + 2 * patches**2 * width + 6 * width**2
    ends = patches * patch**2 * (channels + out_channels) * width + 2 * width**2  # the last layer has two modulations
    return depth * block + ends + (256 + width) * width  # the embedding of the time


@pytest.mark.parametrize(
    ("name", "size", "published"),
    [
        ("dit_xl_2", (256, 1152, 28, 2), 118.64),
        ("dit_b_4", (64, 768, 12, 4), 5.56),
        ("dit_s_8", (16, 384, 12, 8), 0.36),
    ],
)
def test_the_counted_operations_are_those_of_the_closed_form_and_of_the_paper(name, size, published):
    """Of table 4 of arXiv:2212.09748, whose Gflops are multiply-adds, with a learned variance and 1000 classes."""
    space = ("space.channels=4", "space.image_size=32", "space.out_channels=8", "backbone.num_classes=1000")
    cfg = compose("train", ["logger=csv", f"backbone={name}", *space, "prediction.variance=learned_range"])
    counted = network_cost(cfg).gmac
    assert counted == pytest.approx(closed_form(*size, 4, 8) / 1e9, rel=1e-9)
    assert counted == pytest.approx(published, abs=0.02)


@pytest.mark.parametrize("package", some(["accelerate", "diffusers"], 1))
def test_what_an_absent_package_is_needed_for_is_left_out_with_one_line(tmp_path, monkeypatch, capsys, package):
    monkeypatch.setitem(sys.modules, package, None)
    found = measured(tmp_path, {"U-Net": ["parts=[scripts]", *small([])], "sampling": ["parts=[sampling]", *small([])]})
    assert list(found["results"]) == [
        "U-Net: training step, against a bare loop",
        "sampling: ddim step, against its network calls",
    ]
    (line,) = (line for line in capsys.readouterr().out.splitlines() if package in line)
    assert line.endswith("pip install 'diffsweep[peers]'; it is left out")


def test_a_part_that_fails_leaves_the_results_of_the_others(tmp_path, monkeypatch, capsys):
    def broken(bench):
        raise torch.OutOfMemoryError("no memory\nis left")

    monkeypatch.setattr(broken, "__module__", "diffsweep.benchmarks.broken")
    cases = {name: [f"parts=[{name}]", *small([])] for name in ("adaptation", "broken", "sampling")}
    monkeypatch.setitem(PARTS, "broken", broken)
    with pytest.raises(Failed, match=r"^1 of 3 parts failed: broken: broken$"):
        measured(tmp_path, cases)
    found = json.loads((tmp_path / "benchmark.json").read_text())
    assert list(found["results"]) == ["sampling: ddim step, against its network calls"]
    printed = capsys.readouterr()
    assert "warning: adaptation: adaptation is left out (parts=[adaptation] times an adapted model" in printed.err
    assert "warning: broken: broken is left out (no memory is left)" in printed.err
    assert "sampling: ddim step" in printed.out
