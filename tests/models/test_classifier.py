"""The noisy classifier: cross-entropies written out, the Bayes classifier of a mixture, accuracies in closed form."""

import csv
import math

import pytest
import torch
from torch.nn import functional

from diffsweep.autoencoders import Identity
from diffsweep.backbones import ClassifierBackbone, EncoderUNet
from diffsweep.configuration.build import build_model
from diffsweep.datasets import ImageData, InMemory, RandomShift, load_digits
from diffsweep.diffusion import EDM, Eps, Importance, NetworkDenoiser, Noise, Stream, Uniform, add_noise
from diffsweep.models import NoisyClassifier
from diffsweep.models.classifier import LEVELS
from diffsweep.schedules import VE, Cosine, Learned


def classifier(backbone, schedule=None, prediction=None, **more):
    parts = {"time_sampling": Uniform(), "autoencoder": Identity(1, 8), "optimizer": None, "lr_scheduler": None, **more}
    schedule = Cosine(1000) if schedule is None else schedule
    return NoisyClassifier(backbone, schedule, Eps() if prediction is None else prediction, **parts)


def network(channels=8, classes=10, size=8, **more):
    made = EncoderUNet(1, classes, size, channels=channels, **more)
    torch.nn.init.normal_(made.to_logits.weight, std=0.5)
    return made


def digits(count, first=0):
    return {**{k: v[:count] for k, v in load_digits("train").items()}, "position": torch.arange(first, first + count)}


class Recording(ClassifierBackbone):
    """A network that keeps the inputs of its last call."""

    num_features, num_classes = 1, 10

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x, c_noise):
        self.given = x, c_noise
        return x.mean((1, 2, 3))[:, None], x.new_zeros(len(x), 10)

    def feature_maps(self, x, c_noise):
        return [x]


def test_the_loss_is_the_cross_entropy_at_the_times_and_noise_of_the_positions():
    model, batch = classifier(network(), seed=3), digits(8, first=40)
    noise = Noise(3, batch["position"])
    k = (noise.uniform(stream=Stream.TIME) * 1000).floor() + 1
    alpha, sigma = (value.float()[:, None, None, None] for value in Cosine(1000)(k.double() / 1000))
    x_t = alpha * batch["x"] + sigma * noise.normal(1, 8, 8, stream=Stream.EPS)
    expected = functional.cross_entropy(model.backbone(x_t, k - 1)[1], batch["label"])
    torch.testing.assert_close(model.training_step(batch, 0), expected, rtol=1e-4, atol=0)


def test_the_label_enters_the_loss_alone():
    """exp(-loss) of a sample sums to 1 over all labels that it could have."""
    model, batch = classifier(network(), augmentation=RandomShift(1)), digits(6)
    losses = [model.losses({**batch, "label": torch.full((6,), label)})[0] for label in range(10)]
    torch.testing.assert_close(torch.stack(losses).neg().exp().sum(0), torch.ones(6))


@pytest.mark.parametrize(
    ("schedule", "prediction"), [(Cosine(1000), Eps()), (VE(), EDM()), (Cosine(1000), EDM())], ids=["ddpm", "edm", "vp"]
)
def test_its_network_has_the_inputs_of_a_denoisers_network(schedule, prediction):
    x, times = 10 * torch.randn(4, 1, 8, 8), torch.tensor([0.02, 0.3, 0.7, 1.0])

    class Backbone(torch.nn.Module):
        def forward(self, x, c_noise, cond):
            self.given = x, c_noise
            return x

    theirs = NetworkDenoiser(Backbone(), schedule, prediction)
    ours = classifier(Recording(), schedule, prediction)
    for t in (times, torch.tensor(0.4, dtype=torch.float64)):
        theirs(x, t)
        ours.log_prob(x, t)
        for given, expected in zip(ours.backbone.given, theirs.backbone.given, strict=True):
            assert torch.equal(given, expected)
        alpha, sigma = (value.float().reshape(-1, 1, 1, 1) for value in schedule(t))
        scale = (sigma**2 + alpha**2 / 4).rsqrt() if isinstance(prediction, EDM) else 1
        torch.testing.assert_close(ours.backbone.given[0], scale * x)


