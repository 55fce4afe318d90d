"""Samples are drawn in the precision of the run, and what measures them is not."""

import copy
import json

import pytest
import torch
from omegaconf import OmegaConf

from diffsweep import load
from diffsweep.callbacks import SampleGrid
from diffsweep.configuration.build import build_data, build_likelihood, build_model, execute
from diffsweep.configuration.compose import compose
from diffsweep.diffusion import NetworkDenoiser
from diffsweep.errors import UserError
from diffsweep.metrics.digits_classifier import DigitsClassifier
from diffsweep.precision import PRECISIONS, Precision, precision_of
from diffsweep.runs.commands import evaluate, sample
from diffsweep.runs.evaluation import measure, measure_likelihood
from diffsweep.runs.machine import check_sampling_machine
from diffsweep.runs.training import make_trainer, train

WORDS = ("trainer=cpu", "sampler=ddim", "sampler.steps=4")
TRUE = {"bf16-true": torch.bfloat16, "64-true": torch.float64}


@pytest.fixture(scope="module")
def loaded(finished):
    """The finished run with other weights: after four steps the network's output is almost 0."""
    loaded = load(finished, WORDS)
    with torch.no_grad():
        for weight in loaded.model.denoiser.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel()))
    return loaded


@pytest.fixture(scope="module")
def other(loaded):
    """``model = other(precision)`` returns a copy of its model that computes in a precision, as commands set it."""

    def other(precision):
        cfg = loaded.cfg.copy()
        cfg.trainer.precision = precision
        return execute(cfg, copy.deepcopy(loaded.model))

    return other


def drawn(model):
    return model.sample(torch.arange(4), 0)


class Seen:
    """A record of the types of a network's input, and of the autocast at its calls (None: off)."""

    def __init__(self, network):
        self.inputs, self.autocast = set(), set()
        network.register_forward_pre_hook(self._note)

    def _note(self, module, arguments):
        on = torch.is_autocast_enabled("cpu")
        self.autocast.add(torch.get_autocast_dtype("cpu") if on else None)
        self.inputs.add(arguments[0].dtype)


def test_every_word_has_types_and_the_words_of_lightning_are_the_same():
    assert precision_of(32) is precision_of("32-true") is precision_of(None)
    assert precision_of("bf16") is PRECISIONS["bf16-mixed"] == Precision(computed=torch.bfloat16)
    assert precision_of("16") is PRECISIONS["16-mixed"]
    assert precision_of("64").weights == torch.float64
    with pytest.raises(ValueError, match=r"^trainer\.precision=transformer-engine: no such precision"):
        precision_of("transformer-engine")


def test_a_mixed_precision_is_that_of_the_network_alone(other):
    """Samples are those of a network under autocast whose output is converted back, bit for bit."""
    mixed, plain = other("bf16-mixed"), other("32-true")
    seen = Seen(mixed.denoiser.backbone)
    found, exact = drawn(mixed), drawn(plain)
    assert (seen.autocast, seen.inputs) == ({torch.bfloat16}, {torch.float32})
    assert mixed.float_type == found.dtype == torch.float32
    forward = plain.denoiser.backbone.forward

    def under_autocast(*arguments):
        with torch.autocast("cpu", torch.bfloat16):
            return forward(*arguments)

    plain.denoiser.backbone.forward = under_autocast
    assert torch.equal(found, drawn(plain))
    assert 1e-4 < (found - exact).abs().mean() < 0.05


@pytest.mark.parametrize("precision", TRUE)
def test_a_true_precision_is_that_of_the_weights(other, precision):
    """The state of the sampler is of float32 at least, and samples are near those of float32."""
    model, exact = other(precision), drawn(other("32-true"))
    states, seen = set(), Seen(model.denoiser.backbone)
    model.denoiser.register_forward_pre_hook(lambda _, arguments: states.add(arguments[0].dtype))
    found = drawn(model)
    assert seen.inputs == {model.float_type} == {TRUE[precision]}
    assert seen.autocast == {None}
    assert states == {found.dtype} == {torch.promote_types(TRUE[precision], torch.float32)}
    assert 0 < (found - exact).abs().mean() < (0.05 if precision == "bf16-true" else 1e-4)


def test_an_evaluation_is_what_its_protocol_states(other, loaded, tmp_path, monkeypatch):
    """Features are computed in float32 whatever the precision; the FID of samples of another precision is another."""
    classify, features = DigitsClassifier.forward, []

    def watched(self, x):
        features.append((x.dtype, torch.is_autocast_enabled("cpu")))
        return classify(self, x)

    monkeypatch.setattr(DigitsClassifier, "forward", watched)
    choices = ["metrics=digits", "metrics.kid_subset_size=8", "metrics.resamples=2", "metrics.num_samples=16"]
    cfg = compose("evaluate", [f"run={loaded.cfg.paths.run_dir}", *WORDS, *choices])
    data, found = build_data(cfg), {}
    for precision in ("32-true", "bf16-mixed", "bf16-true"):
        cfg.trainer.precision = precision
        measure(cfg, other(precision), data, tmp_path / precision)
        content = json.loads((tmp_path / precision / "metrics.json").read_text())
        assert content["protocol"]["precision"] == precision
        found[precision] = content["metrics"]["fid"]
    assert set(features) == {(torch.float32, False)}
    assert len(set(found.values())) == 3
    assert list(found.values()) == pytest.approx([found["32-true"]] * 3, rel=1e-2)


