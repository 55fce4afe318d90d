"""Progressive distillation: targets of exact teachers against closed forms, rounds, and what they are refused for."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from composing import composed
from omegaconf import OmegaConf
from slower import some
from torch import nn

from diffsweep import schedules
from diffsweep.autoencoders import Identity
from diffsweep.callbacks.checkpoints import read_checkpoint
from diffsweep.conditioning import Unconditional
from diffsweep.configuration.loading import load_sampled
from diffsweep.configuration.preflight import preflight
from diffsweep.configuration.rules.teacher import a_student_steps_between_times_that_it_has_learned
from diffsweep.configuration.stage_nodes import saved_config
from diffsweep.diffusion import (
    EDM,
    X0,
    AsPredicted,
    Denoised,
    Eps,
    Flow,
    GaussianDenoiser,
    GaussianMixtureDenoiser,
    Noise,
    Simple,
    Uniform,
    V,
    X0Eps,
    expand_to,
    leading_to,
    step_between,
)
from diffsweep.errors import Stopped, UserError
from diffsweep.models import DiffusionModel, ProgressiveDistillation, Teacher
from diffsweep.models.distilled import Lesson
from diffsweep.models.rounds import decaying, rounds_of
from diffsweep.runs.training import train
from diffsweep.samplers import DDIM, DPMSolver, Heun, Sampler

MEAN = torch.tensor([0.3, -0.2], dtype=torch.float64)
VARIANCES = torch.tensor([0.09, 0.5], dtype=torch.float64)
CLEAN = [schedules.Cosine(1000, zero_terminal_snr=True), schedules.Cosine(1000), schedules.Flow()]
ALL = [*CLEAN, schedules.CosineContinuous(), schedules.Linear(1000), schedules.VE(), schedules.EDM()]


def named(schedule):
    return type(schedule).__name__


def gaussian(schedule):
    return GaussianDenoiser(schedule, MEAN, VARIANCES.diag())


def after_ddim(x, at_t, at_s):
    """Return where DDIM's step ends on Gaussian data: alpha_s E[x_0 | x] + sigma_s E[eps | x] in closed form."""
    (alpha, sigma), (alpha_s, sigma_s) = (tuple(value[:, None] for value in level[1:]) for level in (at_t, at_s))
    scaled = (x - alpha * MEAN) / (alpha**2 * VARIANCES + sigma**2)
    return alpha_s * (MEAN + alpha * VARIANCES * scaled) + sigma_s * sigma * scaled


@pytest.mark.parametrize("schedule", ALL, ids=named)
def test_one_step_of_ddim_leads_where_it_should(schedule):
    """With the returned x_0 and eps the state is x_t at t, and x_s at s, also from pure noise and to clean data."""
    t = torch.tensor([1.0, 0.7, 0.4, 0.2], dtype=torch.float64)
    s = torch.tensor([0.9, 0.2, 0.0, 0.1], dtype=torch.float64)
    step, (x_t, x_s) = step_between(schedule, s, t, s == 0), torch.randn(2, 4, 3, dtype=torch.float64)
    found = leading_to(x_s, step.at_s, x_t, step.at_t)
    for x, level in ((x_t, step.at_t), (x_s, step.at_s)):
        ends = expand_to(level.alpha, x) * found.x0 + expand_to(level.sigma, x) * found.eps
        torch.testing.assert_close(ends, x, rtol=1e-10, atol=1e-10)


def student_of(denoiser, sampler=None, backbone=None, **settings):
    """Return a student, untrained, whose teacher is an exact denoiser."""

    class Base(nn.Module):
        def __init__(self):
            super().__init__()
            self.denoiser = denoiser
            self.device = torch.device("cpu")

    parts = {"backbone": backbone or nn.Linear(1, 1), "schedule": denoiser.schedule, "prediction": denoiser.prediction}
    settings = {"teacher_steps": 8, "student_steps": 1, "sampler": DDIM(steps=1, clip="none"), **settings}
    return ProgressiveDistillation(
        **parts,
        objective=Simple(),
        time_sampling=Uniform(),
        conditioning=Unconditional(),
        autoencoder=Identity(1, 2),
        guidance=lambda inner, times: inner,
        optimizer=None,
        lr_scheduler=None,
        teacher=Teacher(Base, sampler or DDIM(clip="none")),
        **settings,
    )


def lesson(student, t, x_t):
    return Lesson(x_t, t, *student.taught_by(torch.device("cpu"), None, None), Noise(0, torch.arange(len(x_t))))


PREDICTIONS = [Eps(), X0(), V(), Flow(), EDM()]


