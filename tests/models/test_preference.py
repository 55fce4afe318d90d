"""Models that learn from preferences: the reference is the base to the bit, and both of a pair share time and noise."""

import copy
import math

import pytest
import torch
from slower import some

from diffsweep.configuration.build import build_data, build_model
from diffsweep.datasets import StoredComparisons
from diffsweep.diffusion import DPO, KTO, Noise, RewardWeighted, Supervised
from diffsweep.errors import UserError
from diffsweep.layers import weights_hash
from diffsweep.models import PreferenceModel, ScoredSamples
from diffsweep.models.borrowed import Borrowed
from diffsweep.models.comparisons import COMPARED
from diffsweep.models.scorers import Scorer
from diffsweep.samplers import DDIM

TEXTS = (
    *("model=classifier_free", "dataset=shapes", "conditioning=text", "metrics=none", "conditioning.dropout=0.5"),
    *("backbone.channels=8", "backbone.channel_mult=[1]", "conditioning.encoder.depth=1", "dataset.num_train=64"),
)


class Brightness(Scorer):
    """The mean of the pixels; ``rounded`` to steps so large that all samples are equal."""

    def __init__(self, rounded=False):
        self.rounded = rounded

    def __call__(self, x, request, data):
        return x.double().mean((1, 2, 3)) * (0 if self.rounded else 1)

    def identity(self):
        return {}


class Given(ScoredSamples):
    """A source that is not used, of a number of samples in a row."""

    def __init__(self, pairs=True):
        super().__init__(DDIM(steps=2), num_pairs=4)
        self.pairs = pairs


@pytest.fixture(scope="module")
def base(compose):
    model = build_model(compose(*TEXTS)).eval().requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return model


@pytest.fixture(scope="module")
def data(compose):
    return build_data(compose(*TEXTS))


@pytest.fixture
def make(base):
    """``make(preference)`` returns a model with that loss that has the weights of the base, its reference."""

    def make(preference, comparisons=None, scorer=None):
        names = ("objective", "time_sampling", "conditioning", "autoencoder", "sampler", "guidance")
        process = base.denoiser
        parts = [process.backbone, process.schedule, process.prediction, *(getattr(base, name) for name in names)]
        model = PreferenceModel(
            *copy.deepcopy(parts),
            *(base.make_optimizer, base.make_lr_scheduler),
            preference=preference,
            comparisons=Given() if comparisons is None else comparisons,
            scorer=scorer,
        )
        model.adaptation = Borrowed(lambda: base)
        return model.train().requires_grad_()

    return make


def batch_of(data, count=16, each=2, seed=7):
    """A batch of random pairs with the captions of training samples."""
    samples = data.split("train")
    noise = Noise(seed, torch.arange(count))
    images = noise.normal(each, 3, 16, 16, stream=9).clamp(-1, 1)
    score = images.mean((2, 3, 4))
    table = StoredComparisons(images, score, torch.arange(count), samples)
    return {**table[torch.arange(count)], "position": torch.arange(count)}


def test_at_the_beginning_the_reference_equals_the_model_to_the_bit(make, base, data):
    """Also with dropped conditions: so the loss of DPO is log 2, and samples from the same noise are equal."""
    model, batch = make(DPO(1000.0)), batch_of(data)
    noise = model.batch_noise(batch["position"])
    dropped = model.conditioning.dropped(noise)
    assert 0 < int(dropped.sum()) < len(dropped)
    compared = model.compare(batch, noise, reference=True).compared
    assert torch.equal(compared.model, compared.reference)
    assert model.losses(batch).losses.tolist() == [float(torch.tensor(math.log(2)))] * 16
    assert float(model.training_metrics()["train/implicit_accuracy"]) == 0.5
    index, (request, _) = torch.arange(3), base.request(torch.arange(3), data.split("val"))
    own, theirs = (one.eval().sample(index, 0, one.condition_of(request), DDIM(steps=3)) for one in (model, base))
    assert torch.equal(own, theirs)
    with torch.no_grad():
        next(model.denoiser.backbone.parameters()).add_(0.01)
    assert not torch.equal(model.train().compare(batch, noise, reference=True).compared.model, compared.model)


