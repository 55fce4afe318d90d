"""Counterfactuals: with an exact denoiser the map of differences is the region that makes the class."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from diffsweep.configuration.build import build_diffusion
from diffsweep.datasets import InMemory
from diffsweep.diffusion import Denoised, Denoiser
from diffsweep.errors import UserError
from diffsweep.tasks import Counterfactual, Job
from diffsweep.tasks.counterfactual import dice

VARIANCE = 0.01  # of each pixel around the mean of its class
DDIM = ("sampler=ddim", "sampler.steps=30", "sampler.start=0.6", "sampler.clip=none")


class TwoClasses(Denoiser):
    """The exact denoiser of two Gaussian classes, of equal variance in each pixel, and of their mixture."""

    def __init__(self, schedule, means):
        super().__init__(schedule)
        self.means, self.backbone = torch.nn.Parameter(means, requires_grad=False), torch.nn.Identity()

    def forward(self, x_t, t, cond=None):
        alpha, sigma = (float(part) for part in self.schedule(t))
        total = alpha**2 * VARIANCE + sigma**2
        each = self.means[:, None] + alpha * VARIANCE / total * (x_t - alpha * self.means[:, None])  # (2, B, C, H, W)
        energy = -(x_t - alpha * self.means[:, None]).square().flatten(2).sum(2) / (2 * total)
        weights = energy.softmax(0)
        chosen = torch.nn.functional.one_hot(cond.vector, 2).T.to(x_t)
        weights = weights if cond.is_null is None else torch.where(cond.is_null, weights, chosen)
        weights = chosen if cond.is_null is None else weights
        x0 = (weights[:, :, None, None, None] * each).sum(0)
        return Denoised(x0, (x_t - alpha * x0) / sigma)


@pytest.fixture(scope="module")
def job(configure, tmp_path_factory):
    """A job of an exact model of images without and with a square, whose region the data know."""
    folder = tmp_path_factory.mktemp("job")
    sizes = ("dataset.num_train=4", "dataset.num_val=4", "conditioning.labels=[healthy]", "guidance.scale=1.5")
    cfg = configure(folder / "run", "model=classifier_free", "dataset=spotted_shapes", *sizes, *DDIM)
    model = build_diffusion(cfg).eval()
    means = torch.zeros(2, 3, 16, 16)
    means[1, :, 4:8, 9:12] = 0.8
    model.denoiser = TwoClasses(model.denoiser.schedule, means)
    label = torch.tensor([1, 0, 1, 1, 0, 1])
    x = means[label] + VARIANCE**0.5 * torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    region = (means[1, 0] > 0) & (label == 1)[:, None, None]
    samples = InMemory({"x": x, "label": label, "region": region})
    data = SimpleNamespace(split=lambda name: samples, deferred=lambda name: samples)
    return Job(model, data, folder, 8, 0, 3)


def test_the_map_is_the_region_that_makes_the_class(job):
    """Only images of the other class are turned; outside the region they keep their own noise."""
    drawn, line = Counterfactual(quantile=1 - 12 / 256)(job)
    samples = job.data.split("val")
    source = samples["x"][samples["label"] == 1]
    assert drawn.request["label"].tolist() == [0] * 4
    inside = samples["region"][0].expand(3, 16, 16)
    assert (drawn.x - source)[:, ~inside].abs().mean() < 0.02
    torch.testing.assert_close((drawn.x - source)[:, inside].mean(), torch.tensor(-0.8), rtol=0, atol=0.05)
    assert "4 counterfactuals from t = 0.6, which change pixels by 0.0" in line
    assert "Dice of the true regions 1.000 at the quantile 0.953125, 1.000 at the best one" in line
    with Image.open(job.folder / "counterfactual.png") as picture:
        assert min(picture.size) > 4 * 64


def test_without_known_regions_nothing_is_scored(job, monkeypatch):
    samples = job.data.split("val")
    plain = InMemory({name: samples[name] for name in ("x", "label")})
    monkeypatch.setattr(job.data, "split", lambda name: plain)
    _, line = Counterfactual()(job)
    assert "Dice" not in line


def test_dice_is_twice_the_overlap_over_the_sizes():
    one, other = torch.zeros(3, 2, 2, dtype=torch.bool), torch.zeros(3, 2, 2, dtype=torch.bool)
    one[0, 0], other[0, :, 0] = True, True  # two pixels each, one in both
    other[1] = True
    assert float(dice(one, other)) == pytest.approx((0.5 + 0 + 1) / 3)


def test_images_of_the_requested_class_alone_are_refused(job, monkeypatch):
    monkeypatch.setattr(
        job.data, "split", lambda name: InMemory({"x": torch.zeros(2, 3, 16, 16), "label": torch.zeros(2)})
    )
    with pytest.raises(UserError, match="all held-out images have the class that is requested"):
        Counterfactual()(job)


@pytest.mark.parametrize(
    ("run", "overrides", "message"),
    [
        ("finished", ["sampler.start=0.5", "sampler=ddim"], "use a run of model=classifier_free"),
        ("finished", ["sampler=ddim"], "use sampler.start=0.5"),
        ("finished", ["sampler.start=0.5", "sampler=heun"], "use sampler=ddim"),
        ("finished", ["sampler.start=0.5", "sampler=ddim", "task.quantile=1"], "task.quantile is a share"),
    ],
)
def test_what_has_no_counterfactual_is_one_line(command, request, run, overrides, message):
    done = command("sample", f"run={request.getfixturevalue(run)}", "task=counterfactual", *overrides)
    assert done.code == 2
    assert message in done.err.strip().splitlines()[-1]