def test_log_prob_is_normalised_and_a_single_time_holds_for_all_samples():
    model, x = classifier(network()).eval(), torch.randn(5, 1, 8, 8)
    log_prob = model.log_prob(x, torch.full((5,), 0.3))
    torch.testing.assert_close(log_prob.exp().sum(1), torch.ones(5))
    torch.testing.assert_close(model.log_prob(x, torch.tensor(0.3, dtype=torch.float64)), log_prob)


def test_gradients_with_respect_to_x_equal_finite_differences():
    model = classifier(network(size=4, classes=3), autoencoder=Identity(1, 4)).double().eval()
    x, t = torch.randn(2, 1, 4, 4, dtype=torch.float64, requires_grad=True), torch.tensor([0.1, 0.8]).double()
    assert torch.autograd.gradcheck(lambda x_t: model.log_prob(x_t, t), x, eps=1e-6, atol=1e-7)
    (gradient,) = torch.autograd.grad(model.log_prob(x, t)[:, 1].sum(), x)
    assert (gradient.flatten(1).norm(dim=1) > 1e-4).all()


def test_it_is_computed_in_float32_whatever_the_precision_of_training():
    model, x, t = classifier(network()).eval(), torch.randn(3, 1, 8, 8), torch.tensor([0.1, 0.5, 0.9])
    expected = model.log_prob(x, t)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.log_prob(x, t), expected)
        assert torch.equal(model.log_prob(x.bfloat16().float(), t), model.log_prob(x.bfloat16(), t))
    assert model.to(torch.bfloat16).log_prob(x, t).dtype == torch.float32


def test_features_are_those_of_clean_data():
    model, x = classifier(network()).eval(), load_digits("val")["x"][:3]
    torch.testing.assert_close(model.features_and_logits(x)[0], model.backbone(x, torch.zeros(3))[0])


@pytest.mark.parametrize("schedule", [Cosine(1000), VE()], ids=["cosine", "ve"])
def test_a_classifier_of_clean_data_learns_at_t_0_alone(schedule):
    model, batch = classifier(Recording(), schedule, noisy=False), digits(4)
    _, t, weight = model.losses(batch)
    assert torch.equal(model.backbone.given[0], batch["x"])
    assert not t.any()
    assert torch.equal(weight, torch.ones(4))
    assert not model.by_quarter


def test_a_learned_schedule_does_not_learn_from_it():
    schedule = Learned()
    model = classifier(network(), schedule)
    model.training_step(digits(4), 0).backward()
    assert all(parameter.grad is None for parameter in schedule.parameters())
    assert not {id(parameter) for parameter in schedule.parameters()} & {id(p) for p in model.trained_parameters()}


def test_importance_sampled_times_receive_the_losses():
    model = classifier(network(), time_sampling=Importance(1000))
    losses, t, _ = model.losses(digits(5))
    steps = (t * 1000).round().long() - 1
    assert torch.equal(model.time_sampling.losses[steps].sum(1), losses.detach())


MEANS = torch.tensor([[1.0, 1, -1, -1], [1.0, -1, 1, -1], [1.0, -1, -1, 1]]).reshape(3, 1, 2, 2)
SPREAD = 0.3


def mixture(positions):
    """Return samples of three Gaussians in four pixels, labelled by their Gaussian."""
    noise = Noise(7, positions)
    label = (noise.uniform(stream=Stream.STEP) * 3).long()
    return {
        "x": MEANS[label] + SPREAD * noise.normal(1, 2, 2, stream=Stream.PRIOR),
        "label": label,
        "position": positions,
    }