@pytest.mark.parametrize("schedule", CLEAN, ids=named)
@pytest.mark.parametrize("prediction", PREDICTIONS, ids=named)
def test_the_target_is_the_closed_form_of_two_steps_on_gaussian_data(schedule, prediction):
    if isinstance(prediction, Eps) and schedule.zero_terminal_snr:
        pytest.skip("x_0 does not follow from eps where no signal is left")
    student = student_of(AsPredicted(gaussian(schedule), prediction))
    t = torch.tensor([1.0, 0.75, 0.5, 0.25], dtype=torch.float64)  # the four steps of the first round
    x_t = torch.randn(4, 2, dtype=torch.float64)
    first = step_between(schedule, t - 0.125, t)
    second = step_between(schedule, t - 0.25, t - 0.125, t == 0.25)
    x_s = after_ddim(after_ddim(x_t, first.at_t, first.at_s), second.at_t, second.at_s)
    found = student.targets(lesson(student, t, x_t))
    expected = leading_to(x_s, second.at_s, x_t, first.at_t)
    torch.testing.assert_close(found.x0, expected.x0, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.eps, expected.eps, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.x0[3], x_s[3], rtol=1e-10, atol=1e-10)  # at clean data it is the sample itself


@pytest.mark.parametrize("sampler", [Heun(clip="none"), DPMSolver(clip="none", order=2)], ids=named)
def test_the_teacher_takes_its_own_solvers_steps(sampler):
    schedule = schedules.Cosine(1000)
    student, x_t = student_of(gaussian(schedule), sampler), torch.randn(2, 2, dtype=torch.float64)
    found = student.targets(lesson(student, torch.tensor([0.75, 0.5], dtype=torch.float64), x_t))
    for row, times in enumerate(([0.75, 0.625, 0.5], [0.5, 0.375, 0.25])):
        t, middle, s = (torch.tensor(time, dtype=torch.float64) for time in times)
        x, noise = x_t[row, None], Noise(0, torch.tensor([row]))
        for begin, end in ((t, middle), (middle, s)):
            x = sampler.step(gaussian(schedule), x, begin, end, None, noise)[0]
        end = step_between(schedule, s[None], t[None])
        expected = leading_to(x, end.at_s, x_t[row, None], end.at_t)
        torch.testing.assert_close(found.x0[row, None], expected.x0, rtol=1e-9, atol=1e-9)


def test_a_student_at_its_optimum_takes_in_four_steps_what_its_teacher_takes_in_eight():
    schedule = schedules.Cosine(1000)
    student, teacher = student_of(gaussian(schedule)), gaussian(schedule)

    class Perfect(GaussianDenoiser):
        def forward(self, x_t, t, cond=None):
            return student.targets(lesson(student, t.expand(len(x_t)), x_t))

    x = torch.randn(5, 2, dtype=torch.float64)
    perfect = Perfect(schedule, MEAN, VARIANCES.diag())
    ends = [DDIM(steps=steps, clip="none")(denoiser, x) for steps, denoiser in ((4, perfect), (8, teacher))]
    torch.testing.assert_close(*ends, rtol=1e-10, atol=1e-10)


def test_the_loss_at_the_target_is_zero_and_so_is_its_gradient():
    """The objective of a denoiser that returns the targets: a student has nothing left to learn."""
    student, x_t = student_of(gaussian(schedules.Flow())), torch.randn(4, 2, dtype=torch.float64)
    t = torch.tensor([1.0, 0.75, 0.5, 0.25], dtype=torch.float64)
    taught = student.targets(lesson(student, t, x_t))
    shift = torch.zeros(2, dtype=torch.float64, requires_grad=True)

    class Perfect(GaussianDenoiser):
        def forward(self, x, time, cond=None):
            return Denoised(taught.x0 + shift, taught.eps + shift)

    losses = Simple()(Perfect(schedules.Flow(), MEAN, VARIANCES.diag(), X0()), taught.x0, None, t, taught.eps)
    losses.sum().backward()
    assert float(losses.max()) < 1e-20
    assert float(shift.grad.abs().max()) < 1e-10