def test_likelihoods_are_computed_in_float32_at_least(other, loaded, tmp_path):
    """Those of a mixed precision are those of float32 bit for bit, and weights of bfloat16 are so afterwards."""
    choices = ["likelihood=bound", "likelihood.num_samples=4", "likelihood.steps=5", "metrics=none"]
    cfg = compose("evaluate", [f"run={loaded.cfg.paths.run_dir}", *WORDS, *choices])
    data, found = build_data(cfg), {}
    for precision in ("32-true", "bf16-mixed", "bf16-true"):
        model = other(precision)
        before, seen = copy.deepcopy(model.state_dict()), Seen(model.denoiser.backbone)
        found[precision] = measure_likelihood(build_likelihood(cfg), model, data, tmp_path)
        assert (seen.autocast, seen.inputs) == ({None}, {torch.float32})
        after = model.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())
        assert model.float_type == TRUE.get(precision, torch.float32)
        assert model.denoiser.precision is model.precision is precision_of(precision)
    assert found["32-true"] == found["bf16-mixed"] != found["bf16-true"]


def test_products_of_matrices_are_those_of_the_configuration_while_a_command_runs(finished, tmp_path, monkeypatch):
    """Features are measured with the highest precision, and the protocol has that of the samples."""
    classify, features, networks = DigitsClassifier.forward, set(), set()

    def watched(self, x):
        features.add(torch.get_float32_matmul_precision())
        return classify(self, x)

    monkeypatch.setattr(DigitsClassifier, "forward", watched)
    words = ["metrics=digits", "metrics.kid_subset_size=8", "metrics.resamples=2", "num_samples=16"]
    words = [f"run={finished}", *WORDS, *words, "execution.matmul_precision=high", f"output={tmp_path}"]
    cfg = compose("evaluate", words)
    call = NetworkDenoiser.forward

    def seen(self, *arguments):
        networks.add(torch.get_float32_matmul_precision())
        return call(self, *arguments)

    monkeypatch.setattr(NetworkDenoiser, "forward", seen)
    evaluate(cfg)
    assert (features, networks) == ({"highest"}, {"high"})
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["protocol"]["precision"] == "32-true, matmul_precision high"
    assert torch.get_float32_matmul_precision() == "highest"


def test_grids_in_training_are_drawn_in_the_precision(configure, tmp_path):
    """Callbacks are outside of Lightning's autocast."""
    cfg = configure(tmp_path / "run", "trainer.precision=bf16-mixed", *WORDS, "trainer.max_steps=1")
    model = execute(cfg, build_model(cfg))
    seen = []

    class Grid(SampleGrid):
        def on_validation_epoch_end(self, trainer, module):
            assert not torch.is_autocast_enabled("cpu")
            seen.append(Seen(module.denoiser.backbone))
            super().on_validation_epoch_end(trainer, module)

    make_trainer(cfg, [Grid(tmp_path / "grids", num_samples=2, steps=2)], []).fit(model, build_data(cfg))
    assert [each.autocast for each in seen] == [{torch.bfloat16}]


@pytest.mark.slow
@pytest.mark.parametrize("precision", TRUE)
def test_a_run_of_a_true_precision_ends_with_its_metrics(configure, tmp_path, precision):
    words = ("metrics=digits", "metrics.num_samples=16", "metrics.resamples=2", "metrics.kid_subset_size=8")
    train(configure(tmp_path / "run", *WORDS, *words, f"trainer.precision={precision}", "trainer.max_steps=1"))
    content = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert content["protocol"]["precision"] == precision
    assert load(tmp_path / "run").model.float_type == TRUE[precision]


REFUSED = [
    ({"precision": "16-true"}, r"^trainer\.precision=16-true is of GPUs, and this sampling is on the CPU"),
    ({"precision": "16-mixed"}, r"^trainer\.precision=16-mixed is of GPUs, and this sampling is on the CPU"),
    ({"accelerator": "gpu"}, r"^trainer\.accelerator=gpu: this machine has no GPU"),
    ({"devices": 9}, r"^trainer\.devices=9: a process samples on one device.*nproc_per_node=9"),
]


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_what_the_machine_lacks_is_refused_as_in_training(loaded, tmp_path):
    """Also in float16, whose gradients would need another optimizer in training."""
    for settings, message in REFUSED:
        cfg = loaded.cfg.copy()
        cfg.trainer.update(settings)
        cfg.num_samples, cfg.output = 4, str(tmp_path / "out")
        for command in (evaluate, sample):
            with pytest.raises(UserError, match=message) as error:
                command(cfg)
            assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=REFUSED[1][1]):
        load(loaded.cfg.paths.run_dir, ["trainer.precision=16-mixed"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_run_of_gpus_is_sampled_on_the_cpu_with_a_warning(loaded, monkeypatch, capsys):
    """What the run itself has was of its training: the devices that it was trained on may be elsewhere."""
    cfg = loaded.cfg.copy()
    cfg.trainer.accelerator, cfg.trainer.devices = "gpu", 8
    saved = OmegaConf.create({"trainer": {"accelerator": "gpu", "devices": 8}})
    monkeypatch.setattr("diffsweep.runs.machine.load_config", lambda directory: saved)
    check_sampling_machine(cfg)
    assert "samples are drawn on the CPU" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "bf16-true", "16-true"])
def test_a_gpu_draws_samples_in_each_precision(finished, precision):
    exact = load(finished, ["trainer=auto", *WORDS[1:]]).sample(4)
    found = load(finished, ["trainer=auto", *WORDS[1:], f"trainer.precision={precision}"]).sample(4)
    assert found.dtype == torch.float32
    assert (found - exact).abs().mean() < 0.05