@pytest.mark.slow
def test_it_tends_to_the_bayes_classifier_of_a_mixture():
    """p(y | x_t) of Gaussians of equal weight is a softmax of squared distances; at t = 1 cross-entropy is log K."""
    torch.manual_seed(1)
    schedule = Cosine(1000)
    backbone = EncoderUNet(1, 3, 2, channels=8, channel_mult=[1], attention_factors=[])
    model = classifier(backbone, schedule, autoencoder=Identity(1, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(140):
        optimizer.zero_grad()
        model.training_step(mixture(torch.arange(128) + 128 * step), 0).backward()
        optimizer.step()
    model.eval()
    held_out = mixture(torch.arange(2000) + 10**6)
    eps = Noise(8, held_out["position"]).like(held_out["x"])
    for time, tolerance in ((0.0, 0.06), (0.3, 0.06), (0.6, 0.12), (1.0, 0.03)):
        t = torch.tensor(time, dtype=torch.float64)
        alpha, sigma = (value.item() for value in schedule(t))
        x_t = add_noise(schedule, held_out["x"], t, eps)
        square = (x_t[:, None] - alpha * MEANS).square().flatten(2).sum(2)
        bayes = (-square / (2 * (sigma**2 + (alpha * SPREAD) ** 2))).log_softmax(1)
        with torch.no_grad():
            ours, best = (functional.nll_loss(p, held_out["label"]) for p in (model.log_prob(x_t, t), bayes))
        assert abs(ours - best) < tolerance
    assert abs(ours - math.log(3)) < 0.03


class Signs(ImageData):
    """Pictures of four pixels, all 1 or all -1: the class is the sign."""

    fingerprint = "signs"

    def __init__(self, count=1500):
        super().__init__(1, 2, 2, 2, 64)
        self.count = count

    def load(self, split):
        label = torch.arange(self.count) % 2
        return InMemory({"x": (2.0 * label - 1)[:, None, None, None].expand(-1, 1, 2, 2), "label": label})


class SignOfTheMean(ClassifierBackbone):
    """The Bayes classifier of these images, with a large weight."""

    num_features, num_classes = 1, 2

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(50.0))

    def forward(self, x, c_noise):
        mean = x.mean((1, 2, 3))[:, None]
        return mean, torch.cat([-mean, mean], dim=1) * self.weight

    def feature_maps(self, x, c_noise):
        return [x]


def test_accuracy_by_noise_level_is_its_closed_form(tmp_path):
    """The mean of four pixels of alpha y + sigma eps has the right sign with probability Phi(2 alpha / sigma)."""
    model = classifier(SignOfTheMean(), autoencoder=Identity(1, 2), val_repeats=4).train()
    numbers = model.measure(Signs(), tmp_path)
    assert model.training
    alpha, sigma = Cosine(1000)(torch.tensor(LEVELS, dtype=torch.float64))
    expected = torch.special.ndtr(2 * alpha / sigma)
    measured = torch.tensor([numbers[f"accuracy_t_{t:g}"] for t in LEVELS], dtype=torch.float64)
    torch.testing.assert_close(measured, expected, rtol=0, atol=0.02)
    assert 0.55 < measured[-1] < 0.6 < measured[5] < 0.999
    assert numbers["accuracy_t_0"] == 1
    assert numbers["accuracy"] == pytest.approx(measured.mean().item())
    with (tmp_path / "accuracy.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in rows] == pytest.approx([1, *measured.tolist()], rel=1e-5)
    log_snr = Cosine(1000).log_snr(torch.tensor(LEVELS, dtype=torch.float64)).tolist()
    assert [float(row["log_snr"]) for row in rows] == pytest.approx([math.inf, *log_snr], rel=1e-4)
    assert numbers["cross_entropy"] == pytest.approx(
        sum(float(row["cross_entropy"]) for row in rows[1:]) / 10, rel=1e-4
    )


def test_accuracy_of_a_classifier_of_clean_data_is_that_at_t_0(tmp_path):
    numbers = classifier(SignOfTheMean(), autoencoder=Identity(1, 2), noisy=False).measure(Signs(10), tmp_path)
    assert numbers == {"accuracy": 1, "cross_entropy": pytest.approx(0, abs=1e-6), "accuracy_t_0": 1}
    assert (tmp_path / "accuracy.csv").read_text().splitlines()[1].startswith("0,inf,1,")
    assert not (tmp_path / "accuracy.png").exists()


def test_the_options_classifier_and_noisy_classifier_differ_in_noise_alone(compose):
    noisy, clean = (
        build_model(compose(f"model={name}", "backbone.channels=8")) for name in ("noisy_classifier", "classifier")
    )
    assert (noisy.noisy, clean.noisy) == (True, False)
    assert all(torch.equal(a, b) for a, b in zip(noisy.parameters(), clean.parameters(), strict=True))