def test_both_of_a_pair_have_one_time_one_noise_and_one_condition(make, data, monkeypatch):
    model, batch, calls = make(DPO(10.0)), batch_of(data), []
    plain = type(model.objective).__call__

    def recorded(self, denoiser, x_0, cond, t, eps, noise=None):
        calls.append((x_0, cond, t, eps))
        return plain(self, denoiser, x_0, cond, t, eps, noise)

    monkeypatch.setattr(type(model.objective), "__call__", recorded)
    encoded = []
    model.conditioning.encoder.register_forward_hook(lambda module, given, output: encoded.append(len(given[0])))
    model.losses(batch)
    assert encoded == [16]
    (own, theirs) = calls
    for x_0, cond, t, eps in calls:
        assert torch.equal(x_0.view(16, 2, 3, 16, 16), batch["compared"])
        for part in (t, eps, cond.tokens, cond.is_null):
            assert torch.equal(part[0::2], part[1::2])
            assert not torch.equal(part[0::2], part[0::2].roll(1, 0))
    for of_model, of_reference in zip(own[2:], theirs[2:], strict=True):
        assert torch.equal(of_model, of_reference)
    assert torch.equal(own[1].is_null, theirs[1].is_null)


@pytest.mark.parametrize("preference", some([DPO(300.0), RewardWeighted(), KTO(300.0), Supervised()], 2))
def test_a_few_steps_prefer_the_winners_and_leave_the_reference_as_it_was(make, base, data, preference):
    model, batch, before = make(preference), batch_of(data), weights_hash(base)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    noise = Noise(1, torch.arange(16))
    for _ in range(6):
        optimizer.zero_grad()
        preference(model.compare(batch, noise, reference=True).compared).mean().backward()
        optimizer.step()
    compared = model.compare(batch, noise, reference=True).compared
    gains = compared.gains().detach().mean(0)
    assert weights_hash(base) == before
    assert all(weight.grad is None for weight in base.parameters())
    if isinstance(preference, DPO | KTO):  # the loss of winners falls by more than that of losers
        assert float((gains[0] - gains[1]).detach()) > 1e-4
    else:
        assert float(gains[0]) > 0
    assert float(preference(compared).mean()) < float(preference(compared._replace(model=compared.reference)).mean())


def test_single_images_have_a_loss_without_pairs_but_not_that_of_dpo(make, data):
    model, batch = make(KTO(100.0), Given(pairs=False)), batch_of(data, each=1)
    assert batch["desirable"].tolist() == (batch["score"] > 0).tolist()
    assert model.losses(batch).losses.tolist() == [0.5] * 16
    assert "train/implicit_accuracy" not in model.training_metrics()
    with pytest.raises(ValueError, match="preference=dpo compares a winner and a loser"):
        make(DPO(1.0), Given(pairs=False))


@pytest.mark.parametrize("guided", some([True, False], 1))
def test_the_best_and_the_worst_of_the_candidates_make_a_pair(base, data, guided):
    source = ScoredSamples(DDIM(steps=2, clip="static"), num_pairs=10, candidates=3, guided=guided)
    found = list(source.rows(base, data, Brightness()))
    compared, score, prompt = (torch.cat(parts) for parts in zip(*found, strict=True))
    assert prompt.tolist() == list(range(10))
    torch.testing.assert_close(compared.double().mean((2, 3, 4)), score)
    assert bool((score[:, 0] > score[:, 1]).all())
    cond = base.condition_of(data.split("train").annotations(torch.full((3,), 4)))
    x, noise = base.start(torch.arange(12, 15), COMPARED, sampler=source.sampler)
    denoiser = base.guided(source.sampler) if guided else base.denoiser
    again = source.sampler(denoiser, x, cond, noise)
    scores = again.double().mean((1, 2, 3))
    torch.testing.assert_close(score[4], torch.stack([scores.max(), scores.min()]), rtol=1e-4, atol=1e-5)


def test_a_scorer_that_distinguishes_nothing_makes_no_pairs(base, data, monkeypatch):
    monkeypatch.setattr("diffsweep.models.comparisons.BATCH", 2)
    source = ScoredSamples(DDIM(steps=1), num_pairs=4)
    with pytest.raises(UserError, match=r"gives all samples of a prompt the same score: 0 pairs were found for the"):
        list(source.rows(base, data, Brightness(rounded=True)))


def test_stored_comparisons_have_scores_of_mean_0_and_deviation_1(data):
    images, score = torch.arange(12.0).view(6, 2, 1), torch.arange(12.0).view(6, 2).square()
    table = StoredComparisons(images, score, torch.tensor([5, 4, 3, 2, 1, 0]), data.split("train"), first=2, end=5)
    batch = table[torch.tensor([2, 0])]
    assert len(table) == 3
    assert torch.equal(batch["compared"], images[[4, 2]])
    torch.testing.assert_close(batch["score"], ((score - score.mean()) / score.std(correction=0))[[4, 2]])
    assert batch["desirable"].tolist() == [[True, False]] * 2
    assert batch["caption"] == data.split("train").annotations(torch.tensor([1, 3]))["caption"]
