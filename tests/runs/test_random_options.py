"""Random combinations of options and values: each trains, or stops or is refused in one line; none has a traceback.

With hypothesis installed a combination that fails is reduced to its cause; without it seeds draw the same kind.
"""

import random

import pytest
from random_options import RAN, REFUSED, TINY, combination, outcome

from diffsweep.configuration.compose import compose
from diffsweep.configuration.preflight import preflight
from diffsweep.errors import UserError

PARTS, SIZE, TRAINED = 100, 20, 10  # 2,000 combinations, of which one in TRAINED trains two steps


def tried_with_its_words(seed, folder=None):
    """Return the outcome of the combination of a seed, and name its words if it fails."""
    words = combination(random.Random(seed))
    try:
        return outcome(words, folder)[0]
    except Exception as error:
        raise AssertionError(f"combination {seed}, {' '.join([*TINY, *words])}: {error}") from error


def test_random_combinations_run_or_are_refused(tried):
    """Those of the first seeds of the slow test."""
    tried(inputs=2)
    outcomes = [tried_with_its_words(seed) for seed in range(2)]
    assert len(outcomes) == 2


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_two_thousand_combinations_run_or_are_refused(part, tmp_path, tried):
    """Each computes a loss, its gradient and samples, and one in ten trains two steps, or it is refused."""
    seeds = range(part * SIZE, (part + 1) * SIZE)
    tried(inputs=SIZE)
    outcomes = []
    for seed in seeds:
        (folder := tmp_path / str(seed)).mkdir()
        outcomes.append(tried_with_its_words(seed, folder if seed % TRAINED == 0 else None))
    assert 0 < outcomes.count(REFUSED) < SIZE  # neither all nor none, else nothing was tried


@pytest.mark.slow
def test_combinations_that_hypothesis_draws_run_or_are_refused():
    hypothesis = pytest.importorskip("hypothesis")

    @hypothesis.settings(max_examples=200, deadline=None, derandomize=True)
    @hypothesis.given(hypothesis.strategies.randoms(use_true_random=False))
    def each(chance):
        outcome(combination(chance))

    each()


# What random combinations have found, each mended.


@pytest.mark.parametrize("value", ["1.5", "null", "[1]"])
def test_a_value_in_the_place_of_a_part_is_refused(value):
    """The sampler is a dataclass, whose schema pydantic refuses to make with settings of ours."""
    with pytest.raises(UserError, match=r"^model\.sampler=.*: it should be a Sampler"):
        preflight(compose("train", [f"model.sampler={value}", "logger=csv"]))


def test_a_debug_preset_sets_no_key_that_the_chosen_option_lacks():
    """debug=fast makes networks narrow by backbone.channels, which a pair of networks does not have."""
    clips = ("model=video", "backbone=base_and_residual", "noise=shared", "prediction=eps", "logger=csv")
    cfg = compose("train", ["debug=fast", *clips])
    assert "channels" not in cfg.backbone
    assert cfg.trainer.max_steps == 4
    preflight(cfg)
    assert compose("train", ["debug=fast", "logger=csv"]).backbone.channels == 8


@pytest.mark.parametrize("words", [["model.val_repeats=0"], ["model=autoencoder_kl", "model.statistics=-1"]])
def test_counts_of_the_model_are_large_enough(words):
    """Without a draw a run has no val/loss, which its first validation looks up."""
    with pytest.raises(UserError, match=r"must be at least 1.*\[rule counts_of_the_model_are_large_enough\]$"):
        preflight(compose("train", [*words, "logger=csv"]))


def test_a_mapping_in_the_place_of_a_number_is_refused():
    """Only an object, with a _target_, has a type that is not known before it is built."""
    with pytest.raises(UserError, match=r"^callbacks.ema.decay=\{\}: input should be a valid number"):
        preflight(compose("train", ["callbacks.ema.decay={}", "logger=csv"]))
    with pytest.raises(UserError, match=r"^optimizer.lr=\{\}: "):
        preflight(compose("train", ["optimizer.lr={}", "logger=csv"]))


def test_a_schedule_that_keeps_less_signal_than_single_precision_divides_by_is_refused():
    """With alpha = 1e-71 the terms of x0 = (x_t - sigma eps) / alpha overflow, and samples would be NaN."""
    with pytest.raises(UserError, match=r"too little signal \(alpha = 1e-71\).*\[rule x0_is_finite_at_t_1\]$"):
        preflight(compose("train", ["schedule=sigmoid", "schedule.beta_end=0.5", "logger=csv"]))
    preflight(compose("train", ["schedule=sigmoid", "schedule.beta_end=0.5", "prediction=v", "logger=csv"]))


def test_a_cascade_is_among_the_combinations():
    """Its lower stage is stood for by a model before training."""
    assert outcome(["model=cascade"])[0] == RAN