@pytest.mark.parametrize("schedule", ALL, ids=named)
def test_a_prediction_of_both_gives_both_back(schedule):
    t = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
    x_0, eps = torch.randn(2, 3, 2, 4, dtype=torch.float64)
    alpha, sigma = (expand_to(value, x_0) for value in schedule(t))
    prediction, x_t = X0Eps(), alpha * x_0 + sigma * eps
    output = prediction.combined(torch.cat([x_0, eps], 1), x_t, alpha, sigma)
    torch.testing.assert_close(output, prediction.target(x_0, eps, alpha, sigma), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(prediction.eps(output, x_t, alpha, sigma), eps, rtol=1e-6, atol=1e-6)
    assert prediction.heads == 2
    assert X0Eps("learned_range").heads == 3


def test_rounds_halve_the_steps_and_the_last_ones_are_longer():
    rounds = rounds_of(8000, 64, 1, 2.0)
    assert rounds.steps == (32, 16, 8, 4, 2, 1)
    assert rounds.ends == (1000, 2000, 3000, 4000, 6000, 8000)
    assert [rounds.at(step) for step in (0, 999, 1000, 5999, 6000, 9000)] == [0, 0, 1, 4, 5, 5]
    assert rounds_of(90, 12, 3, 2.0).ends == (45, 90)


@pytest.mark.parametrize(("first", "last"), [(64, 3), (64, 64), (4, 8), (0, 1), (48, 5)])
def test_steps_that_do_not_halve_are_refused(first, last):
    with pytest.raises(ValueError, match="their ratio is a power of 2"):
        rounds_of(100, first, last, 2.0)


def test_the_learning_rate_falls_to_zero_in_each_round():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = decaying(optimizer, 12, 8, 1, 1.0)
    rates = []
    for _ in range(13):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates == [2.0, 1.5, 1.0, 0.5] * 3 + [0.0]
    with pytest.raises(ValueError, match="model=progressive_distillation"):
        decaying(optimizer, 12, None, None, None)


RUN = (
    *("model=progressive_distillation", "model.teacher_steps=8", "model.student_steps=2", "model.last_rounds=1"),
    *("dataset.batch_size=50", "backbone.channel_mult=[1]", "backbone.attention_resolutions=[]", "model.val_repeats=1"),
    *("trainer.limit_val_batches=1", "trainer.val_check_interval=3", "trainer.max_steps=8", "sampler.steps=2"),
)
TRAINED = 'teacher.base.train=["model=ddpm","trainer.max_steps=2","callbacks=minimal","metrics=none"]'


@pytest.mark.parametrize("numbers", [(4,), pytest.param((3, 6), marks=pytest.mark.slow)])
def test_rounds_resume_exactly_within_and_between_them(numbers, tmp_path, configure, resume, checkpoint, monkeypatch):
    """Steps 0 to 3 are the first round. Runs that are stopped within and between rounds end as the whole one does."""
    began = []
    original = ProgressiveDistillation.begin_round

    def begin_round(self, number):
        original(self, number)
        began.append((number, self.global_step))

    monkeypatch.setattr(ProgressiveDistillation, "begin_round", begin_round)
    place = f"paths.output_dir={tmp_path}"
    train(configure(tmp_path / "whole", *RUN, TRAINED, place))
    assert began == [(1, 4)]
    whole = checkpoint(tmp_path / "whole")
    assert whole["former"]["round"] == 1
    assert whole["ema"]["start"] == 4
    assert {int(state["step"]) for state in whole["optimizer_states"][0]["state"].values()} == {4}  # a new state
    step = DiffusionModel.training_step
    for number in numbers:
        directory = tmp_path / f"stopped {number}"

        def stopping(self, *arguments, number=number):
            if self.global_step == number:
                raise Stopped(143)
            return step(self, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(DiffusionModel, "training_step", stopping)
            with pytest.raises(Stopped):
                train(configure(directory, *RUN, TRAINED, place, "trainer.val_check_interval=1"))
        train(resume(directory))
        again = checkpoint(directory)
        for part in ("state_dict", "ema", "former"):
            torch.testing.assert_close(again[part], whole[part], rtol=0, atol=0)
    with pytest.raises(UserError, match="shares of 8 steps, which cannot change"):
        train(resume(tmp_path / "whole", "trainer.max_steps=10"))
    again = configure(
        tmp_path / "again",
        *RUN,
        place,
        f"teacher.run={tmp_path / 'whole'}",
        "model.teacher_steps=2",
        "model.student_steps=1",
        "sampler.steps=1",
    )
    train(again)  # a student is the teacher of the next one, and the run of that has its own teacher
    assert composed("evaluate", f"run={tmp_path / 'again'}").teacher.run == str(tmp_path / "whole")
    (tmp_path / "stages").rename(tmp_path / "gone")
    student = load_sampled(saved_config(tmp_path / "whole"))  # needs its teacher no more
    assert student.sample(torch.arange(2), 0).shape == (2, 1, 8, 8)
    assert read_checkpoint(tmp_path / "whole/checkpoints/last.ckpt")["former"]["ends"] == [4, 8]


REFUSED = [
    (["model.student_steps=3"], "their ratio is a power of 2"),
    (["sampler.steps=8"], "has learned 4 steps of DDIM .* use sampler.steps=4, or fewer"),
    (["sampler.clip=static"], "would change it; use sampler.clip=none"),
    (["sampler=heun"], "takes others; use sampler=ddim with sampler.steps=4"),
    (["schedule=cosine", "schedule.num_steps=50"], "model.teacher_steps=64 is more than the 50 steps"),
    (["lr_scheduler=rounds", "model=ddpm"], "lr_scheduler=rounds: it is of model=progressive_distillation"),
    (["sampler.spacing=log_snr"], "not every second one"),
    (["schedule=cosine_continuous"], "such as schedule=cosine or flow"),
    (
        ['teacher.base.train=["model=progressive_distillation","model.student_steps=16"]'],
        "takes 16 steps, and model.teacher_steps=64; use model.teacher_steps=16",
    ),
    (
        ['teacher.base.train=["model=improved_ddpm","prediction.variance=learned_range"]'],
        "the teacher has prediction.variance=learned_range",
    ),
]


@pytest.mark.parametrize("case", some(REFUSED, 2, ids=lambda case: " ".join(case[0])))
def test_steps_that_do_not_fit_are_refused_in_one_line(compose, case):
    """By a_student_takes_the_steps_that_it_has_learned and a_teacher_takes_the_steps_that_are_halved, among others."""
    words, message = case
    with pytest.raises(UserError, match=message) as refused:
        preflight(compose("model=progressive_distillation", *words))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("start", "steps", "learned"), [(1.0, 4, True), (0.75, 3, True), (0.25, 1, True), (1.0, 2, False), (0.6, 4, False)]
)
def test_steps_between_other_times_than_a_student_has_learned_are_noted(start, steps, learned):
    cfg = OmegaConf.create({"model": {"student_steps": 4}})
    parts = SimpleNamespace(sampler=DDIM(steps=steps, start=start), schedule=schedules.Cosine(1000))
    noted = a_student_steps_between_times_that_it_has_learned(cfg, parts)
    assert (noted is None) == learned
    assert learned or "between t = 1, 0.75, 0.5, 0.25, 0 alone" in noted
    assert a_student_steps_between_times_that_it_has_learned(OmegaConf.create({"model": {}}), parts) is None


@pytest.mark.parametrize("schedule", [schedules.VE(), schedules.CosineContinuous()], ids=named)
def test_a_schedule_that_does_not_end_at_clean_data_is_refused(schedule):
    with pytest.raises(ValueError, match="not every second one"):
        student_of(gaussian(schedule))


def test_samplers_have_the_times_of_half_their_steps():
    """So a student's steps are those of its sampler: every second time of twice the steps."""
    for spacing in ("uniform", "quadratic"):
        sampler: Sampler = DDIM(steps=4, spacing=spacing)
        times = [sampler.with_steps(steps).times(schedules.Flow()) for steps in (4, 8)]
        assert math.isclose(float((times[0] - times[1][::2]).abs().max()), 0.0, abs_tol=1e-12)


class SmallNetwork(nn.Module):
    """A network of points in the plane, which takes the time as sinusoids."""

    def __init__(self, width=128):
        super().__init__()
        sizes = [2 + 8, width, width, width]
        layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 2))

    def forward(self, x, c_noise, cond=None):
        angle = c_noise[:, None] / 1000 * math.pi * torch.tensor([0.5, 1.0, 2.0, 4.0])
        return self.layers(torch.cat([x, angle.cos(), angle.sin()], 1))


