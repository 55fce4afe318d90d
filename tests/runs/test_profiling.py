"""``trainer.profiler`` writes tables and traces that name the phases of a run into its folder ``profile``."""

import json
import pstats

import pytest
from composing import composed

from diffsweep import phases
from diffsweep.callbacks.traces import PROFILERS
from diffsweep.configuration.rules.trainer import profiler_is_known
from diffsweep.phases import CHECKPOINTS, IN_A_STEP, NETWORK, REST, SAMPLING, VALIDATION

SAMPLED = f"{SAMPLING}: {NETWORK}"
WORDS = ("trainer.max_steps=7", "callbacks=default", "~callbacks.loss_by_t", "callbacks.sample_grid.num_samples=2")


@pytest.fixture
def profile(command, fast, tmp_path):
    """``profile(word)`` trains a few steps with a profiler, and returns what the command printed and its folder."""

    def profile(word, *words):
        places = (f"paths.output_dir={tmp_path}", f"paths.run_dir={tmp_path / 'run'}")
        every = ("trainer.val_check_interval=7", "trainer.log_every_n_steps=1")
        done = command("train", *fast, *WORDS, *every, *places, f"trainer.profiler={word}", *words)
        assert done.code == 0, done.err
        return done, tmp_path / "run" / "profile"

    return profile


def test_simple_names_the_phases(profile):
    done, folder = profile("simple")
    text = (folder / "simple.txt").read_text()
    assert text.startswith("7 training batches")
    first = [line.split("  ")[0] for line in text.splitlines()]
    assert {*IN_A_STEP, CHECKPOINTS, VALIDATION, SAMPLING, SAMPLED, REST} <= set(first)
    assert "[Callback]EMA.on_train_batch_end" in text
    assert f"  profile   {folder}\n" in done.out


def test_advanced_names_the_functions_of_each_phase(profile):
    _, folder = profile("advanced")
    text = (folder / "advanced.txt").read_text()
    assert all(f"{name}, begun" in text for name in (*IN_A_STEP, VALIDATION, SAMPLED))
    functions = {name for _, _, name in pstats.Stats(str(folder / "network.prof")).stats}
    assert "<built-in method torch.conv2d>" in functions
    assert not any("run_backward" in name for name in functions)


def test_a_trace_names_phases_and_modules(profile):
    """Three batches of seven are traced, and three calls of the network that draws samples."""
    _, folder = profile("pytorch")
    counts = {}
    for kind in ("training", "sampling"):
        events = json.loads((folder / f"{kind}.json").read_text())["traceEvents"]
        names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
        counts[kind] = {name: names.count(name) for name in set(names)}
    training, sampling = counts["training"], counts["sampling"]
    assert set(IN_A_STEP) <= set(training)
    assert training[NETWORK] == training["denoiser.backbone"] == 3
    assert sampling[SAMPLED] == sampling["denoiser.backbone"] == 3
    text = (folder / "pytorch.txt").read_text()
    assert "training: 3 batches" in text
    assert "sampling: 3 network calls" in text
    assert "convolution_backward" in text


@pytest.mark.gpu
def test_a_trace_has_the_times_of_the_gpu(profile):
    """Each phase that launches kernels has their time, and it is below the time from the first to the last of them."""
    _, folder = profile("pytorch", "trainer=gpu")
    head, *rows = (folder / "pytorch.txt").read_text().split("\n\n")[1].splitlines()
    assert head.endswith("CUDA ms")
    times = {row.split("  ")[0]: float(row.split()[-1]) for row in rows}
    assert times[NETWORK] > 0
    assert times["backward"] > 0


def test_a_run_without_a_profiler_has_no_folder(finished):
    assert not (finished / "profile").exists()
    assert phases._profile is None


def test_other_words_are_refused():
    rule, cfg = profiler_is_known, composed("train")
    assert rule(cfg, None) is None
    for word in PROFILERS:
        cfg.trainer.profiler = word
        assert rule(cfg, None) is None
    for word in ("xla", True, 3):
        cfg.trainer.profiler = word
        assert rule(cfg, None) == f"trainer.profiler is one of simple, advanced, pytorch, or null, not {word}"
