"""The parts of the benchmark run and compare networks of equal size; the cost of networks is counted."""

import json

import pytest
import torch

from diffsweep import benchmarks
from diffsweep.benchmarks import peers
from diffsweep.benchmarks.backbones import memory_of
from diffsweep.benchmarks.base import PARTS as PARTS_BY_NAME
from diffsweep.configuration import conf
from diffsweep.configuration.build import build_model
from diffsweep.configuration.compose import compose as fresh_compose
from diffsweep.configuration.preflight import preflight
from diffsweep.discovery import import_all
from diffsweep.runs.benchmarking import benchmark
from diffsweep.runs.cost import cost_of

FEW = ("repeats=3", "train_steps=1", "sample_batch=2", "trainer=cpu", "dataset.batch_size=2")


def test_the_compared_networks_have_the_same_number_of_parameters():
    """An exception are the embeddings of time and class, of which each block of diffusers' DiT has its own."""
    *unets, dit = peers.pairs()
    for pair in unets:
        assert peers.parameters(pair.ours) == peers.parameters(pair.theirs)
    own = sum(peers.parameters(block.norm1.emb) for block in dit.theirs.transformer_blocks)
    assert peers.parameters(dit.theirs) - own * 5 // 6 == peers.parameters(dit.ours)


PARTS = [
    *("sampling", "backbones", "hybrid", "bound", "video", "decoding", "loading", "distillation"),
    "caching",
    *("scripts", "pipelines", "split", "utilisation", "logging", "scaling"),
    pytest.param("adaptation", marks=pytest.mark.slow),
    pytest.param("processes", marks=pytest.mark.slow),  # it starts processes
    pytest.param("execution", marks=pytest.mark.slow),  # it compiles
    pytest.param("streaming", marks=pytest.mark.slow),  # it starts processes
    pytest.param("startup", marks=pytest.mark.slow),
]


WORDS = {  # of parts that the default model does not have
    "logging": ("logged_steps=300",),
    "distillation": (
        *("model=progressive_distillation", "backbone.channels=8", "model.student_steps=2"),
        'teacher.base.train=["model=ddpm","trainer.max_steps=1","metrics=none","callbacks=minimal"]',
    ),
    "execution": ("backbone.channels=8", "execution.backend=eager"),
    "adaptation": (
        *("adaptation=lora", "adaptation.targets=[denoiser.backbone.*.conv_in]", "backbone.channels=8"),
        'adaptation.base.train=["backbone.channels=8","trainer.max_steps=1","metrics=none","callbacks=minimal"]',
    ),
}


@pytest.mark.parametrize("part", PARTS)
def test_every_part_gives_ratios(command, tmp_path, part):
    words = (*FEW, f"output={tmp_path / 'out'}", f"paths.output_dir={tmp_path}", *WORDS.get(part, ()))
    done = command("benchmark", f"parts=[{part}]", "sampler.steps=2", *words)
    assert done.code == 0, done.err
    results = json.loads((tmp_path / "out" / "benchmark.json").read_text())["results"]
    assert results
    for label, result in results.items():
        assert label in done.out
        assert 0 < result["low"] <= result["ratio"] <= result["high"]
    assert (tmp_path / "out" / "benchmark.png").stat().st_size > 0


def test_the_parts_of_a_step_add_up_to_it(command, tmp_path):
    done = command("benchmark", "parts=[split]", *FEW, f"output={tmp_path}")
    assert done.code == 0, done.err
    results = json.loads((tmp_path / "benchmark.json").read_text())["results"]
    assert sum(result["ratio"] for result in results.values()) == pytest.approx(1)
    assert len({result["bare"] for result in results.values()}) == 1
    assert max(results, key=lambda label: results[label]["ratio"]).startswith(("network", "backward"))


def test_a_suite_measures_its_cases_under_typed_words(tmp_path):
    """Typed words hold for all cases; the options of a case are its own."""
    cfg = fresh_compose("benchmark", ["suite=peers", "sampler.steps=2", *FEW, f"output={tmp_path}"])
    cfg.cases = {"small": ["parts=[sampling]"], "wide": ["parts=[sampling]", "sampler=heun"]}
    benchmark(cfg)
    found = json.loads((tmp_path / "benchmark.json").read_text())
    labels = ["small: ddim step, against its network calls", "wide: heun step, against its network calls"]
    assert list(found["results"]) == labels
    assert found["settings"]["repeats"] == 3


