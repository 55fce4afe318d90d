"""Rectified flow: pairs are the exact map of the teacher's ODE, and straight flows are fixed points."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from slower import some

from diffsweep.configuration.build import build_data, build_model
from diffsweep.configuration.preflight import preflight
from diffsweep.configuration.rules.pairs import pairs_are_of_one_size_and_kept_in_order
from diffsweep.diffusion import Denoised, Denoiser, Flow, GaussianDenoiser, Noise, Simple, straightness
from diffsweep.errors import UserError
from diffsweep.models import Reflow
from diffsweep.models.reflow import PAIRED
from diffsweep.runs.pairs import keep_pairs
from diffsweep.samplers import DDIM
from diffsweep.schedules import Flow as FlowSchedule

SMALL = ("backbone.channels=8", "sampler.steps=2", "teacher.sampler.steps=3")
LEARNED = ("prediction.variance=learned_range", "objective=hybrid")
MEAN, SPREAD = 0.3, 0.5


class Straight(Denoiser):
    """The exact flow of the pairs x_0 = m + s eps, whose paths are lines; s is a parameter."""

    def __init__(self, spread=SPREAD):
        super().__init__(FlowSchedule(), Flow())
        self.spread = torch.nn.Parameter(torch.tensor(spread, dtype=torch.float64))

    def forward(self, x_t, t, cond=None):
        alpha, sigma = self.levels(x_t, t)
        eps = (x_t - alpha * MEAN) / (alpha * self.spread + sigma)
        return Denoised(MEAN + self.spread * eps, eps, 0.0)


def pairs(count=8):
    eps = torch.randn(count, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return eps, MEAN + SPREAD * eps


def test_a_straight_flow_is_a_fixed_point_and_one_step_leads_to_the_end():
    denoiser, (eps, x_0) = Straight(), pairs()
    assert float(straightness(denoiser, eps).max()) < 1e-20
    torch.testing.assert_close(DDIM(steps=1, clip="none")(denoiser, eps), x_0, rtol=0, atol=1e-12)
    loss = Simple()(denoiser, x_0, None, torch.linspace(0.05, 0.95, 8).double(), eps, None).mean()
    loss.backward()
    assert float(loss) < 1e-24
    assert abs(float(denoiser.spread.grad)) < 1e-12
    wrong = Straight(0.8)
    assert float(Simple()(wrong, x_0, None, torch.full((8,), 0.5).double(), eps, None).mean()) > 1e-3


def test_the_straightness_of_a_curved_flow_is_its_integral():
    """Of Gaussian data N(0, v) the path is r(t) z with r^2 = (1 - t)^2 v + t^2, with a known integral."""
    v, eps = 0.04, pairs()[0]
    denoiser = GaussianDenoiser(FlowSchedule(), torch.zeros(1).double(), torch.tensor([[v]]).double())
    t = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    rate = (t - (1 - t) * v) / ((1 - t) ** 2 * v + t**2).sqrt()
    exact = eps[:, 0] ** 2 * torch.trapezoid((1 - v**0.5 - rate) ** 2, t)
    errors = [float((straightness(denoiser, eps, steps=n) - exact).abs().max() / exact.max()) for n in (64, 256)]
    assert errors[1] < 1e-3
    assert errors[1] < errors[0] / 10  # of the second order
    assert float(exact.max()) > 0.05


@pytest.fixture
def make(compose, monkeypatch):
    """``make(*overrides)`` returns a reflow whose teacher has random weights of seed 5, and its configuration."""

    def make(*words, seed=5):
        cfg = compose("model=reflow", *SMALL, "model.num_pairs=64", "dataset.batch_size=16", *words)
        tutor = build_model(compose("model=flow", *SMALL[:2], f"seed={seed}")).eval()
        for parameter in tutor.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        monkeypatch.setattr("diffsweep.configuration.loading.trained", lambda **_: tutor)
        return cfg, build_model(cfg)

    return make


@pytest.mark.parametrize("schedule", ["flow", "cosine"])
def test_pairs_of_gaussian_data_are_the_closed_form_map(make, compose, schedule):
    """x_0 = m + sqrt(v / (alpha_1^2 v + sigma_1^2)) (x_1 - alpha_1 m), for the exact teacher of data N(m, v)."""
    _, model = make("sampler@teacher.sampler=heun", "teacher.sampler.steps=400", "teacher.sampler.clip=none")
    model = model.double()
    exact = build_model(compose(f"schedule={schedule}", "prediction=v", SMALL[0])).double()
    process = exact.denoiser.schedule
    mean, v = torch.full((64,), MEAN).double(), SPREAD**2
    tutor = GaussianDenoiser(process, mean, v * torch.eye(64).double())
    exact.denoiser, exact.weight = tutor, torch.nn.Parameter(torch.zeros(1).double())
    model.teacher.__dict__["base"] = exact
    ends = model.draw_pairs({}, Noise(PAIRED, torch.arange(4)))
    alpha, sigma = (float(part) for part in process(torch.ones((), dtype=torch.float64)))
    wanted = MEAN + (v / (alpha**2 * v + sigma**2)) ** 0.5 * (sigma * ends.eps - alpha * MEAN)
    torch.testing.assert_close(ends.x_0, wanted, rtol=0, atol=5e-4)


def kept(cfg):
    return sorted(Path(cfg.paths.cache_dir).glob("pairs-*/pairs.safetensors"))


@pytest.mark.slow
def test_pairs_are_kept_found_again_and_have_a_file_for_each_teacher(make, tmp_path, monkeypatch):
    place = f"paths.cache_dir={tmp_path}"
    cfg, model = make(place)
    data = build_data(cfg)
    keep_pairs(cfg, model, data)
    (path,) = kept(cfg)
    content, table = path.read_bytes(), data.loader_samples("train")
    batch = table[torch.tensor([5, 0, 60])]
    ends = model.draw_pairs({}, model.noise_of(torch.tensor([5, 0, 60]), PAIRED))
    torch.testing.assert_close(batch["pair"], torch.stack([ends.eps, ends.x_0], 1), rtol=1e-4, atol=1e-4)
    assert len(table) == 61
    assert data.loader_samples("val")[torch.arange(3)]["pair_index"].tolist() == [61, 62, 63]
    cfg, model = make(place)
    with monkeypatch.context() as patched:
        patched.setattr(Reflow, "draw_pairs", lambda *_: pytest.fail("the pairs are drawn again"))
        keep_pairs(cfg, model, build_data(cfg))
    assert [one.read_bytes() for one in kept(cfg)] == [content]
    for count, (words, seed) in enumerate([((), 6), (("teacher.sampler.steps=4",), 5), (("model.num_pairs=32",), 5)]):
        cfg, model = make(place, *words, seed=seed)
        keep_pairs(cfg, model, build_data(cfg))
        assert len(kept(cfg)) == count + 2


REFUSED = [
    (["sampler@teacher.sampler=ancestral"], "draws noise in its steps"),
    (["model.num_pairs=0"], "num_pairs=0 fills no batch"),
    (["model.num_pairs=100"], r"num_pairs=100 fills no batch of dataset.batch_size"),
    (["teacher.sampler.start=0.5"], "pure noise and data"),
    (['teacher.base.train=["model=flow","dataset=shapes","metrics=none"]'], "was trained on"),
    (['teacher.base.train=["model=ddpm"]'], "its weights are no beginning; use teacher.initial=false"),
    (["schedule=cosine", "prediction=v", *LEARNED, "teacher.initial=false"], "fixed_small"),
    (
        ["conditioning=class", "teacher.scale=2", "guidance=classifier_free", "conditioning.dropout=0.1"],
        "would guide it again",
    ),
]


@pytest.mark.parametrize("case", some(REFUSED, 2, ids=lambda case: " ".join(case[0])))
def test_what_makes_no_pairs_is_refused_in_one_line(compose, case):
    """By the rules student_starts_from_a_teacher_of_its_prediction, pairs_fill_a_batch,
    conditions_of_pairs_need_no_images, student_has_a_fixed_variance and pairs_lead_from_noise_to_data, among others.
    """
    words, message = case
    with pytest.raises(UserError, match=message) as refused:
        preflight(compose("model=reflow", *words))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("key", "value", "fix"), [("buckets", 8, "dataset.buckets=null"), ("streaming", True, "null")])
def test_stored_pairs_take_no_place_of_several_sizes_or_a_stream(key, value, fix):
    def refused(num_pairs):
        cfg = OmegaConf.create({"model": {"num_pairs": num_pairs}, "dataset": {key: value}})
        return pairs_are_of_one_size_and_kept_in_order(cfg, SimpleNamespace(model=Reflow))

    assert refused(1000).endswith(fix)
    assert refused(None) is None