@pytest.mark.slow
def test_a_small_network_reaches_the_exact_map_of_a_mixture():
    """Its one step ends within 0.15 of the ODE's solution (RMS; data have 0.6), and the teacher's beyond 0.4."""
    schedule = schedules.Cosine(1000)
    means = torch.tensor([[-0.6, 0.3], [0.6, 0.3], [0.0, -0.6]])
    exact = GaussianMixtureDenoiser(schedule, means, 0.01 * torch.eye(2).expand(3, 2, 2), prediction=V())
    student = student_of(exact, backbone=SmallNetwork())
    rounds, generator = rounds_of(6000, 8, 1, 2.0), torch.Generator().manual_seed(0)
    begin = 0
    for number, end in enumerate(rounds.ends):
        if number:
            student.begin_round(number)
        optimizer = torch.optim.Adam(student.parameters(), lr=2e-3)
        for step in range(begin, end):
            optimizer.param_groups[0]["lr"] = 2e-3 * (1 - (step - begin) / (end - begin))
            noise = Noise(0, torch.arange(256) + 256 * step)
            losses = student.lesson_losses(exact.sample(256, generator), None, noise)
            optimizer.zero_grad()
            losses.losses.mean().backward()
            optimizer.step()
        begin = end
    x = torch.randn(2000, 2, generator=generator)
    truth = Heun(steps=200, clip="none")(exact, x)
    one = DDIM(steps=1, clip="none")

    def error(denoiser):
        return float((one(denoiser, x) - truth).square().mean().sqrt())

    assert error(student.denoiser) < 0.15
    assert error(exact) > 0.4