@pytest.mark.parametrize("suite", conf.options("suite"))
def test_every_suite_names_parts_that_exist(suite):
    """A case with an unknown option or part would fail after the cases before it have taken their time."""
    cfg = fresh_compose("benchmark", [f"suite={suite}"])
    assert cfg.parts or cfg.cases
    import_all(benchmarks)
    for words in [[f"parts=[{','.join(cfg.parts)}]"], *cfg.cases.values()]:
        case = fresh_compose("benchmark", list(words))
        preflight(case)
        assert set(case.parts) <= set(PARTS_BY_NAME)


def test_the_cost_of_a_network_of_clips_is_that_of_a_clip():
    """Full attention over a clip of one frame costs as much as over an image."""
    dit3d = ["backbone=dit3d", "backbone.attention=full", "space.num_frames=1"]
    clip, image = (cost_of(fresh_compose("train", ["logger=csv", *each])) for each in (dit3d, ["backbone=dit"]))
    assert clip == image.replace("dit:", "dit3d:").replace("an image", "a clip")


def test_the_memory_of_a_step_on_a_cpu_is_what_the_forward_pass_keeps():
    """For tanh(W x) it is x, for the gradient of W, and the output; the weights are not counted."""
    network = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh())
    assert memory_of(network, torch.randn(7, 3)) == 4 * (7 * 3 + 7 * 5)


def test_distillation_is_timed_of_a_student_alone(command):
    done = command("benchmark", "parts=[distillation]", *FEW)
    assert done.code == 2
    assert "model=ddpm is none; use model=progressive_distillation" in done.err


def test_adaptation_is_timed_of_an_adapted_model_alone(command):
    done = command("benchmark", "parts=[adaptation]", *FEW)
    assert done.code == 2
    assert "adaptation=none is none; use adaptation=lora adaptation.run=RUN" in done.err


def test_too_few_steps_are_refused_by_name(command):
    done = command("benchmark", "parts=[logging]", "repeats=3", "logged_steps=29")
    assert done.code == 2
    assert "logged_steps must be at least 30, not 29" in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("parts=[training]", "trainer=ddp"), "trainer=ddp with trainer.devices=2 is of 2 processes, and a benchmark"),
        (("parts=[training]", "trainer.devices=9"), "is of 9 processes"),
        (("parts=[samplers]", "sample_batch=0"), "sample_batch must be at least 1, not 0"),
        (("parts=[training]", "trainer=cpu", "trainer.precision=16-true"), "trainer.precision=16-true is of GPUs"),
        (("parts=[scripts]", "trainer.precision=64-true", *FEW), "keep weights of 32 bits; type trainer.precision=32"),
        pytest.param(
            ("suite=peers", "trainer=gpu"),
            "trainer.accelerator=gpu: this machine has no GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU"),
        ),
    ],
)
def test_what_is_not_measured_is_refused_in_one_line(words, message, command):
    done = command("benchmark", *words)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert message in done.err


def test_a_bare_loop_trains_weights_of_16_bits_as_ours(command):
    done = command("benchmark", "parts=[training]", *FEW, "trainer.precision=bf16-true", "backbone.channels=8")
    assert done.code == 0, done.err
    assert "training step, against a bare loop" in done.out


def test_an_unknown_part_is_refused_in_one_line(command):
    done = command("benchmark", "parts=[speed]")
    assert done.code == 2
    assert done.err.startswith("error: parts has speed; a benchmark has ")
    assert "backbones, video, adaptation" in done.err


def test_the_cost_of_a_backbone_is_counted():
    """Parameters are those of the model; a convolution's multiply-adds are pixels x weights."""
    cfg = fresh_compose("train", ["logger=csv", "backbone.channels=8"])
    parameters = sum(p.numel() for p in build_model(cfg).denoiser.backbone.parameters())
    assert cost_of(cfg).startswith(f"unet: {parameters:,} parameters, ")
    wide = ["space.channels=4", "space.image_size=32", "space.out_channels=8", "backbone.num_classes=1000"]
    cfg = fresh_compose("train", ["logger=csv", "backbone=dit_xl_2", *wide, "prediction.variance=learned_range"])
    assert cost_of(cfg) == "dit_xl_2: 674,834,720 parameters, 119 GMAC an image"
    assert torch.get_default_device() == torch.device("cpu")
